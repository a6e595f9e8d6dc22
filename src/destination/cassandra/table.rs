//! The tables: what they are made as, and what has to be there to write to them.
//!
//! | table | of | a partition | a row |
//! |---|---|---|---|
//! | `events` | events and log records | a service, for a time of `events_bucket` | an event, by its id |
//! | `metrics` | data points | a node and a metric, for a day | a point, by all that it says |
//! | `traces_overflow` | spans | a trace | a span, by all that it says |
//! | `held` | batches of other sinks | a batch | a part of its bytes, by its number |
//!
//! Times are there twice: as Cassandra's `timestamp`, which knows milliseconds, and in nanoseconds.

use std::{fmt::Write as _, time::Duration};

use scylla::cluster::metadata::{Column as Found, ColumnKind, ColumnType, NativeType, Table as FoundTable};

use crate::config::CassandraSink;

/// Windows of compaction in the life of a row: a window is dropped whole when its last row has expired.
const WINDOWS: u64 = 30;

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Events,
    Metrics,
    Traces,
    Held,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Rows of events.
    Rows,
    /// Batches that are held for other sinks.
    Holding,
}

/// What a column is in the primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Partition,
    Clustering { is_descending: bool },
    Value,
}

/// A column: its name, its type, and what it is in the key.
struct Column(&'static str, NativeType, Role);

const PARTITION: Role = Role::Partition;
const ASCENDING: Role = Role::Clustering { is_descending: false };
const DESCENDING: Role = Role::Clustering { is_descending: true };
const VALUE: Role = Role::Value;

// In the order in which rows are written.

static EVENTS: [Column; 8] = [
    Column("service", NativeType::Text, PARTITION),
    Column("time_bucket", NativeType::Timestamp, PARTITION),
    Column("timestamp", NativeType::Timestamp, DESCENDING),
    Column("timestamp_nanos", NativeType::BigInt, DESCENDING),
    Column("event_id", NativeType::Text, ASCENDING),
    Column("message", NativeType::Text, VALUE),
    Column("metadata", NativeType::Text, VALUE),
    Column("ingested_at", NativeType::Timestamp, VALUE),
];

static METRICS: [Column; 11] = [
    Column("node_id", NativeType::Text, PARTITION),
    Column("metric_name", NativeType::Text, PARTITION),
    Column("time_bucket", NativeType::Date, PARTITION),
    Column("timestamp", NativeType::Timestamp, DESCENDING),
    Column("timestamp_nanos", NativeType::BigInt, DESCENDING),
    Column("point_id", NativeType::Uuid, ASCENDING),
    Column("value", NativeType::Double, VALUE),
    Column("customer_id", NativeType::Text, VALUE),
    Column("metric_type", NativeType::Text, VALUE),
    Column("metadata", NativeType::Text, VALUE),
    Column("ingested_at", NativeType::Timestamp, VALUE),
];

static TRACES: [Column; 9] = [
    Column("trace_id", NativeType::Text, PARTITION),
    Column("span_id", NativeType::Text, ASCENDING),
    Column("timestamp", NativeType::Timestamp, ASCENDING),
    Column("timestamp_nanos", NativeType::BigInt, ASCENDING),
    Column("row_id", NativeType::Uuid, ASCENDING),
    Column("service_name", NativeType::Text, VALUE),
    Column("operation_name", NativeType::Text, VALUE),
    Column("trace_data", NativeType::Text, VALUE),
    Column("ingested_at", NativeType::Timestamp, VALUE),
];

static HELD: [Column; 6] = [
    Column("journal_id", NativeType::Text, PARTITION),
    Column("sink", NativeType::Text, PARTITION),
    Column("batch_id", NativeType::Text, PARTITION),
    Column("part", NativeType::Int, ASCENDING),
    Column("parts", NativeType::Int, VALUE),
    Column("data", NativeType::Blob, VALUE),
];

impl Purpose {
    pub(super) const fn tables(self) -> &'static [Table] {
        match self {
            Self::Rows => &Table::ROWS,
            Self::Holding => &[Table::Held],
        }
    }

    /// What who has it may do to its tables.
    pub(super) const fn rights(self) -> &'static [&'static str] {
        match self {
            Self::Rows => &["MODIFY"],
            Self::Holding => &["MODIFY", "SELECT"],
        }
    }

    /// Of rows an INSERT for each table. Of what is held the INSERT of a part, the SELECT of a batch and its DELETE.
    pub(super) fn statements(self, options: &CassandraSink) -> Vec<String> {
        match self {
            Self::Rows => Table::ROWS.map(|table| table.insert(options)).into(),
            Self::Holding => {
                let (insert, name) = (Table::Held.insert(options), Table::Held.quoted(options));
                let of_batch: Vec<_> = HELD
                    .iter()
                    .filter(|Column(.., role)| *role == PARTITION)
                    .map(|Column(name, ..)| format!("{} = ?", quoted(name)))
                    .collect();
                let of_batch = of_batch.join(" AND ");
                vec![
                    // What is held does not expire, whatever the table says.
                    format!("{insert} USING TTL 0"),
                    format!("SELECT part, parts, data FROM {name} WHERE {of_batch}"),
                    format!("DELETE FROM {name} USING TIMESTAMP ? WHERE {of_batch}"),
                ]
            }
        }
    }
}

impl Table {
    /// Those of events.
    pub(super) const ROWS: [Self; 3] = [Self::Events, Self::Metrics, Self::Traces];

    const fn columns(self) -> &'static [Column] {
        match self {
            Self::Events => &EVENTS,
            Self::Metrics => &METRICS,
            Self::Traces => &TRACES,
            Self::Held => &HELD,
        }
    }

    /// Its name, as the options have it.
    pub(super) fn name(self, options: &CassandraSink) -> &str {
        match self {
            Self::Events => &options.events_table,
            Self::Metrics => &options.metrics_table,
            Self::Traces => &options.traces_table,
            Self::Held => &options.held_table,
        }
    }

    pub(super) fn ttl(self, options: &CassandraSink) -> Option<Duration> {
        match self {
            Self::Events => options.events_ttl,
            Self::Metrics => options.metrics_ttl,
            Self::Traces => options.traces_ttl,
            Self::Held => None,
        }
    }

    fn quoted(self, options: &CassandraSink) -> String {
        format!("{}.{}", quoted(&options.keyspace), quoted(self.name(options)))
    }

    /// `INSERT INTO …`, with a place for each column.
    pub(super) fn insert(self, options: &CassandraSink) -> String {
        let names: Vec<_> = self.columns().iter().map(|Column(name, ..)| quoted(name)).collect();
        let places = vec!["?"; names.len()].join(", ");
        format!("INSERT INTO {} ({}) VALUES ({places})", self.quoted(options), names.join(", "))
    }

    /// The table as Forebay makes it.
    pub(super) fn definition(self, options: &CassandraSink) -> String {
        let named = |wanted: fn(Role) -> bool| {
            let columns = self.columns().iter().filter(move |Column(.., role)| wanted(*role));
            columns.map(|Column(name, ..)| quoted(name)).collect::<Vec<_>>().join(", ")
        };
        let mut sql = format!("CREATE TABLE IF NOT EXISTS {} (", self.quoted(options));
        let mut order = Vec::new();
        for Column(name, kind, role) in self.columns() {
            let _ = write!(sql, "{} {}, ", quoted(name), type_name(kind));
            if let Role::Clustering { is_descending } = role {
                order.push(format!("{} {}", quoted(name), if *is_descending { "DESC" } else { "ASC" }));
            }
        }
        let partition = named(|role| role == Role::Partition);
        let clustering = named(|role| matches!(role, Role::Clustering { .. }));
        let order = order.join(", ");
        let _ = write!(sql, "PRIMARY KEY (({partition}), {clustering})) WITH CLUSTERING ORDER BY ({order})");
        if let Some(ttl) = self.ttl(options) {
            let seconds = ttl.as_secs();
            let hours = seconds.div_ceil(3600 * WINDOWS);
            let _ = write!(
                sql,
                " AND default_time_to_live = {seconds} AND compaction = {{'class': 'TimeWindowCompactionStrategy', \
                 'compaction_window_unit': 'HOURS', 'compaction_window_size': {hours}}}"
            );
        }
        sql
    }

    /// What adds the columns that the table has not; `None` where none has to be. What is missing in the key cannot be added.
    pub(super) fn addition(self, options: &CassandraSink, found: &FoundTable) -> Option<String> {
        let is_missing =
            |Column(name, _, role): &&Column| *role == Role::Value && !found.columns.contains_key(*name);
        let missing: Vec<_> = self
            .columns()
            .iter()
            .filter(is_missing)
            .map(|Column(name, kind, _)| format!("{} {}", quoted(name), type_name(kind)))
            .collect();
        let table = self.quoted(options);
        (!missing.is_empty()).then(|| format!("ALTER TABLE {table} ADD ({})", missing.join(", ")))
    }

    /// What rows could not be written for, each with what is needed; empty where they can. What [`Table::addition`] adds is
    /// not missing where `is_made` is set.
    pub(super) fn misfits(self, found: &FoundTable, is_made: bool) -> String {
        let mut wrong = String::new();
        for Column(name, kind, role) in self.columns() {
            let wanted = type_name(kind);
            let column = found.columns.get(*name);
            let _ = match column {
                None if is_made && *role == Role::Value => Ok(()),
                None => write!(wrong, "; {name} is missing, {wanted} is needed"),
                Some(Found { typ: ColumnType::Native(has), .. }) if has == kind => Ok(()),
                Some(column) => {
                    write!(wrong, "; {name} is {}, {wanted} is needed", shown(&column.typ))
                }
            };
        }
        // The key decides which rows are one: another would let rows overwrite each other.
        for (wanted, has, what) in [
            (ColumnKind::PartitionKey, &found.partition_key, "partition key"),
            (ColumnKind::Clustering, &found.clustering_key, "clustering key"),
        ] {
            let right: Vec<_> = self
                .columns()
                .iter()
                .filter(|Column(.., role)| (*role == Role::Partition) == (wanted == ColumnKind::PartitionKey))
                .filter(|Column(.., role)| *role != Role::Value)
                .map(|Column(name, ..)| *name)
                .collect();
            if right != *has {
                let (has, right) = (has.join(", "), right.join(", "));
                let _ = write!(wrong, "; the {what} is ({has}), ({right}) is needed");
            }
        }
        wrong
    }
}

/// A name, quoted.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, quoted.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

const fn type_name(kind: &NativeType) -> &'static str {
    match kind {
        NativeType::BigInt => "bigint",
        NativeType::Blob => "blob",
        NativeType::Date => "date",
        NativeType::Double => "double",
        NativeType::Int => "int",
        NativeType::Timestamp => "timestamp",
        NativeType::Uuid => "uuid",
        _ => "text",
    }
}

/// A type that a table has, as the server would say it, or nearly.
fn shown(kind: &ColumnType<'_>) -> String {
    match kind {
        ColumnType::Native(native) => format!("{native:?}").to_ascii_lowercase(),
        _ => "of no plain type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> CassandraSink {
        CassandraSink::to("h".to_owned(), "otel".to_owned())
    }

    #[test]
    fn tables_are_made_with_their_keys_and_their_time_to_live() {
        assert_eq!(
            Table::Metrics.definition(&options()),
            "CREATE TABLE IF NOT EXISTS \"otel\".\"metrics\" (\"node_id\" text, \"metric_name\" text, \"time_bucket\" date, \
             \"timestamp\" timestamp, \"timestamp_nanos\" bigint, \"point_id\" uuid, \"value\" double, \"customer_id\" text, \
             \"metric_type\" text, \"metadata\" text, \"ingested_at\" timestamp, \
             PRIMARY KEY ((\"node_id\", \"metric_name\", \"time_bucket\"), \"timestamp\", \"timestamp_nanos\", \"point_id\")) \
             WITH CLUSTERING ORDER BY (\"timestamp\" DESC, \"timestamp_nanos\" DESC, \"point_id\" ASC) \
             AND default_time_to_live = 2592000 AND compaction = {'class': 'TimeWindowCompactionStrategy', \
             'compaction_window_unit': 'HOURS', 'compaction_window_size': 24}"
        );
        let for_ever = CassandraSink { traces_ttl: None, ..options() };
        let definition = Table::Traces.definition(&for_ever);
        assert!(definition.ends_with("\"row_id\" ASC)"), "{definition}");
        assert!(Table::Traces.definition(&options()).contains("_live = 604800 "));
    }

    /// A batch is one partition, so one DELETE forgets it whole, and what it asks for never runs over what was deleted before.
    #[test]
    fn a_held_batch_is_a_partition_and_never_expires() {
        let definition = Table::Held.definition(&options());
        assert!(
            definition.ends_with(
                "PRIMARY KEY ((\"journal_id\", \"sink\", \"batch_id\"), \"part\")) WITH CLUSTERING ORDER BY (\"part\" ASC)"
            ),
            "{definition}"
        );
        let of_batch = "WHERE \"journal_id\" = ? AND \"sink\" = ? AND \"batch_id\" = ?";
        assert_eq!(
            Purpose::Holding.statements(&options()),
            [
                "INSERT INTO \"otel\".\"held\" (\"journal_id\", \"sink\", \"batch_id\", \"part\", \"parts\", \"data\") \
                 VALUES (?, ?, ?, ?, ?, ?) USING TTL 0"
                    .to_owned(),
                format!("SELECT part, parts, data FROM \"otel\".\"held\" {of_batch}"),
                format!("DELETE FROM \"otel\".\"held\" USING TIMESTAMP ? {of_batch}"),
            ]
        );
    }

    /// Rows are grouped by their first columns, so these have to be those of the partition.
    #[test]
    fn partition_columns_come_first() {
        for table in Table::ROWS {
            let is_first: Vec<_> =
                table.columns().iter().map(|Column(.., role)| *role == PARTITION).collect();
            assert!(is_first.is_sorted_by(|a, b| a >= b), "{table:?}");
        }
    }
}
