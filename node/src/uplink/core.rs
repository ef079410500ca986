//! What to do next: connect, send, ask for the time, give up. No I/O, no clock, no randomness.
//!
//! The shell asks [`Uplink::step`] and does what it says; it reports what happened
//! ([`Uplink::connected`], [`Uplink::message`], [`Uplink::sent`], [`Uplink::disconnected`]) and
//! carries out the [`Order`]s for the spool before it asks again. A spool that has something new
//! is a reason to ask again, and so is the time that [`Step::Wait`] names.

use std::time::Duration;

use flow::record::MeasuredOffset;
use flow::{BootId, BootNanos, Epoch, Seq, StoreId};
use thiserror::Error;
use wire::control::{Message, Nack, Ping, RefuseReason, Verdict, Welcome};

use super::clock::{OffsetClock, Sample};
use super::orders::Order;
use super::telling::Telling;
use super::welcome::judge;
use super::window::Window;
use crate::spool::{NewEpochReason, Span, SpoolView};

/// What can be set about an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Addresses of the aggregator, tried in turn; all stand for the same store.
    pub addresses: usize,
    /// The first pause between attempts is at most this; each failure doubles it.
    pub backoff_first: Duration,
    /// No pause is longer.
    pub backoff_longest: Duration,
    /// From connecting to `Welcome`.
    pub connect_timeout: Duration,
    /// Between pings; the first few of a session come sooner.
    pub ping_every: Duration,
    /// An aggregator that says nothing for so long is taken for dead.
    pub silence: Duration,
    /// Another store than the one remembered is taken, with a new epoch.
    pub accept_new_store: bool,
    /// Frames on their way without `Received`, where the aggregator allows more.
    pub max_unreceived: u32,
}

impl Default for UplinkConfig {
    fn default() -> Self {
        Self {
            addresses: 1,
            backoff_first: Duration::from_millis(500),
            backoff_longest: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(15),
            ping_every: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            accept_new_store: false,
            max_unreceived: 16,
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connect to this address (an index), say `Hello`, then [`Uplink::connected`].
    Connect {
        /// Which address.
        address: usize,
    },
    /// Read this frame from the spool and send it; then [`Uplink::sent`].
    Send {
        /// Its epoch.
        epoch: Epoch,
        /// Its number.
        seq: Seq,
    },
    /// Send this on the control stream.
    Ping(Ping),
    /// Close the connection, then [`Uplink::disconnected`].
    Close(Ended),
    /// Nothing before this time, unless something happens.
    Wait {
        /// By the node's boottime.
        until: BootNanos,
    },
}

/// Why a session, or an attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Ended {
    /// The epoch that was sent is drained or was given up: the next session sends another one.
    #[error("the epoch is done; the next one is sent in a session of its own")]
    EpochDone,
    /// The epoch has to be sent under another name, and there is no room to note that.
    #[error(
        "the aggregator has other frames under this epoch's numbers (the node was rolled back), \
         and the disk has no room to give the epoch another name; make room on the spool's disk"
    )]
    Disputed,
    /// The aggregator refused.
    #[error("the aggregator refused this node: {message}")]
    Refused {
        /// For machines.
        reason: RefuseReason,
        /// Its words.
        message: String,
    },
    /// The aggregator writes to another store than it used to.
    #[error(
        "the aggregator writes to store {found}, this node's frames went to store {known}; if \
         that is intended (a new database), start the node once with --accept-new-store, else \
         check the aggregator's address and database"
    )]
    OtherStore {
        /// The store remembered.
        known: StoreId,
        /// The store behind this aggregator.
        found: StoreId,
    },
    /// No `Welcome` in time.
    #[error("the aggregator did not welcome this node within {} s", .waited.as_secs())]
    NoWelcome {
        /// How long it was waited for.
        waited: Duration,
    },
    /// Connected, and silent.
    #[error("the aggregator has been silent for {} s", .waited.as_secs())]
    Silence {
        /// How long.
        waited: Duration,
    },
    /// A message that makes no sense here.
    #[error("the aggregator broke the protocol: {what}")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
}

/// What has happened since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkTotals {
    /// Attempts to connect.
    pub attempts: u64,
    /// Sessions welcomed.
    pub sessions: u64,
    /// Frames sent, every time.
    pub sent: u64,
    /// Of these, frames that had been sent before.
    pub resent: u64,
    /// Frames to be sent again later.
    pub nacks_retry: u64,
    /// Frames rejected.
    pub nacks_reject: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Not connected; the next attempt is due.
    Away { until: BootNanos },
    /// Connecting, or `Hello` said.
    Greeting { epoch: Option<Epoch>, since: BootNanos },
    /// Welcomed.
    Live(Box<Live>),
    /// Ends when the shell asks next.
    Over(Ended),
}

#[derive(Clone, Debug)]
struct Live {
    window: Window,
    heard: BootNanos,
    ping_due: BootNanos,
    pings: u32,
    telling: Telling,
}

/// The uplink's state. See the module.
#[derive(Clone, Debug)]
pub struct Uplink {
    config: UplinkConfig,
    phase: Phase,
    address: usize,
    /// Attempts since the last `Welcome`.
    failures: u32,
    clock: OffsetClock,
    /// The last frame ever sent, to know which are sent again.
    highest: Option<(Epoch, Seq)>,
    totals: UplinkTotals,
}

impl Uplink {
    /// An uplink that connects at once.
    #[must_use]
    pub fn new(config: UplinkConfig, boot: BootId) -> Self {
        Self {
            config,
            phase: Phase::Away { until: BootNanos::BOOT },
            address: 0,
            failures: 0,
            clock: OffsetClock::new(boot),
            highest: None,
            totals: UplinkTotals::default(),
        }
    }

    /// Whether the aggregator has welcomed this node.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Live(_))
    }

    /// The last measured offset to the aggregator, for the headers of batches.
    #[must_use]
    pub fn offset(&self) -> Option<MeasuredOffset> {
        self.clock.measured()
    }

    /// The clock sample behind [`Uplink::offset`].
    #[must_use]
    pub const fn sample(&self) -> Option<Sample> {
        self.clock.best()
    }

    /// Frames on their way without `Received`.
    #[must_use]
    pub fn unreceived(&self) -> usize {
        if let Phase::Live(live) = &self.phase { live.window.unreceived() } else { 0 }
    }

    /// What has happened so far.
    #[must_use]
    pub const fn totals(&self) -> UplinkTotals {
        self.totals
    }

    /// How long connecting may take.
    #[must_use]
    pub const fn connect_deadline(&self) -> Duration {
        self.config.connect_timeout
    }

    /// What to do now.
    pub fn step(&mut self, now: BootNanos, view: &SpoolView) -> Step {
        match &mut self.phase {
            // The order to rename it could not be carried out.
            Phase::Over(Ended::EpochDone) if view.sending.disputed => Step::Close(Ended::Disputed),
            Phase::Over(ended) => Step::Close(ended.clone()),
            Phase::Away { until } if now < *until => Step::Wait { until: *until },
            Phase::Away { .. } => {
                self.phase = Phase::Greeting { epoch: None, since: now };
                self.totals.attempts += 1;
                Step::Connect { address: self.address }
            }
            Phase::Greeting { since, .. } => {
                let until = since.plus(self.config.connect_timeout);
                if now < until {
                    return Step::Wait { until };
                }
                Step::Close(Ended::NoWelcome { waited: self.config.connect_timeout })
            }
            Phase::Live(live) => live.step(now, view, &self.config, &self.clock),
        }
    }

    /// The connection stands and `Hello` has been sent for `epoch`.
    pub fn connected(&mut self, epoch: Epoch) {
        if let Phase::Greeting { epoch: greeted, .. } = &mut self.phase {
            *greeted = Some(epoch);
        }
    }

    /// A message of the aggregator arrived. What it orders is to be done to the spool in order,
    /// before the next [`Uplink::step`]. A session that it ends is closed by that step.
    #[must_use = "orders are to be carried out"]
    pub fn message(&mut self, now: BootNanos, message: Message, view: &SpoolView) -> Vec<Order> {
        let answered = match &mut self.phase {
            Phase::Greeting { epoch: Some(epoch), .. } => {
                let epoch = *epoch;
                self.greeted(now, epoch, message, view)
            }
            Phase::Live(live) => {
                live.heard = now;
                if let Message::Pong(pong) = &message {
                    self.clock.pong(pong, now);
                    if live.telling.answered(pong.sent, self.clock.best().is_some()) {
                        live.ping_due = now;
                    }
                }
                live.answer(now, message, view, &mut self.totals)
            }
            Phase::Greeting { epoch: None, .. } | Phase::Away { .. } | Phase::Over(_) => {
                Ok(Vec::new())
            }
        };
        answered.unwrap_or_else(|ended| {
            self.phase = Phase::Over(ended);
            Vec::new()
        })
    }

    fn greeted(
        &mut self,
        now: BootNanos,
        epoch: Epoch,
        message: Message,
        view: &SpoolView,
    ) -> Result<Vec<Order>, Ended> {
        let welcome = match message {
            Message::Welcome(welcome) => welcome,
            Message::Refused(refused) => {
                let (reason, message) = (refused.reason, refused.message);
                return Err(Ended::Refused { reason, message });
            }
            _ => return Err(Ended::Protocol { what: "its first message was not a welcome" }),
        };
        if view.sending.epoch != epoch {
            return Err(Ended::EpochDone);
        }
        let greeted = judge(&welcome, view, self.config.accept_new_store)?;
        self.totals.sessions += 1;
        self.phase = match greeted.after {
            Some(after) => {
                self.failures = 0;
                self.live(now, epoch, after, &welcome)
            }
            // A welcome that nothing can be sent after is no success: should the spool be unable
            // to do what is ordered here, the next one comes to the same.
            None => Phase::Over(Ended::EpochDone),
        };
        Ok(greeted.orders)
    }

    fn live(&mut self, now: BootNanos, epoch: Epoch, after: Seq, welcome: &Welcome) -> Phase {
        self.clock.begin_session();
        let limit = welcome.max_unreceived.min(self.config.max_unreceived);
        let window = Window::new(epoch, after, limit);
        let telling = Telling::new(now);
        Phase::Live(Box::new(Live { window, heard: now, ping_due: now, pings: 0, telling }))
    }

    /// The frame has been given to the connection.
    pub fn sent(&mut self, epoch: Epoch, span: Span) {
        self.totals.sent += 1;
        match self.highest {
            Some((of, seq)) if of == epoch && span.last <= seq => self.totals.resent += 1,
            _ => self.highest = Some((epoch, span.last)),
        }
        if let Phase::Live(live) = &mut self.phase
            && live.window.epoch == epoch
        {
            live.window.sent(span);
        }
    }

    /// The connection is gone or never came to be. `random` decides the pause before the next
    /// attempt, which goes to the next address unless this one had welcomed us.
    pub fn disconnected(&mut self, now: BootNanos, random: u64) {
        let welcomed = match &self.phase {
            Phase::Live(_) => true,
            Phase::Over(ended) => *ended == Ended::EpochDone,
            Phase::Away { .. } | Phase::Greeting { .. } => false,
        };
        if !welcomed {
            self.address = (self.address + 1) % self.config.addresses.max(1);
        }
        let pause = self.pause(random);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Away { until: now.plus(pause) };
    }

    /// Full jitter: anything from nothing to the doubled and capped bound.
    fn pause(&self, random: u64) -> Duration {
        let doubled = 1u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX);
        let bound = self.config.backoff_first.saturating_mul(doubled);
        let bound = bound.min(self.config.backoff_longest);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random.checked_rem(nanos.saturating_add(1)).unwrap_or(0))
    }
}

impl Live {
    fn step(
        &mut self,
        now: BootNanos,
        view: &SpoolView,
        config: &UplinkConfig,
        clock: &OffsetClock,
    ) -> Step {
        if view.sending.epoch != self.window.epoch {
            return Step::Close(Ended::EpochDone);
        }
        if view.sending.disputed {
            return Step::Close(Ended::Disputed);
        }
        let dead = self.heard.plus(config.silence);
        if now >= dead {
            return Step::Close(Ended::Silence { waited: config.silence });
        }
        if now >= self.ping_due {
            self.pings = self.pings.saturating_add(1);
            let soon = self.pings < QUICK_PINGS;
            let pause = if soon { config.ping_every.min(QUICK_PING) } else { config.ping_every };
            // From now, not from when it was due: pings that were missed are not made up for.
            self.ping_due = now.plus(pause);
            let offset = clock.measured().map(|measured| measured.offset.0);
            self.telling.pinged(now, offset.is_some());
            return Step::Ping(Ping { sent: now, offset, extensions: Vec::new() });
        }
        self.window.acknowledged(view.sending.acked);
        let until = self.ping_due.min(dead);
        if let Some(held) = self.telling.holds(now) {
            return Step::Wait { until: until.min(held) };
        }
        if let Some(seq) = self.window.due(now, &view.sending) {
            return Step::Send { epoch: self.window.epoch, seq };
        }
        Step::Wait { until: self.window.next_due().map_or(until, |due| due.min(until)) }
    }

    fn answer(
        &mut self,
        now: BootNanos,
        message: Message,
        view: &SpoolView,
        totals: &mut UplinkTotals,
    ) -> Result<Vec<Order>, Ended> {
        let epoch = self.window.epoch;
        match message {
            Message::Received(received) => {
                self.window.received(received.seq);
                Ok(Vec::new())
            }
            Message::Ack(ack) => {
                // What an earlier session sent may be committed only now, so that more than was
                // sent in this one can be acknowledged; never more than there is.
                if view.sending.epoch == epoch && ack.seq >= view.sending.next {
                    return Err(Ended::Protocol {
                        what: "it acknowledged a frame not yet written",
                    });
                }
                self.window.acknowledged(ack.seq);
                Ok(vec![Order::Ack { epoch, seq: ack.seq, digest: ack.digest() }])
            }
            Message::Nack(nack) => self.nack(now, nack, view, totals),
            Message::Pong(_) => Ok(Vec::new()),
            Message::Refused(refused) => {
                Err(Ended::Refused { reason: refused.reason, message: refused.message })
            }
            Message::Hello(_) | Message::Welcome(_) | Message::Ping(_) => {
                Err(Ended::Protocol { what: "a greeting came in the middle of a session" })
            }
        }
    }

    fn nack(
        &mut self,
        now: BootNanos,
        nack: Nack,
        view: &SpoolView,
        totals: &mut UplinkTotals,
    ) -> Result<Vec<Order>, Ended> {
        let taken = nack.is_other_bytes();
        let Nack { seq, verdict, .. } = nack;
        if seq <= view.sending.acked || !self.window.was_sent(seq) {
            return Ok(Vec::new());
        }
        if taken {
            // The epoch ends with this order, and the session with the epoch.
            totals.nacks_reject += 1;
            let (epoch, reason) = (self.window.epoch, NewEpochReason::OtherBytes { seq });
            return Ok(vec![Order::Overtaken { epoch, reason }]);
        }
        let (pause, orders) = match verdict {
            Verdict::RetryAfter(ms) => {
                totals.nacks_retry += 1;
                (Duration::from_millis(ms.into()).min(LONGEST_RETRY), Vec::new())
            }
            Verdict::Reject(reason) => {
                totals.nacks_reject += 1;
                let reject = Order::Reject { epoch: self.window.epoch, seq, reason };
                (AFTER_REJECT, vec![reject])
            }
        };
        if !self.window.again(seq, now.plus(pause)) {
            return Err(Ended::Protocol { what: "it put off too many frames" });
        }
        Ok(orders)
    }
}

/// The first pings of a session, to have an offset soon.
const QUICK_PINGS: u32 = 4;

/// Their distance.
const QUICK_PING: Duration = Duration::from_secs(1);

/// No frame is put off for longer, whatever the aggregator says.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Before the gap for a rejected frame is sent: an aggregator that rejects the gap too is not
/// asked in a loop.
const AFTER_REJECT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
