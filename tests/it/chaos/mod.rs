//! Faults on purpose: actors, the clock and the command `forebay chaos`.

mod account;
mod actors;
mod clock;
mod command;
mod sinks;
mod stalls;
