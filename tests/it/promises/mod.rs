//! The promises of the design, each held by tests that are named after it.
//!
//! Every test starts a whole pipeline: real actors, a real journal in a directory of its own, destinations in memory.
//! What is promised is promised for acknowledged events, so the tests compare by event id.

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
