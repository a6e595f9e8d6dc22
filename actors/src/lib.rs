//! The actors of Forebay: what they say to each other, the journal they share, and the supervisor that keeps them
//! alive. No HTTP, no SQL, no configuration file: who wants to know how Forebay behaves reads this crate alone.
//!
//! In reading order: [`event`] and [`record`] are what travels. [`message`] is everything that is said, and
//! [`reply`] how it is answered. [`receiver`] → [`buffer`] → [`batcher`] → [`broadcast`] → [`sink`] is the way of an
//! event; [`journal`] is where it is durable and [`state`] how far each sink has come; [`destination`] is what a
//! sink delivers to, [`condition`] what it takes of all events, [`projection`] what of these goes out, [`holding`]
//! what one destination does for another that is away, and [`examination`] what can be known of it before.
//! [`retention`] and [`health`] look after the whole. [`runtime`] is what actors stand on, [`lz4`] what compresses,
//! and [`spare`] where large buffers come from.

pub mod batcher;
pub mod broadcast;
pub mod buffer;
mod closing;
pub mod condition;
pub mod destination;
mod durable;
pub mod event;
pub mod examination;
pub mod health;
pub mod holding;
pub mod journal;
pub mod lz4;
pub mod message;
pub mod otlp;
pub mod projection;
pub mod receiver;
pub mod record;
pub mod reply;
pub mod retention;
pub mod runtime;
pub mod sink;
pub mod spare;
pub mod state;
