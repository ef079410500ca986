//! Golden files: texts that users see, compared byte for byte. `UPDATE_GOLDEN=1` writes them.

use std::path::Path;

/// Compares `text` with the file `name` in `tests/golden`.
pub(crate) fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&file, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        text,
        expected,
        "{} differs; if that is meant, run the test again with UPDATE_GOLDEN=1",
        file.display()
    );
}
