//! Destinations: what goes out, one file a destination.
//!
//! # How to write one
//!
//! 1. Give it an options struct in `config::sink` and a file here, with a type that implements
//!    [`Destination`] and a `new` that takes the options. `new`
//!    only checks and prepares: it runs on the sink's own thread, so it opens no connection and waits for
//!    nothing. What is wrong with the options is [`Cause::Build`], by `unbuildable`.
//! 2. `deliver` hands over one whole batch. Retries, back-off, breaker, halving and dead letters are the
//!    sink's, so a destination tries once and says how it went. The verdict is the important word:
//!    - *Retry* where anything but the events themselves is at fault: no connection, a full disk, a wrong
//!      password. The events wait in the journal until an operator has mended it.
//!    - *Reject* only where these events can never be taken. The sink halves the batch until the event at
//!      fault stands alone, and dead-letters that one.
//! 3. Delivered means there: answer `Ok` only when the destination would still have the batch after a power
//!    cut. A crash of Forebay can bring the same batch again, under the same [`Batch::id`]; pass that on to
//!    whoever can make use of it.
//! 4. A future may be dropped at any await, and its sink may be rebuilt while work that it left on a blocking
//!    thread goes on. Neither may leave half an event behind.
//! 5. Files, drivers and long computations go through `blocking`; bodies are built by `encode_batch`,
//!    which allocates for a batch, never for an event.
//! 6. Messages say where (address or path, without secrets) and what happened, on one line.
//!
//! # Limits
//!
//! A destination holds one encoded batch per delivery, and nothing between deliveries.

pub mod blackhole;
pub mod cassandra;
pub mod clickhouse;
pub mod console;
pub mod file;
pub mod forebay;
mod grpc;
pub mod http;
pub mod nats;
pub mod otlp;
mod pieces;
pub mod postgres;
pub mod projected;
pub mod pushgateway;
pub mod s3;
mod taken;
pub(crate) mod tls;

use std::{error::Error, io, path::Path, sync::Arc};

use forebay_actors::{
    destination::{Cause, DeliveryError, Destination, Verdict},
    event::{EventWriter, Timestamp},
    record::Batch,
    runtime::clock::Clock,
};

use crate::{
    config::{SinkKind, TlsClient},
    store::SqliteDestination,
};

/// Builds the destination that a configuration names. `stream` tells the batches of one data directory from those of
/// another; `files` are the writers of this process, and `latest` is what the sink has at its gateway, where it has one.
///
/// # Errors
/// Where its options cannot be used ([`Cause::Build`]).
pub fn build(
    kind: &SinkKind,
    store: &Path,
    stream: &str,
    clock: &Clock,
    files: &file::Writers,
    latest: Option<&Arc<pushgateway::Latest>>,
) -> Result<Box<dyn Destination>, DeliveryError> {
    Ok(match kind {
        SinkKind::Store(_) => Box::new(SqliteDestination::new(store)),
        SinkKind::Http(options) => Box::new(self::http::HttpDestination::new(options)?.of_stream(stream)),
        SinkKind::Otlp(options) => Box::new(otlp::OtlpDestination::new(options)?),
        SinkKind::Forebay(options) => Box::new(forebay::ForebayDestination::new(options)?.of_stream(stream)),
        SinkKind::Postgres(options) => Box::new(postgres::PostgresDestination::new(options)?),
        SinkKind::Clickhouse(options) => {
            Box::new(clickhouse::ClickhouseDestination::new(options)?.of_stream(stream))
        }
        SinkKind::Nats(options) => Box::new(nats::NatsDestination::new(options)?.of_stream(stream)),
        SinkKind::Pushgateway(_) => {
            let latest = latest.ok_or_else(|| unbuildable("nobody keeps the latest values"))?;
            Box::new(pushgateway::PushgatewayDestination::new(latest.clone())?)
        }
        SinkKind::S3(options) => Box::new(s3::S3Destination::new(options)?.of_stream(stream)),
        SinkKind::Cassandra(options) => {
            Box::new(cassandra::CassandraDestination::new(options).of_stream(stream, clock))
        }
        SinkKind::File(options) => {
            let clock = clock.clone();
            let file = file::FileDestination::new(options, Arc::new(move || clock.now()), files)?;
            Box::new(file.of_stream(stream))
        }
        SinkKind::Console(options) => Box::new(console::ConsoleDestination::new(options)),
        SinkKind::Blackhole(options) => Box::new(blackhole::BlackholeDestination::new(options)),
    })
}

/// An HTTP client for a socket on this machine: it trusts nobody, because there is nobody to trust.
///
/// # Errors
/// Where TLS cannot be set up, which every client needs.
pub(crate) fn local_client() -> Result<reqwest::ClientBuilder, DeliveryError> {
    let tls = tls::client(rustls::RootCertStore::empty())?;
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy())
}

/// A client's TLS as a section `tls` says.
///
/// # Errors
/// What is wrong with which of its files.
pub(crate) fn tls_client_with(options: &TlsClient) -> Result<rustls::ClientConfig, DeliveryError> {
    tls::client_with(options)
}

/// Where a destination takes the time of day from, so that tests can hold it.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Bytes a JSON event has more than its record: the keys, the id and the two times, which a record does not
/// spell out. Escapes come on top and are rare.
const JSON_OVERHEAD_BYTES: usize = 170;

/// Payload up to which a batch is encoded where it stands: about 100 µs of work, less than it is worth to
/// wake another thread for.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// How the events of a batch are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// One event a line, the last one too.
    Lines,
    /// One JSON array.
    Array,
}

/// Runs `work` on a blocking thread.
///
/// # Errors
/// Its own, or one that may pass where the runtime ends before it.
///
/// # Panics
/// Where the work does: the sink counts panics, so that a batch that no encoder bears does not come back for ever.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DeliveryError> + Send + 'static,
) -> Result<T, DeliveryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(DeliveryError::transient(Cause::Io, format!("the blocking work ended: {error}"))),
    }
}

/// Does `work` on the batch where it stands, or on a blocking thread where the batch is large.
async fn encoding<T: Send + 'static>(
    batch: Arc<Batch>,
    work: impl FnOnce(&Batch) -> Result<T, DeliveryError> + Send + 'static,
) -> Result<T, DeliveryError> {
    if batch.payload_bytes() <= INLINE_BYTES_MAX {
        work(&batch)
    } else {
        blocking(move || work(&batch)).await
    }
}

/// The batch as one body.
///
/// # Errors
/// [`Cause::Encode`] where a record is damaged.
fn encode_batch(batch: &Batch, framing: Framing) -> Result<Vec<u8>, DeliveryError> {
    encode_batch_into(batch, framing, Vec::with_capacity(encoded_bytes(batch)))
}

/// The same in an empty buffer of the caller's.
fn encode_batch_into(batch: &Batch, framing: Framing, mut body: Vec<u8>) -> Result<Vec<u8>, DeliveryError> {
    write_batch(batch, framing, &mut body, |_| Ok(()))?;
    Ok(body)
}

/// Appends the batch to `out` and calls `after_each` behind every event, which may empty `out`.
///
/// # Errors
/// [`Cause::Encode`] where a record is damaged, and what `after_each` returns. What is in `out` then is worth nothing.
fn write_batch(
    batch: &Batch,
    framing: Framing,
    out: &mut Vec<u8>,
    mut after_each: impl FnMut(&mut Vec<u8>) -> Result<(), DeliveryError>,
) -> Result<(), DeliveryError> {
    let mut count = 0;
    let mut writer = EventWriter::default();
    let mut events = batch.events();
    while let Some(event) = events.next_unread() {
        if framing == Framing::Array {
            out.push(if count == 0 { b'[' } else { b',' });
        }
        let written = event.and_then(|event| writer.write_unread(&event, out));
        written.map_err(|e| unreadable(batch, &e.to_string()))?;
        if framing == Framing::Lines {
            out.push(b'\n');
        }
        count += 1;
        after_each(out)?;
    }
    if framing == Framing::Array {
        out.push(b']');
    }
    // A record that holds fewer events than it says must not pass as delivered.
    if count == batch.count() { Ok(()) } else { Err(unreadable(batch, &format!("only {count} are there"))) }
}

/// What the body will need: the records at the edges are counted by the share that the batch has of them.
fn encoded_bytes(batch: &Batch) -> usize {
    let held: u64 = batch.records().iter().map(|r| u64::from(r.count)).sum();
    let share = batch.payload_bytes() as u64 * batch.count() / held.max(1);
    share as usize + batch.count() as usize * JSON_OVERHEAD_BYTES
}

/// The records do not hold what they should. Trying again cannot mend that, so the sink is to halve the batch
/// until only what is lost is dead-lettered.
fn unreadable(batch: &Batch, what: &str) -> DeliveryError {
    let message = format!("the events {} cannot be read: {what}", batch.id());
    DeliveryError { cause: Cause::Encode, message, status: None, verdict: Verdict::Reject }
}

/// A local failure, with the path it happened at. It is always worth a retry: disks are emptied, rights given.
fn io_failure(path: &Path, what: &str, error: &io::Error) -> DeliveryError {
    DeliveryError::transient(Cause::Io, format!("{}: {what}: {error}", path.display()))
}

/// Options that no destination can be built from.
fn unbuildable(message: impl Into<String>) -> DeliveryError {
    DeliveryError::transient(Cause::Build, message)
}

/// An error with all that it says it came from, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Many errors already end in the words of their source.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both framings hold every event, and the room asked for at the start was enough.
    #[test]
    fn a_body_holds_every_event_without_growing() {
        let batch = test_batch::of(1_000);
        for framing in [Framing::Lines, Framing::Array] {
            let body = encode_batch(&batch, framing).unwrap();
            assert!(body.len() <= encoded_bytes(&batch), "{} > {}", body.len(), encoded_bytes(&batch));
            let events: Vec<serde_json::Value> = match framing {
                Framing::Array => serde_json::from_slice(&body).unwrap(),
                Framing::Lines => {
                    assert_eq!(body.last(), Some(&b'\n'));
                    body.split(|b| *b == b'\n')
                        .filter(|line| !line.is_empty())
                        .map(|line| serde_json::from_slice(line).unwrap())
                        .collect()
                }
            };
            assert_eq!(events.len(), 1_000);
            assert_eq!(events[999]["message"], "event 999");
        }
    }

    /// Half of a record asks for half of its room.
    #[test]
    fn half_of_a_record_asks_for_half_of_the_room() {
        let batch = test_batch::of(1_000);
        let (first, _) = batch.halves().unwrap();
        assert_eq!(
            encode_batch(&first, Framing::Lines).unwrap().iter().filter(|b| **b == b'\n').count(),
            500
        );
        assert!(encoded_bytes(&first) <= encoded_bytes(&batch) / 2);
    }

    /// Scenario: an encoder panics on a blocking thread, as with a compressed batch of over 64 KiB.
    /// Guarantee: the panic comes to the sink, which isolates what it panicked on. It was a failure that may pass, so the
    /// batch was tried for ever, and nothing behind it was delivered.
    #[tokio::test]
    async fn r0311_a_panic_on_a_blocking_thread_was_retried_for_ever() {
        use futures::FutureExt as _;
        let delivery = encoding(Arc::new(test_batch::of(5_000)), |batch| -> Result<(), DeliveryError> {
            assert!(batch.payload_bytes() > INLINE_BYTES_MAX);
            panic!("an encoder's bug");
        });
        let panic = std::panic::AssertUnwindSafe(delivery).catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"an encoder's bug"));
    }

    /// A damaged record is a rejection, so that the sink halves its way to what is lost; never a success.
    #[test]
    fn a_damaged_record_is_rejected() {
        for batch in [test_batch::damaged(), test_batch::short(), test_batch::of_no_text()] {
            for framing in [Framing::Lines, Framing::Array] {
                let error = encode_batch(&batch, framing).unwrap_err();
                assert_eq!((error.cause, error.verdict), (Cause::Encode, Verdict::Reject));
            }
        }
    }
}

/// Batches for the tests of this folder.
#[cfg(test)]
mod test_batch {
    use forebay_actors::{
        event::{BlockBuilder, Draft, Stamp},
        record::{Position, Record, Span},
    };

    use super::*;

    /// A batch of `count` events, `event 0` and so on, in one record.
    pub(super) fn of(count: u32) -> Batch {
        at(0, count)
    }

    /// The same, from the position `first`.
    pub(super) fn at(first: u64, count: u32) -> Batch {
        batch(first, count, payload(count))
    }

    /// A batch whose record was cut short.
    pub(super) fn damaged() -> Batch {
        let mut payload = payload(3);
        payload.truncate(payload.len() - 1);
        batch(0, 3, payload)
    }

    /// A batch in whose record a text is none.
    pub(super) fn of_no_text() -> Batch {
        let mut payload = payload(3);
        let text = memchr::memmem::find(&payload, b"event 1").unwrap();
        payload[text] = 0xff;
        batch(0, 3, payload)
    }

    /// A batch whose record holds one event less than it says.
    pub(super) fn short() -> Batch {
        batch(0, 3, payload(2))
    }

    fn batch(first: u64, count: u32, payload: Vec<u8>) -> Batch {
        let first = Position(first);
        let record = Record { first, count, written_at: Timestamp::from_nanos(0), payload: payload.into() };
        Batch::new(Span { first, end: record.end() }, vec![Arc::new(record)])
    }

    fn payload(count: u32) -> Vec<u8> {
        let mut builder = BlockBuilder::default();
        for i in 0..count {
            builder.push(&Draft {
                event_id: None,
                timestamp: Some(Timestamp::from_nanos(1_767_000_000_123_456_789)),
                service: "api",
                message: &format!("event {i}"),
                metadata: Some("{\"zone\":\"eu-1\"}"),
            });
        }
        let stamp = Stamp {
            first_id: uuid::Uuid::from_u128(1),
            ingested_at: Timestamp::from_nanos(1_767_000_000_000_000_000),
        };
        let mut payload = Vec::new();
        for block in builder.finish() {
            payload.extend_from_slice(block.stamped(stamp).bytes());
        }
        payload
    }
}
