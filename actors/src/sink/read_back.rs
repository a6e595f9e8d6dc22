//! Reading back: what the fallback holds goes to the sink's own destination, oldest first, beside new events.
//!
//! One batch at a time, on a flight of its own: new events wait for none of it. The order on disk is: fetched and delivered
//! (or its events dead letters); not needed any more; let go of by the holder; forgotten. A crash in between delivers it again
//! under the same id, or lets go of it again.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    BreakerState, LOOK_INTERVAL, Sink,
    standby::{Standby, books},
    work::{Burial, Task, Work},
};
use crate::{
    destination::{Cause, DeliveryError, Destination},
    holding::{HeldKey, unpack},
    record::Batch,
    state::Reason,
};

/// Fetches in a row that bring nothing whole, after which the events of a batch count as damaged.
const UNREADABLE_MAX: u32 = 3;

/// Between two tries to have the holder let go of something, where it wishes no longer one.
const RELEASE_PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct ReadBack {
    /// The batch at hand.
    current: Option<HeldKey>,
    /// What of it has no outcome yet.
    todo: VecDeque<Work>,
    /// Something is done about it now.
    busy: bool,
    /// A delivery of it is running.
    delivering: bool,
    /// What could not be read last, and how often in a row.
    unreadable: Option<(HeldKey, u32)>,
    /// What could not be fetched, and others perhaps can.
    unfetched: Option<HeldKey>,
    /// All that is held is at hand elsewhere, as it seems.
    fetch_not_before: Option<Instant>,
    /// The holder is letting go of something.
    releasing: bool,
    release_not_before: Option<Instant>,
    /// Said, so that the log has the end of it, too.
    said: bool,
}

/// What a fetch brought.
enum Fetch {
    Whole(Arc<Batch>),
    /// Nothing, or not what was given.
    Unreadable(&'static str),
}

// === impl ReadBack ===

impl ReadBack {
    pub(super) fn is_delivering(&self) -> bool {
        self.delivering
    }

    pub(super) fn began(&mut self) {
        (self.busy, self.delivering) = (true, true);
    }

    pub(super) fn ended(&mut self) {
        (self.busy, self.delivering) = (false, false);
    }

    pub(super) fn put_back(&mut self, work: Work) {
        self.todo.push_front(work);
    }
}

// === impl Sink ===

impl Sink {
    /// Whether a held batch may go to the sink's own destination now.
    fn may_read_back(&mut self, now: Instant) -> bool {
        let state = self.breaker.state(now);
        // While the destination is only tried, new events are what it is tried with, where there are any.
        let is_alone = self.running == 0 && self.ready.is_empty();
        now >= self.not_before
            && (state == BreakerState::Closed || state == BreakerState::HalfOpen && is_alone)
    }

    /// Does the next thing there is to do about what is held. Called after everything that happens, and by the look.
    pub(super) fn read_back(&mut self, ctx: &mut Context<Self>) {
        if self.resuming {
            return;
        }
        self.release(ctx);
        self.lay_down(ctx);
        let now = Instant::now();
        let Some(standby) = self.standby.as_ref().filter(|standby| standby.is_fallback()) else { return };
        if standby.back.busy {
            return;
        }
        // What has its outcome needs no destination.
        if let Some(key) = standby.back.current.clone().filter(|_| standby.back.todo.is_empty()) {
            return self.leave(key, ctx);
        }
        if !self.may_read_back(now) {
            return;
        }
        let Some(standby) = &mut self.standby else { return };
        if !standby.back.todo.is_empty() {
            if self.build()
                && let Some(work) = self.standby.as_mut().and_then(|standby| standby.back.todo.pop_front())
            {
                self.begin(work, ctx);
            }
        } else if standby.spec.held.total(&self.spec.name, &standby.spec.name).batches > 0 {
            self.fetch(now, ctx);
        } else if std::mem::take(&mut standby.back.said) {
            // What went wrong meanwhile was about what is held no more.
            standby.backoff.reset();
            standby.spec.probe.error(None);
            tracing::info!(sink = %self.spec.name, from = %standby.spec.name, "everything that was held has been read back");
        }
    }

    fn fetch(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let owner = self.spec.name.clone();
        let Some(standby) = &mut self.standby else { return };
        let is_early = standby.back.fetch_not_before.is_some_and(|at| now < at);
        if is_early || standby.breaker.opens_in(now).is_some() || now < standby.not_before {
            return;
        }
        let destination = match standby.destination() {
            Ok(destination) => destination,
            Err(error) => return standby.fail(&owner, &error),
        };
        if !std::mem::replace(&mut standby.back.said, true) {
            let events = standby.spec.held.total(&owner, &standby.spec.name).events;
            tracing::info!(sink = %owner, from = %standby.spec.name, events, "what is held is read back");
        }
        standby.back.busy = true;
        let (held, holder) = (standby.spec.held.clone(), standby.spec.name.clone());
        let fetch = async move {
            let (books_of, by) = (held.clone(), holder.clone());
            let oldest = spawn_blocking(move || books_of.oldest(&owner, &by)).await;
            let oldest = oldest.map_err(books)?.map_err(books)?;
            let Some(key) = oldest else { return Ok(None) };
            let mut fetched = fetched(&*destination, &key).await;
            if matches!(fetched, Ok(Fetch::Unreadable(_))) {
                // Another process may have read it back, while this one was taken for dead.
                let of = key.clone();
                let at_hand = spawn_blocking(move || held.is_at_hand(&holder, &of)).await;
                match at_hand.map_err(books).and_then(|at_hand| at_hand.map_err(books)) {
                    Ok(true) => {}
                    Ok(false) => return Ok(None),
                    Err(error) => fetched = Err(error),
                }
            }
            Ok(Some((key, fetched)))
        };
        let fetch = AssertUnwindSafe(fetch).catch_unwind().into_actor(self);
        ctx.spawn(fetch.map(|fetched, sink, ctx| {
            let Some(standby) = &mut sink.standby else { return };
            standby.back.busy = false;
            standby.back.fetch_not_before = None;
            match fetched {
                // Nothing that is not at hand elsewhere.
                Ok(Ok(None)) => standby.back.fetch_not_before = Some(Instant::now() + LOOK_INTERVAL),
                Ok(Ok(Some((key, Ok(Fetch::Whole(batch)))))) => {
                    standby.succeeded();
                    standby.back.unreadable = None;
                    standby.back.current = Some(key);
                    standby.back.todo.push_back(Work::held(batch));
                }
                Ok(Ok(Some((key, Ok(Fetch::Unreadable(why)))))) => sink.unreadable(key, why, ctx),
                Ok(Ok(Some((key, Err(error))))) => {
                    standby.back.unfetched = Some(key);
                    standby.fail(&sink.spec.name, &error);
                }
                Ok(Err(error)) => standby.fail(&sink.spec.name, &error),
                Err(panic) => standby.panicked(&sink.spec.name, &*panic),
            }
            sink.step(ctx);
        }));
    }

    /// Nothing whole is there under the key. Where that does not pass, its events are dead letters without bytes.
    fn unreadable(&mut self, key: HeldKey, why: &str, ctx: &mut Context<Self>) {
        let Some(standby) = &mut self.standby else { return };
        let before = standby.back.unreadable.take().filter(|(of, _)| *of == key);
        let times = before.map_or(0, |(_, times)| times) + 1;
        let text = format!("what {} holds under {key} {why}", standby.spec.name);
        standby.fail(&self.spec.name, &DeliveryError::transient(Cause::Encode, &*text));
        if times < UNREADABLE_MAX {
            standby.back.unreadable = Some((key, times));
            return;
        }
        tracing::error!(sink = %self.spec.name, %key, events = key.span.count(), "{text}: its events are dead letters");
        standby.back.busy = true;
        let (span, said) = (key.span, text.clone());
        let burial = Burial::lost(span, text);
        let (letters, owner, at) =
            (self.spec.dead_letters.clone(), self.spec.name.clone(), self.spec.clock.now());
        let (held, holder) = (standby.spec.held.clone(), standby.spec.name.clone());
        let bury = spawn_blocking(move || {
            burial.keep_in(&letters, &owner, at)?;
            held.lost(&holder, &key)
        });
        ctx.spawn(bury.into_actor(self).map(move |buried, sink, ctx| {
            let Some(standby) = &mut sink.standby else { return };
            standby.back.busy = false;
            match buried {
                Ok(Ok(())) => sink.spec.probe.gave_up(Reason::Damaged, span.count(), &said),
                Ok(Err(error)) => standby.fail(&sink.spec.name, &books(error)),
                Err(_) => standby.fail(&sink.spec.name, &books("writing dead letters panicked")),
            }
            sink.step(ctx);
        }));
    }

    /// Every part of the batch at hand has its outcome.
    fn leave(&mut self, key: HeldKey, ctx: &mut Context<Self>) {
        let Some(standby) = &mut self.standby else { return };
        if Instant::now() < standby.not_before {
            return;
        }
        standby.back.busy = true;
        let (held, holder) = (standby.spec.held.clone(), standby.spec.name.clone());
        let left = spawn_blocking(move || held.read_back(&holder, &key)).into_actor(self);
        ctx.spawn(left.map(|left, sink, ctx| {
            let Some(standby) = &mut sink.standby else { return };
            standby.back.busy = false;
            match left {
                Ok(Ok(events)) => {
                    standby.back.current = None;
                    standby.spec.probe.read_back(events);
                }
                Ok(Err(error)) => standby.fail(&sink.spec.name, &books(error)),
                Err(_) => standby.fail(&sink.spec.name, &books("the books panicked")),
            }
            sink.step(ctx);
        }));
    }

    /// What cannot be fetched or delivered from here now, another process perhaps can.
    fn lay_down(&mut self, ctx: &mut Context<Self>) {
        let is_open = self.breaker.state(Instant::now()) == BreakerState::Open;
        let Some(standby) = &mut self.standby else { return };
        if standby.back.busy || !standby.spec.held.are_shared() {
            return;
        }
        // Only what is as it was fetched: of what was delivered in part, or panicked on, the next would not know that.
        let is_whole = |key: &HeldKey| match standby.back.todo.iter().collect::<Vec<_>>()[..] {
            [Work { task: Task::Deliver(batch), panics: 0, .. }] => batch.span() == key.span,
            _ => false,
        };
        let stuck = standby.back.current.clone().filter(|key| is_open && is_whole(key));
        let Some(key) = standby.back.unfetched.clone().or(stuck) else { return };
        standby.back.busy = true;
        let (held, holder, of) = (standby.spec.held.clone(), standby.spec.name.clone(), key.clone());
        let laid_down = spawn_blocking(move || held.lay_down(&holder, &of)).into_actor(self);
        ctx.spawn(laid_down.map(move |laid_down, sink, _| {
            let Some(standby) = &mut sink.standby else { return };
            standby.back.busy = false;
            standby.back.unfetched = None;
            // Where it could not be noted, it is at hand as before.
            if matches!(laid_down, Ok(Ok(()))) && standby.back.current.as_ref() == Some(&key) {
                standby.back.current = None;
                standby.back.todo.clear();
            }
        }));
    }

    /// Has the holder let go of something it needs no more. Nothing waits for that, and its failures hold nobody up.
    fn release(&mut self, ctx: &mut Context<Self>) {
        let owner = self.spec.name.clone();
        let Some(standby) = &mut self.standby else { return };
        let now = Instant::now();
        if !standby.is_fallback()
            || standby.back.releasing
            || standby.back.release_not_before.is_some_and(|at| now < at)
            || standby.breaker.opens_in(now).is_some()
            || !standby.spec.held.has_leaving(&owner, &standby.spec.name)
        {
            return;
        }
        let Ok(destination) = standby.destination() else { return };
        standby.back.releasing = true;
        let (held, holder) = (standby.spec.held.clone(), standby.spec.name.clone());
        let release = async move {
            let (books_of, by) = (held.clone(), holder.clone());
            let leaving = spawn_blocking(move || books_of.leaving(&owner, &by)).await;
            let Some(key) = leaving.map_err(books)?.map_err(books)? else {
                return Ok::<_, DeliveryError>(false);
            };
            if let Some(holding) = destination.holding() {
                holding.release(&key).await?;
            }
            spawn_blocking(move || held.released(&holder, &key)).await.map_err(books)?.map_err(books)
        };
        let release = AssertUnwindSafe(release).catch_unwind().into_actor(self);
        ctx.spawn(release.map(|released, sink, ctx| {
            let Some(Standby { spec, back, .. }) = &mut sink.standby else { return };
            back.releasing = false;
            back.release_not_before = None;
            let (why, wished) = match released {
                Ok(Ok(true)) => return sink.step(ctx),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => (error.to_string(), error.wished_wait()),
                Err(_) => ("the destination panicked".to_owned(), Duration::ZERO),
            };
            tracing::warn!(sink = %sink.spec.name, holder = %spec.name, error = why, "what was read back could not be removed; it is tried again");
            spec.probe.error(Some(format!("what was read back could not be removed: {why}")));
            back.release_not_before = Some(Instant::now() + RELEASE_PAUSE.max(wished));
        }));
    }
}

/// What the holder has under the key.
async fn fetched(holder: &dyn Destination, key: &HeldKey) -> Result<Fetch, DeliveryError> {
    let packed = match holder.holding() {
        Some(holding) => holding.fetch(key).await?,
        None => None,
    };
    match packed {
        None => Ok(Fetch::Unreadable("is not there any more")),
        Some(packed) => whole(packed, key).await,
    }
}

/// The batch of these bytes, if they are it.
async fn whole(packed: Bytes, key: &HeldKey) -> Result<Fetch, DeliveryError> {
    let batch = spawn_blocking(move || unpack(&packed)).await.map_err(books)?;
    Ok(match batch.filter(|batch| batch.span() == key.span) {
        Some(batch) => Fetch::Whole(Arc::new(batch)),
        None => Fetch::Unreadable("is damaged"),
    })
}
