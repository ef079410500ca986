//! Names of things: nodes, epochs, frames, flows, network namespaces, boots, stores.

use std::fmt;

use thiserror::Error;

/// A node's name as its certificate carries it: 1 to 63 of `a-z 0-9 . - _`, a letter or digit
/// first. Lower case only, so that one node has one spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// Why a text is not a [`NodeName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeNameError {
    /// Empty or longer than [`NodeName::MAX_LEN`].
    #[error("a node name has 1 to 63 characters, this one has {len}")]
    Length {
        /// Bytes in the rejected text.
        len: usize,
    },
    /// A character outside the alphabet, or a first one that is no letter or digit.
    #[error(
        "a node name is made of a-z 0-9 . - _ and starts with a letter or digit, found {found:?} at position {at}"
    )]
    Character {
        /// The character.
        found: char,
        /// Its byte position.
        at: usize,
    },
}

impl NodeName {
    /// The longest name, in bytes (a DNS label's length, RFC 1035 section 2.3.4).
    pub const MAX_LEN: usize = 63;

    /// Parses a name.
    ///
    /// # Errors
    /// A wrong length or a character outside the alphabet, with its place.
    pub fn new(text: &str) -> Result<Self, NodeNameError> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(NodeNameError::Length { len: text.len() });
        }
        for (at, found) in text.char_indices() {
            let word = found.is_ascii_lowercase() || found.is_ascii_digit();
            if !(word || at > 0 && matches!(found, '.' | '-' | '_')) {
                return Err(NodeNameError::Character { found, at });
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        Self::new(text)
    }
}

/// Why a text is not a 128-bit name in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected 32 hexadecimal digits (dashes allowed), got {text:?}")]
pub struct HexError {
    /// What was given.
    pub text: String,
}

fn parse_hex128(text: &str) -> Result<[u8; 16], HexError> {
    let error = || HexError { text: text.chars().take(64).collect() };
    let mut out = [0u8; 16];
    let mut nibbles = 0usize;
    for c in text.trim().chars().filter(|c| *c != '-') {
        let value = c.to_digit(16).and_then(|v| u8::try_from(v).ok()).ok_or_else(error)?;
        let byte = out.get_mut(nibbles / 2).ok_or_else(error)?;
        *byte = *byte << 4 | value;
        nibbles += 1;
    }
    if nibbles == 32 { Ok(out) } else { Err(error()) }
}

macro_rules! name128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl std::str::FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                parse_hex128(text).map(Self)
            }
        }
    };
}

name128! {
    /// One life of a node's spool: 128 random bits. Never part of an entry's identity.
    Epoch
}
name128! {
    /// One boot of a host (`/proc/sys/kernel/random/boot_id`).
    BootId
}
name128! {
    /// One database's life, drawn by its first migration.
    StoreId
}

/// A frame's number within its (node, epoch); the first one is 1, so 0 means "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// No frame yet.
    pub const NONE: Self = Self(0);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A flow's number within its node's epoch: small, so that it compresses. For correlation of
/// records on the node's side only; identity is [`EntryId`](crate::EntryId).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowNo(pub u64);

/// A network namespace's inode on its host (`net.ns.inum` in the kernel, 32 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsInode(pub u32);

/// A network namespace: its inode is reused after a boot, so the boot belongs to the name.
/// With the node's name this is the *observer* of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// The namespace's inode.
    pub inode: NetnsInode,
    /// The boot it belongs to.
    pub boot: BootId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_have_one_spelling() {
        assert!(NodeName::new("gw-1.example_net").is_ok());
        assert_eq!(NodeName::new(""), Err(NodeNameError::Length { len: 0 }));
        assert_eq!(NodeName::new("Gw1"), Err(NodeNameError::Character { found: 'G', at: 0 }));
        assert_eq!(NodeName::new("a/b"), Err(NodeNameError::Character { found: '/', at: 1 }));
        assert_eq!(NodeName::new("-a"), Err(NodeNameError::Character { found: '-', at: 0 }));
        assert!(NodeName::new(&"a".repeat(64)).is_err());
    }

    #[test]
    fn hexadecimal_names_survive_printing() {
        let boot: BootId = "0123ABCD-0123-4567-89ab-cdef01234567\n".parse().unwrap();
        assert_eq!(boot.to_string(), "0123abcd0123456789abcdef01234567");
        assert_eq!(boot.to_string().parse(), Ok(boot));
        assert!("0123".parse::<Epoch>().is_err());
        assert!("x".repeat(32).parse::<Epoch>().is_err());
        assert!("0".repeat(33).parse::<Epoch>().is_err());
    }
}
