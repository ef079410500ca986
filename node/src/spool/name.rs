//! File names in a spool's folder: `<epoch>-<number>.<what it is>`, both in hexadecimal.

use std::fmt;

use flow::{Epoch, Seq};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Frames from this number on.
    Segment(Epoch, Seq),
    /// A gap from this number on, in the place of what a segment may hold there.
    Gap(Epoch, Seq),
    /// Baselines after the frame of this number.
    Checkpoint(Epoch, Seq),
    /// The frame of this number, which the aggregator rejected.
    Rejected(Epoch, Seq),
}

impl Name {
    pub(super) const fn epoch(self) -> Epoch {
        let (Self::Segment(epoch, _)
        | Self::Gap(epoch, _)
        | Self::Checkpoint(epoch, _)
        | Self::Rejected(epoch, _)) = self;
        epoch
    }

    /// What `text` names; `None` where it is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (stem, ending) = text.split_once('.')?;
        let (epoch, seq) = stem.split_once('-')?;
        if epoch.len() != 32 || seq.len() != 16 {
            return None;
        }
        let epoch: Epoch = epoch.parse().ok()?;
        let seq = Seq(u64::from_str_radix(seq, 16).ok()?);
        let name = match ending {
            "seg" => Self::Segment(epoch, seq),
            "gap" => Self::Gap(epoch, seq),
            "ckpt" => Self::Checkpoint(epoch, seq),
            "rejected" => Self::Rejected(epoch, seq),
            _ => return None,
        };
        // One spelling each: a file of another one would be read under a name it has not.
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epoch, seq, ending) = match self {
            Self::Segment(epoch, seq) => (epoch, seq, "seg"),
            Self::Gap(epoch, seq) => (epoch, seq, "gap"),
            Self::Checkpoint(epoch, seq) => (epoch, seq, "ckpt"),
            Self::Rejected(epoch, seq) => (epoch, seq, "rejected"),
        };
        write!(f, "{epoch}-{:016x}.{ending}", seq.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let epoch = Epoch([0xab; 16]);
        for name in [
            Name::Segment(epoch, Seq(1)),
            Name::Gap(epoch, Seq(u64::MAX)),
            Name::Checkpoint(epoch, Seq(0)),
            Name::Rejected(epoch, Seq(7)),
        ] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
            assert_eq!(Name::parse(&name.to_string().to_uppercase()), None);
            assert_eq!(Name::parse(&format!("{name}.tmp")), None);
        }
        for text in ["identity", "", "-.seg", "lost+found", "é-1.seg"] {
            assert_eq!(Name::parse(text), None);
        }
    }
}
