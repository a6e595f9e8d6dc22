//! The client as an application holds it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use crate::{
    Builder, DeadlineError, Event, Receipt, SendError, SendReason,
    courier::Courier,
    queued::{Queued, Watchers},
    worker::{BatchLimits, Item, Worker},
};

/// Gives events to Forebay. Clones are the same client: one queue, one connection.
///
/// Where the last clone is dropped without [`close`](Self::close), what is queued is still delivered, as long as the runtime
/// lives; what has no outcome when that ends is given back as [`Failure::Abandoned`](crate::Failure::Abandoned).
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<Item>,
    /// Bytes that the queue still has room for.
    room: Arc<Semaphore>,
    room_bytes: usize,
    courier: Arc<Courier>,
    stop: watch::Sender<bool>,
    /// Closed when the worker has ended.
    ended: watch::Receiver<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("queue_free_events", &self.0.queue.capacity())
            .field("queue_free_bytes", &self.0.room.available_permits())
            .field("closed", &self.0.queue.is_closed())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at this address: `http://…` and `https://…` for its HTTP API, `grpc://…` and `grpcs://…` for
    /// gRPC.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    /// Starts the client's tasks on the runtime of whoever calls.
    pub(crate) fn start(
        courier: Courier,
        limits: BatchLimits,
        queue_events_max: usize,
        queue_bytes_max: usize,
    ) -> Self {
        let (queue, inbox) = mpsc::channel(queue_events_max);
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(());
        let courier = Arc::new(courier);
        let worker = Worker::new(inbox, courier.clone(), limits, stopped.clone());
        let spool = courier.spool.is_some();
        let emptying = spool.then(|| tokio::spawn(courier.clone().empty_the_spool(stopped)));
        let ending = courier.clone();
        tokio::spawn(async move {
            worker.run().await;
            // What is in the spool stays there, for whoever opens its directory next.
            if let (Some(emptying), Some(shelf)) = (emptying, &ending.spool) {
                emptying.abort();
                let _ = emptying.await;
                let spool = shelf.spool.clone();
                let _ = tokio::task::spawn_blocking(move || spool.release()).await;
            }
            drop(end);
        });
        let room = Arc::new(Semaphore::new(queue_bytes_max));
        Self(Arc::new(Inner { queue, room, room_bytes: queue_bytes_max, courier, stop, ended }))
    }

    /// Queues an event; waits while the queue is full. The receipt says what became of it.
    ///
    /// Dropping the future before it is ready drops the event with it.
    ///
    /// # Errors
    /// With the event, where the client is closed, or the event is larger than the whole queue.
    pub async fn send(&self, event: Event) -> Result<Receipt, SendError> {
        let permits = self.permits(&event);
        let permits = match permits {
            Ok(permits) => permits,
            Err(reason) => return Err(refused(event, reason)),
        };
        let room = self.0.room.clone().acquire_many_owned(permits).await;
        let room = room.expect("the semaphore is never closed");
        // The place last: the worker's end waits for everybody who has one.
        let Ok(place) = self.0.queue.reserve().await else { return Err(refused(event, SendReason::Closed)) };
        let (queued, receipt) = self.queued(event, room);
        place.send(Item::Event(queued));
        Ok(receipt)
    }

    /// Queues an event if there is room now.
    ///
    /// # Errors
    /// With the event, where there is none, and as [`send`](Self::send).
    pub fn try_send(&self, event: Event) -> Result<Receipt, SendError> {
        let permits = match self.permits(&event) {
            Ok(permits) => permits,
            Err(reason) => return Err(refused(event, reason)),
        };
        let place = match self.0.queue.try_reserve() {
            Ok(place) => place,
            Err(mpsc::error::TrySendError::Full(())) => return Err(refused(event, SendReason::Full)),
            Err(mpsc::error::TrySendError::Closed(())) => return Err(refused(event, SendReason::Closed)),
        };
        let Ok(room) = self.0.room.clone().try_acquire_many_owned(permits) else {
            return Err(refused(event, SendReason::Full));
        };
        let (queued, receipt) = self.queued(event, room);
        place.send(Item::Event(queued));
        Ok(receipt)
    }

    fn permits(&self, event: &Event) -> Result<u32, SendReason> {
        let (bytes, allowed) = (event.bytes(), self.0.room_bytes);
        u32::try_from(bytes).ok().filter(|_| bytes <= allowed).ok_or(SendReason::TooLarge { bytes, allowed })
    }

    fn queued(&self, mut event: Event, room: OwnedSemaphorePermit) -> (Queued, Receipt) {
        event.identify();
        let watchers: &Arc<Watchers> = &self.0.courier.watchers;
        watchers.metrics.queued();
        Queued::new(event, room, watchers)
    }

    /// Waits until every event that was queued before has its outcome, without waiting for batches to fill.
    ///
    /// # Errors
    /// Where the deadline comes first; the events are still delivered.
    pub async fn flush(&self, deadline: Duration) -> Result<(), DeadlineError> {
        let at = Instant::now() + deadline;
        let (done, flushed) = oneshot::channel();
        let asked = timeout_at(at, self.0.queue.send(Item::Flush(done))).await;
        asked.map_err(|_| DeadlineError::Flush)?.map_err(|_| DeadlineError::Closed)?;
        let flushed = timeout_at(at, flushed).await;
        flushed.map_err(|_| DeadlineError::Flush)?.map_err(|_| DeadlineError::Closed)
    }

    /// Takes no more events, delivers what is queued, and ends the client, for all its clones. At the deadline everything that
    /// is left goes to the spool, or is given back as [`Failure::Closed`](crate::Failure::Closed). What was in the spool before
    /// stays there for the next client.
    ///
    /// # Errors
    /// Where events were given back.
    pub async fn close(&self, deadline: Duration) -> Result<(), DeadlineError> {
        let at = Instant::now() + deadline;
        let mut ended = self.0.ended.clone();
        // An error is the end of the worker.
        let end = async {
            let _ = self.0.queue.send(Item::Close).await;
            let _ = ended.changed().await;
        };
        if timeout_at(at, end).await.is_err() {
            self.0.stop.send_replace(true);
            // Giving up takes no longer than a sync of the spool.
            let _ = ended.changed().await;
        }
        match self.0.courier.watchers.closed.load(Ordering::Relaxed) {
            0 => Ok(()),
            undelivered => Err(DeadlineError::Close { undelivered }),
        }
    }

    /// Bytes of the spool's files; 0 without a spool. They go when what is in them is delivered.
    pub fn spool_bytes(&self) -> u64 {
        self.0.courier.spool.as_ref().map_or(0, |shelf| shelf.spool.bytes())
    }
}

fn refused(event: Event, reason: SendReason) -> SendError {
    SendError { event: Box::new(event), reason }
}
