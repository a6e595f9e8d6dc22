//! The tests of the whole: the real binary, over HTTP, signals and its command line.

mod binary;
mod cli;
mod http_api;
mod regression;
mod support;
