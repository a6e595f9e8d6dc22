//! `type: clickhouse`: each batch is one INSERT over the HTTP interface, in `RowBinary`.
//!
//! Rows are written by the types that the table's columns have, so a table of the operator's own works as well as one that
//! Forebay made. It is looked at before the first batch, and again when the server says that it is another.
//!
//! A batch that comes again after a crash carries the same `insert_deduplication_token`, where the server knows tokens. A
//! replicated table remembers them by itself; one without replicas does where it was made so, as Forebay's is. Where the
//! server is too old for tokens, the engine (`ReplacingMergeTree`) makes one row of two when it merges.
//!
//! Limits: a batch is held once more as rows, as large as its records, and once compressed.

mod fault;
mod rows;
mod table;

use std::{cell::RefCell, fmt, io::Write as _, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::write::GzEncoder;
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt},
    event::Timestamp,
    examination::{ClockReading, Examination, Finding},
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use reqwest::{
    Client, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::time::Instant;

use self::{
    fault::failure,
    rows::Column,
    table::{Abilities, columns_of, definition, plan},
};
use super::{
    chain, encoding,
    http::{IDLE_MAX, endpoint_url, is_loopback, one_line, unanswered, without_secrets},
    tls, unbuildable,
};
use crate::config::{ClickhouseCompression, ClickhouseSink};

/// Bytes of an answer that are read: the names of a table's columns are a few hundred.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of the server's words that a message quotes.
const QUOTED_BYTES_MAX: usize = 600;

const USER: HeaderName = HeaderName::from_static("x-clickhouse-user");
const KEY: HeaderName = HeaderName::from_static("x-clickhouse-key");

/// Inserts batches into a table.
pub struct ClickhouseDestination {
    server: Rc<Server>,
}

/// All that one delivery needs.
struct Server {
    client: Client,
    url: Url,
    /// The table for messages: the URL without secrets, and its name.
    place: String,
    /// The table, quoted.
    table: String,
    options: ClickhouseSink,
    /// What tells this process' batches from those of any other; empty where nobody said.
    stream: String,
    /// What is known of the table and its server; `None` where it has to be looked at again.
    known: RefCell<Option<Rc<Known>>>,
}

#[derive(Debug)]
struct Known {
    can: Abilities,
    /// `INSERT INTO … FORMAT RowBinary`.
    insert: String,
    columns: Arc<[Column]>,
}

// === impl ClickhouseDestination ===

impl ClickhouseDestination {
    /// A destination that has not connected yet. Reads certificates.
    ///
    /// # Errors
    /// [`Cause::Build`] where the URL, the user or the certificates cannot be used.
    pub fn new(options: &ClickhouseSink) -> Result<Self, DeliveryError> {
        let mut url = endpoint_url(&options.url)?;
        url.query_pairs_mut().append_pair("database", &options.database);
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: &str, key: &str| {
            // The value may be a password, so no message shows it.
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| unbuildable(format!("{key} has characters a header cannot")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok::<_, DeliveryError>(())
        };
        set(USER, &options.user, "user")?;
        if let Some(password) = &options.password {
            set(KEY, password.reveal(), "password")?;
        }
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls::client_with(&options.tls)?)
            .default_headers(headers)
            .timeout(options.timeout)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(Policy::none());
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|e| unbuildable(format!("no HTTP client can be set up: {}", chain(&e))))?;
        let table = format!("{}.{}", table::name(&options.database), table::name(&options.table));
        let place = format!("{} {}.{}", without_secrets(&url), options.database, options.table);
        let (stream, known) = (String::new(), RefCell::default());
        let server = Server { client, url, place, table, options: options.clone(), stream, known };
        Ok(Self { server: Rc::new(server) })
    }

    /// The same with `stream` before every batch id: positions begin at 0 in every data directory, so alone they do not
    /// tell two of them apart.
    pub fn of_stream(mut self, stream: &str) -> Self {
        let server =
            Rc::get_mut(&mut self.server).expect("nobody else holds a destination that is being built");
        server.stream = format!("{stream}-");
        self
    }
}

impl fmt::Debug for ClickhouseDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClickhouseDestination").field(&self.server.place).finish()
    }
}

impl Destination for ClickhouseDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let server = self.server.clone();
        async move { server.insert(batch).await }.boxed_local()
    }

    /// Looks whether the server lets this user in and the table is fit. Makes nothing.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let server = self.server.clone();
        async move {
            match server.look(false).await? {
                Some(_) => Ok(()),
                None if server.options.manage_schema => Ok(()),
                None => Err(server.missing()),
            }
        }
        .boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let server = self.server.clone();
        async move { server.examine().await }.boxed_local()
    }
}

// === impl Server ===

impl Server {
    async fn insert(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let known = self.known.borrow().clone();
        let known = match known {
            Some(known) => known,
            None => {
                let known =
                    Rc::new(self.look(self.options.manage_schema).await?.ok_or_else(|| self.missing())?);
                *self.known.borrow_mut() = Some(known.clone());
                known
            }
        };
        let token = format!("{}{}", self.stream, batch.id());
        let (columns, compression) = (known.columns.clone(), self.options.compression);
        let body = encoding(batch, move |batch| {
            rows::rows(batch, &columns).and_then(|rows| packed(rows, compression))
        });
        let body = body.await?;
        let sent = body.len() as u64;
        let mut settings = vec![("query", known.insert.as_str())];
        if known.can.tokens {
            settings.push(("insert_deduplication_token", &token));
        }
        if self.options.async_insert {
            // Without the wait, an answer would say nothing about the rows.
            settings.extend([("async_insert", "1"), ("wait_for_async_insert", "1")]);
        }
        self.ask(&settings, body, compression).await?;
        Ok(Receipt::of(sent))
    }

    /// Looks at the server and the table, which it makes where it may. `None` where there is no table.
    async fn look(&self, may_make: bool) -> Result<Option<Known>, DeliveryError> {
        let can = Abilities::read(&self.query(table::ABILITIES).await?);
        let columns = columns_of(&self.options.database, &self.options.table);
        let mut found = plan(&self.query(&columns).await?);
        if found == Err(None) && may_make {
            self.query(&definition(&self.table, can)).await?;
            found = plan(&self.query(&columns).await?);
        }
        match found {
            Ok(columns) => {
                let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
                let insert = format!("INSERT INTO {} ({}) FORMAT RowBinary", self.table, names.join(", "));
                let columns = columns.into_iter().map(|(_, column)| column).collect();
                Ok(Some(Known { can, insert, columns }))
            }
            Err(None) => Ok(None),
            Err(Some(wrong)) => {
                let message = format!("{}: the columns do not fit; {wrong}", self.place);
                Err(DeliveryError::transient(Cause::Refused, message))
            }
        }
    }

    async fn examine(&self) -> Examination {
        let clock = match self.clock().await {
            Ok(clock) => clock,
            Err(error) => return Examination::failed(&error),
        };
        let found = match self.look(false).await {
            Ok(None) if !self.options.manage_schema => Examination::unfit(self.missing().message),
            Ok(None) => Examination {
                schema: Finding::Fit,
                note: Some(format!("{}: the table is not there yet; it will be made", self.place)),
                ..Examination::fit()
            },
            Ok(Some(_)) => Examination { schema: Finding::Fit, ..Examination::fit() },
            // Columns that do not fit are for the operator to mend, as a user without rights is; only the latter is in the
            // server's words, with its status.
            Err(error) if error.cause == Cause::Refused && error.status.is_none() => {
                Examination::unfit(error.message)
            }
            Err(error) => Examination::failed(&error),
        };
        found.with_clock(clock)
    }

    /// What the server's clock says; in whole seconds, which is what servers of every age know.
    async fn clock(&self) -> Result<Option<ClockReading>, DeliveryError> {
        let asked = Instant::now();
        let answer = self.query("SELECT toUnixTimestamp(now()) FORMAT TabSeparated").await?;
        let said = answer.trim().parse::<i64>().ok().map(|said| said.saturating_mul(1_000_000_000));
        Ok(said.map(|said| ClockReading {
            said: Timestamp::from_nanos(said),
            resolution: Duration::from_secs(1),
            asked,
            answered: Instant::now(),
        }))
    }

    fn missing(&self) -> DeliveryError {
        let message =
            format!("{}: the table is not there; manage_schema: true lets Forebay make it", self.place);
        DeliveryError::transient(Cause::Refused, message)
    }

    async fn query(&self, sql: &str) -> Result<String, DeliveryError> {
        self.ask(&[], sql.to_owned().into(), ClickhouseCompression::None).await
    }

    /// Sends a request, and returns the text of its answer.
    async fn ask(
        &self,
        settings: &[(&str, &str)],
        body: Bytes,
        compression: ClickhouseCompression,
    ) -> Result<String, DeliveryError> {
        let mut url = self.url.clone();
        url.query_pairs_mut().extend_pairs(settings);
        let mut request = self.client.post(url).body(body);
        request = match compression {
            ClickhouseCompression::None => request,
            ClickhouseCompression::Gzip => request.header(header::CONTENT_ENCODING, "gzip"),
            ClickhouseCompression::Zstd => request.header(header::CONTENT_ENCODING, "zstd"),
        };
        let mut answer = request.send().await.map_err(|error| unanswered(&self.place, error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| unanswered(&self.place, error))? {
            if text.len() + piece.len() > ANSWER_BYTES_MAX {
                let message = format!("{}: an answer of more than {ANSWER_BYTES_MAX} bytes", self.place);
                return Err(DeliveryError::transient(Cause::Server, message));
            }
            text.extend_from_slice(&piece);
        }
        // A failure after the head of the answer has gone out stands in its text alone.
        if status.is_success() && !text.starts_with(b"Code: ") {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        let words = one_line(&text[..text.len().min(QUOTED_BYTES_MAX)]);
        if fault::is_about_schema(&words) {
            *self.known.borrow_mut() = None;
        }
        Err(failure(&self.place, status, &headers, &words))
    }
}

fn packed(rows: Vec<u8>, compression: ClickhouseCompression) -> Result<Bytes, DeliveryError> {
    let done = match compression {
        ClickhouseCompression::None => Ok(rows),
        ClickhouseCompression::Gzip => {
            let mut gzip = GzEncoder::new(Vec::with_capacity(rows.len() / 4), flate2::Compression::fast());
            gzip.write_all(&rows).and_then(|()| gzip.finish())
        }
        ClickhouseCompression::Zstd => zstd::bulk::compress(&rows, 1),
    };
    let failed =
        |error| DeliveryError::transient(Cause::Encode, format!("the rows cannot be compressed: {error}"));
    done.map(Bytes::from).map_err(failed)
}
