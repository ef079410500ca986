//! Opening a spool: what is there, whether it can be trusted, and with which epoch to go on.

use std::collections::BTreeSet;
use std::io;

use flow::table::BaselineSet;
use flow::{BootId, Epoch, Seq, StoreId, UnixNanos};
use thiserror::Error;
use wire::batch::{self, BatchHeader};
use wire::frame::{Frame, Kind};
use wire::gap::GapReason;

use super::checkpoint;
use super::config::SpoolConfig;
use super::disk::{Disk, FolderInode, TEMPORARY};
use super::identity::{self, Identity, IdentityError};
use super::log::{EpochLog, Known, Loaded};
use super::name::Name;
use super::rejected::Rejected;
use super::report::{NewEpochReason, OpenReport, Restored, SpoolError, SpoolTotals};
use super::{OpenContext, Span, Spool, UNREADABLE};

impl<D: Disk> Spool<D> {
    /// Opens what is on the disk, or begins. Nothing that may still have to be sent is ever
    /// overwritten or deleted: damage ends the epoch, and a folder that cannot be used is set
    /// aside whole.
    ///
    /// # Errors
    /// When the disk is full or refuses to be written, or a damaged folder cannot be renamed.
    pub fn open(
        mut disk: D,
        context: OpenContext,
        config: SpoolConfig,
    ) -> Result<(Self, Restored), SpoolError> {
        let mut aside = None;
        let contents = match Contents::read(&mut disk) {
            Ok(contents) => contents,
            Err(error) => {
                let place = disk.set_aside().map_err(SpoolError::disk("a folder set aside"))?;
                aside = Some((place, super::chain(&error)));
                Contents::default()
            }
        };
        let folder = disk.folder().map_err(SpoolError::disk("the folder's inode"))?;
        Opening { disk, context, config, folder, aside }.run(contents)
    }
}

/// Why a folder cannot be used.
#[derive(Debug, Error)]
enum Unusable {
    #[error("the folder cannot be listed")]
    List(#[source] io::Error),
    #[error("the identity file cannot be read")]
    Identity(#[source] io::Error),
    #[error("the spool cannot be used")]
    Content(#[source] IdentityError),
}

/// What lies in the folder.
#[derive(Default)]
struct Contents {
    files: Vec<(Name, u64)>,
    identity: Option<Identity>,
}

impl Contents {
    fn read<D: Disk>(disk: &mut D) -> Result<Self, Unusable> {
        let mut contents = Self::default();
        let mut identity_len = None;
        for entry in disk.list().map_err(Unusable::List)? {
            if entry.name == identity::NAME {
                identity_len = Some(entry.len);
            } else if entry.name.ends_with(TEMPORARY) {
                // It means nothing; one that cannot be removed means as little.
                let _left = disk.remove(&entry.name);
            } else if let Some(name) = Name::parse(&entry.name) {
                contents.files.push((name, entry.len));
            }
        }
        contents.files.sort_unstable_by_key(|(name, _)| name.to_string());
        let Some(len) = identity_len else { return Ok(contents) };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAX_IDENTITY);
        let bytes = disk.read(identity::NAME, 0, len).map_err(Unusable::Identity)?;
        contents.identity = match Identity::decode(bytes) {
            Ok(identity) if !identity.epochs.is_empty() => Some(identity),
            // The frames tell the rest.
            Ok(_) | Err(IdentityError::Damaged(_) | IdentityError::Malformed) => None,
            Err(error) => return Err(Unusable::Content(error)),
        };
        Ok(contents)
    }

    /// Epochs that have frames here and are not in the identity file.
    fn orphans(&self) -> Vec<Known> {
        let known: BTreeSet<Epoch> =
            self.identity.iter().flat_map(|i| &i.epochs).map(|known| known.files).collect();
        let segments = self.files.iter().filter(|(name, _)| matches!(name, Name::Segment(..)));
        let found: BTreeSet<Epoch> = segments.map(|(name, _)| name.epoch()).collect();
        found.difference(&known).map(|epoch| Known::of(*epoch, Seq::NONE)).collect()
    }

    fn newest_checkpoint(&self, epoch: Epoch) -> Option<(Seq, u64)> {
        let found = self.files.iter().filter_map(|(name, len)| match *name {
            Name::Checkpoint(of, seq) if of == epoch => Some((seq, *len)),
            _ => None,
        });
        found.max()
    }
}

/// Bytes of the largest identity file, [`SpoolConfig::MAX_EPOCHS`] epochs with room to spare.
const MAX_IDENTITY: usize = 64 << 10;

struct Opening<D> {
    disk: D,
    context: OpenContext,
    config: SpoolConfig,
    folder: FolderInode,
    aside: Option<(String, String)>,
}

/// The current epoch as it was found.
struct Found {
    log: EpochLog,
    /// Why it cannot go on.
    end: Option<NewEpochReason>,
    loaded: Loaded,
    checkpoint: Option<(Seq, u64)>,
    baselines: BaselineSet,
    /// Boot of the last frame.
    boot: Option<BootId>,
}

impl<D: Disk> Opening<D> {
    fn run(mut self, contents: Contents) -> Result<(Spool<D>, Restored), SpoolError> {
        let mut report = OpenReport { set_aside: self.aside.take(), ..OpenReport::default() };
        let mut drains = Vec::new();
        for known in contents.orphans() {
            drains.push(self.load_drain(known, &contents.files, &mut report)?);
        }
        let mut store = None;
        let mut current = None;
        if let Some(identity) = &contents.identity {
            store = identity.store;
            if let Some((known, old)) = identity.epochs.split_last() {
                for old in old {
                    drains.push(self.load_drain(*old, &contents.files, &mut report)?);
                }
                let mut found = self.load_current(*known, &contents)?;
                found.end = self.end_of_identity(identity).or(found.end);
                current = Some(found);
            }
        }
        report.boot_changed = current
            .as_ref()
            .and_then(|found| found.boot)
            .is_some_and(|boot| boot != self.context.boot);
        let new_epoch = match &current {
            Some(found) => found.end.clone(),
            None if report.set_aside.is_some() => Some(NewEpochReason::SetAside),
            None if drains.is_empty() => Some(NewEpochReason::Fresh),
            None => Some(NewEpochReason::IdentityLost),
        };
        let wall = self.context.wall;
        let (mut spool, mut restored) = match (current, new_epoch) {
            (Some(found), None) => self.go_on(found, drains, store, report),
            (current, reason) => {
                report.new_epoch = reason;
                self.begin(current, drains, store, report)?
            }
        };
        spool.clear_leftovers(&contents.files);
        restored.report.unreadable = spool.pass_unreadable(wall)?;
        restored.report.drains = spool.drains.len();
        Ok((spool, restored))
    }

    /// Whether the spool belongs to another machine or folder.
    fn end_of_identity(&self, identity: &Identity) -> Option<NewEpochReason> {
        if identity.machine != self.context.machine {
            Some(NewEpochReason::OtherMachine)
        } else if identity.folder != self.folder {
            Some(NewEpochReason::Copied)
        } else {
            None
        }
    }

    fn load_drain(
        &mut self,
        known: Known,
        files: &[(Name, u64)],
        report: &mut OpenReport,
    ) -> Result<EpochLog, SpoolError> {
        let (mut log, loaded) = EpochLog::load(&mut self.disk, known, files, |_, _| {})
            .map_err(SpoolError::disk("segments"))?;
        log.raise_floor(loaded.damaged_end.unwrap_or(Seq::NONE));
        report.torn_bytes += loaded.torn_bytes;
        Ok(log)
    }

    fn load_current(&mut self, known: Known, contents: &Contents) -> Result<Found, SpoolError> {
        let epoch = known.epoch;
        let checkpoint = contents.newest_checkpoint(epoch);
        let seed = self.context.seed;
        let read =
            checkpoint.and_then(|(seq, len)| checkpoint::read(&self.disk, epoch, seq, len, seed));
        let checkpoint_lost = checkpoint.is_some() && read.is_none();
        let mut baselines = read.unwrap_or_else(|| BaselineSet::new(seed));
        let after = checkpoint.map_or(Seq::NONE, |(seq, _)| seq);
        let mut undecodable = 0u64;
        let mut boot = None;
        let (mut log, loaded) =
            EpochLog::load(&mut self.disk, known, &contents.files, |span, frame| {
                if frame.header.kind != Kind::BATCH {
                    return;
                }
                let header = if span.first <= after {
                    batch::peek(frame).ok()
                } else {
                    fold(frame, &mut baselines)
                };
                match header {
                    Some(header) => boot = Some(header.interval.boot),
                    None => undecodable += 1,
                }
            })
            .map_err(SpoolError::disk("segments"))?;
        log.raise_floor(after);
        let end = ended(&log, &loaded, after, checkpoint_lost, undecodable);
        log.raise_floor(loaded.damaged_end.unwrap_or(Seq::NONE));
        Ok(Found { log, end, loaded, checkpoint, baselines, boot })
    }

    fn go_on(
        self,
        found: Found,
        drains: Vec<EpochLog>,
        store: Option<StoreId>,
        mut report: OpenReport,
    ) -> (Spool<D>, Restored) {
        let Found { log, loaded, checkpoint, baselines, .. } = found;
        report.torn_bytes += loaded.torn_bytes;
        let mut spool = self.spool(log, drains, store);
        let (seq, bytes) = checkpoint.unwrap_or_default();
        spool.checkpoint = seq;
        spool.checkpoint_bytes = bytes;
        spool.since_checkpoint = spool.current.bytes_after(seq);
        spool.durable = baselines.durable();
        (spool, Restored { baselines, report })
    }

    fn begin(
        self,
        current: Option<Found>,
        mut drains: Vec<EpochLog>,
        store: Option<StoreId>,
        mut report: OpenReport,
    ) -> Result<(Spool<D>, Restored), SpoolError> {
        if let Some(found) = current {
            report.torn_bytes += found.loaded.torn_bytes;
            drains.push(found.log);
        }
        let fresh = EpochLog::new(self.context.fresh);
        let baselines = BaselineSet::new(self.context.seed);
        let mut spool = self.spool(fresh, drains, store);
        // The new epoch first: gaps in the old one would hide its damage from the next opening.
        spool.persist()?;
        spool.totals.new_epochs += 1;
        Ok((spool, Restored { baselines, report }))
    }

    fn spool(self, current: EpochLog, drains: Vec<EpochLog>, store: Option<StoreId>) -> Spool<D> {
        let Self { disk, context, config, folder, .. } = self;
        Spool {
            disk,
            config,
            machine: context.machine,
            folder,
            boot: context.boot,
            store,
            drains: drains.into(),
            current,
            checkpoint: Seq::NONE,
            checkpoint_bytes: 0,
            checkpoint_at: context.now,
            since_checkpoint: 0,
            writing: None,
            durable: None,
            rejected: Rejected::default(),
            no_space: false,
            totals: SpoolTotals::default(),
        }
    }
}

/// Folds a frame into baselines; `None` where it cannot be decoded.
fn fold(frame: &Frame, baselines: &mut BaselineSet) -> Option<BatchHeader> {
    let (header, records) = batch::decode(frame).ok()?;
    records.iter().for_each(|record| baselines.fold(record, &header.interval));
    baselines.fold_interval(&header.interval);
    Some(header)
}

/// Why an epoch cannot go on after what its files said.
fn ended(
    log: &EpochLog,
    loaded: &Loaded,
    checkpoint: Seq,
    checkpoint_lost: bool,
    undecodable: u64,
) -> Option<NewEpochReason> {
    let (last, found) = (log.last(), log.last_readable());
    let unreadable = log.missing(log.acked.next(), last, true).iter().map(Span::count).sum::<u64>();
    let unfolded = log.missing(checkpoint.next(), last, false);
    if loaded.damaged || unreadable > 0 || undecodable > 0 {
        let unreadable = unreadable + undecodable + u64::from(loaded.damaged_end.is_some());
        return Some(NewEpochReason::Damaged { unreadable });
    }
    if checkpoint_lost {
        return Some(NewEpochReason::BaselinesLost);
    }
    match unfolded.first() {
        None => None,
        Some(span) if span.first > found => Some(NewEpochReason::LostTail { found, known: last }),
        Some(_) => Some(NewEpochReason::BaselinesLost),
    }
}

impl<D: Disk> Spool<D> {
    /// Clears away baselines that nobody will read.
    fn clear_leftovers(&mut self, files: &[(Name, u64)]) {
        self.rejected = Rejected::load(files);
        for (name, _) in files {
            if let Name::Checkpoint(epoch, seq) = *name
                && (epoch, seq) != (self.current.epoch, self.checkpoint)
            {
                let _left = self.disk.remove(&name.to_string());
            }
        }
    }

    /// Passes what is unreadable in drained epochs by gaps.
    fn pass_unreadable(&mut self, wall: UnixNanos) -> Result<u64, SpoolError> {
        let mut holes: Vec<(Epoch, Span)> = Vec::new();
        for log in &self.drains {
            let missing = log.missing(log.acked.next(), log.last(), true);
            holes.extend(missing.into_iter().map(|span| (log.epoch, span)));
        }
        let mut unreadable = 0;
        for (epoch, span) in holes {
            self.put_gap(epoch, span, GapReason::Unreadable, wall, UNREADABLE)?;
            unreadable += span.count();
        }
        self.totals.unreadable += unreadable;
        self.tidy()?;
        Ok(unreadable)
    }
}
