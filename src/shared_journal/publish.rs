//! Commits: records as messages, acknowledged by the stream.

use std::{error::Error as _, sync::atomic::Ordering, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
};
use bytes::Bytes;
use forebay_actors::{
    event::Stamped,
    journal::{JournalError, stored_form},
};
use futures::future::try_join_all;
use tokio::time::{Instant, timeout_at};

use super::{COMMIT_WAIT, INDEX_BITS, Shared};
use crate::destination;

/// How long one attempt waits for the stream's word before the same message is sent again.
const ATTEMPT_WAIT: Duration = Duration::from_secs(2);

/// A pause between two attempts, where the first had its answer at once: while a leader is elected there is nobody to ask.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// One message to be.
pub(super) struct Outgoing {
    id: String,
    stored: Bytes,
    events: u64,
}

/// The blocks as messages. Compresses, so it belongs on the caller's thread.
pub(super) fn messages(shared: &Shared, blocks: &[Stamped]) -> Result<Vec<Outgoing>, JournalError> {
    // Where a message will be nobody knows yet: whoever reads it gives its record the place that the stream gave it.
    let encoded = stored_form::encode_all(blocks, shared.clock.now(), shared.message_bytes);
    let message = |(events, stored): (u32, Vec<u8>)| {
        if events >= 1 << INDEX_BITS {
            return Err(shared.failed(format_args!("{events} events are too many for one message")));
        }
        let number = shared.written.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number:x}", shared.nonce);
        Ok(Outgoing { id, stored: stored.into(), events: u64::from(events) })
    };
    encoded.into_iter().map(message).collect()
}

/// Has all of them acknowledged by the stream. After an error some may be there.
pub(super) async fn publish(shared: &Shared, messages: Vec<Outgoing>) -> Result<(), JournalError> {
    let deadline = Instant::now() + COMMIT_WAIT;
    let (events, count) = (messages.iter().map(|message| message.events).sum(), messages.len() as u64);
    shared.count(events, count);
    // Not one after the other: each waits for the same servers.
    let published = try_join_all(messages.iter().map(|message| publish_one(shared, message, deadline))).await;
    // Only now, and whatever came of it: who looked before has not seen them.
    shared.seen().published(count);
    published.map(drop)
}

/// Tries until it is acknowledged or the time is over. The id makes a message that comes twice one.
async fn publish_one(shared: &Shared, message: &Outgoing, deadline: Instant) -> Result<(), JournalError> {
    loop {
        let attempt_until = (Instant::now() + ATTEMPT_WAIT).min(deadline);
        let error = match timeout_at(attempt_until, attempt(shared, message)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => match refused(shared, &error) {
                Some(refused) => return Err(refused),
                None => destination::chain(&error),
            },
            Err(_) => "it does not acknowledge".to_owned(),
        };
        if Instant::now() + ATTEMPT_PAUSE >= deadline {
            return Err(shared.failed(error));
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
}

async fn attempt(shared: &Shared, message: &Outgoing) -> Result<PublishAck, PublishError> {
    let publish = PublishMessage::build()
        .payload(message.stored.clone())
        .message_id(&message.id)
        .expected_stream(&shared.config.stream);
    shared.context.send_publish(shared.config.subject(), publish).await?.await
}

/// What no other attempt would change.
fn refused(shared: &Shared, error: &PublishError) -> Option<JournalError> {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return Some(shared.failed(destination::chain(error)));
    }
    let of_server = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>())?;
    match of_server.error_code() {
        // By the stream's own size; the same code says what its disk said.
        ErrorCode::STREAM_STORE_FAILED if !of_server.to_string().contains("exceeded") => {
            Some(shared.failed(of_server))
        }
        // The stream, or the account, is as large as it may be.
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => {
            Some(JournalError::AtItsCap { place: format!("{} ({of_server})", shared.server) })
        }
        ErrorCode::INSUFFICIENT_RESOURCES => Some(shared.failed(of_server)),
        _ => None,
    }
}
