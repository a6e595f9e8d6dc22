//! The JSON form of the protocol, written straight from the wire and read straight onto it.

mod read;
mod write;

pub use read::RequestSeed;
pub use write::{Style, write};
pub(super) use write::{any_value, write_members};
