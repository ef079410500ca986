//! The one thread that owns the spool, and the handle to it. Everything else waits for answers
//! here and never touches the disk.

use std::io;
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use crate::spool::{Disk, FileDisk, Spool, SpoolView};

type Job<D> = Box<dyn FnOnce(&mut Spool<D>) + Send>;

/// The spool's thread has ended: every handle was dropped, or a job panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the spool is closed")]
pub struct SpoolGone;

/// A handle to the spool's owner. Jobs run one at a time, in the order they were asked for.
#[derive(Debug)]
pub struct SpoolHandle<D = FileDisk> {
    jobs: mpsc::Sender<Job<D>>,
    view: watch::Receiver<SpoolView>,
}

impl<D> Clone for SpoolHandle<D> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), view: self.view.clone() }
    }
}

impl<D: Disk + 'static> SpoolHandle<D> {
    /// Jobs that may wait; callers wait when it is full. The probe's interval, a session and the
    /// checkpoint each wait for one at a time.
    pub const QUEUE: usize = 8;

    /// Starts the owner's thread. It ends, and the spool is closed, when the last handle is
    /// dropped and all jobs are done.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(mut spool: Spool<D>) -> io::Result<(Self, thread::JoinHandle<()>)> {
        let (jobs, mut queue) = mpsc::channel::<Job<D>>(Self::QUEUE);
        let (publish, view) = watch::channel(spool.view());
        let thread = thread::Builder::new().name("spool".to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut spool);
                let now = spool.view();
                publish.send_if_modified(|view| std::mem::replace(view, now) != now);
            }
        })?;
        Ok((Self { jobs, view }, thread))
    }

    /// Does `job` on the spool's thread and gives its result. What it changes shows in
    /// [`SpoolHandle::view`] a moment later.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Spool<D>) -> R + Send + 'static,
    ) -> Result<R, SpoolGone> {
        let (reply, answer) = oneshot::channel();
        let job: Job<D> = Box::new(move |spool| {
            // The caller may have gone; the job was done all the same.
            let _nobody_waits = reply.send(job(spool));
        });
        self.jobs.send(job).await.map_err(|_closed| SpoolGone)?;
        answer.await.map_err(|_closed| SpoolGone)
    }

    /// The spool's state after the last job.
    #[must_use]
    pub fn view(&self) -> SpoolView {
        *self.view.borrow()
    }

    /// A receiver that wakes when the state changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<SpoolView> {
        self.view.clone()
    }
}
