//! The books of what is held, in a key-value bucket beside the stream: every process that has the sink has the same.
//!
//! - An entry is a batch. Whoever changes it says which revision of it he knows, so that of two who take the same step one does.
//! - What a process has at hand (a batch it is giving to the holder, or reads back) has its mark, renewed [`BEATS`] times in
//!   `ack_wait`. A mark that is not renewed for `ack_wait` is of a process that is gone: then what it read back goes to another, and
//!   what it was giving to the holder is let go of, since the events come again from the stream.
//! - All entries are known in memory (see `mirror`), by a watch of the bucket. Where the bucket is not there, nothing is held;
//!   it is made when the first sink with a `fallback` starts.
//!
//! Limit: [`HELD_BATCHES_MAX`] entries an owner, of about 300 bytes in the bucket and [`ENTRY_BYTES`] in memory.

mod bucket;
mod mirror;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_nats::jetstream::{Context, kv};
use forebay_actors::{
    event::Timestamp,
    holding::HeldKey,
    record::{Position, SinkName, Span},
    runtime::clock::seed,
    state::{Books, HELD_BATCHES_MAX, HeldTotals, Note, Stage, StateError},
};
use tokio::{runtime::Handle, sync::watch as flag, time::Instant};

use self::{
    bucket::Change,
    mirror::{ENTRY_BYTES, Entry, Id, Known, Mirror},
};
use super::{place, sequence_of, wait_for};
use crate::config::JetstreamConfig;

/// How often in `ack_wait` the mark of what this process has at hand is renewed: two may be late.
const BEATS: u32 = 4;

/// Batches that are asked for at a time, where others take them first.
const TAKE_TRIES: usize = 8;

/// Memory that the books of one sink take up at most.
pub const BOOKS_BYTES_MAX: u64 = HELD_BATCHES_MAX * ENTRY_BYTES as u64;

/// The books. Nothing is known before the bucket was looked at: see [`SharedBooks::look`].
pub struct SharedBooks {
    /// For tasks.
    this: Weak<Self>,
    context: Context,
    runtime: Handle,
    /// Where the bucket is, for messages.
    server: String,
    bucket: String,
    replicas: usize,
    /// How long who is not heard of counts as alive.
    ack_wait: Duration,
    /// What tells this stream from any other.
    stream: Arc<str>,
    /// This process.
    me: u64,
    state: Mutex<State>,
    /// All of the bucket was read.
    is_known: flag::Sender<bool>,
}

struct State {
    store: Option<kv::Store>,
    mirror: Mirror,
    /// Where each holder keeps what it holds, by this process's configuration.
    places: BTreeMap<SinkName, Arc<str>>,
    /// Keys of entries that are gone, whose marks in the bucket nobody needs any more from then on.
    gone: Vec<(String, Instant)>,
}

// === impl SharedBooks ===

impl SharedBooks {
    pub(super) fn new(
        context: Context,
        runtime: Handle,
        config: &JetstreamConfig,
        stream: String,
    ) -> Arc<Self> {
        let stream: Arc<str> = stream.into();
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            context,
            runtime,
            server: config.url.clone(),
            bucket: format!("{}_HELD", config.stream),
            replicas: config.replicas,
            ack_wait: config.ack_wait,
            me: seed(),
            state: Mutex::new(State {
                store: None,
                mirror: Mirror::new(stream.clone(), config.ack_wait),
                places: BTreeMap::new(),
                gone: Vec::new(),
            }),
            stream,
            is_known: flag::Sender::new(false),
        })
    }

    /// Reads the bucket and follows it from now on, where it is there. Blocks.
    ///
    /// # Errors
    /// Where the servers do not answer or refuse, or the bucket would lose entries.
    pub fn look(&self) -> Result<(), StateError> {
        self.ask(async |books| books.store(false).await.map(drop))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, reason: impl fmt::Display) -> StateError {
        let (server, bucket) = (self.server.clone(), &self.bucket);
        StateError::Server { server, reason: format!("the bucket {bucket}: {reason}") }
    }

    /// Runs something on the journal's runtime and waits for it.
    fn ask<T, F>(&self, work: impl FnOnce(Arc<Self>) -> F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StateError>> + Send + 'static,
    {
        let Some(books) = self.this.upgrade() else { return Err(self.failed("it is closed")) };
        let answer = wait_for(&self.runtime, work(books));
        answer.unwrap_or_else(|| Err(self.failed("it could not be asked")))
    }

    /// Takes a step; see [`SharedBooks::step`].
    fn take_step(
        &self,
        id: Id,
        may: impl Fn(&Known) -> bool + Send + 'static,
        to: impl Fn(&Known) -> Option<Entry> + Send + 'static,
    ) -> Result<Option<Note>, StateError> {
        self.ask(|books| async move { books.step(&id, may, to).await })
    }

    /// Where this process has the holder keep things; without a word of it, nowhere that there is.
    fn own_place(&self, holder: &SinkName) -> Arc<str> {
        self.state().places.get(holder).cloned().unwrap_or_default()
    }

    /// What this process has at hand of an owner in this stage.
    fn at_hand(&self, owner: &SinkName, stage: Stage) -> Vec<Id> {
        let state = self.state();
        let entries = state.mirror.iter();
        let own = entries.filter(|(id, known)| id.owner == *owner && known.entry.is_of(stage, self.me));
        own.map(|(id, _)| id.clone()).collect()
    }

    /// Whatever this process was giving to holders for that owner is not needed there.
    fn let_go_of_all(&self, owner: &SinkName) -> Result<(), StateError> {
        self.at_hand(owner, Stage::Intended).iter().try_for_each(|id| self.let_go(&id.holder, &id.key()))
    }

    /// What this process was reading back for that owner is at nobody's hand.
    fn lay_down_all(&self, owner: &SinkName) -> Result<(), StateError> {
        let me = self.me;
        for id in self.at_hand(owner, Stage::Held) {
            let may = move |known: &Known| known.entry.is_of(Stage::Held, me);
            self.take_step(id, may, |known| Some(Entry { by: None, ..known.entry.clone() }))?;
        }
        Ok(())
    }

    /// Entries of an owner and a holder that are this process's to do something about, the oldest first.
    fn free(&self, owner: &SinkName, holder: &SinkName, stage: Stage, at_most: usize) -> Vec<(Id, Known)> {
        let (place, now) = (self.own_place(holder), Instant::now());
        let state = self.state();
        let entries = state.mirror.of(owner, holder, Position::default()).filter(|(_, known)| {
            let entry = &known.entry;
            entry.stage == stage && entry.place == place && state.mirror.is_free_for(self.me, known, now)
        });
        entries.take(at_most).map(|(id, known)| (id.clone(), known.clone())).collect()
    }
}

impl fmt::Debug for SharedBooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBooks").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    /// The same at another stage, at nobody's hand.
    fn turned(&self, stage: Stage, note: Note) -> Self {
        Self { stage, note, by: None, ..self.clone() }
    }

    fn is_of(&self, stage: Stage, by: u64) -> bool {
        self.stage == stage && self.by == Some(by)
    }
}

// === impl Books ===

impl Books for SharedBooks {
    fn are_shared(&self) -> bool {
        true
    }

    fn place(&self, holder: &SinkName) -> Result<Option<String>, StateError> {
        let own = self.own_place(holder);
        let state = self.state();
        let held = |(id, known): &(&Id, &Known)| id.holder == *holder && known.entry.stage == Stage::Held;
        let places: BTreeSet<_> =
            state.mirror.iter().filter(held).map(|(_, known)| &known.entry.place).collect();
        // What lies elsewhere is what has to be told.
        let place = places.iter().find(|place| ***place != own).or(places.first());
        Ok(place.map(|place| place.to_string()))
    }

    fn put_place(&self, holder: &SinkName, place: &str) -> Result<(), StateError> {
        self.state().places.insert(holder.clone(), place.into());
        Ok(())
    }

    fn totals(&self) -> Vec<(SinkName, SinkName, HeldTotals)> {
        self.state().mirror.totals()
    }

    fn total(&self, owner: &SinkName, holder: &SinkName) -> HeldTotals {
        self.state().mirror.sums(owner, holder).held
    }

    fn has_leaving(&self, owner: &SinkName, holder: &SinkName) -> bool {
        self.state().mirror.sums(owner, holder).leaving > 0
    }

    fn is_full(&self, owner: &SinkName) -> bool {
        self.state().mirror.batches(owner) >= HELD_BATCHES_MAX
    }

    fn held_within(&self, owner: &SinkName, span: Span) -> Vec<Span> {
        let message = place(sequence_of(span.first));
        self.state().mirror.held_within(owner, message, span)
    }

    fn begin(&self, owner: &SinkName, _: &SinkName, _: Position) -> Result<Vec<Span>, StateError> {
        self.ask(|books| async move { books.store(true).await.map(drop) })?;
        self.let_go_of_all(owner)?;
        // There is no cursor: see `held_within`.
        Ok(Vec::new())
    }

    fn end(&self, owner: &SinkName) {
        let ended = self.let_go_of_all(owner).and_then(|()| self.lay_down_all(owner));
        if let Err(error) = ended {
            tracing::warn!(sink = %owner, %error, "what this process had at hand of what is held goes to another later");
        }
    }

    fn intend(&self, owner: &SinkName, holder: &SinkName, span: Span) -> Result<HeldKey, StateError> {
        if self.is_full(owner) {
            return Err(StateError::HeldFull { batches_max: HELD_BATCHES_MAX });
        }
        let key = HeldKey { owner: owner.clone(), span, number: seed() };
        let id = Id::new(holder, &key);
        let entry = Entry {
            stage: Stage::Intended,
            note: Note::default(),
            place: self.own_place(holder),
            stream: self.stream.clone(),
            by: Some(self.me),
            beat: 0,
        };
        self.ask(|books| async move {
            let store = books.store(true).await?.ok_or_else(|| books.failed("it is not there"))?;
            match books.change(&store, &id, Some(entry), 0).await? {
                Change::Made => Ok(()),
                Change::Refused => Err(books.failed("the same number was drawn twice")),
            }
        })?;
        Ok(key)
    }

    fn held(
        &self,
        holder: &SinkName,
        key: &HeldKey,
        (events, bytes): (u64, u64),
        at: Timestamp,
    ) -> Result<bool, StateError> {
        let (me, note) = (self.me, Note { events, bytes, at });
        let step = self.take_step(
            Id::new(holder, key),
            move |known| known.entry.is_of(Stage::Intended, me),
            move |known| Some(known.entry.turned(Stage::Held, note)),
        );
        Ok(step?.is_some())
    }

    fn oldest(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        let me = self.me;
        for (id, known) in self.free(owner, holder, Stage::Held, TAKE_TRIES) {
            // What an earlier life of the sink had at hand is the first to go on with.
            let is_mine = known.entry.by == Some(me);
            let revision = known.revision;
            let taken = is_mine || {
                let may = move |known: &Known| known.revision == revision;
                let take = move |known: &Known| Some(Entry { by: Some(me), ..known.entry.clone() });
                self.take_step(id.clone(), may, take)?.is_some()
            };
            if taken {
                return Ok(Some(id.key()));
            }
        }
        Ok(None)
    }

    fn is_at_hand(&self, holder: &SinkName, key: &HeldKey) -> Result<bool, StateError> {
        let id = Id::new(holder, key);
        self.ask(|books| async move {
            if let Some(store) = books.opened() {
                books.refresh(&store, &id).await?;
            }
            let state = books.state();
            Ok(state.mirror.get(&id).is_some_and(|known| known.entry.is_of(Stage::Held, books.me)))
        })
    }

    fn read_back(&self, holder: &SinkName, key: &HeldKey) -> Result<u64, StateError> {
        let me = self.me;
        let step = self.take_step(
            Id::new(holder, key),
            move |known| known.entry.is_of(Stage::Held, me),
            |known| Some(known.entry.turned(Stage::Leaving, known.entry.note)),
        );
        Ok(step?.map_or(0, |note| note.events))
    }

    fn lost(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        let me = self.me;
        let may = move |known: &Known| known.entry.is_of(Stage::Held, me);
        self.take_step(Id::new(holder, key), may, |_| None).map(drop)
    }

    fn let_go(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        let me = self.me;
        let step = self.take_step(
            Id::new(holder, key),
            move |known| known.entry.is_of(Stage::Intended, me),
            |known| Some(known.entry.turned(Stage::Leaving, known.entry.note)),
        );
        step.map(drop)
    }

    fn leaving(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        Ok(self.free(owner, holder, Stage::Leaving, 1).first().map(|(id, _)| id.key()))
    }

    fn released(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        let may = |known: &Known| known.entry.stage == Stage::Leaving;
        self.take_step(Id::new(holder, key), may, |_| None).map(drop)
    }
}
