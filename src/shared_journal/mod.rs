//! The journal on NATS JetStream: one stream that any number of Forebay processes write to and deliver from.
//!
//! - A record is one message, in the form that the journal on disk stores, with its checksum. A success answer means that
//!   the stream has acknowledged it, from as many servers as `replicas` wants.
//! - A sink is one durable pull consumer, shared by the sinks of that name in all processes: see `queue`.
//! - Positions are the message's sequence in the stream, shifted by `INDEX_BITS`, and the event's place in it. So they are
//!   the same in every process, and so are the batches, each of which is within one message.
//! - What a `fallback` holds stands in books that all processes share, too: see `books`.
//! - A message goes when every consumer has acknowledged everything up to it and `retention.journal_keep` is over: see
//!   `watch`.
//!
//! # Limits
//! - A message holds at most [`MESSAGE_BYTES`] of events, unless a single event is larger; never more than the server takes.
//! - A commit has its answer within `COMMIT_WAIT`; everything else that is asked of the server within `ASK_WAIT`.
//!
//! # Invariants
//! - Nothing that is asked of the server runs on an actor's thread: it runs on a runtime of its own, and is waited for with a
//!   bound by whoever is on a blocking thread.
//! - The stream never drops a message by itself: it refuses new ones where it is full.

mod books;
mod connect;
mod open;
mod publish;
mod queue;
mod read;
mod watch;

use std::{
    collections::VecDeque,
    fmt::Display,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use forebay_actors::{
    event::{Stamped, Timestamp},
    journal::{Journal, JournalError, Piece, Queue, Removed, Usage},
    record::{Position, Record, SinkName, Span},
    runtime::clock::Clock,
};
use tokio::runtime::{Handle, Runtime};

pub use self::{
    books::{BOOKS_BYTES_MAX, SharedBooks},
    open::{examine, with_books},
};
use self::{queue::SinkQueue, watch::Seen};
use crate::config::JetstreamConfig;

/// Bits of a position that say which event of its message it is.
const INDEX_BITS: u32 = 20;

/// Payload of a message: what a destination gets in a batch at most, unless a single event is larger.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// What a message has beside an event of the largest size: headers, and the block the event stands in.
const MESSAGE_SLACK_BYTES: usize = 64 * 1024;

/// Threads of the journal's runtime: sockets, acknowledgements, checksums of what comes.
const THREADS: usize = 2;

/// How long a commit may take, with all its attempts: a leader of the stream is elected within two or three seconds.
const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// How long anything else may take that is asked of the server.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// The journal. Dropped, it ends its connection.
pub struct JetStream {
    shared: Arc<Shared>,
    runtime: OwnRuntime,
}

/// Where everything runs that is asked of the server.
struct OwnRuntime {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

/// What its tasks have in common.
struct Shared {
    context: jetstream::Context,
    stream: jetstream::stream::Stream<()>,
    config: JetstreamConfig,
    /// Where it is, for messages.
    server: String,
    clock: Clock,
    /// As many servers have the stream.
    replicas: usize,
    /// When the stream was made, in nanoseconds: one that was made anew has the same sequences once more.
    created: i128,
    /// Payload of a message at most.
    message_bytes: usize,
    /// What this process writes has ids that no other gives.
    nonce: u64,
    written: AtomicU64,
    seen: Mutex<Seen>,
    /// How far every consumer was, and when: what `journal_keep` is counted from.
    floors: Mutex<VecDeque<(Timestamp, u64)>>,
    /// Events and messages that went through this process, to tell from messages how many events they have.
    events_seen: AtomicU64,
    messages_seen: AtomicU64,
    damaged: AtomicU64,
    quarantine: PathBuf,
    /// The stream is another one than at the start.
    is_another: AtomicBool,
}

/// What tells a stream from any other, also from one of the same name before it.
fn identity(stream: &str, created: i128) -> String {
    let text = format!("{stream} {created}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The place of a message.
const fn place(sequence: u64) -> Position {
    Position(sequence << INDEX_BITS)
}

/// The message that a position is of.
const fn sequence_of(position: Position) -> u64 {
    position.0 >> INDEX_BITS
}

// === impl Shared ===

impl Shared {
    fn failed(&self, reason: impl Display) -> JournalError {
        JournalError::Server { server: self.server.clone(), reason: reason.to_string() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what went through.
    fn count(&self, events: u64, messages: u64) {
        self.events_seen.fetch_add(events, Ordering::Relaxed);
        self.messages_seen.fetch_add(messages, Ordering::Relaxed);
    }

    /// How many events so many messages have, by those that were seen; never none where there are messages.
    fn events_of(&self, messages: u64) -> u64 {
        let (events, seen) =
            (self.events_seen.load(Ordering::Relaxed), self.messages_seen.load(Ordering::Relaxed).max(1));
        let of_all = u128::from(messages) * u128::from(events.max(seen)) / u128::from(seen);
        u64::try_from(of_all).unwrap_or(u64::MAX)
    }

    /// The stream is not the one that this process began with.
    fn found_another(&self) {
        if !self.is_another.swap(true, Ordering::Relaxed) {
            let stream = &self.config.stream;
            tracing::error!(
                stream,
                "the stream was made anew: nothing is taken any more until this process is started again"
            );
        }
    }

    /// Another stream under the same name has the same sequences for other events: a destination that knows batches would
    /// take new ones for old.
    fn check_identity(&self) -> Result<(), JournalError> {
        match self.is_another.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(self.failed(format_args!(
                "the stream {} was made anew since this process began; start it again",
                self.config.stream
            ))),
        }
    }
}

// === impl OwnRuntime ===

impl OwnRuntime {
    fn new() -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("jetstream")
            .enable_all()
            .build()
            .map_err(|e| format!("a runtime cannot be made: {e}"))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs something there and waits for it, on whatever thread this is; `None` where it panicked.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        wait_for(&self.handle, future)
    }
}

fn wait_for<T: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (answer, wait) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        let _ = answer.send(future.await);
    });
    wait.recv().ok()
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

// === impl JetStream ===

impl JetStream {
    fn ask<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, JournalError>> + Send + 'static,
    ) -> Result<T, JournalError> {
        let answer = self.runtime.wait(future);
        answer.unwrap_or_else(|| Err(self.shared.failed("a task of the journal panicked")))
    }

    /// What tells this stream's positions from those of any other, as 16 hexadecimal digits.
    pub fn identity(&self) -> String {
        identity(&self.shared.config.stream, self.shared.created)
    }

    /// The books of what is held, which all processes share.
    pub fn books(&self) -> Arc<SharedBooks> {
        let (context, runtime) = (self.shared.context.clone(), self.runtime.handle.clone());
        SharedBooks::new(context, runtime, &self.shared.config, self.identity(), self.shared.replicas)
    }

    /// Makes the consumers of these sinks where they are missing; a new one begins at the oldest message there is.
    ///
    /// # Errors
    /// Where the server does not answer or refuses.
    pub fn make_consumers(&self, sinks: &[SinkName]) -> Result<(), JournalError> {
        let (shared, sinks) = (self.shared.clone(), sinks.to_vec());
        self.ask(async move {
            for sink in &sinks {
                queue::consumer(&shared, sink).await?;
            }
            watch::look(&shared).await
        })
    }

    /// The queue of a sink, of which at most so many messages are taken at a time.
    pub fn queue(&self, sink: &SinkName, messages_max: usize) -> Arc<dyn Queue> {
        SinkQueue::start(self.shared.clone(), self.runtime.handle.clone(), sink.clone(), messages_max)
    }
}

impl Journal for JetStream {
    fn commit(&self, blocks: &[Stamped]) -> Result<Vec<Arc<Record>>, JournalError> {
        self.shared.check_identity()?;
        let messages = publish::messages(&self.shared, blocks)?;
        let shared = self.shared.clone();
        self.ask(async move { publish::publish(&shared, messages).await })?;
        // Sinks take them from the stream, here or elsewhere.
        Ok(Vec::new())
    }

    fn sync(&self) -> Result<(), JournalError> {
        Ok(())
    }

    fn read(&self, from: Position, bytes_max: usize) -> Result<Vec<Piece>, JournalError> {
        let shared = self.shared.clone();
        self.ask(async move { read::read(&shared, from, bytes_max).await })
    }

    fn span(&self) -> Span {
        let seen = self.shared.seen();
        Span { first: place(seen.first), end: place(seen.last + 1) }
    }

    fn remove(&self, _: Position, written_before: Timestamp) -> Result<Removed, JournalError> {
        let shared = self.shared.clone();
        let parts = self.ask(async move { watch::remove(&shared, written_before).await })?;
        // The server does not say.
        Ok(Removed { parts, bytes: 0 })
    }

    fn oldest_end(&self) -> Option<Position> {
        // Nothing is ever skipped: other processes' sinks have a say in it.
        None
    }

    fn usage(&self) -> Usage {
        self.shared.usage()
    }
}

/// Keeps bytes that are no record, for somebody to look at.
fn put_aside(quarantine: &Path, name: &str, bytes: &[u8]) {
    let kept =
        std::fs::create_dir_all(quarantine).and_then(|()| std::fs::write(quarantine.join(name), bytes));
    if let Err(error) = kept {
        tracing::error!(%error, "a damaged message could not be kept in the quarantine");
    }
}
