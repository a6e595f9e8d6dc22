//! P6: memory is bounded by configuration, whatever the backlog.

use std::{env, fs, process::Command};

use forebay::budget::MemoryBudget;

use crate::support::testbed::{INCOMPRESSIBLE_BYTES, TestBed, config, incompressible, run};

/// Set in the process that measures.
const ALONE: &str = "FOREBAY_TEST_P6_ALONE";

/// Scenario: 200 MB go through the pipeline; of two sinks one hangs and has all of it as its backlog, which it then
/// reads. Measured in a process of its own, because the other tests have memory too.
/// Guarantee: the resident memory never grows by more than the sum of the budget's parts.
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
    let mut config = config(&["a", "b"]);
    // Parts that have no work here: what they may take is no excuse.
    config.http.max_inflight_bytes = 0;
    config.http.max_connections = 0;
    config.buffer.memory_bytes_max = 4 << 20;
    config.sinks.values_mut().for_each(|sink| sink.mailbox_batches = 4);
    let budget = MemoryBudget::of(&config);
    // The messages of the test itself are not the pipeline's.
    incompressible(0);
    let before = resident_bytes();
    let bed = TestBed::start_with(&config, |fake| fake("b").order(|orders| orders.hang = true)).await;
    let mut most = before;
    let requests = 200_000_000 / INCOMPRESSIBLE_BYTES / 16;
    for request in 0..requests {
        let messages: Vec<_> = (0..16).map(|index| incompressible(request + index)).collect();
        bed.post(&messages).await;
        most = most.max(resident_bytes());
    }
    bed.settled("a").await;
    bed.fake("b").heal();
    while bed.fake("b").seen().count() < requests * 16 {
        most = most.max(resident_bytes());
        let before = bed.cursor("b");
        crate::support::testbed::eventually("the backlog shrinks", || bed.cursor("b") > before).await;
    }
    bed.settled("b").await;
    most = most.max(resident_bytes());
    bed.assert_delivered("b");
    let grown = most - before;
    println!("grown by {} MiB of\n{budget}", grown >> 20);
    assert!(grown < budget.sum(), "grown by {} MiB of\n{budget}", grown >> 20);
    assert!(budget.sum() < 200_000_000, "else the measurement says nothing");
    bed.end().await;
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}
