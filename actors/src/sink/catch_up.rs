//! Reading for a sink that is long behind.
//!
//! What it delivers has waited for long already, and lies in the journal; who takes events in has a client that waits. Reading
//! more slowly is enough to slow all of the sink, which has nothing to deliver but what was read. It is over when the journal
//! fills up: then a sink that hurries is what lets events in.

use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};

use super::Source;

/// How old is what a sink delivers that is long behind. Under full load with nothing behind it is a tenth of a second
/// (benches/README.md), and what a batch waits for is a second by default.
const LONG_SECONDS: f64 = 3.0;

/// On which threads a sink reads its log.
#[derive(Debug, Clone)]
pub struct CatchUp {
    threads: Handle,
    hurries_from_bytes: u64,
}

impl CatchUp {
    /// A sink that is long behind reads on the blocking threads of `threads`, until half of what the journal may take up is
    /// taken up.
    pub fn new(threads: Handle, journal_bytes_max: u64) -> Self {
        Self { threads, hurries_from_bytes: journal_bytes_max / 2 }
    }

    /// Reads on a thread that leaves others the processor, if the sink is behind by so many seconds and has the time; on one of
    /// the sink's own if not.
    pub(super) fn read<R: Send + 'static>(
        &self,
        source: &Source,
        behind_seconds: f64,
        read: impl FnOnce() -> R + Send + 'static,
    ) -> JoinHandle<R> {
        match behind_seconds > LONG_SECONDS && source.log_bytes().is_some_and(|b| b < self.hurries_from_bytes)
        {
            true => self.threads.spawn_blocking(read),
            false => spawn_blocking(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        event::{Block, Stamp, Timestamp},
        journal::{Journal as _, MemoryJournal},
        otlp::Signal,
        record::Position,
        runtime::clock::Clock,
    };

    const OTHERS: &str = "others";

    /// Scenario: a sink reads that is a little and that is long behind, and then with a journal that is more than half full.
    /// Guarantee: only one that is long behind and has the time reads on the threads for that.
    #[tokio::test]
    async fn p4_only_who_is_long_behind_and_has_the_time_reads_behind_others() {
        let others = tokio::runtime::Builder::new_current_thread().thread_name(OTHERS).build().unwrap();
        let clock = Clock::from_fn(Timestamp::default);
        let journal = Arc::new(MemoryJournal::new(clock, Position(0)));
        let block = Block::otlp(Signal::Logs, &[0; 1000], 1);
        let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::default() };
        journal.commit(&[block.stamped(stamp)]).unwrap();
        let bytes = journal.usage().disk_bytes;
        let source = Source::Log(journal);
        for (behind_seconds, bytes_max, waits) in
            [(2.9, 3 * bytes, false), (3.1, 3 * bytes, true), (3.1, 2 * bytes, false)]
        {
            let catch_up = CatchUp::new(others.handle().clone(), bytes_max);
            let thread = || std::thread::current().name() == Some(OTHERS);
            let read_on_others = catch_up.read(&source, behind_seconds, thread).await.unwrap();
            assert_eq!(read_on_others, waits, "{behind_seconds} s, {bytes} of {bytes_max} bytes");
        }
        others.shutdown_background();
    }
}
