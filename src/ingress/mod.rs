//! What comes in. Every ingress turns a request into blocks of encoded events and asks `Receiver` to admit them;
//! only an answer from there is a success.

pub mod batch;
pub mod body;
pub mod courier;
mod encrypted;
pub mod events;
pub(crate) mod fields;
pub mod grpc;
pub mod limits;
pub mod otlp;
pub mod post;
pub mod server;

use forebay_actors::{
    event::Block,
    message::{Admit, Refusal},
    receiver::Receiver,
    runtime::mailbox::{Mailbox, NotTaken},
};
use tokio::sync::oneshot;

use crate::api::error::ApiError;

/// Makes the blocks of one request durable, for an ingress that has threads of its own; those of actix-web send through
/// their [courier](courier::Courier).
///
/// # Errors
/// 503 where they are not taken; nothing of them is kept then.
async fn commit(receiver: &Mailbox<Receiver>, blocks: Vec<Block>) -> Result<(), ApiError> {
    let (reply, answer) = oneshot::channel();
    let refusal = match receiver.offer(Admit::one(blocks, reply)) {
        Ok(()) => match answer.await.unwrap_or(Err(Refusal::JournalFailed)) {
            Ok(_) => return Ok(()),
            Err(refusal) => refusal,
        },
        Err(NotTaken::Full(_)) => Refusal::Overloaded,
        Err(NotTaken::Ended(_)) => Refusal::ShuttingDown,
    };
    Err(post::refusal(refusal))
}
