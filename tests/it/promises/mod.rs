//! The promises of the design, each held by tests that are named after it.
//!
//! Every test starts a whole pipeline: real actors, a real journal in a directory of its own, destinations in memory.
//! Beside these, what sinks may be told to leave out (`when`), and how many deliveries they make at a time (`pace`).
//!
//! What is promised is promised for acknowledged events, so the tests compare by event id.

mod fallback;
mod p10_reload;
mod p1_durable;
mod p2_outcomes;
mod p3_order;
mod p4_isolation;
mod p5_bounds;
mod p6_memory;
mod p7_restarts;
mod p8_damage;
mod p9_shutdown;
mod pace;
mod when;
