//! The sysctl actor: looks after the values once an interval, and gives them back at the end.
//!
//! They are set before the source starts, by [`run`](crate::run), not by this actor: an entry
//! born before accounting is on is never counted.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use tracing::{error, info, warn};

use super::metrics::SysctlMetrics;
use super::{Report, Sysctls};

/// Look whether the values are still what they should be.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Check;

/// Give the originals back.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Restore;

/// The actor.
pub struct SysctlActor {
    sysctls: Option<Sysctls>,
    every: Duration,
    metrics: Arc<SysctlMetrics>,
}

impl SysctlActor {
    /// An actor that looks after `sysctls` every so often.
    pub const fn new(sysctls: Sysctls, every: Duration, metrics: Arc<SysctlMetrics>) -> Self {
        Self { sysctls: Some(sysctls), every, metrics }
    }

    /// Runs `work` on a blocking thread; nothing else is handled meanwhile.
    fn with_sysctls(
        &mut self,
        work: impl FnOnce(&mut Sysctls, &SysctlMetrics) + Send + 'static,
        then: impl FnOnce(&mut Context<Self>, Duration) + 'static,
    ) -> AtomicResponse<Self, ()> {
        let Some(mut sysctls) = self.sysctls.take() else {
            return AtomicResponse::new(Box::pin(fut::ready(())));
        };
        let metrics = Arc::clone(&self.metrics);
        let away = tokio::task::spawn_blocking(move || {
            work(&mut sysctls, &metrics);
            sysctls
        });
        let back = wrap_future::<_, Self>(away).map(|done, actor, ctx| {
            match done {
                Ok(sysctls) => actor.sysctls = Some(sysctls),
                Err(lost) => error!(error = %lost, "the sysctl thread died"),
            }
            then(ctx, actor.every);
        });
        AtomicResponse::new(Box::pin(back))
    }
}

impl Actor for SysctlActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.notify_later(Check, self.every);
    }
}

impl Handler<Check> for SysctlActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Check, _: &mut Context<Self>) -> Self::Result {
        self.with_sysctls(
            |sysctls, metrics| {
                let report = sysctls.check();
                metrics.observe(&report);
                tell(&report);
            },
            |ctx, every| {
                ctx.notify_later(Check, every);
            },
        )
    }
}

impl Handler<Restore> for SysctlActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Restore, _: &mut Context<Self>) -> Self::Result {
        self.with_sysctls(
            |sysctls, _| match sysctls.restore() {
                Ok(restored) => info!(values = restored.restored.len(), "sysctls given back"),
                Err(error) => warn!(error = %error, "sysctls could not be given back"),
            },
            |_, _| (),
        )
    }
}

/// Logs what a look found and did.
pub fn tell(report: &Report) {
    for change in &report.changed {
        info!(
            netns = change.netns.0,
            key = %change.key,
            from = change.from,
            to = change.to,
            "sysctl set"
        );
    }
    for (netns, warning) in &report.warnings {
        warn!(netns = netns.0, warning = %warning, "sysctl");
    }
    for failure in &report.failed {
        warn!(error = %failure, "a sysctl could not be looked after");
    }
}
