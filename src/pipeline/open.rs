//! The journal, as the configuration has it.

use std::{path::Path, sync::Arc};

use forebay_actors::{
    journal::{Durability, Journal, MemoryJournal, SledJournal},
    runtime::clock::Clock,
    state::Cursors,
};

use super::{StartError, change::sink_names, spec::durability};
use crate::{
    config::{Backend, Config},
    data_dir,
    shared_journal::JetStream,
};

/// The journal of this process.
pub(super) struct Opened {
    pub(super) journal: Arc<dyn Journal>,
    /// The same, where other processes have it too.
    pub(super) shared: Option<Arc<JetStream>>,
}

/// Opens the journal.
///
/// # Errors
/// Where it cannot be opened, or events would stay behind in another one.
pub(super) fn open_journal(
    config: &Config,
    data_dir: &Path,
    cursors: &Cursors,
    clock: &Clock,
) -> Result<Opened, StartError> {
    let (durability, floor) = (durability(&config.buffer), cursors.furthest());
    let journal: Arc<dyn Journal> = match (config.buffer.backend, durability) {
        (Backend::Jetstream, _) => {
            let shared = Arc::new(open_shared(config, data_dir, cursors, clock.clone())?);
            return Ok(Opened { journal: shared.clone(), shared: Some(shared) });
        }
        (Backend::Disk, Durability::Memory) => Arc::new(MemoryJournal::new(clock.clone(), floor)),
        (Backend::Disk, _) => {
            let journal = SledJournal::open(&data_dir::journal(data_dir), durability, floor, clock.clone())?;
            Arc::new(journal.with_reserve())
        }
    };
    Ok(Opened { journal, shared: None })
}

/// Opens the journal that other processes have too, where no journal of this one would be forgotten for it.
fn open_shared(
    config: &Config,
    data_dir: &Path,
    cursors: &Cursors,
    clock: Clock,
) -> Result<JetStream, StartError> {
    let dir = data_dir::journal(data_dir);
    if std::fs::read_dir(&dir).is_ok_and(|mut files| files.next().is_some()) {
        let journal = SledJournal::open(&dir, Durability::Fsync, cursors.furthest(), clock.clone())?;
        let end = journal.span().end;
        let behind = sink_names(&config.sinks).into_iter().filter(|_| !cursors.is_empty()).map(|sink| {
            let events = end.since(cursors.get(&sink).next.max(journal.span().first));
            (sink, events)
        });
        if let Some((sink, events)) =
            behind.filter(|(_, events)| *events > 0).max_by_key(|(_, events)| *events)
        {
            return Err(StartError::LeftBehind { sink, events });
        }
    }
    let quarantine = data_dir::quarantine(data_dir);
    let shared = JetStream::open(&config.buffer, config.http.max_event_bytes, &quarantine, clock)?;
    data_dir::note_stream(data_dir, &shared.identity())?;
    Ok(shared)
}
