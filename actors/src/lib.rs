//! The actors of Forebay.
pub mod destination;
pub mod event;
pub mod record;
