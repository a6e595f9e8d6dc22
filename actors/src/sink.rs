//! `Sink`: feeds one destination at that destination's own pace.
//!
//! - Owns: a cursor, an intake, its destination.
//! - Receives: [`Shaped`] from `Batcher`, [`Drain`] at shutdown.
//! - Sends: [`Delivered`](crate::message::Delivered) to `Buffer`.
//! - On failure: it is built anew and goes on at its cursor; what was on its way is delivered again, in the same
//!   batches. A panic of its destination costs that destination, which is built anew; a batch on which it panics again is
//!   treated as rejected.
//! - Limits: its mailbox, its intake (one batch), `concurrency` batches on their way.
//!
//! Where several processes share a journal, it takes from a queue instead of reading a log, and says of each span that it
//! has its outcome, instead of moving a cursor; nothing is broadcast then.
//!
//! One rule makes restarts, misses and catch-up the same code: a broadcast batch is taken only if it is the next one
//! expected; otherwise the journal is read.
//!
//! What is not for it by its condition is left out of a batch that was cut, see [`Condition`]: cuts, ids and the cursor are
//! those of the journal, whatever is left out.
//!
//! While the breaker is open, batches wait, or go where [`StandbySpec`] says.
//!
//! When a batch goes: at once where it is full by count or bytes. Less than that goes when nothing else is on its way
//! and `max_wait` has passed since the last such cut, so the first event after a pause does not wait at all.

mod breaker;
mod catch_up;
mod delivery;
mod intake;
mod metrics;
mod pace;
mod progress;
mod read_back;
mod reading;
mod report;
mod selection;
mod source;
mod standby;
mod work;

use std::{collections::VecDeque, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, AsyncContext as _, Context, Handler, SpawnHandle, Supervised};
use tokio::time::Instant;

pub use breaker::{Breaker, BreakerPolicy, BreakerState};
pub use catch_up::CatchUp;
pub use intake::CutPolicy;
pub use metrics::SinkMetrics;
pub use pace::Concurrency;
pub use report::{Holds, SinkProbe, SinkReport, SinkState, StandbyProbe, StandbyReport};
pub use source::Source;
pub use standby::{StandbyRole, StandbySpec};

use self::{
    intake::{Cut, Intake, Offered},
    pace::Pace,
    standby::Standby,
    work::Work,
};
use crate::{
    buffer::Buffer,
    condition::Condition,
    destination::{Destination, DestinationFactory},
    event::Timestamp,
    message::{Drain, Shaped},
    record::{Position, SinkName, Span},
    runtime::{
        backoff::Backoff,
        clock::{Clock, seed},
        mailbox::Mailbox,
        metrics::Probe,
    },
    state::{Cursor, Cursors, DeadLetters},
};

/// How often a sink looks after itself: lag, a broadcast it missed without a later one to show it, the journal's
/// word that it was made to skip.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What a `Sink` is built from.
#[derive(Clone)]
pub struct SinkSpec {
    /// Its key in the configuration.
    pub name: SinkName,
    /// Makes its destination.
    pub factory: DestinationFactory,
    /// How it delivers.
    pub policy: SinkPolicy,
    /// Which events it takes; all of them where absent.
    pub when: Option<Arc<Condition>>,
    /// Where it reads what nobody brings.
    pub source: Source,
    /// Where its cursor is kept.
    pub cursors: Arc<Cursors>,
    /// Where events go that cannot be delivered.
    pub dead_letters: Arc<DeadLetters>,
    /// Who makes the cursor durable.
    pub buffer: Mailbox<Buffer>,
    /// Tells the time of outcomes.
    pub clock: Clock,
    /// Its own metrics and report.
    pub probe: SinkProbe,
    /// Where batches go while its breaker is open; they wait where absent.
    pub standby: Option<StandbySpec>,
    /// How it reads what it is long behind with.
    pub catch_up: CatchUp,
}

/// How a sink delivers.
#[derive(Debug, Clone, Copy)]
pub struct SinkPolicy {
    /// When a batch is full.
    pub cut: CutPolicy,
    /// How long less than a full batch may wait.
    pub max_wait: Duration,
    /// Batches on their way at the same time. More than one gives up the order between them.
    pub concurrency: Concurrency,
    /// First wait after a failure.
    pub backoff_min: Duration,
    /// Longest wait after a failure.
    pub backoff_max: Duration,
    /// How long a batch is retried; for ever where absent.
    pub max_age: Option<Duration>,
    /// When the destination is left alone.
    pub breaker: BreakerPolicy,
}

/// A span on its way.
struct Flight {
    span: Span,
    /// It has its outcome.
    is_done: bool,
    /// When its first event was written, or one before it in the same batch; `None` of positions whose bytes are gone.
    written_at: Option<Timestamp>,
}

/// The actor.
pub struct Sink {
    spec: SinkSpec,
    actor: Probe,
    destination: Option<Rc<dyn Destination>>,
    intake: Intake,
    /// Where it waits for what it has planned; cleared when the batch is delivered.
    planned: Option<Position>,
    /// How far batches have gone out, where the journal may forget what is in them.
    reached: Position,
    /// What is on its way, in order.
    flights: VecDeque<Flight>,
    /// Work to be done, in order.
    ready: VecDeque<Work>,
    /// Deliveries that are running, and how many may.
    running: usize,
    pace: Pace,
    next: Position,
    /// What a queue calls this life of the sink.
    life: u64,
    /// The journal has something that the broadcast did not bring.
    lagging: bool,
    /// What was read last is old, and there is more.
    long_behind: bool,
    reading: bool,
    /// A cut waits for its note to be saved.
    planning: bool,
    last_cut: Option<Instant>,
    breaker: Breaker,
    backoff: Backoff,
    not_before: Instant,
    wake: Option<(Instant, SpawnHandle)>,
    draining: bool,
    standby: Option<Standby>,
    /// The books of what is held are being read: nothing is cut before.
    resuming: bool,
    /// What an earlier life has had held, and the cursor has not passed yet.
    held_ahead: VecDeque<Span>,
    /// What the clock said when nothing waited, and when that was: time that really passed is counted from there.
    idle_at: (Timestamp, Instant),
}

impl Sink {
    /// A sink as its specification says, at its cursor.
    pub fn new(spec: SinkSpec, actor: Probe) -> Self {
        let policy = spec.policy;
        let (Cursor { next, planned, reached }, intake, life) = match &spec.source {
            Source::Log(_) => {
                let cursor = spec.cursors.get(&spec.name);
                (cursor, Intake::new(cursor.next, policy.cut.max_bytes), 0)
            }
            Source::Queue(queue) => {
                (Cursor::default(), Intake::of_queue(policy.cut.max_bytes), queue.restart())
            }
        };
        spec.probe.update(|report| report.next = next);
        Self {
            actor,
            destination: None,
            intake,
            planned,
            reached,
            flights: VecDeque::new(),
            ready: VecDeque::new(),
            running: 0,
            pace: Pace::new(policy.concurrency),
            next,
            life,
            lagging: true,
            long_behind: false,
            reading: false,
            planning: false,
            last_cut: None,
            breaker: Breaker::new(policy.breaker),
            backoff: Backoff::new(policy.backoff_min, policy.backoff_max, seed()),
            not_before: Instant::now(),
            wake: None,
            draining: false,
            standby: spec.standby.clone().map(Standby::new),
            resuming: false,
            held_ahead: VecDeque::new(),
            idle_at: (spec.clock.now(), Instant::now()),
            spec,
        }
    }

    /// Does whatever can be done now. Called after everything that happens.
    fn step(&mut self, ctx: &mut Context<Self>) {
        self.read(ctx);
        while self.flights.len() < self.pace.limit() && !self.planning && !self.resuming {
            if !self.cut(ctx) {
                break;
            }
        }
        self.read(ctx);
        self.deliver(ctx);
        self.read_back(ctx);
        self.show();
    }

    /// Cuts the next batch, if there is one; `false` where there is not.
    fn cut(&mut self, ctx: &mut Context<Self>) -> bool {
        let now = Instant::now();
        self.pass_over_skipped();
        let idle = self.flights.is_empty();
        let due = self.due(now);
        // While the journal has more, a batch that is not full yet will be.
        let partial = idle && !self.reading && !self.lagging && (self.draining || due.is_none());
        let Some(cut) = self.intake.cut(self.spec.policy.cut, self.planned, partial) else {
            if idle
                && !self.intake.is_empty()
                && let Some(due) = due
            {
                self.wake_at(due, ctx);
            }
            return false;
        };
        match cut {
            Cut::Gone(span, reason) => self.line_up(span, None, |part| Work::gone(part, reason)),
            Cut::Batch(batch) => {
                let span = batch.span();
                let full = span.count() >= self.spec.policy.cut.max_events
                    || batch.payload_bytes() >= self.spec.policy.cut.max_bytes;
                // A record of a queue is cut the same way by whoever takes it.
                let is_of_log = matches!(self.spec.source, Source::Log(_));
                let by_time = is_of_log && !full && self.planned != Some(span.end);
                if by_time {
                    self.last_cut = Some(now);
                    self.planned = Some(span.end);
                }
                // After a crash the journal may not know that these positions were given.
                let may_be_forgotten = self.spec.source.may_forget() && self.reached < span.end;
                if may_be_forgotten {
                    self.reached = span.end;
                }
                let when = self.spec.when.clone();
                let written_at = batch.records().first().map(|record| record.written_at);
                self.line_up(span, written_at, |part| Work::batch(batch.within(part), when.as_ref()));
                if by_time || may_be_forgotten {
                    self.plan(ctx);
                }
            }
        }
        true
    }

    /// Puts what was cut in line, but for what is held already.
    fn line_up(&mut self, span: Span, written_at: Option<Timestamp>, work: impl Fn(Span) -> Work) {
        for (part, is_held) in self.parts(span) {
            self.flights.push_back(Flight { span: part, is_done: is_held, written_at });
            if !is_held {
                self.ready.push_back(work(part));
            } else if let Source::Queue(queue) = &self.spec.source {
                queue.settle(part);
            }
        }
        self.pass();
    }

    /// Looks after what nobody tells a sink.
    fn look(&mut self, ctx: &mut Context<Self>) {
        self.pass_over_skipped();
        if matches!(self.spec.source, Source::Log(_))
            && self.spec.cursors.get(&self.spec.name).next < self.next
        {
            self.tell_buffer(None);
        }
        if self.spec.source.is_ahead_of(self.intake.expected()) {
            self.lagging = true;
        }
        self.step(ctx);
    }

    /// Steps again at `at`; an earlier alarm that is set already will do.
    fn wake_at(&mut self, at: Instant, ctx: &mut Context<Self>) {
        if let Some((set, handle)) = self.wake {
            if set <= at && set > Instant::now() {
                return;
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(at.saturating_duration_since(Instant::now()), |sink, ctx| {
            sink.wake = None;
            sink.step(ctx);
        });
        self.wake = Some((at, handle));
    }

    /// How long an event has waited that was written at this time: by the clock, or by the time that has really passed,
    /// whichever is less. So no event expires because the clock was set; at most it expires later.
    fn waited_seconds(&self, written_at: Timestamp) -> f64 {
        let (clock_then, then) = self.idle_at;
        let passed = i64::try_from(then.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let by_time = Timestamp::from_nanos(clock_then.nanos().saturating_add(passed));
        self.spec.clock.now().min(by_time).seconds_since(written_at)
    }

    /// When the oldest of what it has in hand was written.
    fn oldest(&self) -> Option<Timestamp> {
        let flying = self.flights.iter().filter(|flight| !flight.is_done);
        let flying = flying.filter_map(|flight| flight.written_at).min();
        flying.or(self.intake.front().map(|record| record.written_at))
    }

    fn show(&mut self) {
        let (lag_events, own_events) = match &self.spec.source {
            Source::Log(log) => {
                let lag = log.span().end.since(self.next);
                (lag, lag)
            }
            Source::Queue(queue) => {
                let backlog = queue.backlog();
                (backlog.events, backlog.taken)
            }
        };
        if lag_events == 0 {
            self.idle_at = (self.spec.clock.now(), Instant::now());
        }
        let lag_seconds = match self.oldest() {
            Some(oldest) if lag_events > 0 => self.spec.clock.now().seconds_since(oldest),
            // What is on its way was taken in a moment ago, or is being read.
            _ => 0.0,
        };
        let now = Instant::now();
        let breaker = self.breaker.state(now);
        let gathers_until = self.gathers_until(now);
        self.show_standby(breaker);
        let probe = &self.spec.probe;
        probe.lag_events.set(i64::try_from(lag_events).unwrap_or(i64::MAX));
        probe.lag_seconds.set(lag_seconds);
        probe.breaker_state.set(breaker as i64);
        let concurrency = self.pace.limit();
        probe.concurrency.set(i64::try_from(concurrency).unwrap_or(i64::MAX));
        let attempts = self.backoff.failures();
        probe.update(|report| {
            report.state = match breaker {
                BreakerState::Open => SinkState::BreakerOpen,
                _ if attempts > 0 => SinkState::Retrying,
                _ if own_events > 0 => SinkState::Delivering,
                _ => SinkState::Idle,
            };
            if report.breaker != breaker.as_str() && !report.breaker.is_empty() {
                tracing::info!(sink = %self.spec.name, from = report.breaker, to = breaker.as_str(), lag_events, "the breaker changed");
            }
            report.next = self.next;
            report.gathers_until = gathers_until;
            report.lag_events = lag_events;
            report.lag_seconds = lag_seconds;
            report.retry_attempts = attempts;
            report.breaker = breaker.as_str();
            report.concurrency = concurrency;
        });
    }
}

// === impl Actor ===

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(LOOK_INTERVAL, Self::look);
        self.resume(ctx);
        self.step(ctx);
    }
}

impl Supervised for Sink {
    fn restarting(&mut self, _: &mut Context<Self>) {
        let idle_at = self.idle_at;
        // Time goes on over a restart.
        *self = Self { idle_at, ..Self::new(self.spec.clone(), self.actor.clone()) };
    }
}

impl Handler<Shaped> for Sink {
    type Result = ();

    fn handle(&mut self, Shaped { batch }: Shaped, ctx: &mut Context<Self>) {
        let _handling = self.actor.handling();
        match self.intake.offer(&batch) {
            Offered::Taken => self.step(ctx),
            Offered::Known => {}
            Offered::Missed => {
                self.lagging = true;
                self.step(ctx);
            }
        }
    }
}

impl Handler<Drain> for Sink {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Context<Self>) {
        let _handling = self.actor.handling();
        self.draining = true;
        self.step(ctx);
    }
}
