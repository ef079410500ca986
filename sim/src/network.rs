//! Between hosts and aggregator: connections, letters on their way, and who says what next.

use std::time::Duration;

use flow::UnixNanos;
use node::uplink::{Ended, Step};
use rand::Rng;
use wire::control::{Message, RefuseReason};

use crate::outcome::Kind;
use crate::trouble::Fate;
use crate::world::World;

/// What travels.
pub(crate) enum Payload {
    /// A control message of a node.
    Up(Message),
    /// A data frame of a node.
    Data(wire::frame::Frame),
    /// A message of the aggregator.
    Down(Message),
}

/// Something on its way.
pub(crate) struct Letter {
    at: UnixNanos,
    connection: u64,
    payload: Payload,
}

impl World {
    /// Does what the uplink says, until it waits.
    pub(crate) fn pump(&mut self, host: usize) {
        for _ in 0..64 {
            let now = self.hosts[host].kernel.boottime(self.now);
            let wall = self.hosts[host].kernel.wall(self.now);
            let cut_off = self.hosts[host].cut_off_until.is_some_and(|until| self.now < until);
            let Some(life) = &mut self.hosts[host].life else { return };
            let view = life.spool.view();
            match life.uplink.step(now, &view) {
                Step::Wait { .. } => return,
                Step::Connect { .. } => {
                    if !self.centre.is_up() || cut_off {
                        let pause = self.rng.random();
                        life.uplink.disconnected(now, pause);
                        return;
                    }
                    self.next_connection += 1;
                    let connection = self.next_connection;
                    life.connection = Some(connection);
                    life.uplink.connected(view.sending.epoch);
                    self.connections.insert(connection, host);
                    if let Some(hello) = self.hosts[host].hello() {
                        self.post(connection, Payload::Up(Message::Hello(hello)));
                    }
                }
                Step::Send { epoch, seq } => {
                    let connection = life.connection;
                    match life.spool.frame(epoch, seq, wall) {
                        Ok(Some(stored)) => {
                            life.uplink.sent(epoch, stored.span);
                            self.hosts[host].regain(&stored.frame.header.digest);
                            if let Some(connection) = connection {
                                self.post(connection, Payload::Data(stored.frame));
                            }
                        }
                        Ok(None) => {
                            self.hang_up_host(host);
                            return;
                        }
                        Err(_stopped) => {
                            self.stop(host);
                            return;
                        }
                    }
                }
                Step::Ping(ping) => {
                    if let Some(connection) = life.connection {
                        self.post(connection, Payload::Up(Message::Ping(ping)));
                    }
                }
                Step::Close(ended) => {
                    if matches!(ended, Ended::OtherStore { .. }) {
                        self.refuses_store(host);
                    }
                    self.hang_up_host(host);
                }
            }
        }
    }

    /// Ends a host's connection, for both sides.
    pub(crate) fn hang_up_host(&mut self, host: usize) {
        let now = self.hosts[host].kernel.boottime(self.now);
        let pause = self.rng.random();
        if let Some(life) = &mut self.hosts[host].life
            && let Some(connection) = life.connection.take()
        {
            life.uplink.disconnected(now, pause);
            self.connections.remove(&connection);
            self.centre.hung_up(connection);
            self.happened.note(Kind::Disconnected);
        }
    }

    /// Sends something: late, perhaps twice; control messages stay in order.
    fn post(&mut self, connection: u64, payload: Payload) {
        let data = matches!(payload, Payload::Data(_));
        let delay = Duration::from_millis(match data {
            true => self.rng.random_range(0..=self.delay_ms),
            false => self.delay_ms / 2,
        });
        let at = self.now.plus(delay);
        if let Payload::Data(frame) = &payload {
            let behind = |letter: &Letter| {
                letter.connection == connection
                    && letter.at > at
                    && matches!(letter.payload, Payload::Data(_))
            };
            if self.letters.iter().any(behind) {
                self.happened.note(Kind::Reordered);
            }
            if self.rng.random_bool(self.duplicates) {
                let copy = Payload::Data(frame.clone());
                let at = at.plus(Duration::from_millis(self.delay_ms / 3 + 1));
                self.letters.push(Letter { at, connection, payload: copy });
                self.happened.note(Kind::Duplicated);
            }
        }
        self.letters.push(Letter { at, connection, payload });
    }

    /// Hands out what has arrived by now.
    pub(crate) fn deliver(&mut self) {
        let now = self.now;
        let (mut due, rest): (Vec<Letter>, Vec<Letter>) =
            std::mem::take(&mut self.letters).into_iter().partition(|letter| letter.at <= now);
        self.letters = rest;
        due.sort_by_key(|letter| letter.at);
        for Letter { connection, payload, .. } in due {
            let Some(&host) = self.connections.get(&connection) else { continue };
            match payload {
                Payload::Up(message) => {
                    let (said, closed) = self.centre.control(connection, message, now);
                    self.answer(said);
                    for connection in closed {
                        if let Some(&host) = self.connections.get(&connection) {
                            self.happened.note(Kind::Replaced);
                            self.hang_up_host(host);
                        }
                    }
                }
                Payload::Data(frame) => {
                    let said = self.centre.data(connection, &frame, now);
                    self.answer(said);
                }
                Payload::Down(message) => self.hear(host, message),
            }
        }
    }

    fn hear(&mut self, host: usize, message: Message) {
        match &message {
            Message::Refused(refused) if refused.reason == RefuseReason::NameInUse => {
                self.happened.note(Kind::NameInUse);
            }
            Message::Nack(nack) if nack.is_other_bytes() => {
                self.happened.note(Kind::RefusedOtherBytes);
            }
            _ => {}
        }
        let boot = self.hosts[host].kernel.boottime(self.now);
        let Some(life) = &mut self.hosts[host].life else { return };
        let view = life.spool.view();
        let orders = life.uplink.message(boot, message, &view);
        let obeyed = self.hosts[host].obey(orders, self.now, &mut self.rng);
        self.survive(host, obeyed);
    }

    fn answer(&mut self, said: Vec<(u64, Message)>) {
        for (connection, message) in said {
            self.post(connection, Payload::Down(message));
        }
    }

    /// Lets the aggregator count and commit, and die of it where that is its fate.
    pub(crate) fn commit(&mut self) {
        let before = self.centre.commits();
        let (said, fatal) = self.centre.cycle(self.now);
        let died = match self.fate {
            Some(Fate::InDoubt) if self.centre.is_in_doubt() => Some(Kind::CentreKilledInDoubt),
            Some(Fate::Unsaid) if self.centre.commits() > before => Some(Kind::CentreKilledUnsaid),
            _ => None,
        };
        if let Some(kind) = died {
            self.fate = None;
            self.centre.store.leave_unanswered(0);
            self.happened.note(kind);
            self.kill_centre();
            return;
        }
        self.answer(said);
        if fatal {
            self.kill_centre();
        }
    }

    /// The aggregator dies, and every connection with it.
    pub(crate) fn kill_centre(&mut self) {
        self.centre.kill();
        for host in 0..self.hosts.len() {
            self.hang_up_host(host);
        }
    }
}
