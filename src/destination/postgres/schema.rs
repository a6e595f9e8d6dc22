//! The table: made where it is missing, and looked at before the first row.

use std::fmt::Write as _;

use tokio_postgres::{Client, Transaction};

use super::month::Month;
use crate::config::{Partitions, PostgresSink, PostgresTable as Table};

/// One Forebay at a time makes tables: two that start together would both find none. Any number would do that no
/// other program takes for its own locks.
const ADVISORY_LOCK: i64 = 0x0066_6f72_6562_6179;

/// Columns that are written, the types that they may have, and what they are made as. The first type is what a table is
/// made with.
const WRITTEN: [(&str, &[&str]); 6] = [
    ("event_id", &["text", "character varying"]),
    ("timestamp", &["timestamp with time zone"]),
    ("service", &["text", "character varying"]),
    ("message", &["text", "character varying"]),
    ("metadata", &["jsonb"]),
    ("ingested_at", &["timestamp with time zone"]),
];

/// Columns that are added to a table which was made without them, and what they are added as.
const ADDED: [(&str, &str); 3] = [
    ("metadata", "jsonb"),
    ("ingested_at", "timestamptz"),
    ("created_at", "timestamptz NOT NULL DEFAULT now()"),
];

/// Columns of the indexes that questions to the event store walk along.
const WALKED: [&[&str]; 3] = [&["timestamp", "id"], &["service", "timestamp"], &["event_id"]];

/// Bytes of a table up to which an index is made in passing: a second, in which others wait.
const INDEXED_AT_ONCE_BYTES_MAX: i64 = 64 << 20;

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// The server's own word.
    #[error(transparent)]
    Server(#[from] tokio_postgres::Error),
    /// It is not as it has to be.
    #[error("{0}")]
    Unfit(String),
}

/// Makes the table where it is missing, and the columns and indexes of it that are.
pub(super) async fn make(
    client: &mut Client,
    table: &Table,
    options: &PostgresSink,
) -> Result<(), SchemaError> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&ADVISORY_LOCK]).await?;
    // A role that may write but not make anything is fine as long as nothing has to be made.
    let found = columns(&transaction, table).await?;
    if found.is_empty() {
        transaction.batch_execute(&definition(table, options.idempotent, options.partitions)).await?;
    } else {
        for (name, kind) in ADDED {
            if !found.iter().any(|(column, _)| column == name) {
                let sql = format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {kind}");
                transaction.batch_execute(&sql).await?;
            }
        }
    }
    if options.store {
        make_indexes(&transaction, table).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Makes the indexes that questions walk along. On a large table that would take minutes in which nobody else can write;
/// there it is for its owner to do, and so is it on a table that is not ours.
async fn make_indexes(transaction: &Transaction<'_>, table: &Table) -> Result<(), SchemaError> {
    let name = table.to_string();
    let sql = "SELECT pg_has_role(relowner, 'USAGE'), (pg_relation_size(oid) + coalesce((SELECT sum(pg_relation_size(relid)) \
               FROM pg_partition_tree(oid)), 0))::bigint FROM pg_class WHERE oid = to_regclass($1)";
    let row = transaction.query_one(sql, &[&name]).await?;
    let may_be_made = row.get(0) && row.get::<_, i64>(1) < INDEXED_AT_ONCE_BYTES_MAX;
    for columns in WALKED {
        let sql = "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass($1) AND indisvalid AND indpred IS NULL \
                   AND (SELECT array_agg(attname::text ORDER BY place) \
                   FROM unnest(indkey[0:cardinality($2::text[]) - 1]) WITH ORDINALITY AS k (number, place) \
                   JOIN pg_attribute ON attrelid = indrelid AND attnum = number) = $2::text[])";
        if transaction.query_one(sql, &[&name, &columns]).await?.get(0) {
            continue;
        }
        let columns = columns.join(", ");
        if may_be_made {
            transaction.batch_execute(&format!("CREATE INDEX ON {table} ({columns})")).await?;
        } else {
            let remedy = format!("CREATE INDEX CONCURRENTLY ON {table} ({columns})");
            tracing::warn!(%table, remedy, "questions to the event store are slow without an index");
        }
    }
    Ok(())
}

/// Looks whether rows can be written, or could after [`make`] where `is_made` is set: then what that adds is not missing.
pub(super) async fn check(
    client: &Client,
    table: &Table,
    options: &PostgresSink,
    is_made: bool,
) -> Result<(), SchemaError> {
    let found = columns(client, table).await?;
    if found.is_empty() && is_made {
        return check_makeable(client, table).await;
    }
    if found.is_empty() {
        let right = "manage_schema: true lets Forebay make it";
        return Err(SchemaError::Unfit(format!("the table {table} is not there; {right}")));
    }
    let wrong = misfits(&found, is_made);
    if !wrong.is_empty() {
        return Err(unfit_columns(table, &wrong));
    }
    let name = table.to_string();
    let rights: &[&str] = if options.idempotent { &["INSERT", "SELECT"] } else { &["INSERT"] };
    for right in rights {
        let sql = "SELECT has_table_privilege($1::text::regclass, $2)";
        if !client.query_one(sql, &[&name, right]).await?.get::<_, bool>(0) {
            return Err(SchemaError::Unfit(format!("this user has no right to {right} on {table}")));
        }
    }
    if options.idempotent {
        check_key(client, &name, options.partitions).await?;
    }
    Ok(())
}

/// Looks at the columns alone.
pub(super) async fn check_columns(client: &Client, table: &Table) -> Result<(), SchemaError> {
    let found = columns(client, table).await?;
    // A table that went away is the server's own word.
    let wrong = if found.is_empty() { String::new() } else { misfits(&found, false) };
    if wrong.is_empty() { Ok(()) } else { Err(unfit_columns(table, &wrong)) }
}

fn unfit_columns(table: &Table, wrong: &str) -> SchemaError {
    SchemaError::Unfit(format!("the columns of {table} do not fit{wrong}"))
}

/// What the columns have against being written, each with its remedy; empty where they fit.
fn misfits(found: &[(String, String)], is_made: bool) -> String {
    let mut wrong = String::new();
    for (name, kinds) in WRITTEN {
        let kind = found.iter().find(|(column, _)| column == name).map(|(_, kind)| kind);
        match kind {
            None if is_made && ADDED.iter().any(|(added, _)| *added == name) => Ok(()),
            None => write!(wrong, "; {name} is missing, {} is needed", kinds[0]),
            // `character varying(20)` is one of its kind.
            Some(kind) if !kinds.iter().any(|fit| kind.starts_with(fit)) => {
                write!(wrong, "; {name} is {kind}, {} is needed", kinds[0])
            }
            Some(_) => Ok(()),
        }
        .expect("a String takes every text");
    }
    wrong
}

/// Looks whether a table that is not there could be made: in its schema, or with it where that is missing too.
async fn check_makeable(client: &Client, table: &Table) -> Result<(), SchemaError> {
    // Without a schema of its own a table goes into the first one of the search path that is there.
    let sql = "SELECT coalesce(has_schema_privilege(to_regnamespace(coalesce($1, current_schema())), 'CREATE'), \
               has_database_privilege(current_database(), 'CREATE'))";
    if client.query_one(sql, &[&table.schema()]).await?.get(0) {
        return Ok(());
    }
    let remedy = "GRANT CREATE ON SCHEMA gives it; or make the table, with manage_schema: false";
    Err(SchemaError::Unfit(format!(
        "the table {table} is not there, and this user may not make it; {remedy}"
    )))
}

/// Looks whether the server itself would see that a row is there already.
async fn check_key(client: &Client, name: &str, partitions: Partitions) -> Result<(), SchemaError> {
    let key = key(partitions);
    // What ON CONFLICT takes for its judge: the very columns, without a condition, checked at once.
    let sql = "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = $1::text::regclass AND indisunique \
               AND indimmediate AND indpred IS NULL AND (SELECT array_agg(attname::text ORDER BY attname) \
               FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey[0:indnkeyatts-1])) = $2::text[] \
               AND indnkeyatts = cardinality($2::text[]))";
    if client.query_one(sql, &[&name, &key]).await?.get(0) {
        return Ok(());
    }
    let key = key.join(", ");
    let remedy = format!("ALTER TABLE {name} ADD UNIQUE ({key}) makes one; idempotent: false does without");
    Err(SchemaError::Unfit(format!(
        "{name} has no unique key ({key}), by which a row that comes again is known; {remedy}"
    )))
}

/// Makes the partition of a month. A month whose rows already stand in the partition for all others stays there.
pub(super) async fn make_partition(client: &Client, table: &Table, month: Month) -> Result<(), SchemaError> {
    let partition = table.with_suffix(&format!("_{month}"));
    let (from, to) = (month.first_day(), month.next().first_day());
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {partition} PARTITION OF {table} \
         FOR VALUES FROM ('{from} 00:00+00') TO ('{to} 00:00+00')"
    );
    client.batch_execute(&sql).await.map_err(SchemaError::from)
}

/// The columns by which a row is known to be there already. The key of a partitioned table has to have the time in it.
pub(super) fn key(partitions: Partitions) -> &'static [&'static str] {
    match partitions {
        Partitions::None => &["event_id"],
        Partitions::Monthly => &["event_id", "timestamp"],
    }
}

/// Names and types of the columns; none where there is no such table.
async fn columns(
    client: &impl tokio_postgres::GenericClient,
    table: &Table,
) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
               WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
    let rows = client.query(sql, &[&table.to_string()]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The table as Forebay makes it. The server names its indexes: those of a table that was renamed keep their names.
fn definition(table: &Table, idempotent: bool, partitions: Partitions) -> String {
    let is_partitioned = partitions == Partitions::Monthly;
    let key = match (idempotent, is_partitioned) {
        (true, _) => key(partitions).join(", "),
        (false, false) => "id".to_owned(),
        (false, true) => "id, timestamp".to_owned(),
    };
    let schema =
        table.schema().map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {schema};\n")).unwrap_or_default();
    let by = if is_partitioned { " PARTITION BY RANGE (timestamp)" } else { "" };
    let others = if is_partitioned {
        format!(";\nCREATE TABLE {} PARTITION OF {table} DEFAULT", table.with_suffix("_others"))
    } else {
        String::new()
    };
    format!(
        "{schema}CREATE TABLE {table} (
            id bigserial NOT NULL,
            event_id text NOT NULL,
            timestamp timestamptz NOT NULL,
            service text NOT NULL,
            message text NOT NULL,
            metadata jsonb,
            ingested_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY ({key})
        ){by}{others};
        CREATE INDEX ON {table} (service, timestamp)"
    )
}
