//! One thing that a sink has to do: find out what of a batch is for it, deliver it, or give up on it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    condition::Condition,
    destination::{DeliveryError, Rejection},
    event::Timestamp,
    holding::HeldKey,
    record::{Batch, SinkName, Span},
    state::{DeadLetter, DeadLetters, Reason, StateError},
};

/// Bytes of events from which on dead letters are kept before more are read.
const LETTERS_BYTES_MAX: usize = 8 << 20;

/// One thing to do.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) task: Task,
    /// Deliveries tried.
    pub(super) attempts: u32,
    /// Those of them that the destination panicked on.
    pub(super) panics: u32,
    pub(super) origin: Origin,
    /// Under which key the fallback was to hold it.
    pub(super) intent: Option<HeldKey>,
}

#[derive(Debug, Clone)]
pub(super) enum Task {
    /// Find out what of it is for this sink.
    Select(Arc<Batch>, Arc<Condition>),
    Deliver(Arc<Batch>),
    /// These events will not be delivered: note it, then go on.
    Bury(Burial),
}

/// Where a batch comes from, which says what its outcome is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The journal: the cursor passes it.
    Journal,
    /// The fallback, which held it: the cursor has passed it.
    Held,
}

#[derive(Debug, Clone)]
pub(super) struct Burial {
    pub(super) span: Span,
    /// Absent where the bytes are gone.
    batch: Option<Arc<Batch>>,
    pub(super) reason: Reason,
    pub(super) error: String,
    status: Option<u16>,
    attempts: u32,
    /// Where only these are not delivered: all others of the batch are.
    only: Option<Arc<[Rejection]>>,
}

// === impl Work ===

impl Work {
    /// To deliver of the batch what the condition takes, or all of it.
    pub(super) fn batch(batch: Arc<Batch>, when: Option<&Arc<Condition>>) -> Self {
        Self::new(match when {
            Some(when) => Task::Select(batch, when.clone()),
            None => Task::Deliver(batch),
        })
    }

    /// To deliver this, which is what there was to do once it was selected.
    pub(super) fn with(self, view: Arc<Batch>) -> Self {
        Self { task: Task::Deliver(view), ..self }
    }

    pub(super) fn gone(span: Span, reason: Reason) -> Self {
        let how = if reason == Reason::Damaged { "damaged in" } else { "no longer in" };
        let error = format!("{} positions are {how} the journal", span.count());
        Self::new(Task::Bury(Burial {
            span,
            batch: None,
            reason,
            error,
            status: None,
            attempts: 0,
            only: None,
        }))
    }

    /// What the fallback has held.
    pub(super) fn held(batch: Arc<Batch>) -> Self {
        Self { origin: Origin::Held, ..Self::batch(batch, None) }
    }

    fn new(task: Task) -> Self {
        Self { task, attempts: 0, panics: 0, origin: Origin::Journal, intent: None }
    }

    /// Instead of delivering it: give up on it.
    pub(super) fn buried(self, burial: Burial) -> Self {
        Self { task: Task::Bury(burial), ..self }
    }

    pub(super) fn is_held(&self) -> bool {
        self.origin == Origin::Held
    }

    pub(super) fn written_at(&self) -> Option<Timestamp> {
        match &self.task {
            Task::Select(batch, _) | Task::Deliver(batch) => {
                batch.records().first().map(|record| record.written_at)
            }
            Task::Bury(_) => None,
        }
    }
}

impl Burial {
    /// Of events whose bytes are damaged or gone.
    pub(super) fn lost(span: Span, error: String) -> Self {
        Self { span, batch: None, reason: Reason::Damaged, error, status: None, attempts: 0, only: None }
    }

    pub(super) fn of(batch: Arc<Batch>, reason: Reason, error: &DeliveryError, attempts: u32) -> Self {
        let (span, status) = (batch.span(), error.status);
        Self { span, batch: Some(batch), reason, error: error.message.clone(), status, attempts, only: None }
    }

    /// Of some events of a batch that was taken without them; there is at least one.
    pub(super) fn some(batch: Arc<Batch>, rejected: Vec<Rejection>, attempts: u32) -> Self {
        let error = rejected.first().map(|first| first.error.clone()).unwrap_or_default();
        let (span, only) = (batch.span(), Some(rejected.into()));
        Self { span, batch: Some(batch), reason: Reason::Rejected, error, status: None, attempts, only }
    }

    /// Events that are given up on.
    pub(super) fn events(&self) -> u64 {
        let all = || self.batch.as_ref().map_or(self.span.count(), |batch| batch.count());
        self.only.as_ref().map_or_else(all, |only| only.len() as u64)
    }

    /// Adds one letter an event; one for all of them where they cannot be read.
    ///
    /// # Errors
    /// Where they cannot be kept. Some of them may be there already.
    pub(super) fn keep_in(
        &self,
        dead_letters: &DeadLetters,
        sink: &SinkName,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let note = |letter| DeadLetter {
            error: self.error.clone(),
            status: self.status,
            attempts: self.attempts,
            ..letter
        };
        let Some(batch) = &self.batch else {
            return dead_letters.add(&[note(DeadLetter::of_span(sink, self.span, self.reason, at))]);
        };
        let only: Option<BTreeMap<_, _>> =
            self.only.as_ref().map(|only| only.iter().map(|one| (one.position, one)).collect());
        let (mut letters, mut bytes, mut events) = (Vec::new(), 0, batch.events().unbounded());
        while let Some(position) = events.position() {
            let one = only.as_ref().map(|only| only.get(&position).copied());
            if let Some(None) = one
                && events.next_event().is_some_and(|event| event.is_ok())
            {
                // It was taken.
                continue;
            }
            if bytes > LETTERS_BYTES_MAX {
                dead_letters.add(&letters)?;
                (letters, bytes) = (Vec::new(), 0);
            }
            match events.next_single() {
                Some(Ok(event)) => {
                    bytes += event.len();
                    let letter = note(DeadLetter::of_event(sink, position, event, self.reason, at));
                    letters.push(match one.flatten() {
                        Some(Rejection { error, status, .. }) => {
                            DeadLetter { error: error.clone(), status: *status, ..letter }
                        }
                        None => letter,
                    });
                }
                // Its record is damaged, or has fewer events than it says.
                Some(Err(_)) | None => {
                    let rest = Span { first: position, end: self.span.end };
                    letters.push(note(DeadLetter::of_span(sink, rest, Reason::Damaged, at)));
                    break;
                }
            }
        }
        dead_letters.add(&letters)
    }
}
