//! How far a sink is: what it tells `Buffer`, which keeps the cursor on disk, and what `Buffer` tells it.

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use tokio::{sync::oneshot, time::Instant};

use super::{LOOK_INTERVAL, Sink, Source};
use crate::{message::Delivered, record::Span, state::Cursor};

impl Sink {
    /// When less than a full batch may go; `None` where it may now.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.last_cut.map(|last| last + self.spec.policy.max_wait).filter(|due| *due > now)
    }

    /// The same, where there is nothing else to do: then it is no failure that nothing gets on.
    pub(super) fn gathers_until(&self, now: Instant) -> Option<Instant> {
        let is_busy = self.reading || self.lagging || self.planning || self.resuming || self.draining;
        let gathers = !is_busy && self.flights.is_empty() && !self.intake.is_empty();
        self.due(now).filter(|_| gathers)
    }

    /// Notes on disk where the batch that was just cut ends, before it goes.
    pub(super) fn plan(&mut self, ctx: &mut Context<Self>) {
        self.planning = true;
        let (saved, wait) = oneshot::channel();
        if self.tell_buffer(Some(saved)) {
            let saved = wait.into_actor(self).map(|saved, sink, ctx| match saved {
                Ok(()) => {
                    sink.planning = false;
                    sink.step(ctx);
                }
                // `Buffer` died with the question.
                Err(_) => sink.plan_again(ctx),
            });
            ctx.spawn(saved);
        } else {
            self.plan_again(ctx);
        }
    }

    fn plan_again(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(LOOK_INTERVAL, Self::plan);
    }

    pub(super) fn tell_buffer(&self, saved: Option<oneshot::Sender<()>>) -> bool {
        let cursor = Cursor { next: self.next, planned: self.planned, reached: self.reached };
        self.spec.buffer.offer(Delivered { sink: self.spec.name.clone(), cursor, saved }).is_ok()
    }

    /// The span has its outcome: the cursor moves over all that have, from the front.
    pub(super) fn finished(&mut self, span: Span) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.span == span) {
            flight.is_done = true;
        }
        self.pass();
        match &self.spec.source {
            Source::Queue(queue) => queue.settle(span),
            Source::Log(_) => {
                // Where Buffer has no room now, the next report says the same and more.
                self.tell_buffer(None);
            }
        }
    }

    /// Moves the cursor over what has its outcome, from the front.
    pub(super) fn pass(&mut self) {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.is_done) {
            self.next = flight.span.end;
        }
        if self.planned.is_some_and(|planned| planned <= self.next) {
            self.planned = None;
        }
    }

    /// Passes over what `Buffer` made this sink skip because the journal was full: it has its account. What is on its
    /// way already goes on.
    pub(super) fn pass_over_skipped(&mut self) {
        if matches!(self.spec.source, Source::Queue(_)) {
            return;
        }
        let kept = self.spec.cursors.get(&self.spec.name).next;
        self.intake.skip(kept);
        if kept > self.next && self.flights.is_empty() {
            self.next = kept;
        }
    }
}
