//! `type: postgres`: each batch is one `COPY … BINARY`, in one transaction.
//!
//! Where `idempotent` is set, rows go into a table of the session first and from there into the real one, where what is
//! there already does nothing: a batch that comes again after a crash makes no second rows, and neither do two events
//! with one id. Otherwise they go into the table at once, and a batch that comes again stands there twice.
//!
//! - Delivered means committed, and synced by the server: where its `synchronous_commit` is off, it is put on for these
//!   sessions. Higher levels stay.
//! - The session has a table, prepared statements and settings of its own, so a pooler before the server has to keep a
//!   session together (PgBouncer: `pool_mode = session`).
//! - A delivery that is dropped or fails takes its connection with it: nothing half-done is ever used again.
//!
//! Limits: connections at most `pool_max`; a batch is held once more as rows, as large as its records; a time limit for
//! the whole of a delivery, which the server has too.

mod copy;
pub(crate) mod fault;
pub(crate) mod micros;
mod month;
mod schema;
pub(crate) mod session;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
    pin::pin,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt},
    record::Batch,
};
use futures::{FutureExt as _, SinkExt as _, future::LocalBoxFuture};
use tokio::sync::Semaphore;
use tokio_postgres::{Client, Statement};

use self::{
    copy::{COLUMNS, Rows},
    fault::failure,
    month::Month,
    schema::SchemaError,
    session::{Access, Driver},
};
use super::{chain, encoding, unbuildable};
use crate::config::{Partitions, PostgresSink, PostgresTable as Table};

/// Bytes of one message of a copy: the client copies each into its buffer, and the server takes them as they come.
const CHUNK_BYTES: usize = 256 * 1024;

/// The table of the session that rows come through.
const STAGING: &str = "pg_temp.forebay_staging";

/// Writes batches into a table.
pub struct PostgresDestination {
    server: Rc<Server>,
}

/// All that one delivery needs.
struct Server {
    access: Access,
    table: Table,
    options: PostgresSink,
    /// Connections that wait for the next delivery.
    idle: RefCell<Vec<Connection>>,
    places: Semaphore,
    /// Whether the table was looked at, and found fit, since it last failed.
    is_checked: Cell<bool>,
    /// Partitions that are there, or cannot be made.
    partitions: RefCell<BTreeSet<Month>>,
}

/// A session that is set up.
struct Connection {
    client: Client,
    copy: Statement,
    _driver: Driver,
}

// === impl PostgresDestination ===

impl PostgresDestination {
    /// A destination that has not connected yet. Reads certificates.
    ///
    /// # Errors
    /// [`Cause::Build`] where the URL, the table or the certificates cannot be used.
    pub fn new(options: &PostgresSink) -> Result<Self, DeliveryError> {
        let access = Access::new(options)?;
        let table = Table::parse(&options.table).map_err(|why| unbuildable(format!("the table {why}")))?;
        let server = Server {
            access,
            table,
            options: options.clone(),
            idle: RefCell::default(),
            places: Semaphore::new(options.pool_max),
            is_checked: Cell::new(false),
            partitions: RefCell::default(),
        };
        Ok(Self { server: Rc::new(server) })
    }
}

impl fmt::Debug for PostgresDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresDestination").field(&self.server.access.place()).finish()
    }
}

impl Destination for PostgresDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let server = self.server.clone();
        async move { server.within_time(server.insert(batch)).await }.boxed_local()
    }

    /// Connects, and looks whether the table is fit and may be written to. Makes nothing.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let server = self.server.clone();
        async move { server.within_time(server.look()).await }.boxed_local()
    }
}

// === impl Server ===

impl Server {
    async fn within_time<T>(
        &self,
        work: impl Future<Output = Result<T, DeliveryError>>,
    ) -> Result<T, DeliveryError> {
        let late = || {
            let message = format!("{}: no answer within {:?}", self.access.place(), self.options.timeout);
            Err(DeliveryError::transient(Cause::Timeout, message))
        };
        tokio::time::timeout(self.options.timeout, work).await.unwrap_or_else(|_| late())
    }

    async fn insert(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let by_month = self.options.partitions == Partitions::Monthly && self.options.manage_schema;
        let rows = encoding(batch, move |batch| copy::rows(batch, by_month)).await?;
        let sent = rows.bytes.len() as u64;
        let _place = self.places.acquire().await.expect("nobody closes it");
        let mut connection = match self.usable() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        if !self.is_checked.get() {
            self.prepare(&mut connection.client).await?;
            self.is_checked.set(true);
        } else if !self.options.idempotent {
            // Rows go straight in as bytes, and a column of another type may take them for something else without a word.
            let fit = schema::check_columns(&connection.client, &self.table).await;
            fit.map_err(|error| self.unfit(error))?;
        }
        self.make_partitions(&connection.client, &rows.months).await?;
        let written = self.write(&connection, rows).await;
        written.map_err(|error| self.failed(&error))?;
        self.idle.borrow_mut().push(connection);
        Ok(Receipt::of(sent))
    }

    async fn look(&self) -> Result<(), DeliveryError> {
        let connection = match self.usable() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let client = &connection.client;
        let checked = schema::check(client, &self.table, &self.options, self.options.manage_schema).await;
        checked.map_err(|error| self.unfit(error))?;
        self.idle.borrow_mut().push(connection);
        Ok(())
    }

    /// One of the connections that wait, if one of them still stands.
    fn usable(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.client.is_closed())
    }

    async fn connect(&self) -> Result<Connection, DeliveryError> {
        let connected = self.access.connect().await;
        let (client, driver) = connected.map_err(|error| self.failed(&error))?;
        let copy = self.set_up(&client).await.map_err(|error| self.failed(&error))?;
        Ok(Connection { client, copy, _driver: driver })
    }

    /// Settings of the session, its table, and the copy into it.
    async fn set_up(&self, client: &Client) -> Result<Statement, tokio_postgres::Error> {
        let millis = self.options.timeout.as_millis();
        let staging = if self.options.idempotent {
            // Unlike a table made LIKE the real one, this has neither its constraints nor columns of its owner's.
            "CREATE TEMP TABLE forebay_staging (event_id text, timestamp timestamptz, service text, message text, \
             metadata jsonb, ingested_at timestamptz) ON COMMIT DELETE ROWS;"
        } else {
            ""
        };
        client
            .batch_execute(&format!(
                "SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {millis}; \
                 SELECT set_config('synchronous_commit', 'on', false) \
                 WHERE current_setting('synchronous_commit') = 'off'; {staging}"
            ))
            .await?;
        let into = if self.options.idempotent { STAGING.to_owned() } else { self.table.to_string() };
        client.prepare(&format!("COPY {into} ({}) FROM STDIN BINARY", COLUMNS.join(", "))).await
    }

    /// Makes and checks the table.
    async fn prepare(&self, client: &mut Client) -> Result<(), DeliveryError> {
        if self.options.manage_schema {
            let made = schema::make(client, &self.table, &self.options).await;
            made.map_err(|error| self.unfit(error))?;
        }
        schema::check(client, &self.table, &self.options, false).await.map_err(|error| self.unfit(error))
    }

    async fn make_partitions(&self, client: &Client, months: &BTreeSet<Month>) -> Result<(), DeliveryError> {
        for month in months {
            if self.partitions.borrow().contains(month) {
                continue;
            }
            match schema::make_partition(client, &self.table, *month).await {
                Ok(()) => {}
                Err(SchemaError::Server(error)) if error.as_db_error().is_some() => {
                    tracing::warn!(%month, error = %chain(&error), "a partition cannot be made; its rows go to the others");
                }
                Err(error) => return Err(self.unfit(error)),
            }
            self.partitions.borrow_mut().insert(*month);
        }
        Ok(())
    }

    async fn write(&self, connection: &Connection, rows: Rows) -> Result<(), tokio_postgres::Error> {
        let Connection { client, copy, .. } = connection;
        if !self.options.idempotent {
            return copy_rows(client, copy, rows).await;
        }
        let columns = COLUMNS.join(", ");
        let key = schema::key(self.options.partitions).join(", ");
        client.batch_execute("BEGIN").await?;
        copy_rows(client, copy, rows).await?;
        let table = &self.table;
        let insert = format!(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM {STAGING} ON CONFLICT ({key}) DO NOTHING; COMMIT"
        );
        client.batch_execute(&insert).await
    }

    fn failed(&self, error: &tokio_postgres::Error) -> DeliveryError {
        if fault::is_about_schema(error) {
            self.is_checked.set(false);
            self.partitions.borrow_mut().clear();
        }
        failure(self.access.place(), error)
    }

    fn unfit(&self, error: SchemaError) -> DeliveryError {
        match error {
            SchemaError::Server(error) => self.failed(&error),
            SchemaError::Unfit(what) => {
                DeliveryError::transient(Cause::Refused, format!("{}: {what}", self.access.place()))
            }
        }
    }
}

/// Sends the rows and waits until the server has them all.
async fn copy_rows(client: &Client, copy: &Statement, rows: Rows) -> Result<(), tokio_postgres::Error> {
    let mut bytes = Bytes::from(rows.bytes);
    let mut sink = pin!(client.copy_in::<_, Bytes>(copy).await?);
    while !bytes.is_empty() {
        sink.feed(bytes.split_to(bytes.len().min(CHUNK_BYTES))).await?;
    }
    sink.finish().await.map(drop)
}
