//! How SQLite keeps what a column holds; what the columns mean is in [`crate::store::decode`].

use std::net::IpAddr;

use flow::UnixNanos;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::StoreError;
use crate::store::decode::{Cells, fixed, from_micros};

impl Cells for SqliteRow {
    fn width(&self) -> usize {
        self.len()
    }

    fn is_called(&self, at: usize, name: &str) -> bool {
        self.columns().get(at).is_some_and(|column| sqlx::Column::name(column) == name)
    }

    fn int_or_null(&self, at: usize) -> Result<Option<i64>, StoreError> {
        take(self, at)
    }

    fn time_or_null(&self, at: usize) -> Result<Option<UnixNanos>, StoreError> {
        Ok(take::<Option<i64>>(self, at)?.map(from_micros))
    }

    fn address_or_null(&self, at: usize) -> Result<Option<IpAddr>, StoreError> {
        take::<Option<&[u8]>>(self, at)?.map(address).transpose()
    }

    fn name_or_null(&self, at: usize) -> Result<Option<[u8; 16]>, StoreError> {
        take::<Option<&[u8]>>(self, at)?.map(fixed).transpose()
    }

    fn bytes(&self, at: usize) -> Result<&[u8], StoreError> {
        take(self, at)
    }

    fn text(&self, at: usize) -> Result<&str, StoreError> {
        take(self, at)
    }

    fn flag(&self, at: usize) -> Result<bool, StoreError> {
        take::<i64>(self, at).map(|value| value != 0)
    }
}

fn take<'r, T>(row: &'r SqliteRow, at: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(at).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn address(bytes: &[u8]) -> Result<IpAddr, StoreError> {
    match bytes.len() {
        4 => fixed::<4>(bytes).map(IpAddr::from),
        _ => fixed::<16>(bytes).map(IpAddr::from),
    }
}
