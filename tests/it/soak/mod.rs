//! Tests of the parts of `benches/soak` that decide: what is called growth, what is lost, what goes wrong when. Here, because
//! a benchmark without a harness has no tests of its own.

#![allow(dead_code, reason = "the benchmark uses the rest")]

#[path = "../../../benches/soak/judge.rs"]
mod judge;
#[path = "../../../benches/soak/ledger.rs"]
mod ledger;
#[path = "../../../benches/soak/plot.rs"]
mod plot;
#[path = "../../../benches/soak/sample.rs"]
mod sample;
#[path = "../../../benches/soak/schedule.rs"]
mod schedule;

mod judge_tests;
mod ledger_tests;
mod plot_tests;
mod schedule_tests;
