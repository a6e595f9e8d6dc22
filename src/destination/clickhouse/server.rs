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
            Ok(known) => self.examined(&known).await,
            Err(error) => Examination::failed(&error),
        };
        found.with_clock(clock)
    }

    async fn examined(&self, known: &Known) -> Examination {
        let authorised = self.rights(known).await.unwrap_or_else(|error| Finding::Unknown(error.message));
        match (self.misfit(known), authorised) {
            (Some(misfit), authorised) => Examination { authorised, ..Examination::unfit(misfit.message) },
            (None, Finding::Unfit(why)) if known.events.is_missing() => Examination::unauthorised(why),
            (None, authorised) => {
                let note = format!("{}: the table is not there yet; it will be made", self.shown(None));
                let note = known.events.is_missing().then_some(note);
                Examination { authorised, schema: Finding::Fit, note, ..Examination::fit() }
            }
        }
    }

    /// Whether this user may write the tables, and make those that are missing. Nothing is written to find it out.
    async fn rights(&self, known: &Known) -> Result<Finding, DeliveryError> {
        let (place, user) = (self.shown(None), &self.options.user);
        let limits = self.query(Table::Events, table::LIMITS).await?;
        let is_limited = |setting| limits.lines().any(|line| line == setting);
        if is_limited("readonly") {
            let why = format!("{place}: the user {user:?} may only read: their setting readonly is not 0");
            return Ok(Finding::Unfit(why));
        }
        // Grants came with 20.4, after the fine times. Before them, a user that is let into the database may do all there but
        // what the settings keep from them.
        if !known.can.fine_times {
            let is_kept = is_limited("allow_ddl") && self.options.manage_schema && known.events.is_missing();
            return Ok(match is_kept {
                true => Finding::Unfit(format!(
                    "{place}: the user {user:?} may not make the table: their setting allow_ddl is 0"
                )),
                false => Finding::Fit,
            });
        }
        let otel = OtelTable::ALL.into_iter().zip(&known.otel);
        // Whether anything comes for a table of OpenTelemetry that is not there and will not be made, nobody knows.
        let wanted = otel
            .filter(|(_, fit)| !fit.is_missing() || self.options.manage_schema && known.can.maps)
            .map(|(table, _)| Table::Otel(table));
        let mut unknown = None;
        for table in std::iter::once(Table::Events).chain(wanted) {
            match self.right(known, table).await {
                Finding::Fit => {}
                Finding::Unknown(why) => unknown = unknown.or(Some(why)),
                unfit => return Ok(unfit),
            }
        }
        Ok(unknown.map_or(Finding::Fit, Finding::Unknown))
    }

    /// The same of one table, at a server that has grants.
    async fn right(&self, known: &Known, table: Table) -> Finding {
        let (place, name) = (self.shown(Some(table)), self.name(table));
        let found = table::found(&known.columns, name);
        let names = match table {
            Table::Events => table::plan(&found).ok().map(|(names, _)| names),
            Table::Otel(table) => otel::plan(table, &found).ok().map(|(names, _)| names),
        };
        let of = |right: &str, table: String| (right.to_owned(), table);
        let refused = |what| Finding::Unfit(format!("{place}: the user {:?} {what}", self.options.user));
        let (rights, otherwise) = match names {
            _ if found.is_empty() && self.options.manage_schema => {
                let mut rights = vec![of("CREATE TABLE, INSERT", name.to_owned())];
                if table == Table::Otel(OtelTable::Traces) {
                    // The times of traces are made with it, and a view that fills them.
                    rights.push(of("CREATE TABLE", format!("{name}_trace_id_ts")));
                    rights.push(of("CREATE VIEW", format!("{name}_trace_id_ts_mv")));
                }
                (rights, refused("may not make and write it, and it is not there or not shown to them"))
            }
            _ if found.is_empty() => {
                let why = format!("{place}: a server also keeps a table from users that have no right to it");
                (vec![of("INSERT", name.to_owned())], Finding::Unknown(why))
            }
            Some(names) => {
                let names: Vec<_> = names.into_iter().map(table::name).collect();
                let right = format!("INSERT({})", names.join(", "));
                (vec![(right, name.to_owned())], refused("may not INSERT into the columns that are written"))
            }
            // Which columns would be written is not known, and the user may have the right to these alone.
            None => (vec![of("INSERT", name.to_owned())], Finding::behind()),
        };
        match self.query(table, &table::granted(&self.options.database, &rights)).await {
            Ok(answer) if answer.trim() == "1" => Finding::Fit,
            Ok(answer) if answer.trim() == "0" => otherwise,
            Ok(answer) => Finding::Unknown(format!("{place}: CHECK GRANT was answered {:?}", answer.trim())),
            Err(error) => Finding::Unknown(format!(
                "the server was asked with CHECK GRANT, which it knows from 24.10 on: {}",
                error.message
            )),
        }
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
