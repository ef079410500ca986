//! The identity file: whose spool this is, which epochs it holds, what was acknowledged.
//!
//! One wire frame of the private kind [`IDENTITY`], so that its digest and version are checked
//! like those of any frame; replaced as a whole. Body, little endian: layout u16, machine id 16
//! bytes, folder inode u64, store (u8 flag, 16 bytes), number of epochs u16, then for each epoch,
//! oldest first, the current one last: epoch 16 bytes, the epoch its files are named by 16 bytes
//! (another one where it was renamed), acknowledged u64.
//!
//! The acknowledged numbers may lag behind (frames are then sent once more); they are written
//! before any frame is deleted on their strength.

use bytes::Bytes;
use flow::{Epoch, Seq, StoreId};
use thiserror::Error;
use wire::frame::{Frame, FrameError, Kind};

use super::config::SpoolConfig;
use super::disk::FolderInode;
use super::log::Known;

/// A machine's id (`/etc/machine-id`): a copied disk in another machine has another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MachineId(pub [u8; 16]);

/// Name of the identity file.
pub(super) const NAME: &str = "identity";

/// Kind of the identity file's frame; never on the wire.
pub const IDENTITY: Kind = Kind(0xff01);

/// Layout of the body that this version writes.
const LAYOUT: u16 = 2;

/// The identity file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) machine: MachineId,
    pub(super) folder: FolderInode,
    /// The store that acknowledged frames of this spool.
    pub(super) store: Option<StoreId>,
    /// Oldest first, the current one last.
    pub(super) epochs: Vec<Known>,
}

/// Why an identity file cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Damaged bytes.
    #[error("the identity file is damaged")]
    Damaged(#[source] FrameError),
    /// Not a body of this kind.
    #[error("the identity file is damaged: its body ends early or has bytes too many")]
    Malformed,
    /// Written by a later version.
    #[error(
        "the identity file has layout {found}, this version knows {LAYOUT}: the node was \
         downgraded"
    )]
    Layout {
        /// The layout found.
        found: u16,
    },
    /// More epochs than a spool ever holds.
    #[error("the spool holds {found} epochs, more than {}", SpoolConfig::MAX_EPOCHS)]
    Epochs {
        /// The number found.
        found: usize,
    },
}

impl Identity {
    pub(super) fn encode(&self) -> Result<Frame, FrameError> {
        let mut body = Vec::with_capacity(64 + 40 * self.epochs.len());
        body.extend_from_slice(&LAYOUT.to_le_bytes());
        body.extend_from_slice(&self.machine.0);
        body.extend_from_slice(&self.folder.0.to_le_bytes());
        body.push(u8::from(self.store.is_some()));
        body.extend_from_slice(&self.store.unwrap_or_default().0);
        let count = u16::try_from(self.epochs.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&count.to_le_bytes());
        for Known { epoch, files, acked } in &self.epochs {
            body.extend_from_slice(&epoch.0);
            body.extend_from_slice(&files.0);
            body.extend_from_slice(&acked.0.to_le_bytes());
        }
        Frame::new(IDENTITY, &body)
    }

    pub(super) fn decode(bytes: Vec<u8>) -> Result<Self, IdentityError> {
        let frame = Frame::parse(Bytes::from(bytes)).map_err(IdentityError::Damaged)?;
        if frame.header.kind != IDENTITY {
            return Err(IdentityError::Malformed);
        }
        let mut body = Reader(frame.body());
        let found = u16::from_le_bytes(body.take()?);
        if found != LAYOUT {
            return Err(IdentityError::Layout { found });
        }
        let machine = MachineId(body.take()?);
        let folder = FolderInode(u64::from_le_bytes(body.take()?));
        let [known] = body.take()?;
        let store = StoreId(body.take()?);
        let count = usize::from(u16::from_le_bytes(body.take()?));
        if count > SpoolConfig::MAX_EPOCHS {
            return Err(IdentityError::Epochs { found: count });
        }
        let mut epochs = Vec::with_capacity(count);
        for _ in 0..count {
            let epoch = Epoch(body.take()?);
            let files = Epoch(body.take()?);
            let acked = Seq(u64::from_le_bytes(body.take()?));
            epochs.push(Known { epoch, files, acked });
        }
        if !body.0.is_empty() {
            return Err(IdentityError::Malformed);
        }
        Ok(Self { machine, folder, store: (known != 0).then_some(store), epochs })
    }
}

/// Takes fixed-size fields from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], IdentityError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(IdentityError::Malformed)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            machine: MachineId([1; 16]),
            folder: FolderInode(77),
            store: Some(StoreId([2; 16])),
            epochs: vec![
                Known { epoch: Epoch([3; 16]), files: Epoch([9; 16]), acked: Seq(4) },
                Known::of(Epoch([5; 16]), Seq(6)),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut one = identity();
        assert_eq!(Identity::decode(one.encode().unwrap().bytes.to_vec()).unwrap(), one);
        one.store = None;
        one.epochs.clear();
        assert_eq!(Identity::decode(one.encode().unwrap().bytes.to_vec()).unwrap(), one);
    }

    #[test]
    fn damage_anywhere_is_found() {
        let good = identity().encode().unwrap().bytes.to_vec();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Identity::decode(bad).is_err(), "a flipped bit in byte {at}");
            assert!(Identity::decode(good[..at].to_vec()).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn a_later_layout_is_named() {
        let frame = Frame::new(IDENTITY, &9u16.to_le_bytes()).unwrap();
        let error = Identity::decode(frame.bytes.to_vec()).unwrap_err();
        assert!(matches!(error, IdentityError::Layout { found: 9 }));
    }
}
