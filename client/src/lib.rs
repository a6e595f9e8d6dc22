//! Gives events to Forebay, over gRPC or HTTP.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use forebay_client::{Client, Event};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("http://127.0.0.1:8080").build()?;
//! let receipt = client.send(Event::new("shop", "sold").with("price", 12.5)).await?;
//! // Resolves when the event is on the server's disk, or gives it back.
//! receipt.await?;
//! client.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What becomes of an event
//!
//! [`Client::send`] puts it into a bounded queue and gives it an id, so that it is the same event however often it is sent. A
//! batch is sent when it has enough events or bytes, or its first event has waited long enough. What may pass (no connection, a
//! connection that broke, no answer in time, a server that is overloaded) is tried again as [`Retry`] says, under the same
//! batch id; what the server refuses is not.
//!
//! Every event has one outcome, which its [`Receipt`] resolves to:
//!
//! | outcome | when |
//! |---|---|
//! | [`Outcome::Delivered`] | it is on the server's disk, as durable as the server is configured |
//! | [`Outcome::Spooled`] | it is on this machine's disk and will be delivered from there; only with [`Builder::spool`] |
//! | [`Failure::Rejected`] | the server refuses this event, alone; others of its batch are delivered |
//! | [`Failure::Refused`] | the server refuses the request, as with a wrong token |
//! | [`Failure::GaveUp`] | every attempt failed |
//! | [`Failure::Closed`], [`Failure::Abandoned`] | the deadline of [`Client::close`] or the end of the runtime came first |
//!
//! A failure gives the event back, and is told to [`Builder::on_failed`] as well. An event that was given back may have arrived
//! all the same, where an answer was lost: sent again under its id it is one event, for whoever knows ids.
//!
//! # The spool
//!
//! With [`Builder::spool`], batches whose attempts are used up, and those left at the deadline of [`Client::close`], are appended
//! to files and delivered from there, oldest first, until the server has them, also after a restart. After the first of them
//! others follow without attempts of their own, until one is delivered.
//!
//! The client itself syncs, once for each batch, before a receipt says [`Outcome::Spooled`]. What is in the queue is in memory
//! alone: who needs an event to survive the application itself waits for its receipt. Files that are delivered are removed
//! without a sync, so a power loss may bring some of them back; they are sent again under the same ids. A half-written end is cut.
//!
//! # Features
//!
//! `http` and `grpc` are the two ways to the server, both on by default.

mod batch;
mod builder;
mod client;
mod clock;
mod courier;
mod error;
mod event;
mod metrics;
mod queued;
mod retry;
mod spool;
mod transport;
mod worker;

#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use client::Client;
pub use error::{BuildError, DeadlineError, Failure, Outcome, SendError, SendReason, Undelivered};
pub use event::{Event, EventError};
pub use metrics::Metrics;
pub use queued::Receipt;
pub use retry::{Backoff, Retry};
pub use spool::SpoolError;
pub use transport::tls::Tls;
