//! `Buffer`: the only writer of the journal, and the keeper of the cursors.
//!
//! - Owns: what waits for its commit; the room left in the journal.
//! - Receives: [`Append`] from `Receiver`, [`Delivered`] from sinks, [`Trim`] from `Retention`.
//! - Sends: the answer to every request, and [`Committed`] to `Batcher`.
//! - On failure: requests that wait are dropped unanswered. A commit that is running runs on, on its blocking
//!   thread, and answers its requests itself: it needs no `Buffer`.
//! - Limits: [`Limits`], in events and bytes, for what waits; `bytes_max` for the journal.
//!
//! Group commit: while one commit is on its way to the disk, the next gathers. A request on an idle system waits for its
//! own sync and nothing else. Under load, where the commit before had many requests, the next waits up to
//! [`GATHER_MAX`] for half as many: those that were just answered are about to send again, and every commit less is a
//! sync and a dozen thread wake-ups less.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, Supervised, WrapFuture as _,
};
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Registry};
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    batcher::Batcher,
    event::Timestamp,
    journal::{Durability, Journal, JournalError, Piece, Usage},
    message::{Accepted, Append, CommitDone, Committed, Delivered, Refusal, Trim},
    receiver::{ReceiverMetrics, refuse},
    record::{Position, Span},
    runtime::{
        clock::Clock,
        mailbox::Mailbox,
        metrics::{Probe, counters, observe, registered},
    },
    state::{Cursor, Cursors, DeadLetter, DeadLetters, Reason, StateError, WhenFull},
};

/// Messages that may wait in its mailbox: as many as `Receiver` can have taken, and the sinks' reports.
pub const MAILBOX_MESSAGES: usize = crate::receiver::MAILBOX_REQUESTS + 1024;

/// Bytes of one commit, unless a single request has more: bounds what `Batcher`'s mailbox holds, and how long the
/// requests behind it wait.
pub const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// How long a commit may wait for company; tokio's timer knows nothing finer.
pub const GATHER_MAX: Duration = Duration::from_millis(1);

/// Requests of the commit before, from which on the next waits for company: below, a commit costs less than the wait.
const GATHER_FROM: usize = 16;

/// How long cursors gather before they are written: what a crash can make a sink deliver twice.
const CURSOR_SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// How often the oldest event that is needed is looked up: it costs the reading of one record.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of what is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events that may wait for their commit.
    pub waiting_events_max: u64,
    /// Encoded bytes that may wait for their commit.
    pub waiting_bytes_max: usize,
    /// Bytes the journal may take up on the device.
    pub journal_bytes_max: u64,
    /// Events the journal may hold; for a journal in memory, where nobody wants to count bytes.
    pub journal_events_max: Option<u64>,
}

/// What a `Buffer` is built from.
#[derive(Clone)]
pub struct BufferSpec {
    /// Where events become durable.
    pub journal: Arc<dyn Journal>,
    /// When they count as durable.
    pub durability: Durability,
    /// How far the sinks have come.
    pub cursors: Arc<Cursors>,
    /// Where skipped ranges are accounted for.
    pub dead_letters: Arc<DeadLetters>,
    /// Who hears of commits.
    pub batcher: Mailbox<Batcher>,
    /// What is accepted.
    pub limits: Limits,
    /// Tells when something was dropped.
    pub clock: Clock,
    /// Its own metrics.
    pub metrics: BufferMetrics,
    /// Acknowledged events are counted here.
    pub received: ReceiverMetrics,
}

/// What the journal holds and does.
#[derive(Debug, Clone)]
pub struct BufferMetrics {
    /// Events that at least one sink still needs.
    pub events: IntGauge,
    /// Stored bytes of records.
    pub bytes: IntGauge,
    /// Bytes of the journal's files on the device.
    pub disk_bytes: IntGauge,
    /// The cap.
    pub max_bytes: IntGauge,
    /// Age of the oldest event that at least one sink still needs, in seconds.
    pub oldest_age_seconds: Gauge,
    /// Events that wait for their commit.
    pub waiting_events: IntGauge,
    /// 1 while requests are refused for want of room.
    pub full: IntGauge,
    /// Records or generations found damaged.
    pub damaged: IntGauge,
    commit_seconds: Histogram,
    commit_requests: Histogram,
    /// Events that sinks were made to skip.
    pub dropped: IntCounterVec,
}

impl BufferMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help));
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        // From a fast device's sync to a stalled one's.
        let seconds = vec![1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
        let requests = vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
        Self {
            events: gauge("forebay_buffer_events", "Events that at least one sink has not delivered yet"),
            bytes: gauge("forebay_buffer_bytes", "Bytes of the journal's records as stored"),
            disk_bytes: gauge("forebay_buffer_disk_bytes", "Bytes of the journal's files on the device"),
            max_bytes: gauge("forebay_buffer_max_bytes", "Bytes the journal may take up on the device"),
            oldest_age_seconds: registered(
                registry,
                Gauge::new(
                    "forebay_buffer_oldest_age_seconds",
                    "Age of the oldest event that at least one sink has not delivered yet",
                ),
            ),
            waiting_events: gauge("forebay_buffer_waiting_events", "Events that wait for their commit"),
            full: gauge("forebay_buffer_full", "1 while requests are refused for want of room"),
            damaged: gauge("forebay_buffer_damaged_records", "Damaged records met since the start"),
            commit_seconds: histogram(
                "forebay_buffer_commit_seconds",
                "Time of one commit, sync included",
                seconds,
            ),
            commit_requests: histogram(
                "forebay_buffer_commit_requests",
                "Requests that shared one commit",
                requests,
            ),
            dropped: counters(
                registry,
                "forebay_buffer_dropped_events_total",
                "Events that a sink skipped because the journal was full (policy drop_oldest)",
                &["sink"],
            ),
        }
    }
}

/// A request that waits for its commit.
struct Waiting {
    append: Append,
    events: u64,
    bytes: usize,
}

/// The actor.
pub struct Buffer {
    spec: BufferSpec,
    probe: Probe,
    waiting: VecDeque<Waiting>,
    waiting_events: u64,
    waiting_bytes: usize,
    /// What the commit that is running carries.
    committing_events: u64,
    committing_bytes: usize,
    committing: bool,
    /// Requests of the last commit.
    last_requests: usize,
    /// The next commit waits for company.
    gathering: Option<SpawnHandle>,
    usage: Usage,
    making_room: bool,
    /// Events and bytes of the request that was last refused for want of room, until there is room for it.
    refused: Option<(u64, usize)>,
    /// Why the last commit failed; while set, one request at a time is let through to try again.
    failure: Option<Refusal>,
    cursors_changed: bool,
    saving: bool,
    wait_for_save: Vec<oneshot::Sender<()>>,
}

impl Buffer {
    /// A buffer as its specification says.
    pub fn new(spec: BufferSpec, probe: Probe) -> Self {
        let usage = spec.journal.usage();
        spec.metrics.max_bytes.set(gauge_value(spec.limits.journal_bytes_max));
        spec.metrics.full.set(0);
        Self {
            spec,
            probe,
            waiting: VecDeque::new(),
            waiting_events: 0,
            waiting_bytes: 0,
            committing_events: 0,
            committing_bytes: 0,
            committing: false,
            last_requests: 0,
            gathering: None,
            usage,
            making_room: false,
            refused: None,
            failure: None,
            cursors_changed: true,
            saving: false,
            wait_for_save: Vec::new(),
        }
    }

    /// Whether a request of this size can be taken now.
    fn admit(&mut self, events: u64, bytes: usize, ctx: &mut Context<Self>) -> Result<(), Refusal> {
        let limits = self.spec.limits;
        let waiting_events = self.waiting_events + self.committing_events;
        let waiting_bytes = self.waiting_bytes + self.committing_bytes;
        // A request larger than the whole budget is taken when it is alone: else it never could be.
        let idle = waiting_events == 0;
        if !idle
            && (waiting_events + events > limits.waiting_events_max
                || waiting_bytes + bytes > limits.waiting_bytes_max)
        {
            return Err(Refusal::Overloaded);
        }
        if let Some(failure) = self.failure.filter(|_| !idle) {
            return Err(failure);
        }
        if !self.has_room_for(events, bytes) {
            self.make_room(ctx);
            self.refused = Some((events, bytes));
            self.spec.metrics.full.set(1);
            return Err(Refusal::JournalFull);
        }
        self.refused = None;
        self.spec.metrics.full.set(0);
        Ok(())
    }

    /// Whether the journal has room for a request of this size.
    fn has_room_for(&self, events: u64, bytes: usize) -> bool {
        let limits = self.spec.limits;
        let waiting_events = self.waiting_events + self.committing_events;
        let waiting_bytes = self.waiting_bytes + self.committing_bytes;
        let too_many =
            limits.journal_events_max.is_some_and(|max| self.holds_too_many(max, events, waiting_events));
        !too_many && self.usage.disk_bytes + (waiting_bytes + bytes) as u64 <= limits.journal_bytes_max
    }

    /// Whether a journal in memory has no room for so many events more.
    fn holds_too_many(&self, max: u64, events: u64, waiting_events: u64) -> bool {
        let journal = &self.spec.journal;
        let held = || journal.span().count() + waiting_events;
        // One request is let into an empty journal, whatever its size: else it never could be.
        let too_many = |held| held > 0 && held + events > max;
        if !too_many(held()) {
            return false;
        }
        // What every sink has is no reason to refuse. In memory this takes no time worth a thread.
        let passed = self.spec.cursors.lowest().unwrap_or(journal.span().end);
        if let Err(error) = journal.remove(passed, Timestamp::from_nanos(i64::MAX)) {
            tracing::error!(%error, "no room could be made in the journal");
        }
        too_many(held())
    }

    fn commit(&mut self, ctx: &mut Context<Self>) {
        if self.committing || self.waiting.is_empty() {
            return;
        }
        if let Some(gathering) = self.gathering.take() {
            ctx.cancel_future(gathering);
        }
        let mut taken = 0;
        while let Some(next) = self.waiting.get(taken)
            && (taken == 0 || self.committing_bytes + next.bytes <= COMMIT_BYTES)
        {
            self.committing_bytes += next.bytes;
            self.committing_events += next.events;
            taken += 1;
        }
        self.last_requests = taken;
        let requests = self.waiting.drain(..taken).collect();
        self.waiting_events -= self.committing_events;
        self.waiting_bytes -= self.committing_bytes;
        self.committing = true;
        let (spec, events, bytes) = (self.spec.clone(), self.committing_events, self.committing_bytes);
        let job = spawn_blocking(move || commit(&spec, requests, events, bytes));
        let done = job.into_actor(self).map(|done, buffer, ctx| {
            // A panic on the blocking thread dropped the replies: their senders know.
            buffer.committed(done.ok(), ctx);
        });
        ctx.spawn(done);
    }

    fn committed(&mut self, done: Option<CommitDone>, ctx: &mut Context<Self>) {
        self.committing = false;
        (self.committing_events, self.committing_bytes) = (0, 0);
        match done {
            Some(done) => {
                self.usage = done.usage;
                self.failure = done.failure;
                tracing::trace!(events = done.events, bytes = done.bytes, "committed");
            }
            None => self.failure = Some(Refusal::JournalFailed),
        }
        self.spec.metrics.full.set(i64::from(self.failure == Some(Refusal::DiskFull)));
        if let Some(failure) = self.failure {
            // What gathered meanwhile would fail the same way, one slow attempt after the other.
            self.waiting.drain(..).for_each(|waiting| refuse(waiting.append.reply, failure));
            (self.waiting_events, self.waiting_bytes) = (0, 0);
        }
        self.show();
        if self.has_company() {
            self.commit(ctx);
        } else {
            self.gathering = Some(ctx.run_later(GATHER_MAX, |buffer, ctx| {
                buffer.gathering = None;
                buffer.commit(ctx);
            }));
        }
    }

    /// Whether the next commit has enough requests to go without waiting.
    fn has_company(&self) -> bool {
        self.last_requests < GATHER_FROM || self.waiting.len() >= self.last_requests / 2
    }

    /// At the cap: lets sinks whose policy it is skip the oldest generation, and removes it. Elsewhere removal
    /// waits for `Retention`; here it cannot.
    fn make_room(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.making_room, true) {
            return;
        }
        let spec = self.spec.clone();
        let job = spawn_blocking(move || make_room(&spec)).into_actor(self).map(|done, buffer, _| {
            buffer.making_room = false;
            buffer.cursors_changed = true;
            match done {
                Ok(Ok(usage)) => buffer.usage = usage,
                Ok(Err(error)) => tracing::error!(%error, "no room could be made in the journal"),
                Err(_) => tracing::error!("making room in the journal panicked"),
            }
            buffer.show();
        });
        ctx.spawn(job);
    }

    /// Saves cursors if any moved; one save at a time, each for all sinks.
    fn save_cursors(&mut self, ctx: &mut Context<Self>) {
        if self.saving || !self.cursors_changed {
            return;
        }
        (self.saving, self.cursors_changed) = (true, false);
        let (cursors, waiters) = (self.spec.cursors.clone(), std::mem::take(&mut self.wait_for_save));
        let job = spawn_blocking(move || cursors.save()).into_actor(self).map(move |saved, buffer, ctx| {
            buffer.saving = false;
            match saved {
                Ok(Ok(())) => waiters.into_iter().for_each(|waiter| {
                    let _ = waiter.send(());
                }),
                Ok(Err(error)) => {
                    tracing::error!(%error, "cursors could not be saved; it is tried again");
                    buffer.cursors_changed = true;
                    buffer.wait_for_save.extend(waiters);
                }
                Err(_) => buffer.cursors_changed = true,
            }
            if !buffer.wait_for_save.is_empty() && buffer.failure.is_none() {
                buffer.save_cursors(ctx);
            }
        });
        ctx.spawn(job);
    }

    /// Looks up how old the oldest event is that a sink still needs.
    fn look_at_age(&mut self, ctx: &mut Context<Self>) {
        let journal = self.spec.journal.clone();
        let Some(oldest) = self.spec.cursors.lowest().filter(|lowest| *lowest < journal.span().end) else {
            return self.spec.metrics.oldest_age_seconds.set(0.0);
        };
        let (clock, gauge) = (self.spec.clock.clone(), self.spec.metrics.oldest_age_seconds.clone());
        let look = spawn_blocking(move || {
            // Where its bytes are damaged or cannot be read now, the sinks say so, and the last age stays.
            if let Ok([Piece::Record(record), ..]) = journal.read(oldest, 1).as_deref() {
                gauge.set(clock.now().seconds_since(record.written_at));
            }
        });
        ctx.spawn(look.into_actor(self).map(|_, _, _| ()));
    }

    fn show(&mut self) {
        // Whoever is told that nothing is taken sends nothing, so no request would come to find the room there is.
        if let Some((events, bytes)) = self.refused
            && self.has_room_for(events, bytes)
        {
            self.refused = None;
            self.spec.metrics.full.set(0);
        }
        let metrics = &self.spec.metrics;
        let span = self.spec.journal.span();
        let lowest = self.spec.cursors.lowest().unwrap_or(span.end);
        metrics.events.set(gauge_value(span.end.since(lowest)));
        metrics.bytes.set(gauge_value(self.usage.stored_bytes));
        metrics.disk_bytes.set(gauge_value(self.usage.disk_bytes));
        metrics.damaged.set(gauge_value(self.usage.damaged));
        metrics.waiting_events.set(gauge_value(self.waiting_events + self.committing_events));
    }
}

// === impl Actor ===

impl Actor for Buffer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(CURSOR_SAVE_INTERVAL, |buffer, ctx| {
            buffer.save_cursors(ctx);
            buffer.show();
        });
        ctx.run_interval(AGE_INTERVAL, Self::look_at_age);
        if let Durability::Interval(every) = self.spec.durability {
            let journal = self.spec.journal.clone();
            // Beside the commits, not between them: a slow device must not hold up what needs no sync.
            let sync = async move {
                let mut ticks = tokio::time::interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let journal = journal.clone();
                    if let Ok(Err(error)) = spawn_blocking(move || journal.sync()).await {
                        tracing::error!(%error, "the journal could not be synced; it is tried again");
                    }
                }
            };
            ctx.spawn(sync.into_actor(self));
        }
    }
}

impl Supervised for Buffer {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self::new(self.spec.clone(), self.probe.clone());
    }
}

impl Handler<Append> for Buffer {
    type Result = ();

    fn handle(&mut self, append: Append, ctx: &mut Context<Self>) {
        let _handling = self.probe.handling();
        let events = append.blocks.iter().map(|stamped| u64::from(stamped.count())).sum();
        let bytes = append.blocks.iter().map(|stamped| stamped.bytes().len()).sum();
        if let Err(refusal) = self.admit(events, bytes, ctx) {
            return refuse(append.reply, refusal);
        }
        self.waiting_events += events;
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { append, events, bytes });
        if self.gathering.is_none() || self.has_company() {
            self.commit(ctx);
        }
    }
}

impl Handler<Delivered> for Buffer {
    type Result = ();

    fn handle(&mut self, Delivered { sink, cursor, saved }: Delivered, ctx: &mut Context<Self>) {
        let _handling = self.probe.handling();
        self.spec.cursors.advance(&sink, cursor);
        self.cursors_changed = true;
        if let Some(saved) = saved {
            self.wait_for_save.push(saved);
            self.save_cursors(ctx);
        }
    }
}

impl Handler<Trim> for Buffer {
    type Result = ();

    fn handle(&mut self, Trim { written_before }: Trim, ctx: &mut Context<Self>) {
        let _handling = self.probe.handling();
        let spec = self.spec.clone();
        let job = spawn_blocking(move || {
            // A generation must not go before the cursors that have passed it are on disk.
            spec.cursors.save().map_err(RoomError::State)?;
            let upto = spec.cursors.lowest().unwrap_or(spec.journal.span().end);
            spec.journal.remove(upto, written_before).map_err(RoomError::Journal)
        });
        let job = job.into_actor(self).map(|removed, buffer, _| {
            match removed {
                Ok(Ok(0)) => {}
                Ok(Ok(generations)) => tracing::debug!(generations, "journal generations removed"),
                Ok(Err(error)) => tracing::error!(%error, "journal generations could not be removed"),
                Err(_) => tracing::error!("removing journal generations panicked"),
            }
            buffer.usage = buffer.spec.journal.usage();
            buffer.show();
        });
        ctx.spawn(job);
    }
}

// === on blocking threads ===

/// Commits, answers, and tells `Batcher`; needs nothing of the actor, so that it can outlive it.
fn commit(spec: &BufferSpec, requests: Vec<Waiting>, events: u64, bytes: usize) -> CommitDone {
    let began = Instant::now();
    let (mut blocks, mut replies) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
    for Waiting { append: Append { blocks: request, reply }, .. } in requests {
        let stamps = request.iter().map(|stamped| (stamped.stamp(), stamped.count())).collect();
        blocks.extend(request);
        replies.push((reply, Accepted { stamps }));
    }
    let result = spec.journal.commit(&blocks);
    drop(blocks);
    observe(&spec.metrics.commit_seconds, began.elapsed());
    spec.metrics.commit_requests.observe(replies.len() as f64);
    let failure = match result {
        Ok(records) => {
            spec.received.events.inc_by(events);
            replies.into_iter().for_each(|(reply, accepted)| {
                let _ = reply.send(Ok(accepted));
            });
            // Where Batcher is behind or gone, sinks read the journal.
            let _ = spec.batcher.offer(Committed { records });
            None
        }
        Err(error) => {
            let refusal = match error {
                JournalError::Full { .. } => Refusal::DiskFull,
                _ => Refusal::JournalFailed,
            };
            tracing::error!(%error, events, "a commit failed; nothing of it was acknowledged");
            replies.into_iter().for_each(|(reply, _)| refuse(reply, refusal));
            Some(refusal)
        }
    };
    CommitDone { usage: spec.journal.usage(), events, bytes, failure }
}

#[derive(Debug, thiserror::Error)]
enum RoomError {
    #[error(transparent)]
    State(StateError),
    #[error(transparent)]
    Journal(JournalError),
}

fn make_room(spec: &BufferSpec) -> Result<Usage, RoomError> {
    let journal = &spec.journal;
    if let Some(end) = journal.oldest_end() {
        let behind = spec.cursors.behind(end);
        let blocked = behind.iter().any(|(_, _, policy)| *policy == WhenFull::Block);
        if !blocked {
            for (sink, cursor, _) in behind {
                skip(spec, &sink, cursor, end)?;
            }
            spec.cursors.save().map_err(RoomError::State)?;
            journal.remove(end, Timestamp::from_nanos(i64::MAX)).map_err(RoomError::Journal)?;
        }
    }
    Ok(journal.usage())
}

fn skip(
    spec: &BufferSpec,
    sink: &crate::record::SinkName,
    cursor: Cursor,
    end: Position,
) -> Result<(), RoomError> {
    let span = Span { first: cursor.next, end };
    let letter = DeadLetter::of_span(sink, span, Reason::DroppedOldest, spec.clock.now());
    spec.dead_letters.add(&[letter]).map_err(RoomError::State)?;
    spec.metrics.dropped.with_label_values(&[sink.as_str()]).inc_by(span.count());
    spec.cursors.advance(sink, Cursor { next: end, planned: None });
    tracing::warn!(%sink, from = %span.first, to = %span.end, "the journal is full: the sink skips its oldest events");
    Ok(())
}

fn gauge_value(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
