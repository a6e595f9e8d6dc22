//! What the stream holds and how far its consumers are: looked at regularly, because whoever asks for it may not wait.
//!
//! Removal: the stream keeps what it is given until it is told to forget it. Every process tells it so, as far as all
//! consumers have come and were `journal_keep` ago. A consumer that nobody serves holds everything behind it, and is
//! told of: to let it go is for an operator to decide.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::consumer;
use forebay_actors::{
    event::Timestamp,
    journal::{Backlog, JournalError, Usage},
    record::SinkName,
};
use futures::TryStreamExt as _;
use tokio::time::{Instant, timeout};

use super::{ASK_WAIT, Shared, queue};
use crate::destination;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a consumer may be without anybody who takes from it before that is said: a worker may be starting again.
const UNSERVED_AFTER: Duration = Duration::from_secs(60);

/// How often it is said again.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// How many moments are remembered for `journal_keep`: what is removed later than it could be is at most this part of it.
const FLOORS_MAX: usize = 1024;

/// What was seen when it was looked last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) bytes: u64,
    /// The oldest message there is, and the newest.
    pub(super) first: u64,
    pub(super) last: u64,
    consumers: BTreeMap<String, Progress>,
    /// When the oldest message was written that some consumer has not acknowledged.
    oldest: Option<(u64, Timestamp)>,
    /// Messages that this process has written since, and in all.
    written_since: u64,
    written: u64,
}

/// How far one consumer is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Messages that are not acknowledged.
    waiting: u64,
    /// Every message up to this one is.
    floor: u64,
    /// Whether somebody takes from it or works on what he has taken.
    served: bool,
    unserved_since: Option<Instant>,
    said_at: Option<Instant>,
}

impl Seen {
    /// Counts what is on its way there: a look that was taken before must not say that nothing waits.
    pub(super) fn published(&mut self, messages: u64) {
        self.written_since += messages;
        self.written += messages;
    }
}

impl Shared {
    /// Messages that wait for a sink.
    pub(super) fn waiting(&self, sink: &SinkName) -> u64 {
        let seen = self.seen();
        let consumer = seen.consumers.get(&format!("{}{sink}", queue::PREFIX));
        consumer.map_or(0, |consumer| consumer.waiting) + seen.written_since
    }

    /// What the whole takes up.
    pub(super) fn usage(&self) -> Usage {
        let seen = self.seen();
        let most = seen.consumers.values().map(|consumer| consumer.waiting).max().unwrap_or_default();
        let (bytes, waiting, oldest) = (seen.bytes, most + seen.written_since, seen.oldest);
        drop(seen);
        let oldest = oldest.map(|(_, at)| at);
        Usage {
            disk_bytes: bytes,
            stored_bytes: bytes,
            generations: 1,
            damaged: self.damaged.load(Ordering::Relaxed),
            backlog: Some(Backlog { events: self.events_of(waiting), taken: 0, oldest }),
        }
    }
}

/// Looks again and again, as long as somebody uses the journal.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        match look(&shared).await {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the journal's server answers again");
            }
            Ok(()) => tell_unserved(&shared),
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "the journal's server could not be asked; it is tried again");
            }
            Err(_) => {}
        }
    }
}

/// Looks once.
pub(super) async fn look(shared: &Shared) -> Result<(), JournalError> {
    let failed = |error: &dyn std::error::Error| shared.failed(destination::chain(error));
    let written = shared.seen().written;
    let info =
        timeout(ASK_WAIT, shared.stream.get_info()).await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    if info.created.unix_timestamp_nanos() != shared.created {
        shared.found_another();
    }
    let consumers: Vec<consumer::Info> = timeout(ASK_WAIT, shared.stream.consumers().try_collect())
        .await
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e))?;
    let consumers: BTreeMap<_, _> = consumers
        .into_iter()
        .filter(|consumer| consumer.name.starts_with(queue::PREFIX))
        .map(|info| (info.name.clone(), progress(&info)))
        .collect();
    let oldest = oldest(shared, &consumers, info.state.last_sequence).await;
    let mut seen = shared.seen();
    let before = std::mem::take(&mut seen.consumers);
    seen.consumers = consumers;
    for (name, now) in &mut seen.consumers {
        let before = before.get(name);
        now.said_at = before.and_then(|before| before.said_at);
        if !now.served {
            now.unserved_since = before.and_then(|before| before.unserved_since).or(Some(Instant::now()));
        }
    }
    seen.bytes = info.state.bytes;
    (seen.first, seen.last) = (info.state.first_sequence, info.state.last_sequence);
    seen.oldest = oldest;
    // What was written while it was looked may be in or not.
    seen.written_since = seen.written - written;
    Ok(())
}

fn progress(info: &consumer::Info) -> Progress {
    Progress {
        waiting: info.num_pending + info.num_ack_pending as u64,
        floor: info.ack_floor.stream_sequence,
        served: info.num_waiting > 0 || info.num_ack_pending > 0 || info.num_pending == 0,
        ..Progress::default()
    }
}

/// The sequence and the time of the oldest message that waits for somebody; asked for only where it has changed.
async fn oldest(
    shared: &Shared,
    consumers: &BTreeMap<String, Progress>,
    last: u64,
) -> Option<(u64, Timestamp)> {
    let waiting = consumers.values().filter(|consumer| consumer.waiting > 0);
    let sequence = waiting.map(|consumer| consumer.floor + 1).min().filter(|sequence| *sequence <= last)?;
    if let Some(known) = shared.seen().oldest.filter(|(known, _)| *known == sequence) {
        return Some(known);
    }
    let message = timeout(ASK_WAIT, shared.stream.get_raw_message(sequence)).await.ok()?.ok()?;
    let nanos = i64::try_from(message.time.unix_timestamp_nanos()).ok()?;
    Some((sequence, Timestamp::from_nanos(nanos)))
}

fn tell_unserved(shared: &Shared) {
    let mut seen = shared.seen();
    for (name, consumer) in &mut seen.consumers {
        let long_enough = consumer.unserved_since.is_some_and(|since| since.elapsed() >= UNSERVED_AFTER);
        let said = consumer.said_at.is_some_and(|at| at.elapsed() < SAY_AGAIN_AFTER);
        if long_enough && !said {
            consumer.said_at = Some(Instant::now());
            let (messages, stream) = (consumer.waiting, &shared.config.stream);
            tracing::warn!(
                consumer = name,
                messages,
                "nobody takes from this consumer, and the journal keeps all that it has not had; start a process with its \
                 sink, or let its events go with `nats consumer rm {stream} {name}`"
            );
        }
    }
}

/// Removes what every consumer has acknowledged, and had before the given time. Without any consumer nothing is removed.
pub(super) async fn remove(shared: &Shared, acknowledged_before: Timestamp) -> Result<u64, JournalError> {
    let (floor, first) = {
        let seen = shared.seen();
        (seen.consumers.values().map(|consumer| consumer.floor).min(), seen.first)
    };
    let Some(floor) = floor.filter(|_| !shared.is_another.load(Ordering::Relaxed)) else { return Ok(0) };
    let upto = {
        let mut floors = shared.floors.lock().unwrap_or_else(PoisonError::into_inner);
        if floors.back().is_none_or(|(_, known)| *known < floor) {
            floors.push_back((shared.clock.now(), floor));
        }
        let mut upto = 0;
        while let Some((_, floor)) = floors.pop_front_if(|(at, _)| *at <= acknowledged_before) {
            upto = floor;
        }
        if floors.len() > FLOORS_MAX {
            // Every other one is forgotten: what lies between two goes with the later.
            let mut index = 0;
            floors.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        upto
    };
    if upto < first.max(1) {
        return Ok(0);
    }
    let failed = |error: &dyn std::error::Error| shared.failed(destination::chain(error));
    let purge = shared.stream.purge().sequence(upto + 1);
    let purged =
        timeout(ASK_WAIT, async { purge.await }).await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    shared.seen().first = upto + 1;
    Ok(purged.purged)
}
