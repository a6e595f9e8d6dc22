//! The journal, as the configuration has it.

use std::{path::Path, sync::Arc};

use forebay_actors::{
    journal::{Durability, Journal, MemoryJournal, SledJournal},
    record::Position,
    runtime::clock::Clock,
    state::{Books, Cursors, HeldBatches, StateDb},
};

use super::{StartError, change::sink_names, spec::durability, standby::misplaced};
use crate::{
    config::{Backend, Config},
    data_dir,
    shared_journal::{JetStream, with_books},
};

/// The journal of this process.
pub(super) struct Opened {
    pub(super) journal: Arc<dyn Journal>,
    /// The same, where other processes have it too.
    pub(super) shared: Option<Arc<JetStream>>,
    /// The books of what is held, which as many processes have.
    pub(super) held: Arc<dyn Books>,
}

/// Opens the journal.
///
/// # Errors
/// Where it cannot be opened, or events would stay behind in another one.
pub(super) fn open_journal(
    config: &Config,
    data_dir: &Path,
    state: Arc<StateDb>,
    cursors: &Cursors,
    clock: &Clock,
) -> Result<Opened, StartError> {
    let held = Arc::new(HeldBatches::open(state)?);
    let (durability, floor) = (durability(&config.buffer), cursors.furthest());
    let journal: Arc<dyn Journal> = match (config.buffer.backend, durability) {
        (Backend::Jetstream, _) => {
            if let Some((owner, holder, held)) = held.totals().into_iter().next() {
                return Err(StartError::HeldBehind { owner, holder, events: held.events });
            }
            let shared = Arc::new(open_shared(config, data_dir, cursors, clock.clone())?);
            let held = shared.books();
            if config.sinks.values().any(|sink| sink.fallback.is_some()) {
                held.open(true)?;
            } else if !config.sinks.is_empty() {
                tell_misplaced(config);
            }
            return Ok(Opened { journal: shared.clone(), shared: Some(shared), held });
        }
        (Backend::Disk, Durability::Memory) => {
            // No position is given twice, also where nobody has read what is on disk.
            let begin = end_on_disk(config, data_dir, cursors, clock)?.max(floor);
            Arc::new(MemoryJournal::new(clock.clone(), begin))
        }
        (Backend::Disk, _) => {
            let journal = SledJournal::open(&data_dir::journal(data_dir), durability, floor, clock.clone())?;
            Arc::new(journal.with_reserve())
        }
    };
    Ok(Opened { journal, shared: None, held })
}

/// Where the journal on disk ends that is not to be used any more, at 0 where there is none.
///
/// # Errors
/// Where a sink has not had all of it: nobody would look there again.
fn end_on_disk(
    config: &Config,
    data_dir: &Path,
    cursors: &Cursors,
    clock: &Clock,
) -> Result<Position, StartError> {
    let dir = data_dir::journal(data_dir);
    if std::fs::read_dir(&dir).map_or(true, |mut files| files.next().is_none()) {
        return Ok(Position::default());
    }
    let journal = SledJournal::open(&dir, Durability::Fsync, cursors.furthest(), clock.clone())?;
    let span = journal.span();
    let behind = sink_names(&config.sinks)
        .into_iter()
        .filter(|_| !cursors.is_empty())
        .map(|sink| (span.end.since(cursors.get(&sink).next.max(span.first)), sink));
    match behind.filter(|(events, _)| *events > 0).max_by_key(|(events, _)| *events) {
        Some((events, sink)) => Err(StartError::LeftBehind { sink, events }),
        None => Ok(span.end),
    }
}

/// Opens the journal that other processes have too, where no journal of this one would be forgotten for it.
fn open_shared(
    config: &Config,
    data_dir: &Path,
    cursors: &Cursors,
    clock: Clock,
) -> Result<JetStream, StartError> {
    end_on_disk(config, data_dir, cursors, &clock)?;
    let quarantine = data_dir::quarantine(data_dir);
    let shared = JetStream::open(&config.buffer, config.http.max_event_bytes, &quarantine, clock)?;
    data_dir::note_stream(data_dir, &shared.identity())?;
    Ok(shared)
}

/// Says what other processes, or this one before, have had held for sinks that have no fallback here. A receiver has nothing to do with
/// that, and may not be allowed to see it.
fn tell_misplaced(config: &Config) {
    let (options, event_bytes_max) = (&config.buffer.jetstream, config.http.max_event_bytes);
    let found = with_books(options, event_bytes_max, |books| {
        misplaced(books, config).map_err(|error| error.to_string())
    });
    match found.and_then(|found| found.unwrap_or(Ok(Vec::new()))) {
        Ok(found) => found.iter().for_each(|misplaced| tracing::error!("{misplaced}")),
        Err(error) => tracing::warn!(error, "whether something is held that is not read back cannot be told"),
    }
}
