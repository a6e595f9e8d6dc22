//! `type: cassandra`: events, points and spans as rows of three tables, in unlogged batches of one partition each.
//!
//! A row's key follows from what it is made of, so a batch that comes again after a crash writes the same rows again, and two
//! events are never one row. Rows are written with the cluster's own time: with the events' time, what was deleted once could
//! not be brought back by a replay.
//!
//! - Delivered means that as many replicas as `consistency` says have every row. When they sync is theirs to say
//!   (`commitlog_sync`).
//! - Which node is asked, and which other one after it, is the driver's to decide: every statement may be said twice.
//! - The tables are looked at before the first row, and again when the cluster calls a row invalid.
//! - Batches of other sinks are held in a table of their own (`held.rs`), and are rows of these meanwhile.
//!
//! Limits: of a batch as many rows are held as [`ROWS_BYTES_MAX`] says, and once more as `requests_max` requests.

mod fault;
mod held;
mod rows;
mod schema;
mod table;

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc, time::Duration};

use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt, Verdict},
    examination::{Examination, Finding},
    holding::Holding,
    record::Batch,
    runtime::clock::Clock,
};
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream};
use scylla::{
    client::{
        Compression, execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder,
    },
    errors::ExecutionError,
    statement::{
        Consistency as DriverConsistency,
        batch::{Batch as Statements, BatchType},
        prepared::PreparedStatement,
    },
};
use tokio::sync::Mutex;

use self::{
    fault::{Fault, Remedy},
    rows::{Recipe, Rows, Values},
    schema::Schema,
    table::{Purpose, Table},
};
use super::encoding;
use crate::config::{CassandraCompression, CassandraSink, Consistency};

/// Bytes of rows that are held at a time, unless one row has more: a resource that many items have once between them is in
/// the row of each.
pub const ROWS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Time to reach one node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes rows.
pub struct CassandraDestination {
    cluster: Rc<Cluster>,
}

/// All that one delivery needs.
struct Cluster {
    options: CassandraSink,
    recipe: Arc<Recipe>,
    /// The cluster for messages.
    place: String,
    /// What tells the batches of one data directory from those of another.
    stream: String,
    clock: Clock,
    rows: Access,
    held: Access,
}

/// The way to some tables. Each purpose has its own, so that what is wrong with the tables of one does not stop the other.
struct Access {
    purpose: Purpose,
    /// `None` until somebody has to connect.
    known: RefCell<Option<Rc<Known>>>,
    /// Held by the one that does.
    connecting: Mutex<()>,
}

/// A session to tables that fit.
struct Known {
    session: Session,
    /// Those of its purpose, in their order.
    statements: Vec<PreparedStatement>,
}

// === impl CassandraDestination ===

impl CassandraDestination {
    /// A destination that has not connected yet.
    pub fn new(options: &CassandraSink) -> Self {
        let cluster = Cluster {
            recipe: Arc::new(Recipe::of(options)),
            place: format!("cassandra {}/{}", options.hosts.join(","), options.keyspace),
            options: options.clone(),
            stream: String::new(),
            clock: Clock::system(),
            rows: Access::of(Purpose::Rows),
            held: Access::of(Purpose::Holding),
        };
        Self { cluster: Rc::new(cluster) }
    }

    /// The same with what it holds for others told from what another data directory has it hold.
    pub fn of_stream(mut self, stream: &str, clock: &Clock) -> Self {
        let cluster =
            Rc::get_mut(&mut self.cluster).expect("nobody else holds a destination that is being built");
        stream.clone_into(&mut cluster.stream);
        cluster.clock = clock.clone();
        self
    }
}

impl fmt::Debug for CassandraDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CassandraDestination").field(&self.cluster.place).finish()
    }
}

impl Destination for CassandraDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let cluster = self.cluster.clone();
        async move { cluster.insert(batch).await }.boxed_local()
    }

    /// Connects, and looks whether the tables are fit and may be written to. Makes nothing.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let cluster = self.cluster.clone();
        async move { cluster.look().await }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let cluster = self.cluster.clone();
        async move { cluster.examine(Purpose::Rows).await }.boxed_local()
    }

    fn holding(&self) -> Option<&dyn Holding> {
        Some(self)
    }
}

// === impl Cluster ===

impl Cluster {
    async fn insert(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let is_made = self.options.manage_schema;
        let known = self.known(&self.rows, is_made).await?;
        let (mut pieces, mut sent) = (vec![batch], 0);
        while let Some(piece) = pieces.pop() {
            let recipe = self.recipe.clone();
            match encoding(piece.clone(), move |piece| recipe.rows(piece)).await? {
                Some(rows) => {
                    let mut written = self.write(&known, &rows).await;
                    if let Err(error) = &written
                        && Fault::of(error).remedy == Remedy::LookAgain
                        && self.still_fits(&self.rows, &known).await.is_ok()
                    {
                        // Until a moment ago it may have been the table's fault.
                        written = self.write(&known, &rows).await;
                    }
                    if let Err(error) = written {
                        return Err(self.failed(&self.rows, &known, Fault::of(&error)).await);
                    }
                    sent += rows.bytes();
                }
                None => {
                    let halves = piece.halves();
                    let (first, second) = halves.expect("the rows of one event are held whatever they have");
                    pieces.extend([Arc::new(second), Arc::new(first)]);
                }
            }
        }
        Ok(Receipt::of(sent))
    }

    async fn write(&self, known: &Known, rows: &Rows) -> Result<(), ExecutionError> {
        let requests = rows.requests();
        let sending = requests.iter().map(|(table, rows)| known.send(*table, rows));
        let mut sent = stream::iter(sending).buffer_unordered(self.options.requests_max);
        while let Some(answer) = sent.next().await {
            answer?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), DeliveryError> {
        let session = self.connect().await?;
        let schema = self.schema(Purpose::Rows, &session);
        schema.check(self.options.manage_schema)?;
        schema.check_rights().await
    }

    async fn examine(&self, purpose: Purpose) -> Examination {
        let session = match self.connect().await {
            Ok(session) => session,
            Err(error) => return Examination::failed(&error),
        };
        let schema = self.schema(purpose, &session);
        let finding = |found: Result<(), DeliveryError>| match found {
            Ok(()) => Finding::Fit,
            Err(error) => Finding::Unfit(error.message),
        };
        Examination {
            authorised: finding(schema.check_rights().await),
            schema: finding(schema.check(self.options.manage_schema)),
            clock: schema.clock().await,
            ..Examination::fit()
        }
    }

    /// The session that there is, or a new one, for which missing tables are made where `is_made` is set.
    async fn known(&self, access: &Access, is_made: bool) -> Result<Rc<Known>, DeliveryError> {
        let _alone = access.connecting.lock().await;
        if let Some(known) = &*access.known.borrow() {
            return Ok(known.clone());
        }
        let session = self.connect().await?;
        let schema = self.schema(access.purpose, &session);
        if is_made {
            schema.make().await?;
        }
        schema.check(false)?;
        if access.purpose == Purpose::Rows {
            schema.compare_ttl().await?;
        }
        let mut statements = Vec::new();
        for statement in access.purpose.statements(&self.options) {
            let prepared = session.prepare(statement).await;
            let mut statement = prepared.map_err(|error| Fault::of_preparing(&error).at(&self.place))?;
            statement.set_is_idempotent(true);
            statements.push(statement);
        }
        let known = Rc::new(Known { session, statements });
        *access.known.borrow_mut() = Some(known.clone());
        Ok(known)
    }

    async fn connect(&self) -> Result<Session, DeliveryError> {
        let options = &self.options;
        let profile = ExecutionProfile::builder()
            .consistency(consistency(options.consistency))
            .request_timeout(Some(options.timeout))
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&options.hosts)
            .keyspaces_to_fetch([&options.keyspace])
            .connection_timeout(CONNECT_TIMEOUT.min(options.timeout))
            .default_execution_profile_handle(profile.into_handle());
        if options.compression == CassandraCompression::Lz4 {
            builder = builder.compression(Some(Compression::Lz4));
        }
        if let Some(datacenter) = &options.datacenter {
            builder = builder.prefer_datacenter(datacenter.clone());
        }
        if let (Some(user), Some(password)) = (&options.user, &options.password) {
            builder = builder.user(user, password.reveal());
        }
        let connected = tokio::time::timeout(options.timeout, builder.build()).await;
        let connected = connected.map_err(|_| {
            let message = format!("{}: no session within {:?}", self.place, options.timeout);
            DeliveryError::transient(Cause::Timeout, message)
        })?;
        connected.map_err(|error| Fault::of_session(&error).at(&self.place))
    }

    fn schema<'s>(&'s self, purpose: Purpose, session: &'s Session) -> Schema<'s> {
        Schema { purpose, session, options: &self.options, place: &self.place }
    }

    async fn still_fits(&self, access: &Access, known: &Known) -> Result<(), DeliveryError> {
        let schema = self.schema(access.purpose, &known.session);
        schema.refresh().await?;
        schema.check(false)
    }

    async fn failed(&self, access: &Access, known: &Rc<Known>, fault: Fault) -> DeliveryError {
        let unfit = match fault.remedy {
            Remedy::None => return fault.at(&self.place),
            Remedy::Reconnect => None,
            Remedy::LookAgain => {
                match self.still_fits(access, known).await {
                    // Rows fit, so it is this row that does not.
                    Ok(()) if fault.verdict == Verdict::Reject => return fault.at(&self.place),
                    looked => looked.err(),
                }
            }
        };
        access.known.borrow_mut().take_if(|current| Rc::ptr_eq(current, known));
        unfit.unwrap_or_else(|| fault.at(&self.place))
    }
}

// === impl Access ===

impl Access {
    fn of(purpose: Purpose) -> Self {
        Self { purpose, known: RefCell::default(), connecting: Mutex::default() }
    }
}

// === impl Known ===

impl Known {
    /// Sends rows of one partition.
    async fn send(&self, table: Table, rows: &[Values<'_>]) -> Result<(), ExecutionError> {
        let insert = &self.statements[table as usize];
        if let [row] = rows {
            return self.session.execute_unpaged(insert, row).await.map(drop);
        }
        let mut statements = Statements::new(BatchType::Unlogged);
        statements.set_is_idempotent(true);
        statements.statements.extend(rows.iter().map(|_| insert.clone().into()));
        self.session.batch(&statements, rows).await.map(drop)
    }
}

// === Options ===

const fn consistency(wanted: Consistency) -> DriverConsistency {
    match wanted {
        Consistency::Any => DriverConsistency::Any,
        Consistency::One => DriverConsistency::One,
        Consistency::Two => DriverConsistency::Two,
        Consistency::Three => DriverConsistency::Three,
        Consistency::Quorum => DriverConsistency::Quorum,
        Consistency::All => DriverConsistency::All,
        Consistency::LocalQuorum => DriverConsistency::LocalQuorum,
        Consistency::EachQuorum => DriverConsistency::EachQuorum,
        Consistency::LocalOne => DriverConsistency::LocalOne,
    }
}
