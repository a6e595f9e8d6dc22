//! The client crate against the real binary.

mod contract;
mod kills;
