//! sled's I/O threads: fewer than it starts.
//!
//! sled 0.34.7 starts seven for the process, whatever the number of cores, and wakes all of them for every piece of work
//! (`notify_all`). Each commit of the journal is one such piece, and the six that find nothing took 3 to 6 % of the CPU time of two busy
//! cores (benches/README.md). Nothing in its configuration changes that.
//!
//! So most of them get something to do from which they never come back: a flush, at the end of which sled wakes whoever waits
//! for it, on that very thread; and waking [`Sleep`] is to sleep. Where sled started fewer, for want of threads, as many less are
//! put to sleep. A thread that sleeps takes its stack of address space, as one that waits does, and ends with the process.

use std::{
    fs,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Wake, Waker},
};

/// Threads that it starts at once.
const STARTED: usize = 7;

/// Threads that go on: one for the journal, one for the state beside it, neither of which then waits for a write of the other's. None of
/// their work waits for other work of theirs.
const KEPT: usize = 2;

/// How often a flush may be over before anybody waits for it, before the rest is left for when the next database is opened.
const TRIES_MAX: usize = 16;

/// How many were put to sleep.
static ASLEEP: Mutex<usize> = Mutex::new(0);

/// What is waited with; the thread that wakes it falls asleep for good.
struct Sleep;

impl Wake for Sleep {
    fn wake(self: Arc<Self>) {
        loop {
            std::thread::park();
        }
    }
}

/// Puts those to sleep that are too many.
pub(super) fn keep_few(db: &sled::Db) {
    let mut asleep = ASLEEP.lock().unwrap_or_else(PoisonError::into_inner);
    let waker = Waker::from(Arc::new(Sleep));
    for _ in 0..TRIES_MAX {
        // All there are usually, without a look at every thread of the process: the journal opens ten databases a second.
        if *asleep >= STARTED - KEPT || started() <= KEPT + *asleep {
            return;
        }
        // Pending, and only then, sled's thread has the waker, and will come upon it.
        if pin!(db.flush_async()).poll(&mut Context::from_waker(&waker)).is_pending() {
            *asleep += 1;
        }
    }
}

/// Those that sled has started, awake or not, as far as the system tells; one that has no name yet is seen next time.
fn started() -> usize {
    names().filter(|(_, name)| name.starts_with("sled-io-")).count()
}

/// The threads of this process: where the system tells of them, and their names. None where it does not.
fn names() -> impl Iterator<Item = (std::path::PathBuf, String)> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|task| task.path());
    tasks.filter_map(|task| fs::read_to_string(task.join("comm")).ok().map(|name| (task, name)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// How often each of sled's threads has waited for something.
    fn waits() -> Vec<u64> {
        let mut waits: Vec<_> = names().filter(|(_, name)| name.starts_with("sled-io-")).collect();
        waits.sort();
        let of = |(task, _): (std::path::PathBuf, String)| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count.unwrap().trim().parse().unwrap()
        };
        waits.into_iter().map(of).collect()
    }

    /// Scenario: a database is written and flushed again and again.
    /// Guarantee: two of sled's threads, at most, are woken by that, and everything is there.
    #[test]
    fn two_threads_do_all_the_writing() {
        let home = TempDir::new().unwrap();
        let config = sled::Config::new().path(home.path().join("db")).flush_every_ms(None);
        let mut number = 0_u64;
        let mut few = false;
        // The names of the threads, and the flushes that they sleep behind, may come a little later.
        for _ in 0..50 {
            let db = crate::durable::open(&config, &home.path().join("db")).unwrap();
            let before = waits();
            for _ in 0..20 {
                number += 1;
                db.insert(number.to_be_bytes(), &number.to_be_bytes()).unwrap();
                db.flush().unwrap();
            }
            let moved = before.iter().zip(waits()).filter(|(before, after)| *before != after).count();
            assert_eq!(db.len() as u64, number);
            few = before.len() >= STARTED && moved <= KEPT;
            if few {
                break;
            }
        }
        assert!(few, "more than {KEPT} threads are still woken");
    }
}
