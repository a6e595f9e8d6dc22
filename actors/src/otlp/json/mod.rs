//! The JSON form of the protocol, written straight from the wire and read straight onto it.

mod alone;
mod read;
mod write;

pub use alone::Alone;
pub use read::RequestSeed;
pub use write::{Style, write, write_text, write_value};
pub(super) use write::{any_value, unpacked, write_members};
