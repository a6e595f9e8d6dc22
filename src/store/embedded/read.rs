//! The readers: a few connections that are lent out, one to a question.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

use super::{page, schema, stats};
use crate::store::{Page, Query, SCAN_MS_MAX, StatsBucket, StatsQuery, StoreError, StoredEvent};

/// Questions that are answered at one time; further ones wait.
pub const READERS_MAX: usize = 4;

/// How long a question waits for a connection before it is refused.
const LEASE_WAIT: Duration = Duration::from_secs(2);

/// Answers questions. Cheap to clone; all clones share the connections.
///
/// The database need not be there: until a writer has made it, the store is simply empty. A question sees
/// the store as it was at one instant, whatever is written meanwhile.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    connections: Mutex<Connections>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Connections {
    idle: Vec<Connection>,
    lent: usize,
}

/// The right to use one of the connections; it ends with this value, also in a panic.
struct Lease<'a>(&'a Pool);

// === impl Reader ===

impl Reader {
    /// A reader of the database at `path`. Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let pool = Pool { path: path.into(), connections: Mutex::default(), returned: Condvar::new() };
        Self { pool: Arc::new(pool) }
    }

    /// The database.
    pub fn path(&self) -> &Path {
        &self.pool.path
    }

    /// One page of events. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Query`] where the query is wrong; otherwise what the disk or SQLite says.
    pub fn page(&self, query: &Query) -> Result<Page, StoreError> {
        self.page_within(query, Duration::from_millis(SCAN_MS_MAX))
    }

    pub(super) fn page_within(&self, query: &Query, scan_max: Duration) -> Result<Page, StoreError> {
        query.check()?;
        let at = StoreError::at(self.path());
        let counting = query.counting();
        let (page, count) = self.read(|connection| {
            let page = page::page(connection, query, scan_max).map_err(at)?;
            let count = counting.as_ref().map(|counting| stats::count(connection, self.path(), counting));
            Ok((page, count.transpose()?.unwrap_or_default()))
        })?;
        Ok(Page { count: counting.map(|_| count), ..page })
    }

    /// The event of this id, if there is one. Blocks.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn get(&self, event_id: &str) -> Result<Option<StoredEvent>, StoreError> {
        self.read(|connection| page::event_of_id(connection, event_id).map_err(StoreError::at(self.path())))
    }

    /// How many events there are in each bucket of time. Buckets without events are left out. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Query`] where the query is wrong or its answer too long; otherwise what the disk or SQLite
    /// says.
    pub fn stats(&self, query: &StatsQuery) -> Result<Vec<StatsBucket>, StoreError> {
        query.check()?;
        self.read(|connection| stats::buckets(connection, self.path(), query))
    }

    /// How many events there are. Blocks.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn count_total(&self) -> Result<u64, StoreError> {
        self.read(|connection| stats::count_total(connection).map_err(StoreError::at(self.path())))
    }

    /// How many events a database has that may be nobody's at the moment. Makes no file beside it, as a reader does. Blocks.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn count_from_outside(path: &Path) -> Result<u64, StoreError> {
        let connection = schema::open_from_outside(path)?;
        connection.map_or(Ok(0), |connection| stats::count_total(&connection).map_err(StoreError::at(path)))
    }

    /// Answers from one of the connections; with nothing where there is no database.
    fn read<T: Default>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (lease, idle) = self.pool.lease()?;
        let opened = match idle {
            Some(connection) => Some(connection),
            None => schema::open_reader(self.path())?,
        };
        let Some(connection) = opened else { return Ok(T::default()) };
        let answer = question(&connection);
        // A connection that met damage or a failing disk may remember it; the next question opens a new one.
        if answer.as_ref().err().is_none_or(StoreError::spares_connection) {
            lease.keep(connection);
        }
        answer
    }
}

// === impl Pool ===

impl Pool {
    /// Waits for the right to a connection; comes with an open one if one is idle.
    fn lease(&self) -> Result<(Lease<'_>, Option<Connection>), StoreError> {
        let all_lent = |connections: &mut Connections| connections.lent == READERS_MAX;
        let (mut connections, waited) = self
            .returned
            .wait_timeout_while(self.connections(), LEASE_WAIT, all_lent)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let what = format!("all {READERS_MAX} reading connections are in use");
            return Err(StoreError::Busy { path: self.path.clone(), what });
        }
        connections.lent += 1;
        Ok((Lease(self), connections.idle.pop()))
    }

    /// Nothing that holds this lock can leave the list half-changed, so a panic elsewhere does not spoil it.
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease<'_> {
    /// Leaves the connection to the next question.
    fn keep(self, connection: Connection) {
        self.0.connections().idle.push(connection);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.0.connections().lent -= 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{panic, thread};

    use super::{
        super::fixture::{Store, batch, draft},
        *,
    };

    fn is_shared<T: Clone + Send + Sync>(_: &T) {}

    /// Before anything was stored there is nothing, not an error; afterwards the same reader sees it.
    #[test]
    fn a_database_that_is_not_there_is_empty() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store/events.db");
        let reader = Reader::new(&path);
        is_shared(&reader);
        let query = Query { limit: 10, ..Query::default() };
        let stats = StatsQuery { bucket_seconds: 60, ..StatsQuery::default() };
        assert_eq!(reader.page(&query).unwrap(), Page::default());
        assert_eq!(reader.get("a").unwrap(), None);
        assert_eq!((reader.stats(&stats).unwrap().len(), reader.count_total().unwrap()), (0, 0));
        assert!(!path.exists(), "a reader makes no files");

        let mut writer = super::super::Writer::open(&path).unwrap();
        writer.insert(&batch(0, &[draft("a", 1, "s")])).unwrap();
        assert_eq!(reader.page(&query).unwrap().events.len(), 1);
    }

    /// More threads than connections are all answered, and no more connections are opened than there may be.
    #[test]
    fn connections_are_shared() {
        let mut store = Store::new();
        store.writer.insert(&batch(0, &[draft("a", 1, "s")])).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 * READERS_MAX {
                scope.spawn(|| (0..20).for_each(|_| assert!(store.reader.get("a").unwrap().is_some())));
            }
        });
        let connections = store.reader.pool.connections();
        assert!(connections.lent == 0 && (1..=READERS_MAX).contains(&connections.idle.len()));
    }

    /// A question that fails or panics gives its right to a connection back.
    #[test]
    fn no_connection_is_lost() {
        let store = Store::new();
        for _ in 0..2 * READERS_MAX {
            let panics = || store.reader.read::<()>(|_| panic!("a bug"));
            assert!(panic::catch_unwind(panic::AssertUnwindSafe(panics)).is_err());
            let path = store.path();
            let damaged = StoreError::Corrupt { path, source: rusqlite::Error::InvalidQuery };
            assert!(store.reader.read::<()>(|_| Err(damaged)).is_err());
        }
        assert_eq!(store.reader.count_total().unwrap(), 0);
        assert_eq!(store.reader.pool.connections().lent, 0);
    }
}
