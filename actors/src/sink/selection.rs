//! Leaving out what is not for this sink: its condition makes a view of a batch, before anything of it is delivered.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use futures::FutureExt as _;
use tokio::task::spawn_blocking;

use super::{Sink, delivery::PANICS_MAX, work::Work};
use crate::{
    condition::Condition,
    destination::{Cause, DeliveryError},
    record::Batch,
    runtime::supervisor::panic_text,
    state::Reason,
};

/// Payload up to which a batch is judged where it stands: less work than it is worth to wake another thread for.
const INLINE_BYTES_MAX: usize = 64 * 1024;

impl Sink {
    /// Asks the condition, once for each event: what comes of it is what is retried and halved.
    pub(super) fn select(
        &mut self,
        work: Work,
        batch: Arc<Batch>,
        when: Arc<Condition>,
        ctx: &mut Context<Self>,
    ) {
        let whole = batch.clone();
        let view = async move {
            if batch.payload_bytes() <= INLINE_BYTES_MAX {
                return when.view(&batch);
            }
            let view = spawn_blocking(move || when.view(&batch)).await;
            // Where it was no panic, the runtime ends, and this with it.
            view.unwrap_or_else(|error| resume_unwind(error.into_panic()))
        };
        let view = AssertUnwindSafe(view).catch_unwind();
        ctx.spawn(view.into_actor(self).map(move |view, sink, ctx| {
            sink.running -= 1;
            match view {
                Ok(view) => sink.selected(work, &whole, view),
                Err(panic) => sink.could_not_select(work, whole, &*panic, ctx),
            }
            sink.step(ctx);
        }));
    }

    /// What is not for this sink has its outcome; the rest is delivered.
    fn selected(&mut self, work: Work, whole: &Batch, view: Option<Arc<Batch>>) {
        let count = view.as_ref().map_or(0, |view| view.count());
        self.spec.probe.filtered_events.inc_by(whole.count() - count);
        match view {
            Some(view) => self.ready.push_front(work.with(view)),
            None => self.finished(whole.span()),
        }
    }

    /// A bug of ours, which must not stop the sink: what it stands at is found by halving, as where a destination panics.
    fn could_not_select(
        &mut self,
        mut work: Work,
        whole: Arc<Batch>,
        panic: &(dyn Any + Send),
        ctx: &mut Context<Self>,
    ) {
        work.panics += 1;
        let text = format!("the condition of `when` panicked: {}", panic_text(panic));
        let error = DeliveryError::transient(Cause::Panicked, text);
        tracing::error!(sink = %self.spec.name, %error, panics = work.panics, "a batch could not be judged");
        self.spec.probe.failed(error.cause);
        if work.panics < PANICS_MAX {
            self.ready.push_front(work);
        } else {
            self.rejected(work, whole, Reason::Panicked, &error, ctx);
        }
    }
}
