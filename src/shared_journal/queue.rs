//! A sink's queue: its durable consumer, of which this process takes some messages at a time.
//!
//! A message that was taken is held until all its events have their outcome, and only then acknowledged; until then the
//! server is told that it is being worked on. So no other process gets it while this one lives, and another gets it
//! `ack_wait` after this one has died. Given back in order, another gets it at once.
//!
//! - Limits: `messages_max` are held; an acknowledgement that is not confirmed yet counts.
//! - On failure: what cannot be asked now is asked again, after [`RETRY_PAUSE`]; the sink sees why.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::{
    AckKind, Message,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    message::Acker,
};
use forebay_actors::{
    event::Timestamp,
    journal::{Backlog, JournalError, Piece, Queue, stored_form},
    record::{Position, Record, SinkName, Span},
};
use futures::{FutureExt as _, StreamExt as _};
use tokio::{runtime::Handle, sync::Notify, time::timeout};

use super::{ASK_WAIT, INDEX_BITS, Shared, place, put_aside, sequence_of};
use crate::destination;

/// How long one request for messages waits at the server. It costs two small messages where nothing comes, and is what a
/// server that was away is found again after.
const PULL_WAIT: Duration = Duration::from_secs(2);

/// How much later than that the server may say that nothing came.
const PULL_GRACE: Duration = Duration::from_secs(1);

/// A pause after something failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Acknowledged messages that are remembered, in case one comes again because its acknowledgement came too late.
const SETTLED_MAX: usize = 4096;

/// Messages that all processes together may have taken of one sink.
const ACK_PENDING_MAX: i64 = 4096;

/// Longest pause of who asks a queue that is closed.
const CLOSED_WAIT: Duration = Duration::from_millis(50);

/// The name of a sink's consumer begins so.
pub(super) const PREFIX: &str = "forebay_";

/// How often an acknowledgement is tried; each try waits as long as anything that is asked.
const ACKNOWLEDGE_TRIES: usize = 6;

/// The queue of one sink in this process.
pub(super) struct SinkQueue {
    /// For tasks that it starts later.
    me: Weak<Self>,
    shared: Arc<Shared>,
    runtime: Handle,
    sink: SinkName,
    messages_max: usize,
    state: Mutex<State>,
    /// Something can be taken.
    arrived: Condvar,
    /// More can be held, or the queue was closed.
    room: Notify,
}

#[derive(Default)]
struct State {
    held: BTreeMap<u64, Held>,
    /// Of what is held, what the sink has not taken yet.
    ready: VecDeque<u64>,
    /// What was acknowledged last, in order, and to look it up.
    settled: VecDeque<u64>,
    settled_set: HashSet<u64>,
    /// Messages whose acknowledgement is not confirmed yet.
    acknowledging: usize,
    failure: Option<JournalError>,
    /// Lives of the sink: who takes in the name of one before gets nothing.
    restarts: u64,
    closed: bool,
}

/// A message that was taken.
struct Held {
    acker: Arc<Acker>,
    piece: Piece,
    /// Events without an outcome.
    left: u64,
    /// The server gave another message of this place: what is said of this one would count for that.
    is_replaced: bool,
}

/// The consumer of a sink, made where it is missing. A new one begins at the oldest message there is: what was accepted
/// before the first worker of a sink came is its own, too, and a receiver cannot know which sinks will come.
pub(super) async fn consumer(
    shared: &Shared,
    sink: &SinkName,
) -> Result<Consumer<pull::Config>, JournalError> {
    let name = format!("{PREFIX}{sink}");
    let config = pull::Config {
        durable_name: Some(name.clone()),
        description: Some(format!("The sink {sink} of every Forebay that has it.")),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: shared.config.ack_wait,
        // Until it has its outcome: a worker that dies says nothing about the events.
        max_deliver: -1,
        max_ack_pending: ACK_PENDING_MAX,
        ..pull::Config::default()
    };
    let made = shared.stream.create_consumer(config).await;
    made.map_err(|e| shared.failed(format_args!("the consumer {name}: {}", destination::chain(&e))))
}

/// What a message holds.
pub(super) fn piece(sequence: u64, stored: &[u8]) -> Piece {
    let first = place(sequence);
    match stored_form::decode(Position(0), stored) {
        Some(record) if record.count < 1 << INDEX_BITS => Piece::Record(Arc::new(Record { first, ..record })),
        _ => Piece::Damaged(Span { first, end: first.plus(1) }),
    }
}

impl Held {
    fn written_at(&self) -> Option<Timestamp> {
        match &self.piece {
            Piece::Record(record) => Some(record.written_at),
            Piece::Damaged(_) | Piece::Removed(_) => None,
        }
    }

    fn events(&self) -> u64 {
        self.piece.end().since(self.piece.first())
    }
}

// === impl SinkQueue ===

impl SinkQueue {
    /// From now on messages are taken, `messages_max` at a time.
    pub(super) fn start(
        shared: Arc<Shared>,
        runtime: Handle,
        sink: SinkName,
        messages_max: usize,
    ) -> Arc<dyn Queue> {
        let queue = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            shared,
            runtime,
            sink,
            messages_max,
            state: Mutex::default(),
            arrived: Condvar::new(),
            room: Notify::new(),
        });
        queue.runtime.spawn(queue.clone().pull());
        queue.runtime.spawn(queue.clone().keep());
        queue
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes messages while there is room, until the queue is closed.
    async fn pull(self: Arc<Self>) {
        let mut consumer = None;
        loop {
            let room = {
                let state = self.state();
                if state.closed {
                    return;
                }
                self.messages_max.saturating_sub(state.held.len() + state.acknowledging)
            };
            if room == 0 {
                self.room.notified().await;
                continue;
            }
            if let Err(error) = self.pull_some(&mut consumer, room).await {
                // It may be gone, with its stream or by somebody's hand.
                consumer = None;
                self.state().failure = Some(error);
                self.arrived.notify_all();
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn pull_some(
        &self,
        kept: &mut Option<Consumer<pull::Config>>,
        room: usize,
    ) -> Result<(), JournalError> {
        self.shared.check_identity()?;
        if kept.is_none() {
            *kept = Some(consumer(&self.shared, &self.sink).await?);
        }
        let Some(consumer) = kept else { return Ok(()) };
        let failed = |error: &dyn std::error::Error| self.shared.failed(destination::chain(error));
        let batch = consumer.batch().max_messages(room).expires(PULL_WAIT).messages();
        let mut batch = timeout(ASK_WAIT, batch).await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let until = PULL_WAIT + PULL_GRACE;
        loop {
            let message = tokio::select! {
                biased;
                () = self.is_closed() => break,
                message = timeout(until, batch.next()) => message.map_err(|e| failed(&e))?,
            };
            match message {
                Some(Ok(message)) => self.accept(message),
                Some(Err(error)) => return Err(self.shared.failed(error)),
                None => return Ok(()),
            }
        }
        // What is here already nobody else gets before its time is over, unless it is given back.
        while let Some(Some(Ok(message))) = batch.next().now_or_never() {
            self.accept(message);
        }
        Ok(())
    }

    async fn is_closed(&self) {
        while !self.state().closed {
            self.room.notified().await;
        }
    }

    fn accept(&self, message: Message) {
        // Nobody acknowledges it here: whoever knows the stream gets it later.
        if self.shared.is_another.load(Ordering::Relaxed) {
            return;
        }
        let (sequence, is_first) = match message.info() {
            Ok(info) => (info.stream_sequence, info.delivered == 1),
            Err(error) => {
                return tracing::error!(sink = %self.sink, %error, "a message of the journal has no place");
            }
        };
        let (message, acker) = message.split();
        let acker = Arc::new(acker);
        {
            let mut state = self.state();
            let is_known = state.held.contains_key(&sequence) || state.settled_set.contains(&sequence);
            if is_first && is_known {
                // The server gives it for the first time, and it was here before: its consumer is another one, and perhaps the
                // stream. It comes again when `ack_wait` is over, and by then `watch` has seen which.
                if let Some(held) = state.held.get_mut(&sequence) {
                    held.is_replaced = true;
                }
                return;
            }
            if let Some(held) = state.held.get_mut(&sequence) {
                // Its time ran out here, and nobody else asked for it.
                (held.acker, held.is_replaced) = (acker, false);
                return;
            }
            if state.settled_set.contains(&sequence) {
                drop(state);
                return self.acknowledge(sequence, acker);
            }
        }
        let piece = piece(sequence, &message.payload);
        match &piece {
            Piece::Record(record) => self.shared.count(u64::from(record.count), 1),
            Piece::Damaged(_) | Piece::Removed(_) => {
                self.shared.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::error!(sink = %self.sink, sequence, "a message of the journal is damaged; it was put aside");
                let name = format!("{}-{sequence}", self.shared.config.stream);
                put_aside(&self.shared.quarantine, &name, &message.payload);
            }
        }
        let left = piece.end().since(piece.first());
        let mut state = self.state();
        if state.closed {
            // What was held may have been released meanwhile: nobody would come for this one, and it would be kept for ever.
            drop(state);
            return self.give_back(acker);
        }
        state.failure = None;
        state.held.insert(sequence, Held { acker, piece, left, is_replaced: false });
        state.ready.push_back(sequence);
        drop(state);
        self.arrived.notify_all();
    }

    /// Says that everything in the message has its outcome, until the server has heard it. Who hears nothing gives the message
    /// to another, who delivers it again.
    fn acknowledge(&self, sequence: u64, acker: Arc<Acker>) {
        let Some(queue) = self.me.upgrade() else { return };
        if self.shared.is_another.load(Ordering::Relaxed) {
            return;
        }
        self.state().acknowledging += 1;
        self.runtime.spawn(async move {
            let mut acknowledged = acker.double_ack().await;
            for _ in 1..ACKNOWLEDGE_TRIES {
                if acknowledged.is_ok() {
                    break;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
                acknowledged = acker.double_ack().await;
            }
            if let Err(error) = acknowledged {
                let sink = &queue.sink;
                tracing::warn!(%sink, sequence, %error, "a message was delivered but could not be acknowledged: it comes again");
            }
            queue.state().acknowledging -= 1;
            queue.has_room();
        });
    }

    /// So that another gets it at once; where the server does not hear it, when its time is over.
    fn give_back(&self, acker: Arc<Acker>) {
        let sink = self.sink.clone();
        self.runtime.spawn(async move {
            if let Err(error) = acker.ack_with(AckKind::Nak(None)).await {
                tracing::debug!(%sink, %error, "a message could not be given back");
            }
        });
    }

    fn has_room(&self) {
        // Whoever waits for room, and who is just about to.
        self.room.notify_waiters();
        self.room.notify_one();
    }

    /// Tells the server that what is held is being worked on, until the queue is closed and nothing is held.
    async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.shared.config.ack_wait / 3).await;
            let ackers: Vec<_> = {
                let state = self.state();
                if state.closed && state.held.is_empty() {
                    return;
                }
                let held = state.held.values().filter(|held| !held.is_replaced);
                held.map(|held| held.acker.clone()).collect()
            };
            if self.shared.is_another.load(Ordering::Relaxed) {
                continue;
            }
            for acker in ackers {
                if let Err(error) = acker.ack_with(AckKind::Progress).await {
                    tracing::debug!(sink = %self.sink, %error, "the server could not be told what is worked on");
                }
            }
        }
    }
}

impl Queue for SinkQueue {
    fn take(&self, life: u64, bytes_max: usize, wait: Duration) -> Result<Vec<Piece>, JournalError> {
        let state = self.state();
        let wait = if state.closed { wait.min(CLOSED_WAIT) } else { wait };
        let nothing =
            |state: &mut State| state.ready.is_empty() && state.failure.is_none() && state.restarts == life;
        let waited = self.arrived.wait_timeout_while(state, wait, nothing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        if state.restarts != life {
            return Ok(taken);
        }
        while bytes < bytes_max
            && let Some(sequence) = state.ready.pop_front()
        {
            let Some(held) = state.held.get(&sequence) else { continue };
            if let Piece::Record(record) = &held.piece {
                bytes += record.payload.len();
            }
            taken.push(held.piece.clone());
        }
        match state.failure.take() {
            Some(failure) if taken.is_empty() => Err(failure),
            _ => Ok(taken),
        }
    }

    fn settle(&self, span: Span) {
        let sequence = sequence_of(span.first);
        let mut state = self.state();
        let Some(held) = state.held.get_mut(&sequence) else { return };
        held.left = held.left.saturating_sub(span.count());
        if held.left > 0 {
            return;
        }
        let Some(held) = state.held.remove(&sequence) else { return };
        state.settled.push_back(sequence);
        state.settled_set.insert(sequence);
        if state.settled.len() > SETTLED_MAX
            && let Some(forgotten) = state.settled.pop_front()
        {
            state.settled_set.remove(&forgotten);
        }
        drop(state);
        if !held.is_replaced {
            self.acknowledge(sequence, held.acker);
        }
        self.has_room();
    }

    fn restart(&self) -> u64 {
        let mut state = self.state();
        let state = &mut *state;
        state.restarts += 1;
        state.ready.clear();
        for (sequence, held) in &mut state.held {
            held.left = held.events();
            state.ready.push_back(*sequence);
        }
        self.arrived.notify_all();
        state.restarts
    }

    fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
        self.has_room();
    }

    fn release(&self) {
        self.close();
        let held = std::mem::take(&mut self.state().held);
        if held.is_empty() || self.shared.is_another.load(Ordering::Relaxed) {
            return;
        }
        let client = self.shared.context.client();
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            for held in held.values().filter(|held| !held.is_replaced) {
                if held.acker.ack_with(AckKind::Nak(None)).await.is_err() {
                    break;
                }
            }
            let _ = client.flush().await;
            let _ = done.send(());
        });
        // Where the server is away, others get it when its time is over.
        let _ = wait.recv_timeout(ASK_WAIT);
    }

    fn backlog(&self) -> Backlog {
        let state = self.state();
        // One that is not acknowledged yet may still be delivered again.
        let taken = state.held.values().map(|held| held.left).sum::<u64>() + state.acknowledging as u64;
        let oldest = state.held.values().filter_map(Held::written_at).min();
        drop(state);
        let waiting = self.shared.waiting(&self.sink);
        Backlog { events: self.shared.events_of(waiting).max(taken), taken, oldest }
    }
}

#[cfg(test)]
mod tests;
