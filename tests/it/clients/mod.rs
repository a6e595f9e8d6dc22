//! Clients that others wrote and that are installed by `tests/clients/install`: what they send has to be found again.

mod collector;
mod content;
mod contract;
mod schemathesis;
mod sdks;
