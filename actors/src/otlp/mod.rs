//! OpenTelemetry requests as they are: bytes that are checked once and never decoded as a whole.
//!
//! A request goes through Forebay in the bytes in which it came. What is needed of them is found by walking over them with
//! a table of the protocol ([`schema`]): whether they are well-formed ([`check`]), how many records there are and where
//! ([`Items`]), a request of some of them ([`select`]), several requests instead of a large one ([`cut`]), and their JSON form
//! ([`json`]).
//!
//! An *item* is what counts as one event: a log record, a span, or a data point of a metric.

mod check;
mod cut;
mod items;
pub mod json;
mod members;
mod rows;
pub mod schema;
mod stamp;
pub mod wire;

pub use check::{Survey, check, survey};
pub use cut::{Cuts, Extent, cut};
pub use items::{Item, Items, attribute, select, select_runs};
pub use members::Members;
pub use rows::{Row, Rows};
use schema::Message;
pub use stamp::stamp;
pub use wire::WireError;

/// What a request holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Signal {
    /// Log records.
    Logs = 1,
    /// Data points of metrics.
    Metrics = 2,
    /// Spans.
    Traces = 3,
}

impl Signal {
    /// The signal of this byte, which is the enum's own.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Logs),
            2 => Some(Self::Metrics),
            3 => Some(Self::Traces),
            _ => None,
        }
    }

    /// Its name in paths and in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// The message of its requests.
    pub const fn request(self) -> &'static Message {
        match self {
            Self::Logs => &schema::LOGS_REQUEST,
            Self::Metrics => &schema::METRICS_REQUEST,
            Self::Traces => &schema::TRACES_REQUEST,
        }
    }

    /// The fields that lead to its items, from the request down; those of the last level are the items.
    const fn levels(self) -> &'static [&'static [u32]] {
        match self {
            // By resource, by scope, record by record.
            Self::Logs | Self::Traces => &[&[1], &[2], &[2]],
            // And by metric and its kind, point by point.
            Self::Metrics => &[&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]],
        }
    }
}

#[cfg(test)]
mod tests;
