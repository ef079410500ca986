//! The token: a random text in a file that its owner and group may read.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;

/// What clients must show.
#[derive(PartialEq, Eq)]
pub(super) struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or made.
    #[error("the token file {} cannot be {what}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Others may read or change it.
    #[error(
        "the token file {} has mode {mode:04o}, so others may read or change it; \
         run chmod 0640 {}", file.display(), file.display()
    )]
    Mode {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds no token.
    #[error(
        "the token file {} must hold one line of {} to {} printable characters without spaces",
        file.display(), Token::MIN, Token::MAX
    )]
    Content {
        /// The file.
        file: PathBuf,
    },
}

impl Token {
    /// The fewest characters.
    const MIN: usize = 16;

    /// The most characters.
    const MAX: usize = 256;

    /// Reads the token, making the file with a new one where it is missing.
    pub(super) fn load(file: &Path) -> Result<Self, TokenError> {
        match Self::read(file) {
            Err(TokenError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                match create(file) {
                    Ok(()) => tracing::info!(file = %file.display(), "token file made"),
                    // Somebody was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => {
                        let file = file.to_owned();
                        return Err(TokenError::File { file, what: "made", error });
                    }
                }
                Self::read(file)
            }
            result => result,
        }
    }

    /// Reads the token of a file that must be there.
    pub(super) fn read(file: &Path) -> Result<Self, TokenError> {
        let failed = |error| TokenError::File { file: file.to_owned(), what: "read", error };
        let mut open = fs::File::open(file).map_err(failed)?;
        let mode = open.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(TokenError::Mode { file: file.to_owned(), mode });
        }
        let mut text = String::new();
        (&mut open).take(Self::MAX as u64 + 2).read_to_string(&mut text).map_err(failed)?;
        let text = text.trim_end_matches(['\r', '\n']);
        let legal = (Self::MIN..=Self::MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !legal {
            return Err(TokenError::Content { file: file.to_owned() });
        }
        Ok(Self(text.as_bytes().to_vec()))
    }

    /// Whether `shown` is it, in a time that does not depend on how much of it is right.
    pub(super) fn is(&self, shown: &str) -> bool {
        let shown = shown.as_bytes();
        let differences =
            self.0.iter().zip(shown).fold(0, |differences, (a, b)| differences | (a ^ b));
        self.0.len() == shown.len() && std::hint::black_box(differences) == 0
    }

    /// As text, to be shown by a client.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

fn create(file: &Path) -> io::Result<()> {
    let mut random = [0_u8; 32];
    OsRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o640).open(file)?;
    open.write_all(format!("{token}\n").as_bytes())?;
    open.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_others_may_not_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let made = Token::load(&file).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o137, 0, "made with mode {mode:o}");
        assert_eq!(Token::load(&file).unwrap().text(), made.text());
        assert_eq!(made.text().len(), 64);
        assert!(made.is(&made.text()));
        assert!(!made.is("") && !made.is(&made.text()[1..]));
        let wrong = made.text().replace(|c: char| c.is_ascii_digit(), "x");
        assert!(!made.is(&wrong));

        for mode in [0o644, 0o660, 0o641] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = Token::load(&file).unwrap_err();
            assert!(matches!(error, TokenError::Mode { .. }), "{mode:o}: {error}");
        }
        for content in ["", "short\n", "two words in a line of text\n", &"x".repeat(257)] {
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            let error = Token::load(&file).unwrap_err();
            assert!(matches!(error, TokenError::Content { .. }), "{content:?}: {error}");
        }
    }
}
