//! The sessions of questions: opened when needed, lent to one question at a time, used again.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OnceCell, Semaphore},
    time::timeout,
};
use tokio_postgres::{Client, Error};

use super::{QUESTION_MAX, STATEMENT_MAX, is_late, is_lost, is_missing};
use crate::{
    config::{PostgresSink, PostgresTable},
    destination::postgres::{
        fault::words,
        session::{Access, Driver},
    },
    store::{QueryError, StoreError},
};

/// How long a question waits for a session before it is refused.
const LEASE_WAIT: Duration = Duration::from_secs(2);

/// How long a statement waits for a lock, which only a change of the table itself takes from it.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// What is asked of the table.
pub(super) trait Question {
    /// What the answer is.
    type Answer;

    /// Whether it may be too much to be counted.
    const COUNTS: bool = false;

    /// Asks. It changes nothing, so it may be asked twice.
    fn ask(
        &self,
        session: &Session,
        table: &PostgresTable,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
}

/// Sessions that only read.
pub(super) struct Pool {
    pub(super) options: PostgresSink,
    /// Certificates are read when the first session is opened.
    access: OnceCell<Access>,
    idle: Mutex<Vec<Session>>,
    places: Semaphore,
    sessions_max: usize,
}

/// A session that is set up.
pub(super) struct Session {
    pub(super) client: Client,
    is_spent: AtomicBool,
    _driver: Driver,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(options: &PostgresSink, sessions_max: usize) -> Self {
        let (access, idle, places) = (OnceCell::new(), Mutex::default(), Semaphore::new(sessions_max));
        Self { options: options.clone(), access, idle, places, sessions_max }
    }

    /// The answer; an empty one where the table is not there yet.
    pub(super) async fn ask<Q: Question>(&self, question: &Q) -> Result<Q::Answer, StoreError>
    where
        Q::Answer: Default,
    {
        let table = self.table()?;
        let Ok(place) = timeout(LEASE_WAIT, self.places.acquire()).await else {
            return Err(
                self.unavailable(format!("all {} sessions for questions are in use", self.sessions_max))
            );
        };
        let _place = place.expect("nobody closes it");
        let asked = timeout(QUESTION_MAX, self.ask_now(question, &table)).await;
        let asked =
            asked.unwrap_or_else(|_| Err(self.unavailable(format!("no answer within {QUESTION_MAX:?}"))));
        asked?.or_else(|error| match error {
            // The sink makes it with the first batch.
            error if is_missing(&error) && self.options.manage_schema => Ok(Q::Answer::default()),
            error if is_late(&error) && Q::COUNTS => Err(QueryError::TooManyEvents(STATEMENT_MAX).into()),
            error => Err(self.unavailable(words(&error))),
        })
    }

    async fn ask_now<Q: Question>(
        &self,
        question: &Q,
        table: &PostgresTable,
    ) -> Result<Result<Q::Answer, Error>, StoreError> {
        // One that waited may have lost its server meanwhile; that is no reason to refuse the question.
        if let Some(session) = self.idle() {
            match question.ask(&session, table).await {
                Err(error) if is_lost(&error) => {}
                answer => {
                    self.put_back(session);
                    return Ok(answer);
                }
            }
        }
        let session = self.open().await?;
        let answer = question.ask(&session, table).await;
        self.put_back(session);
        Ok(answer)
    }

    async fn open(&self) -> Result<Session, StoreError> {
        let (millis, locks) = (STATEMENT_MAX.as_millis(), LOCK_WAIT.as_millis());
        // Compiling a statement takes longer than any of these has. Without the other two, a guess of the planner's that few
        // rows are between two places would have it read and sort all of them, instead of the first along the index.
        let settings = format!(
            "SET default_transaction_read_only = on; SET statement_timeout = {millis}; SET lock_timeout = {locks}; \
             SET jit = off; SET enable_bitmapscan = off; SET enable_sort = off"
        );
        self.connect(&settings).await
    }

    /// A session with settings of its own, beside the pool.
    pub(super) async fn connect(&self, settings: &str) -> Result<Session, StoreError> {
        let access = self.access().await?;
        let connected = async {
            let (client, driver) = access.connect().await?;
            client.batch_execute(settings).await?;
            Ok(Session { client, is_spent: AtomicBool::new(false), _driver: driver })
        };
        connected.await.map_err(|error: Error| self.unavailable(words(&error)))
    }

    async fn access(&self) -> Result<&Access, StoreError> {
        let open = || async {
            let options = self.options.clone();
            let read = tokio::task::spawn_blocking(move || Access::new(&options)).await;
            read.map_err(|_| StoreError::NoAnswer)?.map_err(|error| self.unavailable(error.message))
        };
        self.access.get_or_try_init(open).await
    }

    pub(super) fn table(&self) -> Result<PostgresTable, StoreError> {
        PostgresTable::parse(&self.options.table).map_err(|why| self.unavailable(format!("the table {why}")))
    }

    /// Of whatever an operator can mend.
    pub(super) fn unavailable(&self, what: String) -> StoreError {
        let place = self.access.get().map_or("postgres", |access| access.place());
        StoreError::Unavailable { place: place.to_owned(), what }
    }

    fn idle(&self) -> Option<Session> {
        let mut idle = self.sessions();
        std::iter::from_fn(|| idle.pop()).find(|session| !session.client.is_closed())
    }

    fn put_back(&self, session: Session) {
        if !session.client.is_closed() && !session.is_spent.load(Ordering::Relaxed) {
            self.sessions().push(session);
        }
    }

    /// Nothing that holds this lock can leave the list half-changed.
    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Session ===

impl Session {
    /// It ends with its question: what the server still has to send is not worth waiting for.
    pub(super) fn spend(&self) {
        self.is_spent.store(true, Ordering::Relaxed);
    }
}
