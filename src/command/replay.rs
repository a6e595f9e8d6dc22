//! `forebay replay`.

use std::{path::Path, sync::Arc};

use clap::Args;
use forebay_actors::{
    condition::Condition,
    destination::{Destination, DestinationFactory},
    event::Timestamp,
    journal::{Durability, Journal, JournalError, Piece, SledJournal},
    record::{Batch, Position, Record, Selection, SinkName, Span},
    runtime::clock::Clock,
};
use serde::{Deserialize, Serialize};

use super::{
    Done, block_on, load, print,
    progress::{Progress, waiting},
    redeliver::redeliver,
};
use crate::{
    api::control,
    config::{Backend, Config},
    data_dir::{self, DataDir},
    pipeline,
    shared_journal::JetStream,
};

/// Payload read from the journal at a time.
const READ_BYTES: usize = 1024 * 1024;

/// `forebay replay …`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The sink to deliver to.
    #[arg(long)]
    sink: String,
    /// Accepted at this time or later: RFC 3339, as 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Timestamped,
    /// Accepted before this time.
    #[arg(long, value_name = "TIME")]
    to: Timestamped,
}

/// A time on the command line.
#[derive(Debug, Clone, Copy)]
struct Timestamped(Timestamp);

impl std::str::FromStr for Timestamped {
    type Err = forebay_actors::event::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Timestamp::parse(text).map(Self)
    }
}

/// Which events, to whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The sink.
    pub sink: SinkName,
    /// Accepted at this time or later.
    pub from: Timestamp,
    /// Accepted before this time.
    pub to: Timestamp,
}

/// What was done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Events delivered.
    pub delivered: u64,
    /// Events that the destination refuses.
    pub refused: u64,
    /// Events that are not for this sink (`when`).
    #[serde(default)]
    pub filtered: u64,
    /// Positions whose bytes are damaged.
    pub damaged: u64,
}

/// Asks the running process, or does it itself where there is none.
///
/// # Errors
/// Where the sink is not configured, or keeps failing.
pub fn replay(replay: &Replay, file: Option<&Path>) -> Done {
    let config = load(file).map_err(|e| e.to_string())?;
    let request =
        Request { sink: SinkName::from(replay.sink.as_str()), from: replay.from.0, to: replay.to.0 };
    if request.from >= request.to {
        return Err(format!("--from {} is not before --to {}", request.from, request.to));
    }
    let report = block_on(async {
        if let Some(report) = waiting(
            "replaying",
            control::ask::<Report>(&config.data_dir, &control::Order::Replay(request.clone())),
        )
        .await?
        {
            return Ok::<_, String>(report);
        }
        let data_dir = DataDir::open(&config.data_dir).map_err(|e| e.to_string())?;
        let sink = config.sinks.get(&replay.sink);
        let sink = sink.ok_or_else(|| format!("there is no sink {:?} in the configuration", replay.sink))?;
        let factory = pipeline::destinations(&config, data_dir.path(), Clock::system())(&request.sink, sink);
        let journal = open_journal(&config, data_dir.path()).map_err(|e| e.to_string())?;
        carry_out(journal, factory, pipeline::condition(sink), request, Progress::new("replaying")).await
    })?;
    if report.delivered + report.refused + report.filtered + report.damaged == 0 {
        return Err("the journal has no events of that time: it keeps what every sink has only for retention.journal_keep".to_owned());
    }
    let Report { delivered, refused, filtered, damaged } = report;
    let not_for_it = if filtered > 0 { format!(", {filtered} not for it (when)") } else { String::new() };
    print(&format!(
        "replayed to {}: {delivered} delivered, {refused} refused, {damaged} damaged{not_for_it}\n",
        replay.sink
    ))
}

fn open_journal(config: &Config, data_dir: &Path) -> Result<Arc<dyn Journal>, JournalError> {
    let clock = Clock::system();
    Ok(match config.buffer.backend {
        Backend::Disk => {
            Arc::new(SledJournal::open(&data_dir::journal(data_dir), Durability::Fsync, Position(0), clock)?)
        }
        Backend::Jetstream => {
            let quarantine = data_dir::quarantine(data_dir);
            Arc::new(JetStream::open(&config.buffer, config.http.max_event_bytes, &quarantine, clock)?)
        }
    })
}

/// Reads the journal and delivers what was accepted in the time asked for.
///
/// # Errors
/// Where the destination keeps failing or the journal cannot be read; the message says how far it came.
pub async fn carry_out(
    journal: Arc<dyn Journal>,
    factory: DestinationFactory,
    when: Option<Arc<Condition>>,
    request: Request,
    mut progress: Progress,
) -> Result<Report, String> {
    let destination = factory().map_err(|e| e.to_string())?;
    let Span { first, end } = journal.span();
    progress.turn_to("replaying", Some(end.since(first)));
    let (mut report, mut at) = (Report::default(), first);
    while at < end {
        let reader = journal.clone();
        let pieces = tokio::task::spawn_blocking(move || reader.read(at, READ_BYTES)).await;
        let pieces = pieces.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let Some(last) = pieces.last() else { break };
        at = last.end();
        for piece in &pieces {
            match piece {
                Piece::Damaged(span) | Piece::Removed(span) => report.damaged += span.count(),
                Piece::Record(record) => {
                    let so_far = report.delivered;
                    let batch = wanted(record, when.as_deref(), &request, &mut report);
                    progress
                        .during(replay_batch(&*destination, batch, &mut report))
                        .await
                        .map_err(|e| format!("stopped after {so_far} events: {e}"))?;
                }
            }
        }
        progress.at(at.since(first));
    }
    Ok(report)
}

async fn replay_batch(
    destination: &dyn Destination,
    batch: Option<Batch>,
    report: &mut Report,
) -> Result<(), String> {
    if let Some(batch) = batch {
        let outcome = redeliver(destination, batch).await?;
        report.delivered += outcome.delivered;
        report.refused += outcome.not_delivered();
    }
    Ok(())
}

/// The events of a record that were accepted in the time asked for, and are for the sink.
fn wanted(
    record: &Arc<Record>,
    when: Option<&Condition>,
    request: &Request,
    report: &mut Report,
) -> Option<Batch> {
    let span = Span { first: record.first, end: record.end() };
    let in_time = Arc::new(in_time(Batch::new(span, vec![record.clone()]), request)?);
    let taken = when.map_or_else(|| Some(in_time.clone()), |when| when.view(&in_time));
    report.filtered += in_time.count() - taken.as_ref().map_or(0, |taken| taken.count());
    taken.map(Arc::unwrap_or_clone)
}

/// The events of a batch that were accepted in the time asked for.
fn in_time(batch: Batch, request: &Request) -> Option<Batch> {
    let (mut selection, mut events) = (Selection::none_of(batch.span()), batch.events().unbounded());
    while let Some(at) = events.position() {
        let Some(Ok(event)) = events.next_event() else { break };
        if event.ingested_at >= request.from && event.ingested_at < request.to {
            selection.insert(Span { first: at, end: at.plus(1) });
        }
    }
    batch.select(selection)
}
