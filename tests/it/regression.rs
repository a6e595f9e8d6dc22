//! What was broken once, each test named after it.
