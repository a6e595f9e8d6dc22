//! What was broken once.

mod binary;
mod replaced_sinks;
