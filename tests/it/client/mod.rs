//! The client crate against the real binary.

mod kills;
