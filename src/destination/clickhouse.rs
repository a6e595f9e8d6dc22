//! `type: clickhouse`: batches are INSERTs over the HTTP interface, in `RowBinary`.
//!
//! Events go to a table of their own (`rows.rs`), items of OpenTelemetry to those of `otel/`, or with `otel: events` to the
//! table of events, too. A batch is one INSERT for each table that it has rows for.
//!
//! Rows are written by the types that a table's columns have, so a table of the operator's own works as well as one that
//! Forebay made. Tables are looked at before the first batch, and again when the server says that they are others.
//!
//! A batch that comes again after a crash carries the same `insert_deduplication_token`, where the server knows tokens. A
//! replicated table remembers them by itself; one without replicas does where it was made so, as Forebay's is. Where the
//! server is too old for tokens, the engine (`ReplacingMergeTree`) makes one row of two when it merges. So it does with
//! `async_insert` before 26.2, where a server that gathers inserts does not know each by its token.
//!
//! Limits: a batch is held once more as rows, as large as its records, and once compressed.

mod fault;
mod otel;
mod pack;
mod rows;
mod server;
mod sheets;
mod table;
mod taken;
mod types;

use std::{fmt, rc::Rc, sync::Arc};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination},
    examination::Examination,
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use reqwest::{
    Client,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};

use self::server::Server;
use super::{
    chain,
    http::{IDLE_MAX, endpoint_url, is_loopback},
    tls, unbuildable,
};
use crate::config::ClickhouseSink;

const USER: HeaderName = HeaderName::from_static("x-clickhouse-user");
const KEY: HeaderName = HeaderName::from_static("x-clickhouse-key");

/// Inserts batches into a table.
pub struct ClickhouseDestination {
    server: Rc<Server>,
}

// === impl ClickhouseDestination ===

impl ClickhouseDestination {
    /// A destination that has not connected yet. Reads certificates.
    ///
    /// # Errors
    /// `Cause::Build` where the URL, the user or the certificates cannot be used.
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
        Ok(Self { server: Rc::new(Server::new(client, url, options.clone())) })
    }

    /// The same with `stream` before every batch id: positions begin at 0 in every data directory, so alone they do not
    /// tell two of them apart.
    pub fn of_stream(mut self, stream: &str) -> Self {
        let server =
            Rc::get_mut(&mut self.server).expect("nobody else holds a destination that is being built");
        server.stream(stream);
        self
    }
}

impl fmt::Debug for ClickhouseDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClickhouseDestination").field(&self.server.shown(None)).finish()
    }
}

impl Destination for ClickhouseDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let server = self.server.clone();
        async move { server.insert(batch).await }.boxed_local()
    }

    /// Looks whether the server lets this user in and the tables are fit. Makes nothing.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let server = self.server.clone();
        async move { server.probe().await }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let server = self.server.clone();
        async move { server.examine().await }.boxed_local()
    }
}
