//! An event on its way, and who is told what became of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{Event, Failure, Metrics, Outcome, Undelivered};

/// The hook of an application.
pub(crate) type OnFailed = Box<dyn Fn(&Event, &Failure) + Send + Sync>;

/// Who is told about events, beside those who hold receipts.
pub(crate) struct Watchers {
    pub on_failed: Option<OnFailed>,
    pub metrics: Arc<dyn Metrics>,
    /// Events given back by `close`.
    pub closed: AtomicU64,
}

impl Watchers {
    fn failed(&self, event: &Event, failure: &Failure, somebody_waits: bool) {
        match failure {
            Failure::Rejected(_) => self.metrics.rejected(1),
            _ => self.metrics.failed(1),
        }
        if *failure == Failure::Closed {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
        let id = event.id().unwrap_or_default();
        if let Some(hook) = &self.on_failed {
            // A hook that panics must not take other events with it.
            if catch_unwind(AssertUnwindSafe(|| hook(event, failure))).is_err() {
                tracing::error!(event_id = id, %failure, "the hook on_failed panicked");
            }
        } else if !somebody_waits {
            tracing::error!(event_id = id, %failure, "an event was not delivered, and nobody asked to be told");
        }
    }
}

/// An event that has no outcome yet. It cannot be lost: where it is dropped without an outcome, as when a runtime ends,
/// that is its outcome.
pub(crate) struct Queued {
    /// There until it has an outcome.
    event: Option<Event>,
    receipt: Option<oneshot::Sender<Result<Outcome, Undelivered>>>,
    watchers: Arc<Watchers>,
    /// Its share of the queue's bytes.
    _room: Option<OwnedSemaphorePermit>,
}

impl Queued {
    /// An event that somebody gave to the client.
    pub fn new(event: Event, room: OwnedSemaphorePermit, watchers: &Arc<Watchers>) -> (Self, Receipt) {
        let (receipt, outcome) = oneshot::channel();
        let id = event.id().unwrap_or_default().to_owned();
        let watchers = watchers.clone();
        let queued = Self { event: Some(event), receipt: Some(receipt), watchers, _room: Some(room) };
        (queued, Receipt { id, outcome })
    }

    /// An event out of the spool: whoever sent it has its outcome already.
    pub fn spooled(event: Event, watchers: &Arc<Watchers>) -> Self {
        Self { event: Some(event), receipt: None, watchers: watchers.clone(), _room: None }
    }

    pub fn event(&self) -> &Event {
        self.event.as_ref().expect("an event is taken out only by what consumes this")
    }

    /// It is safe.
    pub fn done(mut self, outcome: Outcome) {
        self.event = None;
        if let Some(receipt) = self.receipt.take() {
            // Nobody has to wait for good news.
            let _ = receipt.send(Ok(outcome));
        }
    }

    /// It will not be delivered.
    pub fn failed(mut self, failure: Failure) {
        self.give_back(failure);
    }

    /// It is in the spool and stays there.
    pub fn stays(mut self) {
        self.event = None;
    }

    fn give_back(&mut self, failure: Failure) {
        let Some(event) = self.event.take() else { return };
        let receipt = self.receipt.take().filter(|receipt| !receipt.is_closed());
        self.watchers.failed(&event, &failure, receipt.is_some());
        if let Some(receipt) = receipt {
            let _ = receipt.send(Err(Undelivered { event: Box::new(event), failure }));
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.give_back(Failure::Abandoned);
    }
}

/// Resolves when the event is safe, or gives it back. Dropping it is fine: the event goes its way, and what fails is told to
/// `on_failed`, or logged as an error where there is no such hook.
#[derive(Debug)]
#[must_use = "it says whether the event is safe; to do without, let `on_failed` say what was not delivered"]
pub struct Receipt {
    id: String,
    outcome: oneshot::Receiver<Result<Outcome, Undelivered>>,
}

impl Receipt {
    /// The id under which the event is sent.
    pub fn event_id(&self) -> &str {
        &self.id
    }
}

impl Future for Receipt {
    type Output = Result<Outcome, Undelivered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome)
            .poll(context)
            .map(|told| told.expect("an event tells its outcome before it is dropped"))
    }
}
