//! The migrations, embedded in the program.
//!
//! Listed by hand instead of by sqlx's macro: its macros build the database drivers a second
//! time, for the compiler's side, which a cold build would pay for in minutes.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Migrations by number, name and text. Append-only: a released one never changes.
pub(super) type Listed = (i64, &'static str, &'static str);

/// Those of SQLite.
pub(super) const SQLITE: &[Listed] =
    &[(1, "flows", include_str!("../../../migrations/sqlite/0001_flows.sql"))];

/// Those of PostgreSQL.
pub(super) const POSTGRES: &[Listed] =
    &[(1, "flows", include_str!("../../../migrations/postgres/0001_flows.sql"))];

/// A migrator over `listed`.
pub(super) fn migrator(listed: &[Listed]) -> Migrator {
    let migration = |(number, name, text): &Listed| {
        Migration::new(*number, (*name).into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    Migrator::with_migrations(listed.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_listed_under_its_number_and_name() {
        for (folder, listed) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(folder);
            let files: BTreeSet<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            let listed = listed.iter().map(|(number, name, _)| format!("{number:04}_{name}.sql"));
            assert_eq!(files, listed.collect::<BTreeSet<_>>());
        }
    }
}
