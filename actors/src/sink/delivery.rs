//! Delivering, failing, halving, giving up.

use std::{any::Any, panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use futures::FutureExt as _;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    BreakerState, Flight, Sink,
    standby::Turn,
    work::{Burial, Origin, Task, Work},
};
use crate::{
    destination::{Cause, DeliveryError, Receipt, Verdict},
    holding::HeldKey,
    record::{Batch, Span},
    runtime::{metrics::observe, supervisor::panic_text},
    state::Reason,
};

/// Panics of its destination on the same batch after which the batch counts as rejected. One may be chance: a
/// connection in a bad state, which a new destination mends. The halves of such a batch have all but the last of them.
pub(super) const PANICS_MAX: u32 = 2;

impl Sink {
    /// Starts as much of the ready work as is allowed.
    pub(super) fn deliver(&mut self, ctx: &mut Context<Self>) {
        while !self.planning && !self.ready.is_empty() {
            let now = Instant::now();
            let opens = self.breaker.opens_in(now).map(|wait| now + wait);
            let waits = opens.unwrap_or(now).max(self.not_before);
            if waits > now {
                match opens.map_or(Turn::Waits(waits), |_| self.turn_aside(waits, ctx)) {
                    Turn::Went => continue,
                    Turn::Busy => return,
                    Turn::Waits(at) => return self.wake_at(at.min(waits), ctx),
                }
            }
            let half_open = self.breaker.state(now) == BreakerState::HalfOpen;
            let at_once = if half_open { 1 } else { self.pace.limit() };
            // One that is read back counts only where there is to be one at a time.
            let beside = self.standby.as_ref().is_some_and(|standby| standby.back.is_delivering());
            let running = self.running + usize::from(half_open && beside);
            if running >= at_once || !self.build() {
                return;
            }
            let Some(work) = self.ready.pop_front() else { return };
            self.begin(work, ctx);
        }
    }

    /// Begins with a piece of work.
    pub(super) fn begin(&mut self, work: Work, ctx: &mut Context<Self>) {
        match (work.origin, &mut self.standby) {
            (Origin::Held, Some(standby)) => standby.back.began(),
            _ => self.running += 1,
        }
        match work.task.clone() {
            Task::Select(batch, when) => self.select(work, batch, when, ctx),
            Task::Deliver(batch) => self.start(work, batch, ctx),
            Task::Bury(burial) => self.bury(work, burial, ctx),
        }
    }

    /// What was begun has come to an end, of whatever kind.
    fn ended(&mut self, origin: Origin) {
        match (origin, &mut self.standby) {
            (Origin::Held, Some(standby)) => standby.back.ended(),
            _ => self.running -= 1,
        }
    }

    /// Work that is to be done before all other of its origin.
    pub(super) fn put_back(&mut self, work: Work) {
        match (work.origin, &mut self.standby) {
            (Origin::Held, Some(standby)) => standby.back.put_back(work),
            _ => self.ready.push_front(work),
        }
    }

    /// The events have their outcome.
    fn done(&mut self, origin: Origin, intent: Option<HeldKey>, span: Span, ctx: &mut Context<Self>) {
        self.let_go(intent, ctx);
        if origin == Origin::Journal {
            self.finished(span);
        }
    }

    /// Makes sure there is a destination.
    pub(super) fn build(&mut self) -> bool {
        if self.destination.is_none() {
            match (self.spec.factory)() {
                Ok(destination) => self.destination = Some(destination.into()),
                Err(error) => {
                    self.fail(&error);
                    return false;
                }
            }
        }
        true
    }

    fn start(&mut self, mut work: Work, batch: Arc<Batch>, ctx: &mut Context<Self>) {
        let Some(destination) = self.destination.as_ref().map(Rc::clone) else { return };
        let began = Instant::now();
        work.attempts += 1;
        if work.attempts > 1 {
            self.spec.probe.retries.inc();
        }
        // The call itself may panic as well as the future.
        let delivery = async move { destination.deliver(batch).await };
        let delivery = AssertUnwindSafe(delivery).catch_unwind();
        ctx.spawn(delivery.into_actor(self).map(move |outcome, sink, ctx| {
            if !work.is_held() {
                sink.keep_pace(&outcome, began);
            }
            sink.ended(work.origin);
            match outcome {
                Ok(outcome) => sink.delivered(work, outcome, began, ctx),
                Err(panic) => sink.panicked(work, &*panic, ctx),
            }
            sink.step(ctx);
        }));
    }

    /// Tells the pace what became of a delivery, while it still counts among those that run.
    fn keep_pace<P>(&mut self, outcome: &Result<Result<Receipt, DeliveryError>, P>, began: Instant) {
        match outcome {
            Ok(Ok(_)) => {
                let has_more = self.lagging || !self.ready.is_empty() || !self.intake.is_empty();
                let was_needed = has_more && self.running >= self.pace.limit();
                self.pace.delivered(began.elapsed(), was_needed);
            }
            Ok(Err(error)) if error.asks_for_less() => self.pace.pushed_back(),
            _ => {}
        }
    }

    fn delivered(
        &mut self,
        work: Work,
        outcome: Result<Receipt, DeliveryError>,
        began: Instant,
        ctx: &mut Context<Self>,
    ) {
        let Task::Deliver(batch) = &work.task else { return };
        let batch = batch.clone();
        match outcome {
            Ok(receipt) => {
                self.breaker.succeeded(Instant::now());
                self.backoff.reset();
                let now = self.spec.clock.now();
                let probe = &self.spec.probe;
                observe(&probe.deliver_seconds, began.elapsed());
                let not_taken = receipt.refused + receipt.rejected.len() as u64;
                probe.sent_events.inc_by(batch.count().saturating_sub(not_taken));
                probe.refused_events.inc_by(receipt.refused);
                probe.sent_bytes.inc_by(receipt.bytes);
                probe.update(|report| {
                    report.last_successful_send = Some(now);
                    report.error = None;
                });
                if receipt.rejected.is_empty() {
                    self.done(work.origin, work.intent, batch.span(), ctx);
                } else {
                    // The cursor stays before the batch until its letters are kept: after a crash in between, it comes again
                    // as it was, and whoever knows batches by their ids says the same of it again.
                    self.spec.probe.failed(Cause::Rejected);
                    let burial = Burial::some(batch, receipt.rejected, work.attempts);
                    self.put_back(work.buried(burial));
                }
            }
            Err(error) if error.verdict == Verdict::Reject => {
                self.spec.probe.failed(error.cause);
                // The destination is there and answers: that is no failure of its own.
                self.breaker.succeeded(Instant::now());
                self.rejected(work, batch, Reason::Rejected, &error, ctx);
            }
            Err(error) => {
                self.fail(&error);
                self.retry(work, batch, &error);
            }
        }
    }

    /// The destination panicked: nothing of it is used again. A panic is no restart of the sink, so that a poison
    /// record is isolated without spending the restarts that are there for the sink's own.
    fn panicked(&mut self, mut work: Work, panic: &(dyn Any + Send), ctx: &mut Context<Self>) {
        self.destination = None;
        work.panics += 1;
        let text = format!("the destination panicked: {}", panic_text(panic));
        let error = DeliveryError::transient(Cause::Panicked, text);
        tracing::error!(sink = %self.spec.name, %error, panics = work.panics, "a destination panicked; it is built anew");
        match &work.task {
            Task::Deliver(batch) if work.panics >= PANICS_MAX => {
                let batch = batch.clone();
                self.spec.probe.failed(error.cause);
                self.rejected(work, batch, Reason::Panicked, &error, ctx);
            }
            _ => {
                self.fail(&error);
                self.put_back(work);
            }
        }
    }

    /// Counts a failure that may pass, and waits.
    pub(super) fn fail(&mut self, error: &DeliveryError) {
        let now = Instant::now();
        self.spec.probe.failed(error.cause);
        let wished = match error.verdict {
            Verdict::Retry { after } => after.unwrap_or_default(),
            Verdict::Reject => Default::default(),
        };
        // Nothing is started while it waits: what fails then was on its way beside the delivery whose failure it waits
        // for. One moment of the destination is one failure, however many deliveries it hits.
        let waits_already = now < self.not_before;
        let wait = if waits_already {
            wished
        } else {
            self.breaker.failed(now);
            self.backoff.failed().max(wished)
        };
        self.not_before = self.not_before.max(now + wait);
        let attempts = self.backoff.failures();
        tracing::warn!(sink = %self.spec.name, cause = %error.cause, %error, attempts, ?wait, "a delivery failed; it is tried again");
        let text = error.to_string();
        self.spec.probe.update(|report| report.error = Some(text));
    }

    /// Halves the batch, or gives up on the one event that is left of it.
    pub(super) fn rejected(
        &mut self,
        mut work: Work,
        batch: Arc<Batch>,
        reason: Reason,
        error: &DeliveryError,
        ctx: &mut Context<Self>,
    ) {
        // Its parts are not what was intended for the fallback.
        self.let_go(work.intent.take(), ctx);
        let Some((first, second)) = batch.halves() else {
            tracing::warn!(sink = %self.spec.name, position = %batch.span().first, %error, "an event becomes a dead letter");
            let burial = Burial::of(batch, reason, error, work.attempts);
            self.put_back(work.buried(burial));
            return self.wake_at(Instant::now(), ctx);
        };
        let span = batch.span();
        if work.origin == Origin::Journal
            && let Some(index) = self.flights.iter().position(|flight| flight.span == span)
        {
            let written_at = second.records().first().map(|record| record.written_at);
            self.flights[index].span = first.span();
            self.flights.insert(index + 1, Flight { span: second.span(), is_done: false, written_at });
        }
        for half in [second, first] {
            let (half, panics) = (Arc::new(half), work.panics.min(PANICS_MAX - 1));
            let task = match &work.task {
                Task::Select(_, when) => Task::Select(half, when.clone()),
                Task::Deliver(_) | Task::Bury(_) => Task::Deliver(half),
            };
            let (attempts, origin) = (work.attempts, work.origin);
            self.put_back(Work { task, attempts, panics, origin, intent: None });
        }
        self.wake_at(Instant::now(), ctx);
    }

    fn bury(&mut self, work: Work, burial: Burial, ctx: &mut Context<Self>) {
        let (dead_letters, sink, at) =
            (self.spec.dead_letters.clone(), self.spec.name.clone(), self.spec.clock.now());
        let (span, events) = (burial.span, burial.events());
        let reason = burial.reason;
        let said = burial.error.clone();
        let letters = spawn_blocking(move || burial.keep_in(&dead_letters, &sink, at));
        ctx.spawn(letters.into_actor(self).map(move |added, sink, ctx| {
            sink.ended(work.origin);
            let failed = match added {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("writing dead letters panicked".to_owned()),
            };
            match failed {
                None => {
                    sink.backoff.reset();
                    sink.spec.probe.gave_up(reason, events, &said);
                    sink.done(work.origin, work.intent, span, ctx);
                }
                Some(text) => {
                    sink.fail(&DeliveryError::transient(Cause::Io, text));
                    sink.put_back(work);
                }
            }
            sink.step(ctx);
        }));
    }
}
