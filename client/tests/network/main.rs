//! The client's two ways over real sockets, to servers that do what a test tells them.

#![allow(clippy::unwrap_used, reason = "what is unexpected here has to fail the test")]

mod grpc;
mod http;
mod support;
mod tls;
