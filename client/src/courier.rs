//! Carries batches to the server: attempts, waits between them, and what becomes of a batch at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    Event, Failure, Retry,
    batch::Batch,
    event::Stored,
    queued::{Queued, Watchers},
    spool::{Record, Spool},
    transport::{Answer, Fault, Transport, Verdict},
};

/// What deliveries stand on; one for the whole client.
pub(crate) struct Courier {
    pub transport: Box<dyn Transport>,
    pub retry: Retry,
    pub attempt_timeout: Duration,
    pub watchers: Arc<Watchers>,
    pub spool: Option<Shelf>,
}

/// The spool, and what those who fill and empty it tell each other.
pub(crate) struct Shelf {
    pub spool: Arc<Spool>,
    /// A batch was given up, and nothing was delivered since: further ones go to the spool at once, not each after its attempts.
    down: AtomicBool,
    filled: Notify,
}

impl Shelf {
    pub fn new(spool: Spool) -> Self {
        Self { spool: Arc::new(spool), down: AtomicBool::new(false), filled: Notify::new() }
    }
}

/// Told once that the time of `close` is over.
pub(crate) type Stop = watch::Receiver<bool>;

/// Resolves when it is told; never where nobody can tell any more.
pub(crate) async fn stopped(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How carrying a batch ended.
enum End {
    /// Every event has its outcome.
    Done,
    /// It is too large for the server.
    Split(Batch),
    /// The server refuses it, in these words.
    Refused(Batch, String),
    /// The attempts are used up, or the time is over.
    Undelivered(Batch, Failure),
}

impl Courier {
    /// Carries events until each has its outcome.
    pub async fn deliver(self: Arc<Self>, events: Vec<Queued>, mut stop: Stop) {
        let mut todo = vec![Batch::new(events)];
        while let Some(batch) = todo.pop() {
            let down = self.spool.as_ref().is_some_and(|shelf| shelf.down.load(Ordering::Relaxed));
            let batch = if down && !*stop.borrow() {
                match self.shelve(batch).await {
                    Ok(()) => continue,
                    // A spool without room does not keep the batch from its attempts.
                    Err((batch, _)) => batch,
                }
            } else {
                batch
            };
            match self.carry(batch, &self.retry, &mut stop).await {
                // Also where there was no room in the spool.
                End::Done => self.spool.iter().for_each(|shelf| shelf.down.store(false, Ordering::Relaxed)),
                End::Split(batch) => split(batch, &mut todo),
                End::Refused(batch, words) => batch.failed(&Failure::Refused(words)),
                End::Undelivered(batch, failure) => self.give_up(batch, failure).await,
            }
        }
    }

    /// Puts into the spool what could not be delivered, or gives it back.
    pub async fn give_up(&self, batch: Batch, failure: Failure) {
        let (batch, why) = match self.shelve(batch).await {
            Ok(()) => return,
            Err(kept) => kept,
        };
        let failure = match (failure, why) {
            (Failure::GaveUp { attempts, last }, Some(why)) => {
                Failure::GaveUp { attempts, last: format!("{last}; {why}") }
            }
            (failure, _) => failure,
        };
        tracing::warn!(batch_id = batch.id, events = batch.len(), %failure, "a batch was not delivered");
        batch.failed(&failure);
    }

    /// Attempts until there is an end, but not after `stop`.
    async fn carry(&self, batch: Batch, retry: &Retry, stop: &mut Stop) -> End {
        let mut backoff = retry.backoff();
        let began = Instant::now();
        loop {
            // A batch whose time is over before its first attempt has none.
            let answer = tokio::select! {
                biased;
                () = stopped(stop) => return End::Undelivered(batch, Failure::Closed),
                answer = self.attempt(&batch) => answer,
            };
            let fault = match answer {
                Ok(rejections) => {
                    self.watchers.metrics.sent(batch.len() - rejections.len(), began.elapsed());
                    batch.delivered(rejections);
                    return End::Done;
                }
                Err(fault) => fault,
            };
            let wished = match fault.verdict {
                Verdict::Refuse => return End::Refused(batch, fault.words),
                Verdict::Split => return End::Split(batch),
                Verdict::Retry { after } => after,
            };
            let Some(wait) = backoff.failed(wished) else {
                let failure = Failure::GaveUp { attempts: backoff.failures(), last: fault.words };
                return End::Undelivered(batch, failure);
            };
            tracing::debug!(batch_id = batch.id, ?wait, cause = fault.words, "a batch is tried again");
            self.watchers.metrics.retried(&fault.words, wait);
            tokio::select! {
                () = stopped(stop) => return End::Undelivered(batch, Failure::Closed),
                () = sleep(wait) => {}
            }
        }
    }

    async fn attempt(&self, batch: &Batch) -> Answer {
        let answer = timeout(self.attempt_timeout, self.transport.deliver(&batch.id, batch.events())).await;
        let rejections = answer.unwrap_or_else(|_| {
            Err(Fault::passing(format!("no answer within {:?}", self.attempt_timeout)))
        })?;
        let mut named = vec![false; batch.len()];
        for rejection in &rejections {
            // Otherwise an event that was refused would count as delivered.
            if named.get_mut(rejection.index).is_none_or(|named| std::mem::replace(named, true)) {
                return Err(Fault::refused("the answer names events that were not sent"));
            }
        }
        Ok(rejections)
    }

    // === the spool ===

    /// Puts the batch into the spool; where that is not possible it comes back, with the reason if there is a spool.
    async fn shelve(&self, batch: Batch) -> Result<(), (Batch, Option<String>)> {
        let Some(shelf) = &self.spool else { return Err((batch, None)) };
        let stored = StoredBatch { events: batch.events().into_iter().map(Event::stored).collect() };
        let bytes = serde_json::to_vec(&stored).expect("texts are written to memory without errors");
        let spool = shelf.spool.clone();
        let kept = tokio::task::spawn_blocking(move || spool.append(&bytes)).await;
        match kept.map_err(|e| e.to_string()).and_then(|kept| kept.map_err(|e| e.to_string())) {
            Ok(()) => {
                self.watchers.metrics.spooled(batch.len());
                batch.spooled();
                shelf.down.store(true, Ordering::Relaxed);
                shelf.filled.notify_one();
                Ok(())
            }
            Err(why) => Err((batch, Some(why))),
        }
    }

    /// Delivers what is in the spool, oldest first, until it is told to stop.
    pub async fn empty_the_spool(self: Arc<Self>, mut stop: Stop) {
        let Some(shelf) = &self.spool else { return };
        let mut backoff = self.retry.endless().backoff();
        loop {
            let spool = shelf.spool.clone();
            let oldest = tokio::task::spawn_blocking(move || spool.oldest()).await;
            let wait = match oldest.map_err(|e| e.to_string()).and_then(|o| o.map_err(|e| e.to_string())) {
                Ok(Some(record)) if self.replay(shelf, &record, &mut stop).await => {
                    backoff = self.retry.endless().backoff();
                    None
                }
                // It was said why.
                Ok(Some(_)) => backoff.failed(None),
                Ok(None) => {
                    // Empty: whoever comes next finds out for himself whether the server is there.
                    shelf.down.store(false, Ordering::Relaxed);
                    tokio::select! {
                        () = stopped(&mut stop) => return,
                        () = shelf.filled.notified() => None,
                    }
                }
                Err(error) => {
                    tracing::error!(error, "the spool cannot be read");
                    backoff.failed(None)
                }
            };
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = sleep(wait.unwrap_or_default()) => {}
            }
        }
    }

    /// Delivers a record; true where its events have their outcome.
    async fn replay(&self, shelf: &Shelf, record: &Record, stop: &mut Stop) -> bool {
        let stored: StoredBatch<'_> = match serde_json::from_slice(&record.bytes) {
            Ok(stored) => stored,
            Err(error) => {
                // Its checksum was right, so another version wrote it; its bytes are in the log and nowhere else.
                let bytes = String::from_utf8_lossy(&record.bytes);
                tracing::error!(%error, %bytes, "a batch of the spool is not understood and is dropped");
                shelf.spool.done(record);
                return true;
            }
        };
        let events = stored.events.into_iter().map(|event| Queued::spooled(event.into(), &self.watchers));
        let mut todo = vec![Batch::new(events.collect())];
        let endless = self.retry.endless();
        while let Some(batch) = todo.pop() {
            match self.carry(batch, &endless, stop).await {
                End::Done => shelf.down.store(false, Ordering::Relaxed),
                End::Split(batch) => split(batch, &mut todo),
                End::Refused(batch, words) => {
                    // As a wrong token is: that must not cost what was kept safe for days.
                    tracing::error!(words, "the server refuses what is in the spool; it stays there");
                    batch.stays();
                    todo.into_iter().for_each(Batch::stays);
                    return false;
                }
                End::Undelivered(batch, _) => {
                    batch.stays();
                    todo.into_iter().for_each(Batch::stays);
                    return false;
                }
            }
        }
        shelf.spool.done(record);
        true
    }
}

/// Replaces a batch that is too large by its halves; an event that is too large alone is refused.
fn split(batch: Batch, todo: &mut Vec<Batch>) {
    match batch.halves() {
        Ok((first, second)) => todo.extend([second, first]),
        Err(batch) => {
            let words = "the event has more bytes than the server takes";
            batch.failed(&Failure::Rejected(words.to_owned()));
        }
    }
}

/// A batch in the spool. Its id follows from its events.
#[derive(Serialize, Deserialize)]
struct StoredBatch<'a> {
    #[serde(borrow)]
    events: Vec<Stored<'a>>,
}
