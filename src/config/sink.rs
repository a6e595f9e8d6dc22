//! The sinks of a configuration: what every sink has, and what each type adds.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// What to do for this sink when the journal's own byte cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Refuse new events (503) until this sink has caught up. Nothing is lost.
    #[default]
    Block,
    /// Let this sink skip its oldest events; they are counted and dead-lettered by range.
    DropOldest,
}

/// `type: http`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSink {
    /// Where to POST.
    pub url: String,
    /// How events are written into the body.
    pub encoding: HttpEncoding,
    /// How the body is compressed.
    pub compression: Compression,
    /// Headers added to every request.
    pub headers: BTreeMap<String, String>,
    /// From sending a request to having its answer.
    pub timeout: Duration,
}

/// Bodies of `type: http`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpEncoding {
    /// One event a line, `application/x-ndjson`.
    #[default]
    Ndjson,
    /// One array, `application/json`.
    Json,
}

/// Compression of what a sink writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// gzip, the fastest level.
    Gzip,
}

/// `type: file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// The file being written, NDJSON; rotated files get the time of their rotation into the name.
    pub path: PathBuf,
    /// Rotate before the file would grow past this many bytes.
    pub rotate_bytes: Option<u64>,
    /// Rotate when the file is this old.
    pub rotate_every: Option<Duration>,
    /// Compression of rotated files.
    pub compression: Compression,
    /// Rotated files kept; the oldest beyond are removed. None keeps all.
    pub keep_files: Option<usize>,
}

/// `type: store`: the embedded event store behind `GET /events`, at `<data_dir>/store/events.db`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSink {}

/// `type: console`: NDJSON on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSink {}

/// `type: blackhole`: takes everything, keeps nothing; for emergencies and for measuring.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlackholeSink {
    /// Events a second it lets pass; as fast as they come where absent.
    pub rate_events_per_second: Option<u32>,
}
