//! `Buffer`: the only writer of the journal, and the keeper of the cursors.
//!
//! - Owns: what waits for its commit; the room left in the journal.
//! - Receives: [`Append`] from `Receiver`, [`Delivered`] from sinks, [`Trim`] from `Retention`.
//! - Sends: the answer to every request, and [`Committed`](crate::message::Committed) to `Batcher`.
//! - On failure: requests that wait are dropped unanswered. A commit that is running runs on, on its blocking
//!   thread, and answers its requests itself: it needs no `Buffer`.
//! - Limits: [`Limits`], in events and bytes, for what waits; `bytes_max` for the journal.
//!
//! Group commit: while one commit is on its way to the disk, the next gathers; where it fills a record before that, it is
//! compressed and appended beside it. A request on an idle system waits for its own sync and nothing else. Under load, where the commit before had many requests, the next waits up to
//! [`GATHER_MAX`] for half as many: those that were just answered are about to send again, and every commit less is a
//! sync and a dozen thread wake-ups less.

mod blocking;
mod metrics;
mod removals;
mod room;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, Supervised, WrapFuture as _,
};
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior},
};

pub use self::metrics::BufferMetrics;
use self::{
    blocking::{ROOM_BYTES, RoomError, commit},
    removals::{Removal, Removals},
};
use crate::{
    batcher::Batcher,
    event::Timestamp,
    journal::{Durability, Journal, RECORD_BYTES, Usage},
    message::{Append, CommitDone, Delivered, Refusal, StampedRequest, Trim},
    receiver::ReceiverMetrics,
    record::Position,
    reply::send_all,
    runtime::{clock::Clock, mailbox::Mailbox, metrics::Probe},
    state::{Cursors, DeadLetters},
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

/// How often the oldest event that is needed is looked up where it has changed: it costs the reading of one record.
const AGE_INTERVAL: Duration = Duration::from_secs(5);

/// Bounds of what is accepted. Those of what waits are passed by one request at most: as long as one is not reached, the
/// next is taken, whatever its size.
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

/// A request that waits for its commit.
struct Waiting {
    request: StampedRequest,
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
    /// What the commits that are running carry.
    committing_events: u64,
    committing_bytes: usize,
    committing: usize,
    /// Requests of the last commit.
    last_requests: usize,
    /// The next commit waits for company.
    gathering: Option<SpawnHandle>,
    usage: Usage,
    making_room: bool,
    trimming: bool,
    looking: bool,
    /// How long what every sink has is kept; as of the last trim.
    keep: Duration,
    removals: Removals,
    /// Events and bytes of the request that was last refused for want of room, until there is room for it.
    refused: Option<(u64, usize)>,
    /// The oldest event that a sink needs, and when it was written.
    oldest: Option<(Position, Timestamp)>,
    /// When a commit last failed, and why.
    failed_at: Option<(Instant, Refusal)>,
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
            committing: 0,
            last_requests: 0,
            gathering: None,
            usage,
            making_room: false,
            trimming: false,
            looking: false,
            keep: Duration::ZERO,
            removals: Removals::default(),
            refused: None,
            oldest: None,
            failed_at: None,
            failure: None,
            cursors_changed: true,
            saving: false,
            wait_for_save: Vec::new(),
        }
    }

    fn commit(&mut self, ctx: &mut Context<Self>) {
        while self.may_commit() {
            if let Some(gathering) = self.gathering.take() {
                ctx.cancel_future(gathering);
            }
            let (mut taken, mut events, mut bytes) = (0, 0, 0);
            while let Some(next) = self.waiting.get(taken)
                && (taken == 0 || bytes + next.bytes <= COMMIT_BYTES)
            {
                bytes += next.bytes;
                events += next.events;
                taken += 1;
            }
            self.last_requests = taken;
            let requests = self.waiting.drain(..taken).collect();
            self.waiting_events -= events;
            self.waiting_bytes -= bytes;
            self.committing += 1;
            self.committing_events += events;
            self.committing_bytes += bytes;
            let spec = self.spec.clone();
            let job = spawn_blocking(move || commit(&spec, requests, events));
            let done = job.into_actor(self).map(move |done, buffer, ctx| {
                buffer.committing -= 1;
                buffer.committing_events -= events;
                buffer.committing_bytes -= bytes;
                // A panic on the blocking thread dropped the replies: their senders know.
                buffer.committed(done.ok(), ctx);
            });
            ctx.spawn(done);
        }
    }

    /// Whether what waits should be committed now. Beside a commit that is on its way to the device a second one is
    /// appended as soon as it fills a record.
    fn may_commit(&self) -> bool {
        match self.committing {
            0 => !self.waiting.is_empty(),
            1 => self.spec.durability == Durability::Fsync && self.waiting_bytes >= RECORD_BYTES,
            _ => false,
        }
    }

    fn committed(&mut self, done: Option<CommitDone>, ctx: &mut Context<Self>) {
        match done {
            Some(done) => {
                self.usage = done.usage;
                self.failure = done.failure;
            }
            None => self.failure = Some(Refusal::JournalFailed),
        }
        if let Some(failure) = self.failure {
            self.failed_at = Some((Instant::now(), failure));
            // What gathered meanwhile would fail the same way, one slow attempt after the other.
            send_all(self.waiting.drain(..).map(|waiting| (waiting.request.reply, Err(failure))));
            (self.waiting_events, self.waiting_bytes) = (0, 0);
        }
        // Before the cap is reached: producers should not have to be refused for what may be skipped.
        if self.usage.disk_bytes + ROOM_BYTES / 2 > self.spec.limits.journal_bytes_max {
            self.make_room(ctx);
        }
        self.show(ctx);
        if self.committing > 0 || self.has_company() {
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
                Ok(Ok(())) => {
                    waiters.into_iter().for_each(|waiter| {
                        let _ = waiter.send(());
                    });
                    if !buffer.wait_for_save.is_empty() {
                        buffer.save_cursors(ctx);
                    }
                }
                // The next try is the next tick's: at once it would fail at once.
                Ok(Err(error)) => {
                    tracing::error!(%error, "cursors could not be saved; it is tried again");
                    buffer.cursors_changed = true;
                    buffer.wait_for_save.extend(waiters);
                }
                Err(_) => buffer.cursors_changed = true,
            }
        });
        ctx.spawn(job);
    }
}

// === impl Actor ===

impl Actor for Buffer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Else a backlog from before would count as none until the first interval.
        self.show(ctx);
        ctx.run_interval(CURSOR_SAVE_INTERVAL, |buffer, ctx| {
            buffer.save_cursors(ctx);
            buffer.show(ctx);
        });
        ctx.run_interval(AGE_INTERVAL, Self::look_for_oldest);
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
                        tracing::error!(%error, "what the journal has taken could not be synced, and may not outlive a crash before it is delivered");
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

    fn handle(&mut self, Append { requests }: Append, ctx: &mut Context<Self>) {
        let _handling = self.probe.handling();
        let mut refused = Vec::new();
        for request in requests {
            let events = request.blocks.iter().map(|stamped| u64::from(stamped.count())).sum();
            let bytes = request.blocks.iter().map(|stamped| stamped.bytes().len()).sum();
            if let Err(refusal) = self.admit(events, bytes, ctx) {
                refused.push((request.reply, Err(refusal)));
                continue;
            }
            self.waiting_events += events;
            self.waiting_bytes += bytes;
            self.waiting.push_back(Waiting { request, events, bytes });
        }
        if !refused.is_empty() {
            send_all(refused);
        }
        self.spec.metrics.waiting_events.set(gauge_value(self.waiting_events + self.committing_events));
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

    fn handle(&mut self, Trim { keep }: Trim, ctx: &mut Context<Self>) {
        let _handling = self.probe.handling();
        self.keep = keep;
        // A slow device must not gather trims, one a second.
        if std::mem::replace(&mut self.trimming, true) {
            return;
        }
        let spec = self.spec.clone();
        let job = spawn_blocking(move || {
            // A generation must not go before the cursors that have passed it are on disk: what counts is how far they
            // were before they were saved.
            let upto = spec.cursors.lowest().unwrap_or(spec.journal.span().end);
            spec.cursors.save().map_err(RoomError::State)?;
            spec.journal.remove(upto, spec.clock.now().minus(keep)).map_err(RoomError::Journal)
        });
        let job = job.into_actor(self).map(|removed, buffer, ctx| {
            buffer.trimming = false;
            match removed {
                Ok(Ok(served)) => buffer.tell_removed(Removal { served, ..Removal::default() }),
                Ok(Err(error)) => tracing::error!(%error, "journal generations could not be removed"),
                Err(_) => tracing::error!("removing journal generations panicked"),
            }
            buffer.usage = buffer.spec.journal.usage();
            buffer.show(ctx);
        });
        ctx.spawn(job);
    }
}

fn gauge_value(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
