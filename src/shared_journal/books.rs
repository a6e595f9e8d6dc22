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
mod stages;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_nats::jetstream::{Context, kv};
use forebay_actors::{
    holding::HeldKey,
    record::{Position, SinkName},
    runtime::clock::seed,
    state::{HELD_BATCHES_MAX, Note, Stage, StateError},
};
use tokio::{
    runtime::Handle,
    sync::watch as tell,
    time::{Instant, timeout},
};

use self::{
    bucket::Step,
    mirror::{ENTRY_BYTES, Entry, Id, Known, Mirror},
};
use super::{ASK_WAIT, wait_for};
use crate::config::JetstreamConfig;

/// How often in `ack_wait` the mark of what this process has at hand is renewed: two may be late.
const BEATS: u32 = 4;

/// Memory that the books of one sink take up at most.
pub const BOOKS_BYTES_MAX: u64 = HELD_BATCHES_MAX * ENTRY_BYTES as u64;

/// The books. Nothing is known before the bucket was looked at: see [`open`](forebay_actors::state::Books::open).
pub struct SharedBooks {
    /// For tasks.
    this: Weak<Self>,
    context: Context,
    runtime: Handle,
    /// Where the bucket is, for messages.
    server: String,
    bucket: String,
    /// As many as the stream has.
    replicas: usize,
    /// How long who is not heard of counts as alive.
    ack_wait: Duration,
    /// What tells this stream from any other.
    stream: Arc<str>,
    /// This process.
    me: u64,
    state: Mutex<State>,
    /// All of the bucket was read; told of each entry until then.
    is_known: tell::Sender<bool>,
}

struct State {
    store: Option<kv::Store>,
    mirror: Mirror,
    /// Where each holder keeps what it holds, by this process's configuration.
    places: BTreeMap<SinkName, Arc<str>>,
    /// The sinks of this process that have a fallback.
    owners: BTreeMap<SinkName, Owner>,
    lives: u64,
    /// What this process has at hand. Only that is renewed: an entry with its mark that nobody here knows of, because the answer
    /// was lost or its sink has ended, is nobody's after a while.
    at_hand: BTreeSet<Id>,
    /// The others can be heard: who is not heard of then is gone.
    hears: bool,
    /// Keys of entries that are gone, and since when: their marks in the bucket are cleared up later.
    gone: BTreeMap<String, Instant>,
}

/// A sink of this process.
struct Owner {
    fallback: SinkName,
    /// What was asked for in the name of an earlier one is nobody's.
    life: u64,
}

// === impl SharedBooks ===

impl SharedBooks {
    pub(super) fn new(
        context: Context,
        runtime: Handle,
        config: &JetstreamConfig,
        stream: String,
        replicas: usize,
    ) -> Arc<Self> {
        let stream: Arc<str> = stream.into();
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            context,
            runtime,
            server: config.url.clone(),
            bucket: format!("{}_HELD", config.stream),
            replicas,
            ack_wait: config.ack_wait,
            me: seed(),
            state: Mutex::new(State {
                store: None,
                mirror: Mirror::new(stream.clone(), config.ack_wait),
                places: BTreeMap::new(),
                owners: BTreeMap::new(),
                lives: 0,
                at_hand: BTreeSet::new(),
                hears: false,
                gone: BTreeMap::new(),
            }),
            stream,
            is_known: tell::Sender::new(false),
        })
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
        self.ask(|books| async move {
            match books.step(&id, may, to).await? {
                Step::Taken(note) => Ok(Some(note)),
                Step::Barred => Ok(None),
                // What becomes of it is not known, as where no answer comes.
                Step::Contended => {
                    Err(books.failed(format_args!("{} is changed by others at the same time", id.name())))
                }
            }
        })
    }

    /// Takes the step that ends what this process does with a batch, which is at hand no more when it was taken or cannot be.
    fn finish(
        &self,
        holder: &SinkName,
        key: &HeldKey,
        from: Stage,
        to: Option<Stage>,
    ) -> Result<Option<Note>, StateError> {
        let (me, id) = (self.me, Id::new(holder, key));
        let may = move |known: &Known| known.entry.is_of(from, me);
        let to = move |known: &Known| to.map(|stage| known.entry.turned(stage, known.entry.note));
        let note = self.take_step(id.clone(), may, to)?;
        self.state().at_hand.remove(&id);
        Ok(note)
    }

    /// What the server says of a batch; `None` where it has nothing.
    fn asked(&self, id: &Id) -> Result<Option<Entry>, StateError> {
        let id = id.clone();
        self.ask(async move |books| {
            if let Some(store) = books.opened() {
                books.refresh(&store, &id).await?;
            }
            Ok(books.state().mirror.get(&id).map(|known| known.entry.clone()))
        })
    }

    /// Where this process has the holder keep things; without a word of it, nowhere that there is.
    fn own_place(&self, holder: &SinkName) -> Arc<str> {
        self.state().places.get(holder).cloned().unwrap_or_default()
    }

    /// What has the mark of this process, of an owner and in this stage.
    fn own(&self, owner: &SinkName, stage: Stage) -> Vec<Id> {
        let state = self.state();
        let entries = state.mirror.iter();
        let own = entries.filter(|(id, known)| id.owner == *owner && known.entry.is_of(stage, self.me));
        own.map(|(id, _)| id.clone()).collect()
    }

    /// Nothing of these owners is at hand: what was being given to holders is not needed there, what was being read back is nobody's.
    async fn put_down(self: &Arc<Self>, owners: &[SinkName]) {
        self.state().at_hand.retain(|id| !owners.contains(&id.owner));
        let me = self.me;
        let turn = async |owner: &SinkName, from: Stage, to: Stage| {
            for id in self.own(owner, from) {
                let may = |known: &Known| known.entry.is_of(from, me);
                self.step(&id, may, |known| Some(known.entry.turned(to, known.entry.note))).await?;
            }
            Ok(())
        };
        let all = async {
            for owner in owners {
                turn(owner, Stage::Intended, Stage::Leaving).await?;
                turn(owner, Stage::Held, Stage::Held).await?;
            }
            Ok::<_, StateError>(())
        };
        // Nobody renews it: what fails here comes by itself.
        let failed = match timeout(ASK_WAIT, all).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ASK_WAIT:?}"),
        };
        tracing::warn!(error = failed, "what this process had at hand of what is held waits for ack_wait");
    }

    /// Batches that are held and that this process may take up, the oldest first.
    fn free(&self, owner: &SinkName, holder: &SinkName, at_most: usize) -> Vec<(Id, Known)> {
        let (place, now) = (self.own_place(holder), Instant::now());
        let state = self.state();
        let entries = state.mirror.of(owner, holder, Position::default()).filter(|(_, known)| {
            let Entry { stage, place: at, by, .. } = &known.entry;
            let is_free = by.is_none_or(|by| by == self.me) || state.is_dead(known, now);
            *stage == Stage::Held && *at == place && is_free
        });
        entries.take(at_most).map(|(id, known)| (id.clone(), known.clone())).collect()
    }
}

impl fmt::Debug for SharedBooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBooks").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// The life that its sink has now.
    fn life(&self, owner: &SinkName) -> Option<u64> {
        self.owners.get(owner).map(|owner| owner.life)
    }

    /// From now on this process has it at hand, if it was asked for in the life that its sink still has.
    fn take_up(&mut self, id: Id, life: Option<u64>) {
        if life.is_some() && self.life(&id.owner) == life {
            self.at_hand.insert(id);
        }
    }

    /// Whether who has it at hand is gone. Of whoever cannot be heard that is not known.
    fn is_dead(&self, known: &Known, now: Instant) -> bool {
        self.hears && self.mirror.is_stale(known, now)
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
