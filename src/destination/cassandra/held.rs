//! Batches held for other sinks: rows of a table of their own, a partition for each batch, in parts.
//!
//! - Every part says how many there are, so of a batch that was half written it is known that it is not whole. Parts come in no
//!   order: what is noted as held was confirmed part by part.
//! - A key is never used again. So nothing is ever read from behind a tombstone, and a write that comes late, by a hint or by
//!   a coordinator whose clock is ahead, may lose against the DELETE whatever its time is: that is dated [`DELETED_AHEAD`].
//! - What is gone is only believed of all replicas: with a consistency of one, the one that is asked may not have it yet.
//! - While a batch is held its events are rows, too, unless `held_rows` is off. Rows are for people: nothing is delivered from
//!   them, and what Cassandra never takes as a row is held all the same.
//!
//! Limit: a batch is one partition, whose size is that of the batch in the journal (`batch.max_bytes` of the sink it is held for).

use std::{ops::ControlFlow, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Receipt, Verdict},
    examination::Examination,
    holding::{Fetched, HeldKey, Holding, Released, pack},
    record::Batch,
};
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream};
use scylla::{
    errors::ExecutionError,
    response::PagingState,
    statement::{Consistency as DriverConsistency, prepared::PreparedStatement},
};

use super::{
    super::{blocking, chain, unreadable},
    CassandraDestination, Cluster, Known, consistency,
    fault::Fault,
    table::Purpose,
};
use crate::config::Consistency;

/// Bytes of a part: what a server takes for one mutation, and keeps in one cell, without being told to.
const PART_BYTES: usize = 512 * 1024;

/// Parts that are written at the same time.
const PARTS_AT_ONCE: usize = 4;

/// Parts that are read in one page.
const PAGE_PARTS: i32 = 4;

/// How far ahead of now a DELETE is dated: further than clocks of one cluster are apart.
const DELETED_AHEAD: Duration = Duration::from_secs(3600);

// Places of the statements of `Purpose::Holding`.
const INSERT: usize = 0;
const SELECT: usize = 1;
const DELETE: usize = 2;

/// What is held under a key, as far as it was found: parts in the order of their numbers.
#[derive(Debug, Default)]
struct Parts(Vec<Part>);

/// Number, how many there are, and the bytes. A column that was dropped has none of its values any more.
type Part = (i32, Option<i32>, Option<Bytes>);

impl Holding for CassandraDestination {
    fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Delivery {
        let (cluster, key) = (self.cluster.clone(), key.clone());
        async move { cluster.hold(&key, batch).await }.boxed_local()
    }

    fn fetch(&self, key: &HeldKey) -> Fetched {
        let (cluster, key) = (self.cluster.clone(), key.clone());
        async move { cluster.fetch(&key).await }.boxed_local()
    }

    fn release(&self, key: &HeldKey) -> Released {
        let (cluster, key) = (self.cluster.clone(), key.clone());
        async move { cluster.release(&key).await }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let cluster = self.cluster.clone();
        async move { cluster.examine(Purpose::Holding).await }.boxed_local()
    }
}

// === impl Cluster ===

impl Cluster {
    async fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let packing = batch.clone();
        let packed =
            blocking(move || pack(&packing).map_err(|e| unreadable(&packing, &e.to_string()))).await?;
        let receipt = Receipt::of(packed.len() as u64);
        self.put(key, &packed).await?;
        drop(packed);
        if self.options.held_rows {
            self.show(batch).await?;
        }
        Ok(receipt)
    }

    async fn put(&self, key: &HeldKey, packed: &[u8]) -> Result<(), DeliveryError> {
        let known = self.known(&self.held, self.options.manage_schema).await?;
        let insert = &known.held(INSERT, for_writing(self.options.consistency));
        let (name, parts) = (key.name(), packed.chunks(PART_BYTES));
        let count = i32::try_from(parts.len()).unwrap_or(i32::MAX);
        let sending = (0_i32..).zip(parts).map(|(part, data)| {
            let values = (&*self.stream, key.owner.as_str(), &*name, part, count, data);
            known.session.execute_unpaged(insert, values)
        });
        let mut sent = stream::iter(sending).buffer_unordered(PARTS_AT_ONCE);
        while let Some(answer) = sent.next().await {
            if let Err(error) = answer {
                return Err(self.holding_failed(&known, &error).await);
            }
        }
        Ok(())
    }

    /// Writes the events of a held batch as rows. Those that Cassandra never takes are no rows: what becomes of them is for their
    /// own destination to say.
    async fn show(&self, batch: Arc<Batch>) -> Result<(), DeliveryError> {
        let mut pieces = vec![batch];
        while let Some(piece) = pieces.pop() {
            match self.insert(piece.clone()).await {
                Err(error) if error.verdict == Verdict::Reject => match piece.halves() {
                    Some((first, second)) => pieces.extend([Arc::new(second), Arc::new(first)]),
                    None => {
                        tracing::warn!(position = %piece.span().first, %error, "an event is held, but is no row");
                    }
                },
                done => drop(done?),
            }
        }
        Ok(())
    }

    async fn fetch(&self, key: &HeldKey) -> Result<Option<Bytes>, DeliveryError> {
        let known = self.known(&self.held, false).await?;
        let mut found = self.parts(&known, key, for_reading(self.options.consistency)).await?;
        if !found.are_whole() {
            found = self.parts(&known, key, DriverConsistency::All).await?;
        }
        Ok(found.joined())
    }

    async fn parts(
        &self,
        known: &Rc<Known>,
        key: &HeldKey,
        consistency: DriverConsistency,
    ) -> Result<Parts, DeliveryError> {
        let mut select = known.held(SELECT, consistency);
        select.set_page_size(PAGE_PARTS);
        let name = key.name();
        let of_batch = (&*self.stream, key.owner.as_str(), &*name);
        let (mut found, mut next) = (Parts::default(), PagingState::start());
        loop {
            let answer = known.session.execute_single_page(&select, of_batch, next).await;
            let (page, state) = match answer {
                Ok(answer) => answer,
                Err(error) => return Err(self.holding_failed(known, &error).await),
            };
            let page = page.into_rows_result().map_err(|error| self.unreadable(&error))?;
            for part in page.rows::<Part>().map_err(|error| self.unreadable(&error))? {
                found.0.push(part.map_err(|error| self.unreadable(&error))?);
            }
            match state.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(found),
                ControlFlow::Continue(state) => next = state,
            }
        }
    }

    async fn release(&self, key: &HeldKey) -> Result<(), DeliveryError> {
        let known = match self.known(&self.held, false).await {
            Ok(known) => known,
            // The first batch that was to be held may have come before there was a cluster to make the table in.
            Err(error) => return if self.has_no_table().await { Ok(()) } else { Err(error) },
        };
        let delete = known.held(DELETE, for_writing(self.options.consistency));
        // By a clock of the cluster, whose nodes dated the parts; by ours where that one does not say, or is behind it.
        let said = self.schema(Purpose::Holding, &known.session).clock().await;
        let ours = self.clock.now();
        let now = said.map_or(ours, |reading| ours.max(reading.said));
        let ahead = i64::try_from(DELETED_AHEAD.as_micros()).unwrap_or(i64::MAX);
        let at = (now.nanos() / 1000).saturating_add(ahead);
        let name = key.name();
        let values = (at, &*self.stream, key.owner.as_str(), &*name);
        match known.session.execute_unpaged(&delete, values).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.holding_failed(&known, &error).await),
        }
    }

    /// Whether the cluster is there, and nothing to hold batches in.
    async fn has_no_table(&self) -> bool {
        let session = self.connect().await;
        session.is_ok_and(|session| self.schema(Purpose::Holding, &session).are_tables_missing())
    }

    /// What is not taken here is no fault of events: they are only held.
    async fn holding_failed(&self, known: &Rc<Known>, error: &ExecutionError) -> DeliveryError {
        self.failed(&self.held, known, Fault::of(error).without_events()).await
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> DeliveryError {
        let message = format!("{}: what is held cannot be read: {}", self.place, chain(error));
        DeliveryError::transient(Cause::Server, message)
    }
}

impl Known {
    /// One of the statements for what is held.
    fn held(&self, which: usize, consistency: DriverConsistency) -> PreparedStatement {
        let mut statement = self.statements[which].clone();
        statement.set_consistency(consistency);
        statement
    }
}

// === impl Parts ===

impl Parts {
    fn are_whole(&self) -> bool {
        let is_there = |(at, (part, parts, data)): (usize, &Part)| {
            usize::try_from(*part) == Ok(at)
                && parts.is_some_and(|parts| usize::try_from(parts) == Ok(self.0.len()))
                && data.is_some()
        };
        !self.0.is_empty() && self.0.iter().enumerate().all(is_there)
    }

    /// All that there is, whole or not: who unpacks it sees which.
    fn joined(self) -> Option<Bytes> {
        if self.0.is_empty() {
            return None;
        }
        let mut data = self.0.into_iter().filter_map(|(.., data)| data);
        let first = data.next().unwrap_or_default();
        let rest: Vec<_> = data.collect();
        match rest.is_empty() {
            true => Some(first),
            false => Some(std::iter::once(first).chain(rest).collect::<Vec<_>>().concat().into()),
        }
    }
}

// === Consistency ===

/// Where a mere note of a row would do for an event, it does not for what has to be read back.
const fn for_writing(wanted: Consistency) -> DriverConsistency {
    match wanted {
        Consistency::Any => DriverConsistency::One,
        other => consistency(other),
    }
}

/// Not every server reads in each datacenter; most of all replicas are enough to meet one that has it.
const fn for_reading(wanted: Consistency) -> DriverConsistency {
    match wanted {
        Consistency::EachQuorum => DriverConsistency::Quorum,
        other => for_writing(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(i32, i32, &'static [u8])]) -> Parts {
        Parts(
            parts.iter().map(|(part, of, data)| (*part, Some(*of), Some(Bytes::from_static(data)))).collect(),
        )
    }

    /// Wherever a part is missing, at the end too, it shows: each of the others says how many there are.
    #[test]
    fn a_half_written_batch_is_not_whole() {
        let whole = parts(&[(0, 3, b"ab"), (1, 3, b"cd"), (2, 3, b"e")]);
        assert!(whole.are_whole());
        for missing in 0..3 {
            let mut some = Parts(whole.0.clone());
            some.0.remove(missing);
            assert!(!some.are_whole(), "{missing}");
            let mut emptied = Parts(whole.0.clone());
            emptied.0[missing].2 = None;
            assert!(!emptied.are_whole(), "{missing}");
        }
        assert!(!Parts::default().are_whole());
        assert_eq!(whole.joined().as_deref(), Some(&b"abcde"[..]));
        assert_eq!(parts(&[(0, 1, b"alone")]).joined().as_deref(), Some(&b"alone"[..]));
        assert_eq!(Parts::default().joined(), None);
    }
}
