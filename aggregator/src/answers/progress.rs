//! What is said beside an answer, on standard error: that it takes a while, what it leaves out.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Waits for `work`. Where that takes over a second, a line on the terminal says how long it has
/// been at `what`, and goes away at the end.
pub(super) async fn shown<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let begin = Instant::now();
    let mut ticks = interval_at(begin + SECOND, SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut said = false;
    loop {
        tokio::select! {
            done = &mut work => {
                if said {
                    write("\r\x1b[K");
                }
                return done;
            }
            _ = ticks.tick() => {
                write(&format!("\r{what}: {} s\x1b[K", begin.elapsed().as_secs()));
                said = true;
            }
        }
    }
}

/// Says a line.
pub(super) fn say(line: &str) {
    write(&format!("{line}\n"));
}

const SECOND: Duration = Duration::from_secs(1);

/// Whoever does not read this misses nothing but this.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}
