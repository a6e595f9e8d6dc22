//! What comes in. Every ingress turns a request into blocks of encoded events and asks `Receiver` to admit them;
//! only an answer from there is a success.

pub mod batch;
pub mod body;
pub mod courier;
mod encrypted;
pub mod events;
pub(crate) mod fields;
pub mod grpc;
pub mod limits;
pub mod otlp;
pub mod post;
pub mod server;
