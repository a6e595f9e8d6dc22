//! Times as the server keeps them: microseconds since the beginning of the year 2000.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use forebay_actors::event::Timestamp;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// From the Unix epoch to the server's.
const EPOCH_MICROS: i64 = 946_684_800 * 1_000_000;

/// A `timestamptz`. What is finer than a microsecond is cut off, as the server itself would have to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(pub(crate) i64);

impl From<Timestamp> for Micros {
    fn from(time: Timestamp) -> Self {
        Self(time.nanos().div_euclid(1_000) - EPOCH_MICROS)
    }
}

/// The server's years are more than those of a `Timestamp`; what lies beyond is at its end.
impl From<Micros> for Timestamp {
    fn from(Micros(micros): Micros) -> Self {
        Self::from_nanos(micros.saturating_add(EPOCH_MICROS).saturating_mul(1_000))
    }
}

impl ToSql for Micros {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    accepts!(TIMESTAMPTZ);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To the microsecond a time comes back, before both epochs too; what is finer goes, towards the past.
    #[test]
    fn microseconds_come_back() {
        for (nanos, kept) in
            [(0, 0), (1_999, 1_000), (-1, -1_000), (-946_684_800_000_001, -946_684_800_001_000)]
        {
            let time = Timestamp::from_nanos(nanos);
            assert_eq!(Timestamp::from(Micros::from(time)).nanos(), kept);
        }
        let last = Timestamp::from_nanos(i64::MAX);
        assert_eq!(Timestamp::from(Micros::from(last)).nanos(), i64::MAX / 1_000 * 1_000);
        assert_eq!(Timestamp::from(Micros(i64::MAX)), last, "infinity");
        assert_eq!(Timestamp::from(Micros(i64::MIN)).nanos(), i64::MIN);
    }
}
