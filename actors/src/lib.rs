//! The actors of Forebay.
pub mod destination;
pub mod event;
pub mod journal;
pub mod record;
pub mod runtime;
pub mod state;
