//! What was broken once, each test named after it: in a pipeline within the test, or in the real binary.

mod binary;
mod delivery;
mod pipeline;
mod replaced_sinks;
