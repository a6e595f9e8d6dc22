//! Reading the stream past all queues, for replays and for what a start wants to know of the end.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use forebay_actors::{
    journal::{JournalError, Piece},
    record::Position,
};
use futures::StreamExt as _;
use std::time::Duration;
use tokio::time::timeout;

use super::{ASK_WAIT, INDEX_BITS, Shared, queue, sequence_of};
use crate::destination;

/// Messages of one reading at most.
const MESSAGES_MAX: usize = 256;

/// When the server forgets a reader that has gone without a word.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// What lies from `from` on.
pub(super) async fn read(
    shared: &Shared,
    from: Position,
    bytes_max: usize,
) -> Result<Vec<Piece>, JournalError> {
    let failed = |error: &dyn std::error::Error| shared.failed(destination::chain(error));
    // A position within a message is behind its events, as a reader asks who has had it.
    let begins_message = from.0 & ((1 << INDEX_BITS) - 1) == 0;
    let start_sequence = (sequence_of(from) + u64::from(!begins_message)).max(1);
    if start_sequence > shared.seen().last {
        return Ok(Vec::new());
    }
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        inactive_threshold: FORGET_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let consumer = shared.stream.create_consumer(config).await.map_err(|e| failed(&e))?;
    // A message is larger than it is here, by its headers; one at least has to come.
    let bytes_max = bytes_max.max(shared.context.client().server_info().max_payload);
    let fetch = consumer.fetch().max_messages(MESSAGES_MAX).max_bytes(bytes_max).expires(ASK_WAIT);
    let mut messages = fetch.messages().await.map_err(|e| failed(&e))?;
    let mut pieces = Vec::new();
    loop {
        let message =
            timeout(ASK_WAIT, messages.next()).await.map_err(|_| shared.failed("it does not answer"))?;
        match message {
            Some(Ok(message)) => {
                let sequence = message.info().map_err(|e| shared.failed(e))?.stream_sequence;
                pieces.push(queue::piece(sequence, &message.payload));
            }
            Some(Err(error)) => return Err(shared.failed(error)),
            None => break,
        }
    }
    // Where it is not deleted now, the server does it by itself.
    let _ = shared.stream.delete_consumer(&consumer.cached_info().name).await;
    Ok(pieces)
}
