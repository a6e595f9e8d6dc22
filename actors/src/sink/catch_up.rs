//! Reading for a sink that is long behind.
//!
//! What it delivers has waited for long already, and lies in the journal; who takes events in has a client that waits. Reading
//! more slowly is enough to slow all of the sink, which has nothing to deliver but what was read. It is over when the journal
//! fills up: then a sink that hurries is what lets events in.

use std::future::Future;

use tokio::{
    runtime::Handle,
    task::{JoinError, spawn_blocking},
};

use super::Source;
use crate::record::Position;

/// Age of what a sink reads from which on it is long behind. Under full load, with nothing behind it, a sink reads what is a tenth of
/// a second old (benches/README.md).
pub(super) const LONG_SECONDS: f64 = 3.0;

/// The threads on which a sink reads that is long behind, and how full the journal may be for that.
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

    /// Reads at `from`: on a thread that leaves others the processor where the sink is patient and the journal has room, on one
    /// of the sink's own if not.
    pub(super) fn read<R: Send + 'static, F: FnOnce() -> R + Send + 'static>(
        &self,
        is_patient: bool,
        source: &Source,
        from: Position,
        read: F,
    ) -> impl Future<Output = Result<R, JoinError>> + use<R, F> {
        let has_room = || source.log_bytes().is_some_and(|bytes| bytes < self.hurries_from_bytes);
        let behind = (is_patient && has_room()).then(|| (self.threads.clone(), source.clone()));
        async move {
            let Some((threads, source)) = behind else { return spawn_blocking(read).await };
            // What others may wait for is done as fast as ever.
            spawn_blocking(move || source.prepare(from)).await?;
            threads.spawn_blocking(read).await
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
        runtime::clock::Clock,
    };

    const OTHERS: &str = "others";

    /// Scenario: a sink reads that is not patient, one that is, and then one with a journal that is half full.
    /// Guarantee: only one that is patient and has the time reads on the threads for that.
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
        for (is_patient, bytes_max, waits) in
            [(false, 3 * bytes, false), (true, 3 * bytes, true), (true, 2 * bytes, false)]
        {
            let catch_up = CatchUp::new(others.handle().clone(), bytes_max);
            let thread = || std::thread::current().name() == Some(OTHERS);
            let read_on_others = catch_up.read(is_patient, &source, Position(0), thread).await.unwrap();
            assert_eq!(read_on_others, waits, "patient: {is_patient}, {bytes} of {bytes_max} bytes");
        }
        others.shutdown_background();
    }
}
