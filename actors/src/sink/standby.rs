//! Another sink's destination, for batches that come while the breaker is open.
//!
//! - As `fallback` it holds them. The order on disk is: intended; at the holder; held; then the cursor. So a crash in between
//!   leaves a batch that comes again from the journal, and at the holder at most one that is let go of ([`Books`]).
//!   `read_back.rs` brings them to the sink's own destination later.
//! - As `on_failure` it is delivered to, and that is the outcome.
//!
//! It has a breaker and waits of its own. While it fails, or holds as much as it may, batches wait in the journal as they would
//! without it.

use std::{any::Any, panic::AssertUnwindSafe, rc::Rc, sync::Arc, time::Duration};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use futures::FutureExt as _;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    Breaker, BreakerPolicy, BreakerState, LOOK_INTERVAL, Sink,
    read_back::ReadBack,
    report::StandbyProbe,
    work::{Burial, Task, Work},
};
use crate::{
    destination::{Cause, DeliveryError, Destination, DestinationFactory, Receipt, Verdict},
    event::Timestamp,
    holding::HeldKey,
    record::{Batch, SinkName, Span},
    runtime::{backoff::Backoff, clock::seed, supervisor::panic_text},
    state::{Books, HELD_BATCHES_MAX, Reason, StateError},
};

/// What a sink has for the time when its breaker is open.
#[derive(Clone)]
pub struct StandbySpec {
    /// The sink whose destination it is.
    pub name: SinkName,
    /// What becomes of batches there.
    pub role: StandbyRole,
    /// Makes the destination.
    pub factory: DestinationFactory,
    /// The books of what is held.
    pub held: Arc<dyn Books>,
    /// First and longest wait after a failure.
    pub backoff: (Duration, Duration),
    /// When it is left alone.
    pub breaker: BreakerPolicy,
    /// What both sides show.
    pub probe: StandbyProbe,
}

/// What becomes of batches there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyRole {
    /// They are held, and read back when the breaker has closed.
    Fallback,
    /// They are delivered there instead.
    OnFailure,
}

impl StandbyRole {
    /// The key of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::OnFailure => "on_failure",
        }
    }
}

pub(super) struct Standby {
    pub(super) spec: StandbySpec,
    destination: Option<Rc<dyn Destination>>,
    pub(super) breaker: Breaker,
    pub(super) backoff: Backoff,
    pub(super) not_before: Instant,
    /// Said, so that the log has the switches and not every batch.
    diverting: bool,
    pub(super) back: ReadBack,
}

/// What became of the first in line.
pub(super) enum Turn {
    /// It went, or was tried and put back.
    Went,
    /// Something has to end first.
    Busy,
    /// Nothing can be done before this.
    Waits(Instant),
}

/// How a batch came off there.
struct Diverted {
    /// Under which key it was to be held.
    intent: Option<HeldKey>,
    outcome: Result<Receipt, Trouble>,
}

enum Trouble {
    Failed(DeliveryError),
    Panicked(Box<dyn Any + Send>),
}

// === impl Standby ===

impl Standby {
    pub(super) fn new(spec: StandbySpec) -> Self {
        Self {
            destination: None,
            breaker: Breaker::new(spec.breaker),
            backoff: Backoff::new(spec.backoff.0, spec.backoff.1, seed()),
            not_before: Instant::now(),
            diverting: false,
            back: ReadBack::default(),
            spec,
        }
    }

    pub(super) fn is_fallback(&self) -> bool {
        self.spec.role == StandbyRole::Fallback
    }

    /// When it may be tried; `None` where that is no question of time.
    pub(super) fn free_at(&mut self, owner: &SinkName, now: Instant) -> Option<Instant> {
        if self.is_fallback() && self.spec.held.is_full(owner) {
            return None;
        }
        let opens = self.breaker.opens_in(now).map_or(now, |wait| now + wait);
        Some(opens.max(self.not_before))
    }

    /// Whether its last try came off.
    pub(super) fn works(&self, owner: &SinkName) -> bool {
        self.backoff.failures() == 0 && !(self.is_fallback() && self.spec.held.is_full(owner))
    }

    /// Its destination, made where there is none.
    pub(super) fn destination(&mut self) -> Result<Rc<dyn Destination>, DeliveryError> {
        if let Some(destination) = &self.destination {
            return Ok(destination.clone());
        }
        let destination: Rc<dyn Destination> = (self.spec.factory)()?.into();
        if self.is_fallback() && destination.holding().is_none() {
            return Err(DeliveryError::transient(Cause::Build, "it cannot hold batches of another sink"));
        }
        Ok(self.destination.insert(destination).clone())
    }

    pub(super) fn succeeded(&mut self) {
        self.breaker.succeeded(Instant::now());
        self.backoff.reset();
        self.spec.probe.error(None);
    }

    /// Counts a failure, and waits.
    pub(super) fn fail(&mut self, owner: &SinkName, error: &DeliveryError) {
        let now = Instant::now();
        self.spec.probe.failed(error.cause);
        let wished = error.wished_wait();
        // As with the sink's own destination: one moment is one failure.
        let wait = if now < self.not_before {
            wished
        } else {
            self.breaker.failed(now);
            self.backoff.failed().max(wished)
        };
        self.not_before = self.not_before.max(now + wait);
        let (role, to) = (self.spec.role.as_str(), &self.spec.name);
        tracing::warn!(sink = %owner, role, %to, cause = %error.cause, %error, ?wait, "the standby failed; it is tried again");
        self.spec.probe.error(Some(error.to_string()));
    }

    /// It panicked: nothing of it is used again.
    pub(super) fn panicked(&mut self, owner: &SinkName, panic: &(dyn Any + Send)) {
        self.destination = None;
        let text = format!("the destination panicked: {}", panic_text(panic));
        self.fail(owner, &DeliveryError::transient(Cause::Panicked, text));
    }
}

/// A failure to keep the books.
pub(super) fn books(error: impl std::fmt::Display) -> DeliveryError {
    DeliveryError::transient(Cause::Io, error.to_string())
}

async fn deliver(to: Rc<dyn Destination>, batch: Arc<Batch>) -> Diverted {
    let delivery = AssertUnwindSafe(async move { to.deliver(batch).await }).catch_unwind();
    let outcome = match delivery.await {
        Ok(outcome) => outcome.map_err(Trouble::Failed),
        Err(panic) => Err(Trouble::Panicked(panic)),
    };
    Diverted { intent: None, outcome }
}

async fn hold(
    to: Rc<dyn Destination>,
    spec: StandbySpec,
    (owner, at): (SinkName, Timestamp),
    batch: Arc<Batch>,
    intent: Option<HeldKey>,
) -> Diverted {
    let key = match intent {
        Some(key) => {
            // It may be noted although the answer said otherwise, and must not be held twice.
            let (held, holder, of) = (spec.held.clone(), spec.name.clone(), key.clone());
            match spawn_blocking(move || held.is_held(&holder, &of)).await {
                Ok(Ok(None)) => key,
                Ok(Ok(Some(bytes))) => {
                    return Diverted { intent: None, outcome: Ok(Receipt::of(bytes)) };
                }
                Ok(Err(error)) => return Diverted::again(key, books(error)),
                Err(_) => return Diverted::again(key, books("looking what is held panicked")),
            }
        }
        None => {
            let (held, holder, span) = (spec.held.clone(), spec.name.clone(), batch.span());
            match spawn_blocking(move || held.intend(&owner, &holder, span)).await {
                Ok(Ok(key)) => key,
                Ok(Err(error)) => return Diverted::nowhere(books(error)),
                Err(_) => return Diverted::nowhere(books("noting what is to be held panicked")),
            }
        }
    };
    let (of, events) = (key.clone(), batch.count());
    let holder = to.clone();
    let holding = AssertUnwindSafe(async move {
        match holder.holding() {
            Some(holding) => holding.hold(&of, batch).await,
            None => Err(DeliveryError::transient(Cause::Build, "it cannot hold batches of another sink")),
        }
    });
    let receipt = match holding.catch_unwind().await {
        Ok(Ok(receipt)) => receipt,
        Ok(Err(error)) => return Diverted::again(key, error),
        Err(panic) => return Diverted { intent: Some(key), outcome: Err(Trouble::Panicked(panic)) },
    };
    let (held, holder, of) = (spec.held, spec.name, key.clone());
    let bytes = receipt.bytes;
    match spawn_blocking(move || held.held(&holder, &of, (events, bytes), at)).await {
        Ok(Ok(true)) => Diverted { intent: None, outcome: Ok(receipt) },
        // A later life of this sink has begun, and does not know of it. Whoever let go of it may have done so before it was there.
        Ok(Ok(false)) => {
            let release = async { Some(to.holding()?.release(&key).await) };
            // Where that fails, something nobody knows of stays there.
            let _ = AssertUnwindSafe(release).catch_unwind().await;
            Diverted::nowhere(books("what was held is not wanted any more"))
        }
        Ok(Err(error)) => Diverted::again(key, books(error)),
        Err(_) => Diverted::again(key, books("noting what is held panicked")),
    }
}

impl Diverted {
    fn nowhere(error: DeliveryError) -> Self {
        Self { intent: None, outcome: Err(Trouble::Failed(error)) }
    }

    fn again(intent: HeldKey, error: DeliveryError) -> Self {
        Self { intent: Some(intent), outcome: Err(Trouble::Failed(error)) }
    }
}

// === impl Sink ===

impl Sink {
    /// Reads the books before anything is cut: what is held already does not go again.
    pub(super) fn resume(&mut self, ctx: &mut Context<Self>) {
        let Some(standby) = self.standby.as_ref().filter(|standby| standby.is_fallback()) else { return };
        self.resuming = true;
        let (held, owner, holder) =
            (standby.spec.held.clone(), self.spec.name.clone(), standby.spec.name.clone());
        let from = self.next;
        let begin = spawn_blocking(move || held.begin(&owner, &holder, from)).into_actor(self);
        ctx.spawn(begin.map(|begun, sink, ctx| match begun {
            Ok(Ok(ahead)) => {
                (sink.resuming, sink.held_ahead) = (false, ahead.into());
                sink.step(ctx);
            }
            failed => {
                let why = failed.map_or_else(|e| e.to_string(), |e| e.err().map_or_else(String::new, |e| e.to_string()));
                if sink.spec.probe.report().error.as_deref() != Some(&*why) {
                    tracing::error!(sink = %sink.spec.name, error = why, "what is held could not be looked up; it is tried again");
                }
                sink.spec.probe.update(|report| report.error = Some(why));
                ctx.run_later(LOOK_INTERVAL, Self::resume);
            }
        }));
    }

    /// A span in parts, and whether each is held already.
    pub(super) fn parts(&mut self, span: Span) -> Vec<(Span, bool)> {
        while self.held_ahead.front().is_some_and(|held| held.end <= span.first) {
            self.held_ahead.pop_front();
        }
        let of_log = self.held_ahead.iter().take_while(|held| held.first < span.end).copied();
        // What comes from a queue comes in any order, and another process may have had it held.
        let fallback = self.standby.as_ref().filter(|standby| standby.is_fallback());
        let of_queue = fallback.map(|standby| standby.spec.held.held_within(&self.spec.name, span));
        let (mut parts, mut at) = (Vec::new(), span.first);
        for held in of_log.chain(of_queue.unwrap_or_default()) {
            if held.first > at {
                parts.push((Span { first: at, end: held.first }, false));
            }
            let end = held.end.min(span.end);
            if end > at {
                parts.push((Span { first: held.first.max(at), end }, true));
                at = end;
            }
        }
        if at < span.end {
            parts.push((Span { first: at, end: span.end }, false));
        }
        parts
    }

    /// While the breaker is open, until `opens`: has the standby take what is first in line.
    pub(super) fn turn_aside(&mut self, opens: Instant, ctx: &mut Context<Self>) -> Turn {
        let now = Instant::now();
        let Some((standby, work)) = self.standby.as_mut().zip(self.ready.front()) else {
            return Turn::Waits(opens);
        };
        // Dead letters need no destination, and nothing behind them has to wait for one.
        let free_at = match work.task {
            Task::Bury(_) => Some(self.not_before),
            // Nor does finding out what of it is for this sink.
            Task::Select(..) => Some(now),
            Task::Deliver(_) => standby.free_at(&self.spec.name, now),
        };
        match free_at {
            Some(at) if at <= now => {}
            at => return Turn::Waits(at.unwrap_or(opens)),
        }
        let half_open = standby.breaker.state(now) == BreakerState::HalfOpen;
        let at_once = if half_open { 1 } else { self.pace.limit() };
        if self.running >= at_once {
            return Turn::Busy;
        }
        let Some(work) = self.ready.pop_front() else { return Turn::Busy };
        match work.task.clone() {
            Task::Deliver(batch) => self.divert(work, batch, ctx),
            Task::Select(..) | Task::Bury(_) => self.begin(work, ctx),
        }
        Turn::Went
    }

    /// Gives a batch to the standby.
    fn divert(&mut self, mut work: Work, batch: Arc<Batch>, ctx: &mut Context<Self>) {
        let Some(standby) = &mut self.standby else { return };
        let destination = match standby.destination() {
            Ok(destination) => destination,
            Err(error) => {
                standby.fail(&self.spec.name, &error);
                return self.ready.push_front(work);
            }
        };
        if !std::mem::replace(&mut standby.diverting, true) {
            let (role, to) = (standby.spec.role.as_str(), &standby.spec.name);
            tracing::warn!(sink = %self.spec.name, role, %to, "the breaker is open: batches go to the standby");
        }
        self.running += 1;
        let (spec, whose) = (standby.spec.clone(), (self.spec.name.clone(), self.spec.clock.now()));
        let intent = work.intent.take();
        let diversion = async move {
            match spec.role {
                StandbyRole::OnFailure => deliver(destination, batch).await,
                StandbyRole::Fallback => hold(destination, spec, whose, batch, intent).await,
            }
        };
        ctx.spawn(diversion.into_actor(self).map(move |Diverted { intent, outcome }, sink, ctx| {
            sink.running -= 1;
            work.intent = intent;
            sink.diverted(work, outcome, ctx);
            sink.step(ctx);
        }));
    }

    fn diverted(&mut self, work: Work, outcome: Result<Receipt, Trouble>, ctx: &mut Context<Self>) {
        let (Some(standby), Task::Deliver(batch)) = (&mut self.standby, &work.task) else { return };
        let batch = batch.clone();
        match outcome {
            Ok(mut receipt) => {
                standby.succeeded();
                let not_taken = receipt.refused + receipt.rejected.len() as u64;
                let taken = batch.count().saturating_sub(not_taken);
                standby.spec.probe.took(taken, receipt.bytes, self.spec.clock.now());
                standby.spec.probe.refused(receipt.refused);
                if receipt.rejected.is_empty() {
                    return self.finished(batch.span());
                }
                standby.spec.probe.failed(Cause::Rejected);
                for one in &mut receipt.rejected {
                    one.error = format!("{}: {}", standby.spec.name, one.error);
                }
                // As where its own destination names them: the cursor stays before the batch until their letters are kept.
                let burial = Burial::some(batch, receipt.rejected, work.attempts);
                self.put_back(work.buried(burial));
            }
            Err(Trouble::Failed(error)) if error.verdict == Verdict::Reject => {
                standby.spec.probe.failed(error.cause);
                // It is there and answers.
                standby.succeeded();
                let message = format!("{}: {}", standby.spec.name, error.message);
                let error = DeliveryError { message, ..error };
                self.rejected(work, batch, Reason::Rejected, &error, ctx);
            }
            Err(Trouble::Failed(error)) => {
                standby.fail(&self.spec.name, &error);
                self.retry(work, batch, &error);
            }
            Err(Trouble::Panicked(panic)) => {
                standby.panicked(&self.spec.name, &*panic);
                self.ready.push_front(work);
            }
        }
    }

    /// Tries the batch again later, unless it is too old for that.
    pub(super) fn retry(&mut self, work: Work, batch: Arc<Batch>, error: &DeliveryError) {
        // By the age of its events: what waited behind others that were retried has waited, too.
        let age = work.written_at().map_or(0.0, |at| self.waited_seconds(at));
        let too_old = self.spec.policy.max_age.is_some_and(|max_age| age >= max_age.as_secs_f64());
        // Only what waits in the journal grows old: not what is held, nor what a standby will take as soon as the breaker
        // is open.
        let standby_works = self.standby.as_ref().is_some_and(|standby| standby.works(&self.spec.name));
        if !too_old || standby_works || work.is_held() {
            return self.put_back(work);
        }
        let (first, events) = (batch.span().first, batch.count());
        tracing::warn!(sink = %self.spec.name, %first, events, "events older than retry.max_age become dead letters");
        let burial = Burial::of(batch, Reason::Expired, error, work.attempts);
        self.put_back(work.buried(burial));
    }

    /// What was intended for the standby found its outcome elsewhere.
    pub(super) fn let_go(&mut self, intent: Option<HeldKey>, ctx: &mut Context<Self>) {
        let (Some(standby), Some(key)) = (&self.standby, intent) else { return };
        let (held, holder) = (standby.spec.held.clone(), standby.spec.name.clone());
        // Where this fails, the next life of the sink does it.
        let let_go = spawn_blocking(move || held.let_go(&holder, &key)).into_actor(self);
        ctx.spawn(let_go.map(|_, sink, ctx| sink.step(ctx)));
    }

    /// What the standby shows.
    pub(super) fn show_standby(&mut self, breaker: BreakerState) {
        let Some(standby) = &mut self.standby else { return };
        let held = standby.spec.held.total(&self.spec.name, &standby.spec.name);
        if breaker == BreakerState::Closed && std::mem::take(&mut standby.diverting) {
            let (role, to, events) = (standby.spec.role.as_str(), &standby.spec.name, held.events);
            tracing::info!(sink = %self.spec.name, role, %to, held_events = events, "the breaker is closed: batches go to the sink's own destination again");
        }
        let own = standby.breaker.state(Instant::now());
        let full = standby.is_fallback() && standby.spec.held.is_full(&self.spec.name);
        let full = full.then(|| StateError::HeldFull { batches_max: HELD_BATCHES_MAX }.to_string());
        standby.spec.probe.show(&self.spec.probe, held, own, full);
    }
}
