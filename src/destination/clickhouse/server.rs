//! The server: what it can, its tables, and the requests to it.

use std::{cell::RefCell, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, DeliveryError, Receipt},
    event::Timestamp,
    examination::{ClockReading, Examination, Finding},
    record::Batch,
};
use reqwest::{Client, Url, header};
use tokio::time::Instant;

use super::{
    super::{
        encoding,
        http::{one_line, unanswered, without_secrets},
    },
    fault::{self, failure},
    otel::{self, OtelTable},
    pack::packed,
    sheets::{Fit, Known, Table, sheets},
    table::{self, Abilities},
    taken::Taken,
};
use crate::config::{ClickhouseCompression, ClickhouseOtel, ClickhouseSink};

/// Bytes of an answer that are read: the columns of all tables are some thousand.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of the server's words that a message quotes.
const QUOTED_BYTES_MAX: usize = 600;

/// All that one delivery needs.
pub(super) struct Server {
    client: Client,
    url: Url,
    options: ClickhouseSink,
    /// What tells this process' batches from those of any other; empty where nobody said.
    stream: String,
    /// What is known of the tables and their server; `None` where they have to be looked at again.
    known: RefCell<Option<Arc<Known>>>,
    taken: RefCell<Taken>,
}

// === impl Server ===

impl Server {
    pub(super) fn new(client: Client, url: Url, options: ClickhouseSink) -> Self {
        let (stream, known, taken) = Default::default();
        Self { client, url, options, stream, known, taken }
    }

    /// Puts a name before every batch id.
    pub(super) fn stream(&mut self, stream: &str) {
        self.stream = format!("{stream}-");
    }

    /// A table for messages: the URL without secrets, and its name. Without one, the table of events.
    pub(super) fn shown(&self, table: Option<Table>) -> String {
        let name = self.name(table.unwrap_or(Table::Events));
        format!("{} {}.{name}", without_secrets(&self.url), self.options.database)
    }

    fn name(&self, table: Table) -> &str {
        match table {
            Table::Events => &self.options.table,
            Table::Otel(table) => table.name(),
        }
    }

    pub(super) async fn insert(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let known = self.known().await?;
        let (of, compression) = (known.clone(), self.options.compression);
        let encoded = encoding(batch.clone(), move |batch| {
            let sheets = sheets(batch, &of)?;
            let rows = sheets.full.into_iter();
            let bodies = rows.map(|(table, rows)| packed(rows, compression).map(|body| (table, body)));
            Ok((bodies.collect::<Result<Vec<_>, DeliveryError>>()?, sheets.lacking))
        });
        let (bodies, lacking) = encoded.await?;
        if let Some(table) = lacking {
            // Somebody may mend it until the batch comes again.
            *self.known.borrow_mut() = None;
            return Err(self.lacking(&known, table));
        }
        let (mut sent, last) = (0, bodies.len().saturating_sub(1));
        for (index, (table, body)) in bodies.into_iter().enumerate() {
            if self.taken.borrow().has(table, &batch) {
                continue;
            }
            sent += body.len() as u64;
            self.send(&known, table, &batch, body).await?;
            if index < last {
                self.taken.borrow_mut().add(table, &batch);
            }
        }
        self.taken.borrow_mut().forget(&batch);
        Ok(Receipt::of(sent))
    }

    /// What is known of the tables, as they are now: the rows have no types in them, so a server would read those of a column
    /// that has become another one of the same width without a word.
    async fn known(&self) -> Result<Arc<Known>, DeliveryError> {
        let known = self.known.borrow().clone();
        if let Some(known) = known
            && known.columns == self.columns().await?
        {
            return Ok(known);
        }
        let known = Arc::new(self.look(self.options.manage_schema).await?);
        *self.known.borrow_mut() = Some(known.clone());
        Ok(known)
    }

    /// One INSERT.
    async fn send(
        &self,
        known: &Known,
        table: Table,
        batch: &Batch,
        body: Bytes,
    ) -> Result<(), DeliveryError> {
        let mut token = format!("{}{}", self.stream, batch.id());
        if let Table::Otel(table) = table {
            token.push('-');
            token.push_str(table.name());
        }
        let mut settings = vec![("query", known.insert(table))];
        settings.extend(known.can.of_insert(self.options.async_insert, &token));
        self.ask(table, &settings, body, self.options.compression).await.map(drop)
    }

    /// Looks at the server and the tables, which it makes where it may.
    async fn look(&self, may_make: bool) -> Result<Known, DeliveryError> {
        let can = Abilities::read(&self.query(Table::Events, table::ABILITIES).await?);
        let found = self.columns().await?;
        let known = self.known_of(can, &found);
        if !may_make {
            return Ok(known);
        }
        if self.options.ttl.is_some() && !can.expires {
            let message = format!("{}: the server is too old for ttl; leave it away", self.shown(None));
            return Err(DeliveryError::transient(Cause::Refused, message));
        }
        let ttl_seconds = self.options.ttl.map(|ttl| ttl.as_secs());
        let mut has_made = false;
        if known.events.is_missing() {
            let name =
                format!("{}.{}", table::name(&self.options.database), table::name(&self.options.table));
            self.query(Table::Events, &table::definition(&name, can, ttl_seconds)).await?;
            has_made = true;
        }
        for (table, _) in
            OtelTable::ALL.iter().zip(&known.otel).filter(|(_, fit)| can.maps && fit.is_missing())
        {
            for statement in otel::definitions(*table, &self.options.database, can, ttl_seconds) {
                self.query(Table::Otel(*table), &statement).await?;
            }
            has_made = true;
        }
        Ok(if has_made { self.known_of(can, &self.columns().await?) } else { known })
    }

    /// The columns of all tables, as the server lists them.
    async fn columns(&self) -> Result<String, DeliveryError> {
        let otel = OtelTable::ALL.iter().map(|table| table.name());
        let tables = std::iter::once(self.options.table.as_str()).chain(otel);
        self.query(Table::Events, &table::columns_of(&self.options.database, tables)).await
    }

    fn known_of(&self, can: Abilities, answer: &str) -> Known {
        let fit = |name: &str, names: &[&str]| table::insert(&self.options.database, name, names);
        let found = table::found(answer, &self.options.table);
        let events = match table::plan(&found) {
            _ if found.is_empty() => Fit::Missing,
            Ok((names, columns)) => Fit::Fits { insert: fit(&self.options.table, &names), columns },
            Err(why) => Fit::Unfit(why),
        };
        let otel = |table: OtelTable| {
            let found = table::found(answer, table.name());
            match otel::plan(table, &found) {
                _ if found.is_empty() => Fit::Missing,
                Ok((names, columns)) => Fit::Fits { insert: fit(table.name(), &names), columns },
                Err(why) => Fit::Unfit(why),
            }
        };
        let has_tables = self.options.otel == ClickhouseOtel::Tables;
        let otel = if has_tables { OtelTable::ALL.map(otel).into() } else { Vec::new() };
        Known { can, columns: answer.to_owned(), events, otel }
    }

    /// Whether a batch would be taken, as far as that can be seen.
    pub(super) async fn probe(&self) -> Result<(), DeliveryError> {
        let known = self.look(false).await?;
        self.misfit(&known).map_or(Ok(()), Err)
    }

    /// The first table that rows could not be written to.
    fn misfit(&self, known: &Known) -> Option<DeliveryError> {
        let otel = OtelTable::ALL.into_iter().zip(&known.otel);
        let mut all = std::iter::once((Table::Events, known.events.is_missing()))
            .chain(otel.map(|(table, fit)| (Table::Otel(table), fit.is_missing())));
        let is_misfit = |(table, is_missing): &(Table, bool)| {
            // Whether anything comes for a table of OpenTelemetry that is not there, nobody knows.
            let is_wanted = *table == Table::Events && !self.options.manage_schema;
            known.unfit(*table).is_some() || *is_missing && is_wanted
        };
        all.find(is_misfit).map(|(table, _)| self.lacking(known, table))
    }

    pub(super) async fn examine(&self) -> Examination {
        let clock = match self.clock().await {
            Ok(clock) => clock,
            Err(error) => return Examination::failed(&error),
        };
        let found = match self.look(false).await {
            Ok(known) => match self.misfit(&known) {
                Some(misfit) => Examination::unfit(misfit.message),
                None if known.events.is_missing() => Examination {
                    schema: Finding::Fit,
                    note: Some(format!("{}: the table is not there yet; it will be made", self.shown(None))),
                    ..Examination::fit()
                },
                None => Examination { schema: Finding::Fit, ..Examination::fit() },
            },
            Err(error) => Examination::failed(&error),
        };
        found.with_clock(clock)
    }

    /// What the server's clock says; in whole seconds, which is what servers of every age know.
    async fn clock(&self) -> Result<Option<ClockReading>, DeliveryError> {
        let asked = Instant::now();
        let answer = self.query(Table::Events, "SELECT toUnixTimestamp(now()) FORMAT TabSeparated").await?;
        let said = answer.trim().parse::<i64>().ok().map(|said| said.saturating_mul(1_000_000_000));
        Ok(said.map(|said| ClockReading {
            said: Timestamp::from_nanos(said),
            resolution: Duration::from_secs(1),
            asked,
            answered: Instant::now(),
        }))
    }

    /// Why rows cannot be written to a table.
    fn lacking(&self, known: &Known, table: Table) -> DeliveryError {
        let place = self.shown(Some(table));
        let message = match known.unfit(table) {
            Some(why) => format!("{place}: the columns do not fit; {why}"),
            None if !known.can.maps && table != Table::Events => format!(
                "{place}: the server is too old for tables of OpenTelemetry (it knows no Map); otel: events writes its \
                 items to {}",
                self.options.table
            ),
            None => format!("{place}: the table is not there; manage_schema: true lets Forebay make it"),
        };
        DeliveryError::transient(Cause::Refused, message)
    }

    async fn query(&self, table: Table, sql: &str) -> Result<String, DeliveryError> {
        self.ask(table, &[], sql.to_owned().into(), ClickhouseCompression::None).await
    }

    /// Sends a request about a table, and returns the text of its answer.
    async fn ask(
        &self,
        table: Table,
        settings: &[(&str, &str)],
        body: Bytes,
        compression: ClickhouseCompression,
    ) -> Result<String, DeliveryError> {
        let place = self.shown(Some(table));
        let mut url = self.url.clone();
        url.query_pairs_mut().extend_pairs(settings);
        if compression == ClickhouseCompression::Lz4 {
            url.query_pairs_mut().append_pair("decompress", "1");
        }
        let mut request = self.client.post(url).body(body);
        request = match compression {
            ClickhouseCompression::None | ClickhouseCompression::Lz4 => request,
            ClickhouseCompression::Gzip => request.header(header::CONTENT_ENCODING, "gzip"),
            ClickhouseCompression::Zstd => request.header(header::CONTENT_ENCODING, "zstd"),
        };
        let mut answer = request.send().await.map_err(|error| unanswered(&place, error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| unanswered(&place, error))? {
            if text.len() + piece.len() > ANSWER_BYTES_MAX {
                let message = format!("{place}: an answer of more than {ANSWER_BYTES_MAX} bytes");
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
        Err(failure(&place, status, &headers, &words))
    }
}
