//! What the integration tests stand on.

pub mod destination;
pub mod testbed;
