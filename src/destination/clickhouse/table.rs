//! The table: what it is made as, and what its columns are.

use super::rows::{Column, Part};

/// Columns without which an event would not be one.
const NEEDED: usize = 4;

/// Inserts that a table without replicas remembers by their tokens: those of some minutes at any usual rate. A batch that
/// comes again after a crash is one of the last few.
const REMEMBERED_INSERTS: u32 = 1000;

/// What a server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Abilities {
    /// Times of nanoseconds, `DateTime64`.
    pub(super) fine_times: bool,
    /// `insert_deduplication_token`.
    pub(super) tokens: bool,
    /// A table without replicas remembers tokens (`non_replicated_deduplication_window`).
    pub(super) remembers: bool,
    /// A table can sync what is inserted before the answer (`fsync_after_insert`).
    pub(super) syncs: bool,
}

/// Asks for [`Abilities`], as rows of what there is of these.
pub(super) const ABILITIES: &str = "
    SELECT name FROM system.data_type_families WHERE name = 'DateTime64'
    UNION ALL SELECT name FROM system.settings WHERE name = 'insert_deduplication_token'
    UNION ALL SELECT name FROM system.merge_tree_settings
        WHERE name IN ('non_replicated_deduplication_window', 'fsync_after_insert')
    FORMAT TabSeparated";

impl Abilities {
    /// Reads the answer to [`ABILITIES`].
    pub(super) fn read(answer: &str) -> Self {
        let has = |name| answer.lines().any(|line| line == name);
        Self {
            fine_times: has("DateTime64"),
            tokens: has("insert_deduplication_token"),
            remembers: has("non_replicated_deduplication_window"),
            syncs: has("fsync_after_insert"),
        }
    }
}

/// The table as Forebay makes it. An event is known by its service, time and id: what comes twice in spite of tokens is one
/// row after the next merge, and at once with `FINAL`.
pub(super) fn definition(table: &str, can: Abilities) -> String {
    let (time, more) = if can.fine_times {
        ("DateTime64(9, 'UTC')", "")
    } else {
        ("DateTime('UTC')", ", timestamp_nanos Int64, ingested_at_nanos Int64")
    };
    let mut settings = Vec::new();
    if can.remembers {
        settings.push(format!("non_replicated_deduplication_window = {REMEMBERED_INSERTS}"));
    }
    if can.syncs {
        settings.push("fsync_after_insert = 1, fsync_part_directory = 1".to_owned());
    }
    let settings =
        if settings.is_empty() { String::new() } else { format!(" SETTINGS {}", settings.join(", ")) };
    let service = if can.fine_times { "LowCardinality(String)" } else { "String" };
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (event_id String, timestamp {time}, service {service}, message String, \
         metadata String, ingested_at {time}{more}) ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(timestamp) \
         ORDER BY (service, timestamp, event_id){settings}"
    )
}

/// Asks for names and types of a table's columns.
pub(super) fn columns_of(database: &str, table: &str) -> String {
    let (database, table) = (text(database), text(table));
    format!(
        "SELECT name, type FROM system.columns WHERE database = {database} AND table = {table} FORMAT TabSeparatedRaw"
    )
}

/// The columns to write.
///
/// # Errors
/// What of the table does not fit; `None` where there is no table.
pub(super) fn plan(answer: &str) -> Result<Vec<(&'static str, Column)>, Option<String>> {
    let found: Vec<_> = answer.lines().filter_map(|line| line.split_once('\t')).collect();
    if found.is_empty() {
        return Err(None);
    }
    let (mut columns, mut wrong) = (Vec::new(), Vec::new());
    for (index, (name, part)) in Part::ALL.into_iter().enumerate() {
        match found.iter().find(|(column, _)| *column == name) {
            None if index < NEEDED => wrong.push(format!("{name} is missing")),
            None => {}
            Some((_, declared)) => match Column::of(part, declared) {
                Some(column) => columns.push((name, column)),
                None => wrong.push(format!("{name} is {declared}, which cannot be written")),
            },
        }
    }
    if wrong.is_empty() { Ok(columns) } else { Err(Some(wrong.join("; "))) }
}

/// A name, quoted.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text, quoted.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
