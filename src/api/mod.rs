//! What people and machines ask: the event store, health, metrics; and, over the control socket, the process itself.

pub mod admin;
pub mod control;
pub mod error;
mod gate;
pub mod health;
pub mod openapi;
pub mod query;
pub mod server;
mod unread;
