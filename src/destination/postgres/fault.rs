//! What the server's errors mean for a batch.
//!
//! | the server's word | what it means here |
//! |---|---|
//! | class 22 (a text with a zero byte, a number out of range), 23 (a constraint of the table's owner), 54 (too large) | these events are rejected, with the server's own words |
//! | 23502 of a column that is not written, rows without a partition | refused: it is no fault of the events |
//! | 28, 3D, 3F, 42, 25006, 0A (password, database, schema, table, columns, rights, read-only) | refused: tried again, since an operator can mend it |
//! | 53 (disk, memory, connections), 55 (locks), 57014 (its own time limit) | throttled or in time: tried again |
//! | 08, 57P0x, a broken connection | no connection: tried again on a new one |
//! | anything else | the server failed: tried again |

use forebay_actors::destination::{Cause, DeliveryError, Verdict};
use tokio_postgres::Error;

use super::{super::chain, copy::COLUMNS};

/// The failure of a delivery to the server at `place`.
pub(super) fn failure(place: &str, error: &Error) -> DeliveryError {
    let retry = Verdict::Retry { after: None };
    let message = format!("{place}: {}", words(error));
    let Some(db) = error.as_db_error() else { return DeliveryError::transient(Cause::Connect, message) };
    let code = db.code().code();
    // A partition that its owner has not made yet is no fault of the rows, though the code says so.
    let no_partition = db.routine() == Some("ExecFindPartition");
    // Nor is a column that somebody has added and that nobody fills.
    let others_column = code == "23502" && !db.column().is_some_and(|column| COLUMNS.contains(&column));
    let (cause, verdict) = match (&code[..2], code) {
        _ if no_partition || others_column => (Cause::Refused, retry),
        ("22" | "23" | "54", _) => (Cause::Rejected, Verdict::Reject),
        ("28" | "3D" | "3F" | "42" | "0A", _) | (_, "25006") => (Cause::Refused, retry),
        (_, "57014") => (Cause::Timeout, retry),
        ("53" | "55", _) => (Cause::Throttled, retry),
        ("08" | "57", _) => (Cause::Connect, retry),
        _ => (Cause::Server, retry),
    };
    DeliveryError { cause, message, status: None, verdict }
}

/// What the server says, or why it says nothing, on one line.
pub(crate) fn words(error: &Error) -> String {
    let Some(db) = error.as_db_error() else {
        let what = if error.is_closed() { "the connection broke" } else { "no connection" };
        // A name of a column that does not fit and the like are bugs, which show in the text.
        return format!("{what}: {}", chain(error));
    };
    let mut words = format!("{} ({})", db.message(), db.code().code());
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        words.push_str("; ");
        words.push_str(more);
    }
    one_line(&words)
}

/// Whether the table may have been taken away or changed, so that it is worth to look again.
pub(super) fn is_about_schema(error: &Error) -> bool {
    error.code().is_some_and(|code| matches!(&code.code()[..2], "3F" | "42" | "0A"))
}

/// The server's details quote rows, line breaks and all.
fn one_line(text: &str) -> String {
    const QUOTED_CHARS_MAX: usize = 600;
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(QUOTED_CHARS_MAX).collect()
}
