//! Who goes first where there is too little of the processor: what takes events in, then what delivers them.
//!
//! A client that waits for its answer has nowhere to put its event; what a sink has not delivered lies in the journal. Without
//! this a sink that catches up takes a sixth to a quarter of what could be taken in meanwhile (benches/README.md). A sink's thread
//! still gets a quarter of a core that one other wants whole, and the benchmark's sink keeps up as before.

use std::sync::OnceLock;

use rustix::process::{getpid, getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Handle, Runtime};

/// Steps of niceness by which a sink's threads are behind all others: for Linux a third of the weight. With 10 a sink falls behind
/// under full load, and what it reads from the journal takes 10 MB more (benches/README.md).
const BEHIND: i32 = 5;

/// The same of the threads that read for sinks which are long behind: a ninth of the weight of a sink's. They still read more than
/// comes in (benches/README.md).
const FAR_BEHIND: i32 = 15;

/// The threads that read for sinks which are long behind, one for each that reads: a thread cannot become less nice again, so
/// they are others than a sink's own. They end when they were idle for a while.
pub(super) fn catch_up() -> Handle {
    static THREADS: OnceLock<Runtime> = OnceLock::new();
    let make = || {
        // It has no thread of its own, and nothing runs on it but what may block.
        Builder::new_current_thread()
            .thread_name("catch-up")
            .on_thread_start(|| set_behind(FAR_BEHIND))
            .build()
            .expect("a runtime that drives nothing needs nothing")
    };
    THREADS.get_or_init(make).handle().clone()
}

/// Puts the calling thread of a sink, and those that it starts from now on, behind.
pub(super) fn go_behind() {
    set_behind(BEHIND);
}

/// Puts the calling thread so many steps behind the process' first. Where the system does not let it, as in some sandboxes, all
/// threads are alike.
fn set_behind(steps: i32) {
    if cfg!(not(target_os = "linux")) {
        // There it would be the whole process, and once more with every sink.
        return;
    }
    // Linux takes no process for the calling thread, and more than there is for the most.
    let set = getpriority_process(Some(getpid())).and_then(|first| setpriority_process(None, first + steps));
    if let Err(error) = set {
        tracing::debug!(%error, "a sink's threads cannot be put behind those that take events in");
    }
}
