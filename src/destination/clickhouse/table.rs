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
    /// It may gather rows of several inserts (`async_insert`), and from 26.x on does so unless it is told otherwise.
    pub(super) gathers: bool,
    /// What it gathers, it knows by the token of each insert, in tables of every kind (`deduplicate_insert`, of 26.2).
    pub(super) knows_gathered: bool,
    /// A table without replicas remembers tokens (`non_replicated_deduplication_window`).
    pub(super) remembers: bool,
    /// A table can sync what is inserted before the answer (`fsync_after_insert`).
    pub(super) syncs: bool,
    /// Attributes have a type, `Map`.
    pub(super) maps: bool,
    /// Rows can expire by parts (`ttl_only_drop_parts`).
    pub(super) expires: bool,
}

/// Asks for [`Abilities`], as rows of what there is of these.
pub(super) const ABILITIES: &str = "
    SELECT name FROM system.data_type_families WHERE name IN ('DateTime64', 'Map')
    UNION ALL SELECT name FROM system.settings
        WHERE name IN ('insert_deduplication_token', 'async_insert', 'deduplicate_insert')
    UNION ALL SELECT name FROM system.merge_tree_settings
        WHERE name IN ('non_replicated_deduplication_window', 'fsync_after_insert', 'ttl_only_drop_parts')
    FORMAT TabSeparated";

/// Asks which settings keep this user from writing or from making tables, at servers of every age.
pub(super) const LIMITS: &str = "
    SELECT name FROM system.settings WHERE (name = 'readonly' AND value != '0') OR (name = 'allow_ddl' AND value = '0')
    FORMAT TabSeparated";

impl Abilities {
    /// Reads the answer to [`ABILITIES`].
    pub(super) fn read(answer: &str) -> Self {
        let has = |name| answer.lines().any(|line| line == name);
        Self {
            fine_times: has("DateTime64"),
            tokens: has("insert_deduplication_token"),
            gathers: has("async_insert"),
            knows_gathered: has("deduplicate_insert"),
            remembers: has("non_replicated_deduplication_window"),
            syncs: has("fsync_after_insert"),
            maps: has("Map"),
            expires: has("ttl_only_drop_parts"),
        }
    }

    /// With what an INSERT goes, so that the answer to it says that its rows are there, and that they come once where the server
    /// can know that. One that gathers rows of several inserts and does not know the tokens of each could take a batch for one
    /// that came with it; it gets no tokens: better twice than not at all.
    pub(super) fn of_insert(self, may_gather: bool, token: &str) -> Vec<(&'static str, &str)> {
        let mut settings = Vec::new();
        if self.tokens && (self.knows_gathered || !may_gather) {
            settings.push(("insert_deduplication_token", token));
        }
        match may_gather {
            // Without the wait, an answer would say nothing about the rows.
            true => settings.extend([("async_insert", "1"), ("wait_for_async_insert", "1")]),
            false if self.gathers => settings.push(("async_insert", "0")),
            false => {}
        }
        if may_gather && self.knows_gathered {
            // By itself it may be told to look only at what it does not gather (`backward_compatible_choice`).
            settings.push(("deduplicate_insert", "enable"));
        }
        settings
    }

    /// What a table is made with, so that it keeps what it was given, once.
    pub(super) fn settings(self) -> Vec<String> {
        let mut settings = Vec::new();
        if self.remembers {
            settings.push(format!("non_replicated_deduplication_window = {REMEMBERED_INSERTS}"));
        }
        if self.syncs {
            settings.push("fsync_after_insert = 1, fsync_part_directory = 1".to_owned());
        }
        settings
    }
}

/// The table as Forebay makes it. An event is known by its service, time and id: what comes twice in spite of tokens is one
/// row after the next merge, and at once with `FINAL`.
pub(super) fn definition(table: &str, can: Abilities, ttl_seconds: Option<u64>) -> String {
    let (time, more) = if can.fine_times {
        ("DateTime64(9, 'UTC')", "")
    } else {
        ("DateTime('UTC')", ", timestamp_nanos Int64, ingested_at_nanos Int64")
    };
    let mut settings = can.settings();
    let ttl = match ttl_seconds {
        Some(seconds) => {
            settings.push("ttl_only_drop_parts = 1".to_owned());
            format!(" TTL toDateTime(timestamp) + toIntervalSecond({seconds})")
        }
        None => String::new(),
    };
    let settings =
        if settings.is_empty() { String::new() } else { format!(" SETTINGS {}", settings.join(", ")) };
    let service = if can.fine_times { "LowCardinality(String)" } else { "String" };
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (event_id String, timestamp {time}, service {service}, message String, \
         metadata String, ingested_at {time}{more}) ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(timestamp) \
         ORDER BY (service, timestamp, event_id){ttl}{settings}"
    )
}

/// Asks for the columns of tables: table, name and type.
pub(super) fn columns_of<'a>(database: &str, tables: impl Iterator<Item = &'a str>) -> String {
    let (database, tables) = (text(database), tables.map(text).collect::<Vec<_>>().join(", "));
    format!(
        "SELECT table, name, type FROM system.columns WHERE database = {database} AND table IN ({tables}) \
         FORMAT TabSeparatedRaw"
    )
}

/// What the answer to [`columns_of`] says of one table; nothing where there is none.
pub(super) fn found<'a>(answer: &'a str, table: &str) -> Vec<(&'a str, &'a str)> {
    let rows = answer.lines().filter_map(|line| line.split_once('\t'));
    rows.filter(|(of, _)| *of == table).filter_map(|(_, column)| column.split_once('\t')).collect()
}

/// The columns of the table of events to write, with their names.
///
/// # Errors
/// What of the table does not fit.
pub(super) fn plan(found: &[(&str, &str)]) -> Result<(Vec<&'static str>, Vec<Column>), String> {
    let (mut names, mut columns, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (name, part)) in Part::ALL.into_iter().enumerate() {
        match found.iter().find(|(column, _)| *column == name) {
            None if index < NEEDED => wrong.push(format!("{name} is missing")),
            None => {}
            Some((_, declared)) => match Column::of(part, declared) {
                Some(column) => {
                    names.push(name);
                    columns.push(column);
                }
                None => wrong.push(format!("{name} is {declared}, which cannot be written")),
            },
        }
    }
    if wrong.is_empty() { Ok((names, columns)) } else { Err(wrong.join("; ")) }
}

/// The statement that rows follow.
pub(super) fn insert(database: &str, table: &str, names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|column| name(column)).collect();
    format!("INSERT INTO {}.{} ({}) FORMAT RowBinary", name(database), name(table), names.join(", "))
}

/// Asks whether this user has all these rights to these tables, also to such as are not there: 1 or 0.
pub(super) fn granted(database: &str, rights: &[(String, String)]) -> String {
    let rights = rights.iter().map(|(right, table)| format!("{right} ON {}.{}", name(database), name(table)));
    format!("CHECK GRANT {}", rights.collect::<Vec<_>>().join(", "))
}

/// A name, quoted.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text, quoted.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: servers of three ages, with `async_insert` and without.
    /// Guarantee: each batch is known by its token where the server knows what it gathered by each token; where it does not, no
    /// batch can be taken for another. The token went with every insert, and nothing said that it counts for gathered ones; and a
    /// server that gathers by itself did so unasked.
    #[test]
    fn r0568_gathered_inserts_were_not_known_by_their_tokens() {
        let names = ["insert_deduplication_token", "async_insert", "deduplicate_insert"];
        let [oldest, middle, current] = [0, 2, 3].map(|known| Abilities::read(&names[..known].join("\n")));
        let token = ("insert_deduplication_token", "t");
        let gathered = [("async_insert", "1"), ("wait_for_async_insert", "1")];
        assert!(oldest.of_insert(false, "t").is_empty());
        assert_eq!(oldest.of_insert(true, "t"), gathered, "it says that it cannot");
        assert_eq!(middle.of_insert(false, "t"), [token, ("async_insert", "0")]);
        assert_eq!(middle.of_insert(true, "t"), gathered);
        assert_eq!(current.of_insert(false, "t"), [token, ("async_insert", "0")]);
        let all = [token, gathered[0], gathered[1], ("deduplicate_insert", "enable")];
        assert_eq!(current.of_insert(true, "t"), all);
    }
}
