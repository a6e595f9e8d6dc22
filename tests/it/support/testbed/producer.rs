//! Who posts to a pipeline, once or without end.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay_actors::{
    event::{BlockBuilder, Draft},
    message::{Admit, Refusal},
    receiver::Receiver,
    runtime::mailbox::{Mailbox, NotTaken},
};
use tokio::{sync::oneshot, time::timeout};

use super::PATIENCE;

/// Posts events to a pipeline.
#[derive(Clone)]
pub struct Producer {
    receiver: Mailbox<Receiver>,
    acknowledged: Arc<Mutex<Vec<String>>>,
}

/// Why events were not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAcknowledged {
    /// Nothing of them was kept.
    Refused(Refusal),
    /// An actor died with the question.
    Unanswered,
}

/// Producers that post one request after the other until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    producers: Vec<tokio::task::JoinHandle<Vec<NotAcknowledged>>>,
}

impl Producer {
    pub(super) fn new(receiver: Mailbox<Receiver>, acknowledged: Arc<Mutex<Vec<String>>>) -> Self {
        Self { receiver, acknowledged }
    }

    /// Posts one request.
    pub async fn post(&self, messages: &[&str]) -> Result<Vec<String>, NotAcknowledged> {
        self.offer(messages).await
    }

    /// Posts one request at once; the future is its answer.
    pub fn offer(
        &self,
        messages: &[&str],
    ) -> impl Future<Output = Result<Vec<String>, NotAcknowledged>> + use<> {
        let mut builder = BlockBuilder::default();
        for message in messages {
            builder.push(&Draft {
                event_id: None,
                timestamp: None,
                service: "test",
                message,
                metadata: None,
            });
        }
        let (reply, answer) = oneshot::channel();
        let offered = self.receiver.offer(Admit::one(builder.finish(), reply));
        let acknowledged = self.acknowledged.clone();
        async move {
            match offered {
                Ok(()) => {}
                Err(NotTaken::Full(_)) => return Err(NotAcknowledged::Refused(Refusal::Overloaded)),
                Err(NotTaken::Ended(_)) => return Err(NotAcknowledged::Refused(Refusal::ShuttingDown)),
            }
            let answer = answer.await.map_err(|_| NotAcknowledged::Unanswered)?;
            let accepted = answer.map_err(NotAcknowledged::Refused)?;
            let of_block = |(stamp, count): &(forebay_actors::event::Stamp, u32)| {
                let stamp = *stamp;
                (0..*count).map(move |index| stamp.id_at(index).to_string())
            };
            let ids: Vec<_> = accepted.stamps.iter().flat_map(of_block).collect();
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).extend(ids.iter().cloned());
            Ok(ids)
        }
    }

    /// Posts the request until it is acknowledged, and returns how often it was not.
    pub async fn post_patiently(&self, messages: &[&str]) -> usize {
        let mut refused = 0;
        let post = async {
            while self.post(messages).await.is_err() {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, post).await.expect("the request is acknowledged at last");
        refused
    }

    async fn post_until(self, stop: Arc<AtomicBool>) -> Vec<NotAcknowledged> {
        let mut failures = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if let Err(failure) = self.post(&["an event of the load"; 25]).await {
                failures.push(failure);
                tokio::task::yield_now().await;
            }
        }
        failures
    }
}

impl Load {
    pub(super) fn start(producer: &Producer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |_| actix::spawn(producer.clone().post_until(stop.clone()));
        let producers = (0..4).map(spawn).collect();
        Self { stop, producers }
    }

    /// Ends the posting, and returns why what was not acknowledged was not.
    pub async fn stop(self) -> Vec<NotAcknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for producer in self.producers {
            failures.extend(producer.await.expect("a producer does not panic"));
        }
        failures
    }
}
