//! Forgetting: months that are over as a whole, and the oldest rows of the rest a slice at a time.

use forebay_actors::event::Timestamp;
use tokio_postgres::{Error, types::Type};

use super::{
    QUESTION_MAX, is_missing,
    pool::{Pool, Session},
};
use crate::{
    config::{Partitions, PostgresTable},
    destination::postgres::{fault::words, micros::Micros},
    store::{PURGE_SLICE_ROWS, StoreError},
};

/// How long the drop of a partition waits for those who use the table. Meanwhile all others wait behind it; where it does
/// not come to pass, its rows go a slice at a time, or it goes at the next time of the schedule.
const LOCK_WAIT_MS: u64 = 1_000;

/// Partitions whose rows are all older than $2, oldest first. The end of a partition is known as text alone.
const EXPIRED: &str = "\
    SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, \
    LATERAL (SELECT substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \\(''([^'']+)''\\)')::timestamptz AS ends) b \
    WHERE i.inhparent = to_regclass($1) AND c.relkind = 'r' AND b.ends <= $2 ORDER BY b.ends";

/// Drops what can be dropped, and deletes one slice; the rows of the slice. A server that says nothing is given up a little
/// after it should have given up itself.
pub(super) async fn slice(pool: &Pool, cutoff: Timestamp) -> Result<u64, StoreError> {
    let limit = pool.options.timeout + QUESTION_MAX;
    let late = |_| Err(pool.unavailable(format!("retention got no answer within {limit:?}")));
    tokio::time::timeout(limit, slice_now(pool, cutoff)).await.unwrap_or_else(late)
}

async fn slice_now(pool: &Pool, cutoff: Timestamp) -> Result<u64, StoreError> {
    let table = pool.table()?;
    let cutoff = Micros::from(cutoff);
    let millis = pool.options.timeout.as_millis();
    let settings =
        format!("SET statement_timeout = {millis}; SET lock_timeout = {LOCK_WAIT_MS}; SET timezone = 'UTC'");
    let session = pool.connect(&settings).await?;
    let purged = async {
        if pool.options.partitions == Partitions::Monthly && pool.options.manage_schema {
            drop_partitions(&session, &table, cutoff).await?;
        }
        delete(&session, &table, cutoff).await
    };
    purged.await.or_else(|error| match error {
        error if is_missing(&error) && pool.options.manage_schema => Ok(0),
        error => Err(pool.unavailable(words(&error))),
    })
}

async fn drop_partitions(session: &Session, table: &PostgresTable, cutoff: Micros) -> Result<(), Error> {
    let parameters = [(&table.to_string() as _, Type::TEXT), (&cutoff as _, Type::TIMESTAMPTZ)];
    for row in session.client.query_typed(EXPIRED, &parameters).await? {
        let partition: &str = row.try_get(0)?;
        // A name that the server has quoted itself.
        match session.client.batch_execute(&format!("DROP TABLE {partition}")).await {
            Ok(()) => tracing::info!(partition, "retention dropped a month that is over"),
            Err(error) if error.as_db_error().is_some() => {
                tracing::warn!(partition, error = %words(&error), "a month that is over cannot be dropped");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The oldest go first. The end of the slice is looked up, so that it is one piece of the index by time, also where the
/// table has partitions.
async fn delete(session: &Session, table: &PostgresTable, cutoff: Micros) -> Result<u64, Error> {
    let end = format!(
        "SELECT e.timestamp, e.id::bigint FROM {table} e WHERE e.timestamp < $1 \
         ORDER BY e.timestamp, e.id OFFSET {PURGE_SLICE_ROWS} LIMIT 1"
    );
    let end = session.client.query_typed_opt(&end, &[(&cutoff, Type::TIMESTAMPTZ)]).await?;
    let (time, id) = match end {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => (cutoff, i64::MIN),
    };
    let delete = format!("DELETE FROM {table} e WHERE (e.timestamp, e.id) < ($1, $2) AND e.timestamp <= $1");
    let statement = session.client.prepare_typed(&delete, &[Type::TIMESTAMPTZ, Type::INT8]).await?;
    session.client.execute(&statement, &[&time, &id]).await
}
