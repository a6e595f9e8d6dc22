//! The tests of the whole: the real binary, over HTTP, signals and its command line.

#![allow(clippy::unwrap_used, reason = "what is unexpected here has to fail the test")]

mod binary;
mod cli;
mod http_api;
mod regression;
mod support;
