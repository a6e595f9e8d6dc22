//! What a chaos test says at its end: what was tried, and what was lost.

use std::time::Duration;

use forebay_actors::runtime::{
    fault::Fault,
    supervisor::{Child, ChildState},
};

use crate::support::testbed::{TestBed, eventually};

/// Injects the fault, and waits until it has sprung and the child is there again.
pub async fn bring_down(child: &Child, fault: Fault) {
    let before = child.restarts();
    child.inject(fault);
    is_back(child, before).await;
}

/// Waits until the child, which had so many restarts before, has had one more and runs.
pub async fn is_back(child: &Child, before: u64) {
    eventually(&format!("{} was restarted", child.name()), || child.restarts() > before).await;
    eventually(&format!("{} runs", child.name()), || child.state() == ChildState::Running).await;
}

/// The child of this name.
pub fn child(bed: &TestBed, name: &str) -> Child {
    bed.pipeline.children().find(|child| child.name() == name).expect("there is such a child").clone()
}

/// Everything that was acknowledged has come to every sink, in order; says so, with numbers. Ends the pipeline.
pub async fn nothing_was_lost(bed: TestBed, tried: &str) {
    let acknowledged = bed.acknowledged().len();
    let mut account = format!("{tried}: {acknowledged} events acknowledged");
    let sinks: Vec<_> = bed.config().sinks.into_keys().collect();
    for sink in &sinks {
        bed.settled(sink).await;
        bed.assert_delivered(sink);
        bed.assert_order(sink);
        let seen = bed.fake(sink).seen();
        let (delivered, distinct) = (seen.count(), seen.distinct().len());
        account += &format!("; {sink}: {distinct} delivered, {} of them again, 0 lost", delivered - distinct);
    }
    assert_eq!(bed.metric("forebay_sink_dead_letters_total", &[]), 0.0, "nothing was given up on");
    for child in bed.pipeline.children() {
        eventually("every child runs", || child.state() == ChildState::Running).await;
    }
    eprintln!("{account}");
    bed.end().await;
}

/// Long enough for a test to see that somebody stands still, however busy the machine is.
pub const STALL: Duration = Duration::from_secs(2);
