//! From what a configuration says to what the actors are built from.

use std::{path::Path, sync::Arc, time::Duration};

use forebay_actors::{
    buffer::{Buffer, Limits},
    condition::Condition,
    event::Timestamp,
    journal,
    retention::{Purge, RetentionSpec},
    runtime::{
        clock::{Clock, seed},
        mailbox::Mailbox,
        supervisor::RestartPolicy,
    },
    sink::{BreakerPolicy, CatchUp, Concurrency, CutPolicy, SinkPolicy},
    state::WhenFull,
};
use futures::{FutureExt as _, TryFutureExt as _};

use super::{Destinations, niceness};
use crate::{
    config::{self, Config, SinkConfig, SinkKind},
    data_dir,
    destination::{self, file::Writers, projected::ProjectedDestination, pushgateway::Gateways},
    store,
};

/// The factories of the destinations that configurations name, for a command. One for a process: those of one file find each
/// other here.
pub fn destinations(config: &Config, data_dir: &Path, clock: Clock) -> Destinations {
    factories(config, data_dir, clock, Arc::default())
}

/// The same for the process that runs the sinks: what a sink is to take with it at its end goes when the last factory of it does, and
/// at the latest at the end of what is returned beside it.
pub fn destinations_of_sinks(
    config: &Config,
    data_dir: &Path,
    clock: Clock,
) -> (Destinations, Arc<Gateways>) {
    let gateways = Arc::new(Gateways::of_sinks());
    (factories(config, data_dir, clock, gateways.clone()), gateways)
}

fn factories(config: &Config, data_dir: &Path, clock: Clock, gateways: Arc<Gateways>) -> Destinations {
    let (backend, data_dir) = (config.buffer.backend, data_dir.to_owned());
    let files = Arc::new(Writers::default());
    Arc::new(move |name, sink| {
        let (kind, data_dir, clock) = (sink.kind.clone(), data_dir.clone(), clock.clone());
        let files = files.clone();
        let latest = match &sink.kind {
            SinkKind::Pushgateway(options) => Some(gateways.of(name, options)),
            _ => None,
        };
        let fields = sink.fields.as_ref().map(|fields| {
            Arc::new(fields.projection().expect("Config::check refuses what is no projection"))
        });
        Arc::new(move || {
            // Known when the journal is open. Only a directory that was never opened has none, and from there nothing is
            // delivered.
            let stream = data_dir::identity(&data_dir, backend).unwrap_or_default();
            let store = data_dir::store(&data_dir);
            let destination = destination::build(&kind, &store, &stream, &clock, &files, latest.as_ref())?;
            Ok(match &fields {
                Some(fields) => Box::new(ProjectedDestination::new(destination, fields.clone())),
                None => destination,
            })
        })
    })
}

pub(super) fn durability(buffer: &config::BufferConfig) -> journal::Durability {
    match buffer.durability {
        config::Durability::Fsync => journal::Durability::Fsync,
        config::Durability::Interval => journal::Durability::Interval(buffer.sync_interval),
        config::Durability::Memory => journal::Durability::Memory,
    }
}

pub(super) fn limits(buffer: &config::BufferConfig) -> Limits {
    let memory = buffer.durability == config::Durability::Memory;
    Limits {
        waiting_events_max: buffer.memory_events_max as u64,
        waiting_bytes_max: buffer.memory_bytes_max,
        // A journal in memory is bounded by what memory is given, too.
        journal_bytes_max: match memory {
            true => buffer.max_bytes.min(buffer.memory_bytes_max as u64),
            false => buffer.max_bytes,
        },
        journal_events_max: memory.then_some(buffer.memory_events_max as u64),
    }
}

/// How sinks read that are long behind.
pub(super) fn catch_up(buffer: &config::BufferConfig) -> CatchUp {
    let journal_bytes_max = match buffer.durability {
        // To read it is nothing, and whoever does keeps a commit waiting.
        config::Durability::Memory => 0,
        _ => buffer.max_bytes,
    };
    CatchUp::new(niceness::catch_up(), journal_bytes_max)
}

pub(super) fn when_full(sink: &SinkConfig) -> WhenFull {
    match sink.when_full {
        config::WhenFull::Block => WhenFull::Block,
        config::WhenFull::DropOldest => WhenFull::DropOldest,
    }
}

pub(super) fn restart_policy(config: &Config) -> RestartPolicy {
    let supervisor = &config.supervisor;
    RestartPolicy {
        backoff_min: supervisor.backoff_min,
        backoff_max: supervisor.backoff_max,
        restarts_max: supervisor.restarts_max as usize,
        window: supervisor.restarts_window,
        seed: seed(),
    }
}

pub(super) fn sink_policy(sink: &SinkConfig, all: &config::BatchConfig) -> SinkPolicy {
    let batch = sink.batch(all);
    SinkPolicy {
        cut: CutPolicy { max_events: batch.max_events as u64, max_bytes: batch.max_bytes },
        max_wait: batch.max_wait,
        concurrency: Concurrency { min: sink.concurrency.min, max: sink.concurrency.max },
        backoff_min: sink.retry.backoff_min,
        backoff_max: sink.retry.backoff_max,
        max_age: sink.retry.max_age,
        breaker: BreakerPolicy {
            failures: sink.breaker.failures,
            open_for: sink.breaker.open_for,
            successes: sink.breaker.successes,
        },
    }
}

/// What a sink takes; all of it where absent.
///
/// # Panics
/// Where a configuration was not checked.
pub fn condition(sink: &SinkConfig) -> Option<Arc<Condition>> {
    let condition =
        |when: &config::When| when.condition().expect("Config::check refuses what is no condition");
    sink.when.as_ref().map(condition).map(Arc::new)
}

/// Messages of a queue that a sink takes at a time: as many as are on their way, as many again that come meanwhile, and
/// one whose acknowledgement is.
pub(crate) fn queue_messages(sink: &SinkConfig) -> usize {
    2 * sink.concurrency.max + 1
}

pub(super) fn retention_spec(
    config: &Config,
    data_dir: &Path,
    clock: Clock,
    buffer: Mailbox<Buffer>,
) -> RetentionSpec {
    let schedule = config.retention.schedule.parse::<croner::Cron>().ok();
    let schedule = move |now: Timestamp| {
        let next = schedule.as_ref()?.find_next_occurrence(&now.to_chrono(), false).ok()?;
        next.timestamp_nanos_opt().map(Timestamp::from_nanos)
    };
    let purge = store::open(config, data_dir).map(|store| -> Purge {
        Arc::new(move |cutoff| store.purge(cutoff).map_err(|error| error.to_string()).boxed())
    });
    RetentionSpec {
        buffer,
        journal_keep: config.retention.journal_keep,
        rows_keep: Duration::from_secs(u64::from(config.retention.days) * 24 * 3600),
        schedule: Arc::new(schedule),
        purge,
        clock,
    }
}
