//! Faults on purpose: actors, the clock and the command `forebay chaos`.

mod account;
mod actors;
mod clock;
mod sinks;
mod stalls;
