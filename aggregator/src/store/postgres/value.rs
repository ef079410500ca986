//! Values that sqlx has no type for in this build, and how PostgreSQL keeps what a column holds;
//! what the columns mean is in [`crate::store::decode`].

use std::net::IpAddr;

use flow::UnixNanos;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo};
use sqlx::{Encode, Postgres, Row, Type, ValueRef};

use super::copy::{EPOCH_MICROS, INET_V4, INET_V6, micros_of};
use crate::store::StoreError;
use crate::store::decode::{Cells, fixed, from_micros};

/// A `timestamptz`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) UnixNanos);

/// An `inet`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address(pub(super) IpAddr);

/// A `uuid`: any 128-bit name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name(pub(super) [u8; 16]);

macro_rules! builtin {
    ($name:ident, $oid:literal, $array:literal) => {
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($oid))
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($array))
            }
        }
    };
}

// pg_type.dat of PostgreSQL; these numbers never change.
builtin!(Time, 1184, 1185);
builtin!(Address, 869, 1041);
builtin!(Name, 2950, 2951);

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&micros_of(self.0).to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Encode<'_, Postgres> for Address {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self.0 {
            IpAddr::V4(v4) => {
                buffer.extend_from_slice(&[INET_V4, 32, 0, 4]);
                buffer.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                buffer.extend_from_slice(&[INET_V6, 128, 0, 16]);
                buffer.extend_from_slice(&v6.octets());
            }
        }
        Ok(IsNull::No)
    }
}

impl Encode<'_, Postgres> for Name {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

impl Cells for PgRow {
    fn width(&self) -> usize {
        self.len()
    }

    fn is_called(&self, at: usize, name: &str) -> bool {
        self.columns().get(at).is_some_and(|column| sqlx::Column::name(column) == name)
    }

    fn int_or_null(&self, at: usize) -> Result<Option<i64>, StoreError> {
        let Some(bytes) = raw(self, at)? else { return Ok(None) };
        Ok(Some(match bytes.len() {
            2 => i16::from_be_bytes(fixed(bytes)?).into(),
            4 => i32::from_be_bytes(fixed(bytes)?).into(),
            _ => i64::from_be_bytes(fixed(bytes)?),
        }))
    }

    fn time_or_null(&self, at: usize) -> Result<Option<UnixNanos>, StoreError> {
        let micros = raw(self, at)?.map(fixed).transpose()?.map(i64::from_be_bytes);
        Ok(micros.map(|micros| from_micros(micros.saturating_add(EPOCH_MICROS))))
    }

    fn address_or_null(&self, at: usize) -> Result<Option<IpAddr>, StoreError> {
        raw(self, at)?.map(address).transpose()
    }

    fn name_or_null(&self, at: usize) -> Result<Option<[u8; 16]>, StoreError> {
        raw(self, at)?.map(fixed).transpose()
    }

    fn bytes(&self, at: usize) -> Result<&[u8], StoreError> {
        raw(self, at)?.ok_or_else(|| StoreError::Corrupt(format!("column {at} is empty")))
    }

    fn text(&self, at: usize) -> Result<&str, StoreError> {
        std::str::from_utf8(self.bytes(at)?)
            .map_err(|error| StoreError::Corrupt(format!("column {at} is no text: {error}")))
    }

    fn flag(&self, at: usize) -> Result<bool, StoreError> {
        fixed::<1>(self.bytes(at)?).map(|[flag]| flag != 0)
    }
}

/// A column's bytes in the binary format, which every prepared statement answers in.
fn raw(row: &PgRow, at: usize) -> Result<Option<&[u8]>, StoreError> {
    let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
    let value = row.try_get_raw(at).map_err(|error| corrupt(&error))?;
    if value.is_null() {
        return Ok(None);
    }
    value.as_bytes().map(Some).map_err(|error| corrupt(&error))
}

/// Family, bits of the mask, whether it is a `cidr`, length, then the address.
fn address(bytes: &[u8]) -> Result<IpAddr, StoreError> {
    let address = bytes.get(4..).unwrap_or_default();
    match bytes.first() {
        Some(&INET_V4) => fixed::<4>(address).map(IpAddr::from),
        _ => fixed::<16>(address).map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["10.1.2.3", "fd00::1"] {
            let written: IpAddr = text.parse().unwrap();
            let mut copied = super::super::copy::Encoder::new(1, 0);
            copied.clear();
            copied.address(&written);
            assert_eq!(address(copied.bytes().get(4..).unwrap()), Ok(written));
        }
        assert!(address(&[]).is_err());
        assert!(address(&[INET_V4, 32, 0, 4, 1, 2, 3]).is_err());
    }
}
