//! Forebay: a durable event and telemetry relay.
//!
//! In reading order: [`config`] is what can be said about it. [`pipeline`] wires the actors of [`forebay_actors`],
//! which is where events become durable and are delivered; [`shared_journal`] is the journal for several machines. [`ingress`] is what comes in, [`destination`] what goes out,
//! [`store`] the event store that can be asked, [`api`] what people and machines ask. [`security`] decides who may talk
//! to all of them. [`chaos`] attacks a whole process and judges it. [`command`] is the command line,
//! [`budget`] and [`allocator`] what memory there may be and where it comes from.

pub mod allocator;
pub mod api;
pub mod budget;
pub mod chaos;
pub mod command;
pub mod config;
pub mod data_dir;
pub mod destination;
pub mod ingress;
pub mod pipeline;
pub mod security;
pub mod shared_journal;
pub mod store;
