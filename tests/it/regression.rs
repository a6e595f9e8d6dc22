//! What was broken once.

mod binary;
