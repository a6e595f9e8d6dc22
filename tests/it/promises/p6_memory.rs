//! P6: memory is bounded by configuration, whatever the backlog.

use std::{env, fs, process::Command};

use forebay::budget::MemoryBudget;

use crate::support::testbed::{INCOMPRESSIBLE_BYTES, TestBed, config, eventually, incompressible, run};

/// Set in the process that measures.
const ALONE: &str = "FOREBAY_TEST_P6_ALONE";

/// What is posted while one sink hangs: more than all parts of the budget that have work here.
const BACKLOG_BYTES: usize = 200_000_000;

/// What allocator and threads make of the same work the second time: it levels off within five times, measured.
const NOISE_BYTES: u64 = 128 << 20;

/// Scenario: of two sinks one hangs while 200 MB go through, and then reads all of it as its backlog; and a second
/// time. Measured in a process of its own, because the other tests have memory too.
/// Guarantee: the resident memory grows by less than the parts of the budget come to (without the one for the idle
/// process), and the second backlog does not add to the first.
#[test]
fn p6_memory_stays_within_the_budget() {
    if env::var_os(ALONE).is_some() {
        return run(measure());
    }
    let this = env::current_exe().expect("a test has a file");
    let name = concat!(module_path!(), "::p6_memory_stays_within_the_budget");
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    let output = Command::new(this).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output();
    let output = output.expect("the test can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "it measured: {text}");
}

async fn measure() {
    let config = config(&["a", "b"]);
    let budget = MemoryBudget::of(&config);
    let process =
        budget.0.iter().find(|part| part.name == "process").expect("an idle process has memory too");
    let at_most = budget.sum() - process.bytes;
    // The messages of the test itself are not the pipeline's.
    incompressible(0);
    let bed = TestBed::start(&config).await;
    bed.post_many(1).await;
    let idle = resident_bytes();
    let first = most_with_backlog(&bed).await - idle;
    let second = most_with_backlog(&bed).await - idle;
    let text = format!("grew by {} and by {} MiB, of\n{budget}", first >> 20, second >> 20);
    println!("{text}");
    assert!(first.max(second) < at_most, "{text}");
    assert!(second < first + NOISE_BYTES, "{text}");
    bed.end().await;
}

/// The most memory that there was while a backlog came and went.
async fn most_with_backlog(bed: &TestBed) -> u64 {
    let hung = bed.fake("b");
    hung.order(|orders| orders.hang = true);
    let mut most = 0;
    for request in 0..BACKLOG_BYTES / INCOMPRESSIBLE_BYTES / 16 {
        let messages: Vec<_> = (0..16).map(|index| incompressible(request + index)).collect();
        bed.post(&messages).await;
        most = most.max(resident_bytes());
    }
    bed.settled("a").await;
    hung.heal();
    let head = bed.pipeline.view().journal.span().end;
    eventually("the backlog is delivered", || {
        most = most.max(resident_bytes());
        bed.cursor("b") >= head
    })
    .await;
    bed.assert_delivered("b");
    most
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}
