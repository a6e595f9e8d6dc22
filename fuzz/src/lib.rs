//! What must hold for every input, one function a fuzz target.
//!
//! `fuzz_targets/` gives them what libFuzzer makes up. `tests/it/fuzz.rs` has the same functions by their path, and gives
//! them the corpus and what it mutates itself, on any toolchain: nothing found once can come back unseen.

mod config;
mod events;
mod journal;
mod otlp;
mod record;

pub use config::config;
pub use events::{http_events, ndjson};
pub use journal::journal;
pub use otlp::{otlp_json, otlp_protobuf};
pub use record::record;
