//! Limits of the variable fields of control messages and gaps.

use thiserror::Error;

use crate::control::Extensions;

/// Longest name (of a node, a source), in bytes.
pub const MAX_NAME: usize = 63;

/// Longest version text (of a kernel, of a program), in bytes.
pub const MAX_VERSION: usize = 255;

/// Longest text for a person, in bytes. Longer ones are cut when they are encoded.
pub const MAX_TEXT: usize = 1024;

/// Most extensions of a message.
pub const MAX_EXTENSIONS: usize = 64;

/// A field of a message that breaks its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FieldError {
    /// A text longer than its limit.
    #[error("field {field} has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// The field's name.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
        /// Its limit in bytes.
        limit: usize,
    },
    /// More than [`MAX_EXTENSIONS`] extensions.
    #[error("{count} extensions, at most {MAX_EXTENSIONS} are allowed")]
    TooManyExtensions {
        /// How many there are.
        count: usize,
    },
}

pub(crate) fn check_name(field: &'static str, text: &str) -> Result<(), FieldError> {
    check(field, text, MAX_NAME)
}

pub(crate) fn check_version(field: &'static str, text: &str) -> Result<(), FieldError> {
    check(field, text, MAX_VERSION)
}

pub(crate) fn check_text(field: &'static str, text: &str) -> Result<(), FieldError> {
    check(field, text, MAX_TEXT)
}

pub(crate) fn check_extensions(extensions: &Extensions) -> Result<(), FieldError> {
    match extensions.len() {
        count if count > MAX_EXTENSIONS => Err(FieldError::TooManyExtensions { count }),
        _ => Ok(()),
    }
}

/// A text for a person, cut to its limit at a character's edge.
pub(crate) fn cut_text(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text)
}

fn check(field: &'static str, text: &str, limit: usize) -> Result<(), FieldError> {
    let length = text.len();
    if length > limit { Err(FieldError::TooLong { field, length, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let text = "ä".repeat(MAX_TEXT);
        assert_eq!(cut_text(&text).len(), MAX_TEXT);
        let text = format!("a{text}");
        assert_eq!(cut_text(&text).len(), MAX_TEXT - 1);
        assert_eq!(cut_text("short"), "short");
    }
}
