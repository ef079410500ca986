//! `issued.json`: every node certificate ever issued, by serial. Unknown and revoked serials are
//! refused, so this list is what decides who is let in.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use flow::NodeName;
use jiff::Timestamp;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::files::{self, Secrecy};
use super::{ISSUED, PkiError};

/// A certificate's serial number: 16 bytes, positive, 126 of its bits random (RFC 5280 section
/// 4.1.2.2 wants positive and at most 20 bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub [u8; 16]);

impl Serial {
    /// Draws one.
    pub fn random(rng: &mut impl RngCore) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        // Positive, and never shorter than 16 bytes once encoded.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Self(bytes)
    }

    /// The serial in a certificate's DER integer, where it has the length of ours.
    #[must_use]
    pub fn from_der(integer: &[u8]) -> Option<Self> {
        integer.try_into().ok().map(Self)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a serial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a serial has 32 hexadecimal digits, this is {text:?}")]
pub struct SerialError {
    /// What was given.
    pub text: String,
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        // Any 128-bit name of ours has the same spelling.
        text.parse::<flow::Epoch>()
            .map(|bits| Self(bits.0))
            .map_err(|refused| SerialError { text: refused.text })
    }
}

/// One node certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Whose it is.
    pub name: NodeName,
    /// Its serial.
    pub serial: Serial,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// When it was taken back, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// What a certificate is worth at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It opens the door.
    Good,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl Standing {
    /// For a person and for JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl IssuedCertificate {
    /// What it is worth at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.revoked_at.is_some() {
            Standing::Revoked
        } else if self.not_after < now {
            Standing::Expired
        } else {
            Standing::Good
        }
    }
}

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuedFile {
    /// In the order of issue.
    pub certificates: Vec<IssuedCertificate>,
}

impl IssuedFile {
    /// The format's version.
    pub const VERSION: u32 = 1;
    /// Most bytes read: ten thousand nodes, each renewed ten times, take a fifth of it.
    pub const MAX_BYTES: u64 = 128 << 20;

    /// Reads `issued.json` of an authority's folder.
    ///
    /// # Errors
    /// When it is missing, unreadable, or not such a list.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(ISSUED);
        if !path.exists() {
            return Err(PkiError::NoAuthority { dir: dir.to_owned(), missing: ISSUED });
        }
        let text = files::read(&path, Self::MAX_BYTES)?;
        Self::parse(&text).map_err(|problem| PkiError::Damaged { path, problem })
    }

    /// Replaces `issued.json` at one stroke.
    pub(super) fn save(&self, dir: &Path) -> Result<(), PkiError> {
        let raw = RawFile {
            version: Self::VERSION,
            certificates: self.certificates.iter().map(RawCertificate::from).collect(),
        };
        let path = dir.join(ISSUED);
        let mut text = serde_json::to_string_pretty(&raw).map_err(|error| PkiError::Damaged {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        text.push('\n');
        files::replace(&path, &text, Secrecy::Public)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let raw: RawFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if raw.version != Self::VERSION {
            let (found, known) = (raw.version, Self::VERSION);
            return Err(format!("it has format version {found}, this program knows {known}"));
        }
        let parsed: Result<_, _> =
            raw.certificates.into_iter().map(RawCertificate::parse).collect();
        Ok(Self { certificates: parsed? })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: u32,
    certificates: Vec<RawCertificate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCertificate {
    name: String,
    serial: String,
    issued_at: String,
    not_after: String,
    revoked_at: Option<String>,
}

impl From<&IssuedCertificate> for RawCertificate {
    fn from(issued: &IssuedCertificate) -> Self {
        Self {
            name: issued.name.to_string(),
            serial: issued.serial.to_string(),
            issued_at: issued.issued_at.to_string(),
            not_after: issued.not_after.to_string(),
            revoked_at: issued.revoked_at.map(|at| at.to_string()),
        }
    }
}

impl RawCertificate {
    fn parse(self) -> Result<IssuedCertificate, String> {
        let time = |text: &str| {
            text.parse::<Timestamp>().map_err(|error| format!("{text:?} is not a time: {error}"))
        };
        Ok(IssuedCertificate {
            name: NodeName::new(&self.name).map_err(|error| error.to_string())?,
            serial: self.serial.parse().map_err(|error: SerialError| error.to_string())?,
            issued_at: time(&self.issued_at)?,
            not_after: time(&self.not_after)?,
            revoked_at: self.revoked_at.as_deref().map(time).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn sample() -> IssuedCertificate {
        IssuedCertificate {
            name: NodeName::new("gw1").unwrap(),
            serial: Serial::random(&mut StdRng::seed_from_u64(1)),
            issued_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2028-01-01T00:00:00Z".parse().unwrap(),
            revoked_at: None,
        }
    }

    #[test]
    fn serials_are_positive_full_length_and_survive_printing() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..1_000 {
            let serial = Serial::random(&mut rng);
            assert!((0x40..0x80).contains(&serial.0[0]));
            assert_eq!(serial.to_string().parse(), Ok(serial));
        }
        assert!("12".parse::<Serial>().is_err());
        assert_eq!(Serial::from_der(&[1; 15]), None);
    }

    #[test]
    fn the_list_survives_a_round_trip_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut list = IssuedFile { certificates: vec![sample(), sample()] };
        list.certificates[1].revoked_at = Some("2026-02-01T00:00:00Z".parse().unwrap());
        list.save(dir.path()).unwrap();
        assert_eq!(IssuedFile::load(dir.path()).unwrap(), list);

        let path = dir.path().join(ISSUED);
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to, told) in [
            ("\"version\": 1", "\"version\": 2", "format version 2"),
            ("\"gw1\"", "\"GW1\"", "a node name is made of"),
            ("2028-01-01T", "2028-31-01T", "is not a time"),
            ("\"serial\": \"", "\"serial\": \"zz", "32 hexadecimal digits"),
            ("\"revoked_at\": null", "\"revoked\": null", "unknown field"),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = IssuedFile::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn standing_is_revoked_before_expired_before_good() {
        let mut issued = sample();
        let (during, after) = ("2027-01-01T00:00:00Z", "2029-01-01T00:00:00Z");
        assert_eq!(issued.standing(during.parse().unwrap()), Standing::Good);
        assert_eq!(issued.standing(after.parse().unwrap()), Standing::Expired);
        issued.revoked_at = Some(during.parse().unwrap());
        assert_eq!(issued.standing(after.parse().unwrap()), Standing::Revoked);
    }
}
