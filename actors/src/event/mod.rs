//! The event: what is accepted, journaled and delivered.
//!
//! An event is never held as an owned struct on its way. It is encoded once, by the ingress that
//! parsed it, into a [`Block`]; from then on it is bytes, and [`Event`] is a view that borrows from them.

pub(crate) mod block;
mod events;
mod id;
mod json;
mod time;
mod unread;

pub use block::{BLOCK_BYTES, Block, BlockBuilder, DecodeError, Draft, Stamp, Stamped};
pub use events::{Events, Part, WithItem, blocks_around, stamps};
pub use id::{EventId, IdSource};
pub use json::{EventWriter, write_json, write_json_string};
pub use time::{TimeWriter, Timestamp, TimestampError};
pub use unread::Unread;

/// Characters a `service` may have. A name, not a text: it is an index key in every store.
pub const SERVICE_CHARS_MAX: usize = 256;

/// Characters a client's own `event_id` may have: room for two UUIDs and a separator.
pub const EVENT_ID_CHARS_MAX: usize = 128;

/// Objects and arrays a `metadata` value may nest, itself included.
pub const METADATA_DEPTH_MAX: usize = 64;

/// One accepted event, borrowed from the record that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The client's own id, or the UUIDv7 it was given on arrival.
    pub event_id: EventId<'a>,
    /// When it happened, by the client's account; the time of arrival where the client gave none.
    pub timestamp: Timestamp,
    /// Who speaks: 1 to [`SERVICE_CHARS_MAX`] characters.
    pub service: &'a str,
    /// What is said.
    pub message: &'a str,
    /// The text of a JSON object, as the client sent it.
    pub metadata: Option<&'a str>,
    /// When Forebay accepted it.
    pub ingested_at: Timestamp,
}
