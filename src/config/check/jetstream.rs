//! What does not fit together where the journal is on NATS JetStream.

use std::time::Duration;

use super::Found;
use crate::config::{Config, Durability, SinkKind, WhenFull};

/// Characters of a stream's name; what the server takes is longer.
const STREAM_CHARS_MAX: usize = 64;

/// Below this, a worker that only breathes too slowly would have its events delivered by another, too.
const ACK_WAIT_MIN: Duration = Duration::from_secs(1);

pub(super) fn relations(config: &Config, found: &mut Found) {
    let journal = &config.buffer.jetstream;
    if config.buffer.durability != Durability::Fsync {
        let message = "is the servers' own matter with backend: jetstream (replicas, and sync_interval of each server); \
                       leave it away";
        found.add(&["buffer", "durability"], message);
    }
    let path = |key: &'static str| ["buffer", "jetstream", key];
    if let Err(why) = journal.servers() {
        found.add(&path("url"), why);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let length = journal.stream.len();
    if !(1..=STREAM_CHARS_MAX).contains(&length) || !journal.stream.chars().all(is_name) {
        let message =
            format!("is not usable; 1 to {STREAM_CHARS_MAX} letters, digits, `_` and `-` are, like FOREBAY");
        found.add(&path("stream"), message);
    }
    if !matches!(journal.replicas, 1 | 3 | 5) {
        let message = format!(
            "is {}; 1, 3 or 5 are, because an even number survives no more than one less",
            journal.replicas
        );
        found.add(&path("replicas"), message);
    }
    if journal.ack_wait < ACK_WAIT_MIN {
        found.add(
            &path("ack_wait"),
            "is shorter than a second; a worker that was slow for a moment would count as dead",
        );
    }
    match (&journal.user, &journal.password) {
        (Some(_), None) => found.add(&path("password"), "is missing; user needs it"),
        (None, Some(_)) => found.add(&path("user"), "is missing; password needs it"),
        _ => {}
    }
    let tls = match (&journal.tls.cert_file, &journal.tls.key_file) {
        (None, Some(_)) => Some(("cert_file", "key_file")),
        (Some(_), None) => Some(("key_file", "cert_file")),
        _ => None,
    };
    if let Some((missing, other)) = tls {
        found.add(&["buffer", "jetstream", "tls", missing], format!("is missing; {other} needs it"));
    }
    for (name, sink) in &config.sinks {
        if sink.when_full == WhenFull::DropOldest {
            let message = "cannot be drop_oldest with backend: jetstream, where no process knows what another has taken; \
                           leave it away, and a full journal refuses events";
            found.add(&["sinks", name, "when_full"], message);
        }
        // Any process may be the one that reads it back, and none may be lost with it.
        let holder = sink.fallback.as_ref().and_then(|holder| config.sinks.get(holder));
        let is_of_one_machine = |kind: &SinkKind| match kind {
            SinkKind::File(_) => true,
            SinkKind::S3(s3) => s3.url.starts_with("file:"),
            _ => false,
        };
        if holder.is_some_and(|holder| is_of_one_machine(&holder.kind)) {
            let message = "names files, which are on one machine, and with backend: jetstream any other may read back what is held; \
                           name a cassandra sink, or an s3 sink with a bucket";
            found.add(&["sinks", name, "fallback"], message);
        }
    }
}
