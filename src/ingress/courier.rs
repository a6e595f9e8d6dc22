//! Brings requests to `Receiver`: those that a worker reads in one turn of its event loop go in one message.
//!
//! Under load a worker reads many connections in a turn. One message for each would wake the receiver's thread as often,
//! and on a busy machine the waking costs more than the work. On an idle system there is one request, and it waits for
//! one turn of an empty queue.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use forebay_actors::{
    event::Block,
    message::{Accepted, Admit, Refusal, Request},
    receiver::Receiver,
    reply::{CompletionQueue, Reply},
    runtime::mailbox::{Mailbox, NotTaken},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// One worker's courier. Every request clones it: what it holds is counted on the worker's thread alone, because counts that
/// all workers share are passed from core to core.
#[derive(Clone)]
pub struct Courier(Rc<Inner>);

struct Inner {
    receiver: Mailbox<Receiver>,
    /// Where the answers come back to. Its count is the one that is shared with other threads: who answers drops a clone.
    answers: Arc<CompletionQueue>,
    /// Hands them out.
    drain: JoinHandle<()>,
    /// What goes with the next message; a task is on its way to send it unless this is empty.
    bag: RefCell<Vec<Request>>,
}

impl Courier {
    /// A courier for the thread it is made on.
    ///
    /// # Panics
    /// Outside of a `LocalSet`; a worker of actix-web is in one.
    pub fn new(receiver: Mailbox<Receiver>) -> Self {
        let answers = Arc::new(CompletionQueue::default());
        let queue = answers.clone();
        let drain = actix_web::rt::spawn(async move { queue.drain().await });
        Self(Rc::new(Inner { receiver, answers, drain, bag: RefCell::default() }))
    }

    /// Has the events made durable.
    ///
    /// # Errors
    /// Where they are refused. A dropped reply (an actor died with the request) is [`Refusal::JournalFailed`]: the events
    /// may be durable, but nobody knows. At the end of the process it is [`Refusal::ShuttingDown`].
    pub async fn admit(&self, blocks: Vec<Block>) -> Result<Accepted, Refusal> {
        let (sender, answer) = oneshot::channel();
        let first = {
            let mut bag = self.0.bag.borrow_mut();
            bag.push(Request { blocks, reply: Reply::through(self.0.answers.clone(), sender) });
            bag.len() == 1
        };
        if first {
            let courier = self.clone();
            actix_web::rt::spawn(async move {
                // Whatever else is ready to run in this turn runs before.
                tokio::task::yield_now().await;
                courier.send();
            });
        }
        answer.await.unwrap_or_else(|_| match self.0.receiver.is_open() {
            true => Err(Refusal::JournalFailed),
            false => Err(Refusal::ShuttingDown),
        })
    }

    fn send(&self) {
        let requests = self.0.bag.take();
        let (refused, refusal) = match self.0.receiver.offer(Admit { requests }) {
            Ok(()) => return,
            Err(NotTaken::Full(admit)) => (admit, Refusal::Overloaded),
            Err(NotTaken::Ended(admit)) => (admit, Refusal::ShuttingDown),
        };
        // On the thread that waits for them: there is nobody else to be woken.
        refused.requests.into_iter().for_each(|request| request.reply.send(Err(refusal)));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Every request that waits holds the courier, so none does any more.
        self.drain.abort();
    }
}
