//! What can go wrong with the store, told apart by what is to be done about it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use forebay_actors::event::DecodeError;
use rusqlite::ErrorCode;

use super::{Order, PAGE_EVENTS_MAX, SEARCH_CHARS_MAX, STATS_ROWS_MAX};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room to write. Nothing was changed.
    #[error("{}: the disk is full", .path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// Another writer held the database for longer than this one waits, or every reading connection was in use.
    #[error("{}: busy: {what}", .path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// What was waited for.
        what: String,
    },
    /// The file is damaged, or is no SQLite database.
    #[error("{}: the database is damaged: {source}", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
    /// The file or its directory could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The database, or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A later Forebay has changed the file's schema.
    #[error("{}: the schema has version {found}, this Forebay knows versions up to {known}: start the Forebay that wrote it, or move the file away", .path.display())]
    NewerVersion {
        /// The database.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The latest version this build knows.
        known: i64,
    },
    /// A server does not answer, or says why it will not. Whatever it is, an operator can mend it without Forebay.
    #[error("{place}: {what}")]
    Unavailable {
        /// The server, without secrets.
        place: String,
        /// What was waited for, or the server's own words.
        what: String,
    },
    /// The work on a question ended without one: a bug.
    #[error("the question was given up without an answer")]
    NoAnswer,
    /// A record of the batch is not what its format says. No event of the batch was stored.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The question itself is wrong.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Whatever else SQLite may say.
    #[error("{}: {source}", .path.display())]
    Other {
        /// The database.
        path: PathBuf,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
}

/// What is wrong with a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A page of no or of too many events.
    #[error("limit is {0}: 1 to {max} events make a page", max = PAGE_EVENTS_MAX)]
    Limit(usize),
    /// A text that is longer than what is searched for.
    #[error("q has {0} characters: up to {max} are searched for", max = SEARCH_CHARS_MAX)]
    Text(usize),
    /// A text that no page gave out.
    #[error("{0:?} is no cursor: take next_cursor of the page before, unchanged")]
    Cursor(String),
    /// A cursor of a walk in the other direction.
    #[error("the cursor is of a page in order {cursor}, the query asks for {query}: keep to one order")]
    CursorOrder {
        /// The order the cursor was made in.
        cursor: Order,
        /// The order now asked for.
        query: Order,
    },
    /// A bucket the counts cannot be added up to.
    #[error("a bucket of {0} s: a multiple of 60 s is needed")]
    BucketSeconds(u32),
    /// More rows than an answer may have.
    #[error("more than {max} rows: ask for a shorter time or longer buckets", max = STATS_ROWS_MAX)]
    TooManyRows,
    /// More events than the store counts in the time it gives a question.
    #[error("counting takes more than {0:?}: ask for a shorter time, or for one service")]
    TooManyEvents(Duration),
}

// === impl StoreError ===

impl StoreError {
    /// Whether the same call may succeed later without anyone repairing anything but room, rights or load.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Busy { .. } | Self::Io { .. } | Self::Unavailable { .. })
    }

    /// Whether the connection that said so is still as good as a new one.
    pub(super) fn spares_connection(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Busy { .. } | Self::Decode(_) | Self::Query(_))
    }

    /// Turns SQLite's errors about `path` into ours: for `map_err`.
    pub(super) fn at(path: &Path) -> impl Fn(rusqlite::Error) -> Self + Copy {
        move |source| {
            let path = path.to_owned();
            match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Self::DiskFull { path },
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    Self::Busy { path, what: source.to_string() }
                }
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { path, source },
                Some(
                    ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::PermissionDenied,
                ) => Self::Io { path, source: io::Error::other(source) },
                _ => Self::Other { path, source },
            }
        }
    }
}
