//! Event ids: the client's own text, or a UUIDv7 that is derived from its block's first id.

use std::fmt;

use uuid::Uuid;

use super::Timestamp;

/// The identity of an event, by which stores recognise a second delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventId<'a> {
    /// The client's own.
    Given(&'a str),
    /// The UUIDv7 it was given on arrival.
    Assigned(Uuid),
}

impl EventId<'_> {
    /// Appends the id's text.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Given(text) => out.extend_from_slice(text.as_bytes()),
            Self::Assigned(uuid) => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                out.extend_from_slice(uuid.hyphenated().encode_lower(&mut text).as_bytes());
            }
        }
    }
}

impl fmt::Display for EventId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(text) => f.write_str(text),
            Self::Assigned(uuid) => write!(f, "{}", uuid.hyphenated()),
        }
    }
}

/// Hands out runs of UUIDv7: one call per block, however many events the block has.
///
/// The event at index `i` of a block has the id `first + i` (RFC 9562, section 6.2, method 2: the random
/// bits are a counter within one millisecond). A block needs 16 bytes of ids on disk, not 16 an event.
#[derive(Debug)]
pub struct IdSource {
    random: fastrand::Rng,
    millis: i64,
    next: u128,
}

/// The bits of a UUIDv7 that count: all of `rand_b`, less its top bit, which stays free for carries.
const COUNTER_MASK: u128 = (1 << 61) - 1;

impl IdSource {
    /// A source whose ids are a function of the seed and the times it is asked at.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), millis: i64::MIN, next: 0 }
    }

    /// The first of `count` ids that no other call returns.
    pub fn first_of(&mut self, count: u32, now: Timestamp) -> Uuid {
        // A clock that jumps back must not hand out ids that were handed out before.
        let millis = now.millis().max(self.millis);
        let first = if millis == self.millis && self.next & COUNTER_MASK < COUNTER_MASK / 2 {
            self.next + u128::from(self.random.u32(1..))
        } else {
            let [a, b] = [self.random.u64(..).to_be_bytes(), self.random.u64(..).to_be_bytes()];
            let mut random = [0; 10];
            random[..8].copy_from_slice(&a);
            random[8..].copy_from_slice(&b[..2]);
            let uuid = uuid::Builder::from_unix_timestamp_millis(u64::try_from(millis).unwrap_or(0), &random);
            // Half of the counter's range stays free for the events of this millisecond.
            uuid.into_uuid().as_u128() & !(3 << 60)
        };
        self.millis = millis;
        self.next = first + u128::from(count);
        Uuid::from_u128(first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Ids are UUIDv7 of the right variant and unique, also when the clock stands still or jumps back.
    #[test]
    fn ids_are_unique_uuid_v7_whatever_the_clock_does() {
        let mut source = IdSource::new(7);
        let mut seen = HashSet::new();
        for millis in [1_000, 1_000, 1_000, 999, 5, 1_001, 1_001] {
            let first = source.first_of(500, Timestamp::from_millis(millis).unwrap());
            for i in 0..500 {
                let id = Uuid::from_u128(first.as_u128() + i);
                assert_eq!(id.get_version_num(), 7);
                assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
                assert!(seen.insert(id), "{id} came twice");
            }
        }
    }
}
