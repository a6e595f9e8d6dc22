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

use super::{StoreError, Writer};

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
            Ok(Receipt { bytes: inserted.bytes })
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
