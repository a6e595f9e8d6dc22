//! Who goes first where there is too little of the processor: what takes events in, then what delivers them.
//!
//! A client that waits for its answer has nowhere to put its event; what a sink has not delivered lies in the journal. Without
//! this a sink that catches up takes a sixth to a quarter of what could be taken in meanwhile (benches/README.md). A sink's thread
//! still gets a quarter of a core that one other wants whole, and the benchmark's sink keeps up as before.

use rustix::process::{getpriority_process, setpriority_process};

/// Steps of niceness by which a sink's threads are behind all others: for Linux a third of the weight. With 10 a sink falls behind
/// under full load, and what it reads from the journal takes 10 MB more (benches/README.md).
const BEHIND: i32 = 5;

/// Puts the calling thread, and those that it starts from now on, behind. Where the system does not let it, as in some
/// sandboxes, all threads are alike.
pub(super) fn go_behind() {
    if cfg!(not(target_os = "linux")) {
        // There it would be the whole process, and once more with every sink.
        return;
    }
    // Linux takes no process for the calling thread, and more than there is for the most.
    let set = getpriority_process(None).and_then(|now| setpriority_process(None, now + BEHIND));
    if let Err(error) = set {
        tracing::debug!(%error, "a sink's threads cannot be put behind those that take events in");
    }
}
