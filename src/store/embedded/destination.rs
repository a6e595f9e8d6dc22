//! The store as a destination: what the sink of `type: store` feeds.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, TryLockError},
};

use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt, Verdict},
    record::Batch,
};
use futures::future::LocalBoxFuture;
use tokio::task::spawn_blocking;

use super::Writer;
use crate::store::StoreError;

/// Stores batches on a blocking thread. A batch that comes twice changes nothing the second time.
///
/// The database is opened by the first delivery or probe, so that building this never blocks, and again after
/// an error that a connection may not get over.
#[derive(Debug)]
pub struct SqliteDestination {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    writer: Mutex<Option<Writer>>,
}

// === impl SqliteDestination ===

impl SqliteDestination {
    /// A destination that stores into the database at `path`. Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { shared: Arc::new(Shared { path: path.into(), writer: Mutex::new(None) }) }
    }
}

impl Destination for SqliteDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let shared = Arc::clone(&self.shared);
        Box::pin(on_blocking_thread(move || {
            let inserted = with_writer(&shared.path, &mut shared.lock(), |writer| writer.insert(&batch))?;
            Ok(Receipt::of(inserted.bytes))
        }))
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(on_blocking_thread(move || match shared.try_lock() {
            Some(mut writer) => with_writer(&shared.path, &mut writer, Writer::check),
            // A delivery is under way: its own outcome tells more, and on a disk that hangs, probes that wait
            // for it would fill the blocking threads.
            None => Ok(()),
        }))
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, DeliveryError> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(DeliveryError::from),
        // The sink counts panics, so that a batch that the writer cannot bear does not come back for ever.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(DeliveryError::transient(Cause::Io, format!("the store's writer: {error}"))),
    }
}

fn with_writer<T>(
    path: &Path,
    slot: &mut Option<Writer>,
    work: impl FnOnce(&mut Writer) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let writer = match slot {
        Some(writer) => writer,
        None => slot.insert(Writer::open(path)?),
    };
    let outcome = work(writer);
    if outcome.as_ref().is_err_and(|error| !error.spares_connection()) {
        *slot = None;
    }
    outcome
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(|poisoned| self.rebuild(poisoned.into_inner()))
    }

    /// `None` where another thread has the writer.
    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Writer>>> {
        match self.writer.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.rebuild(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A panic went through the writer: nothing half-changed survives, only the disk does.
    fn rebuild<'a>(&self, mut guard: MutexGuard<'a, Option<Writer>>) -> MutexGuard<'a, Option<Writer>> {
        *guard = None;
        self.writer.clear_poison();
        guard
    }
}

// === impl DeliveryError ===

impl From<StoreError> for DeliveryError {
    /// Only a record that cannot be decoded is the batch's own fault. All else, damage included, is the
    /// store's: the events must wait for its repair, not be given up.
    fn from(error: StoreError) -> Self {
        let (cause, verdict) = match error {
            StoreError::Decode(_) => (Cause::Encode, Verdict::Reject),
            StoreError::NewerVersion { .. } => (Cause::Refused, Verdict::Retry { after: None }),
            _ => (Cause::Io, Verdict::Retry { after: None }),
        };
        Self { cause, message: error.to_string(), status: None, verdict }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::{
        super::{
            Reader,
            fixture::{batch, batch_of, draft},
        },
        *,
    };

    fn home() -> (tempfile::TempDir, SqliteDestination, Reader) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store/events.db");
        (home, SqliteDestination::new(&path), Reader::new(&path))
    }

    /// A batch that is delivered twice, as after a crash, is stored once, and both deliveries succeed.
    #[tokio::test]
    async fn a_batch_delivered_twice_is_stored_once() {
        let (_home, destination, reader) = home();
        let events = batch(0, &[draft("a", 1, "s"), draft("b", 2, "s")]);
        assert!(destination.deliver(Arc::clone(&events)).await.unwrap().bytes > 0);
        assert_eq!(destination.deliver(events).await.unwrap().bytes, 0);
        assert_eq!(reader.count_total().unwrap(), 2);
        destination.probe().await.unwrap();
    }

    /// What cannot be decoded is refused for good; what the disk does may pass, and does once it is repaired.
    #[tokio::test]
    async fn failures_carry_their_verdict() {
        let (home, destination, reader) = home();
        let error = destination.deliver(batch_of(0, 1, vec![0; 7])).await.unwrap_err();
        assert_eq!((error.cause, error.verdict), (Cause::Encode, Verdict::Reject));

        let blocked = home.path().join("blocked");
        fs::write(&blocked, "a file where the directory should be").unwrap();
        let elsewhere = SqliteDestination::new(blocked.join("events.db"));
        for error in [
            elsewhere.deliver(batch(0, &[draft("a", 1, "s")])).await.unwrap_err(),
            elsewhere.probe().await.unwrap_err(),
        ] {
            assert_eq!((error.cause, error.verdict), (Cause::Io, Verdict::Retry { after: None }), "{error}");
            assert!(error.message.contains("blocked"), "{error}");
        }
        fs::remove_file(&blocked).unwrap();
        elsewhere.deliver(batch(0, &[draft("a", 1, "s")])).await.unwrap();
        assert_eq!(reader.count_total().unwrap(), 0);
    }

    /// Scenario: the writer panics on a batch.
    /// Guarantee: the panic comes to the sink, which isolates what it panicked on; it was a failure that may pass, and the
    /// batch was tried for ever.
    #[tokio::test]
    async fn r0311_a_panic_of_the_writer_was_retried_for_ever() {
        use futures::FutureExt as _;
        let work = on_blocking_thread(|| -> Result<(), StoreError> { panic!("a writer's bug") });
        assert!(std::panic::AssertUnwindSafe(work).catch_unwind().await.is_err());
    }

    /// After a panic with the writer in hand, the next delivery builds a new one and succeeds.
    #[tokio::test]
    async fn a_panic_costs_the_writer_only() {
        let (_home, destination, reader) = home();
        destination.deliver(batch(0, &[draft("a", 1, "s")])).await.unwrap();
        let shared = Arc::clone(&destination.shared);
        let panicked = thread::spawn(move || {
            let _writer = shared.lock();
            panic!("a bug");
        });
        assert!(panicked.join().is_err());
        destination.probe().await.unwrap();
        destination.deliver(batch(1, &[draft("b", 1, "s")])).await.unwrap();
        assert_eq!(reader.count_total().unwrap(), 2);
    }
}
