//! An event as its bytes stand in a block: taken apart, but with texts that nobody has looked into.
//!
//! Of the time that it takes to read an event, the check that its texts are UTF-8 is two thirds. Whoever looks at every byte
//! of them anyway, as [`EventWriter`](super::EventWriter) does, needs it for those alone that are not ASCII.

use rmp::{Marker, decode};
use uuid::Uuid;

use super::{
    Event, EventId, Timestamp,
    block::{DecodeError, Relayed},
};

/// An event whose texts may be anything.
#[derive(Debug, Clone, Copy)]
pub struct Unread<'a> {
    pub(super) event_id: UnreadId<'a>,
    pub(super) timestamp: Timestamp,
    pub(super) service: &'a [u8],
    pub(super) message: &'a [u8],
    pub(super) metadata: Option<&'a [u8]>,
    pub(super) ingested_at: Timestamp,
}

/// Its id.
#[derive(Debug, Clone, Copy)]
pub(super) enum UnreadId<'a> {
    Given(&'a [u8]),
    Assigned(Uuid),
}

/// The fields of an event as a block has them; see [`block`](super::block) for the format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoded<'a> {
    event_id: Option<&'a [u8]>,
    timestamp: Option<Timestamp>,
    service: &'a [u8],
    message: &'a [u8],
    metadata: Option<&'a [u8]>,
    ingested_at: Option<Timestamp>,
}

impl<'a> Unread<'a> {
    /// The event, whose texts have been looked into.
    ///
    /// # Errors
    /// Where one of them is not UTF-8.
    pub fn read(&self) -> Result<Event<'a>, DecodeError> {
        let event_id = match self.event_id {
            UnreadId::Given(id) => EventId::Given(std::str::from_utf8(id)?),
            UnreadId::Assigned(id) => EventId::Assigned(id),
        };
        Ok(Event {
            event_id,
            timestamp: self.timestamp,
            service: std::str::from_utf8(self.service)?,
            message: std::str::from_utf8(self.message)?,
            metadata: self.metadata.map(std::str::from_utf8).transpose()?,
            ingested_at: self.ingested_at,
        })
    }

    /// Bytes of its texts.
    pub fn text_bytes(&self) -> usize {
        self.service.len() + self.message.len() + self.metadata.map_or(0, <[u8]>::len)
    }
}

impl<'a> From<&Event<'a>> for Unread<'a> {
    fn from(event: &Event<'a>) -> Self {
        let event_id = match event.event_id {
            EventId::Given(id) => UnreadId::Given(id.as_bytes()),
            EventId::Assigned(id) => UnreadId::Assigned(id),
        };
        Self {
            event_id,
            timestamp: event.timestamp,
            service: event.service.as_bytes(),
            message: event.message.as_bytes(),
            metadata: event.metadata.map(str::as_bytes),
            ingested_at: event.ingested_at,
        }
    }
}

impl<'a> Encoded<'a> {
    /// Takes the event that stands first.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn take(rest: &mut &'a [u8]) -> Result<Self, DecodeError> {
        Self::try_take(rest).ok_or(DecodeError::MessagePack)
    }

    fn try_take(rest: &mut &'a [u8]) -> Option<Self> {
        let fields = decode::read_array_len(rest).ok().filter(|fields| matches!(fields, 5 | 6))?;
        Some(Self {
            event_id: unless_nil(rest, text)?,
            timestamp: unless_nil(rest, time)?,
            service: text(rest)?,
            message: text(rest)?,
            metadata: unless_nil(rest, text)?,
            ingested_at: if fields == 6 { unless_nil(rest, time)? } else { None },
        })
    }

    /// The event with what it gets from its block where it has none of its own.
    pub(super) fn stamped(self, assigned: Uuid, ingested_at: Timestamp) -> Unread<'a> {
        let ingested_at = self.ingested_at.unwrap_or(ingested_at);
        Unread {
            event_id: self.event_id.map_or(UnreadId::Assigned(assigned), UnreadId::Given),
            timestamp: self.timestamp.unwrap_or(ingested_at),
            service: self.service,
            message: self.message,
            metadata: self.metadata,
            ingested_at,
        }
    }

    /// The fields, whose texts have been looked into.
    ///
    /// # Errors
    /// Where one of them is not UTF-8.
    pub(super) fn read(self) -> Result<Relayed<'a>, DecodeError> {
        let Self { event_id, timestamp, service, message, metadata, ingested_at } = self;
        Ok(Relayed(
            event_id.map(std::str::from_utf8).transpose()?,
            timestamp,
            std::str::from_utf8(service)?,
            std::str::from_utf8(message)?,
            metadata.map(std::str::from_utf8).transpose()?,
            ingested_at,
        ))
    }
}

/// `Some(None)` for nil.
fn unless_nil<'a, T>(
    rest: &mut &'a [u8],
    take: impl FnOnce(&mut &'a [u8]) -> Option<T>,
) -> Option<Option<T>> {
    match rest.split_first()? {
        (marker, behind) if *marker == Marker::Null.to_u8() => {
            *rest = behind;
            Some(None)
        }
        _ => take(rest).map(Some),
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = decode::read_str_len(rest).ok()?;
    let (text, behind) = rest.split_at_checked(usize::try_from(bytes).ok()?)?;
    *rest = behind;
    Some(text)
}

fn time(rest: &mut &[u8]) -> Option<Timestamp> {
    decode::read_int(rest).ok().map(Timestamp::from_nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(relayed: &Relayed<'_>) -> String {
        format!("{relayed:?}")
    }

    proptest! {
        /// What is taken apart by hand is what was encoded, with the lengths and numbers at which MessagePack takes other forms, and
        /// where a byte was changed it is what `rmp-serde` reads there, or less.
        #[test]
        fn it_reads_what_was_encoded(
            id in proptest::option::of("\\PC{0,40}"),
            times in proptest::array::uniform2(proptest::option::of(prop_oneof![any::<i64>(), -200_i64..300, any::<u32>().prop_map(i64::from)])),
            service in "\\PC{0,40}",
            lengths in proptest::array::uniform2(prop_oneof![0_usize..40, 250_usize..260, 65_530_usize..65_540]),
            metadata in any::<bool>(),
            changed in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let texts = lengths.map(|length| "é".repeat(length / 2) + &"x".repeat(length % 2));
            let metadata = metadata.then_some(&*texts[1]);
            let relayed = Relayed(
                id.as_deref(), times[0].map(Timestamp::from_nanos), &service, &texts[0], metadata, times[1].map(Timestamp::from_nanos),
            );
            let mut bytes = rmp_serde::to_vec(&relayed).unwrap();
            if let Some((at, byte)) = changed {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend_from_slice(b"behind");
            let mut rest = &bytes[..];
            let taken = Encoded::take(&mut rest).and_then(Encoded::read);
            let judged = rmp_serde::from_slice::<Relayed<'_>>(&bytes);
            match (&taken, &judged) {
                (Ok(taken), Ok(judged)) => prop_assert_eq!(words(taken), words(judged)),
                (Ok(taken), Err(error)) => prop_assert!(false, "{:?}, which is none: {}", taken, error),
                (Err(_), _) => prop_assert!(changed.is_some()),
            }
            if changed.is_none() {
                prop_assert_eq!(words(&taken.unwrap()), words(&relayed));
                prop_assert_eq!(rest, b"behind");
            }
        }
    }
}
