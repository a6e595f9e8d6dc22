//! The integration tests, in one binary: the promises against a pipeline within the test, and the real binary over HTTP,
//! signals and its command line.

#![allow(clippy::unwrap_used, reason = "what is unexpected here has to fail the test")]

mod binary;
mod chaos;
mod cli;
mod client;
mod clients;
mod fuzz;
mod http_api;
mod ingest;
mod otlp;
mod power;
mod promises;
mod regression;
mod security;
mod services;
mod soak;
mod stores;
mod support;

/// The binary's: what memory comes to depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
