//! Faults on purpose: actors, the clock and the command `forebay chaos`.

mod command;
