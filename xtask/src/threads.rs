//! How a thread's end becomes a result like any other.

use std::any::Any;

use anyhow::{Result, anyhow};

/// What a joined thread gave; one that panicked is an error with its last words.
pub(crate) fn outcome<T>(joined: std::thread::Result<Result<T>>, name: &str) -> Result<T> {
    joined.unwrap_or_else(|panic| Err(anyhow!("{name} panicked: {}", last_words(&*panic))))
}

fn last_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let joined = std::thread::spawn(|| -> Result<()> { panic!("of {}", 2) }).join();
        assert_eq!(outcome(joined, "it").unwrap_err().to_string(), "it panicked: of 2");
        assert_eq!(outcome(Ok(Ok(3)), "it").unwrap(), 3);
    }
}
