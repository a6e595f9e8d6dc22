//! Where the answer to a request goes.
//!
//! A commit answers a hundred requests. Where each answer wakes the thread that waits for it, the kernel of a busy machine
//! lets that thread run in place of the one that answers, which gets its turn back for one answer more, and so on: one commit
//! in ten took half a millisecond to answer, two thread switches for each request. So the answers for one thread are posted to
//! its [`CompletionQueue`] before it is woken, once.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

use crate::message::{Accepted, Refusal};

/// What a request is told.
pub type Answer = Result<Accepted, Refusal>;

/// Where the answer to a request goes. Dropped without one, it says that the actor died with the request.
#[derive(Debug)]
pub struct Reply {
    sender: oneshot::Sender<Answer>,
    queue: Option<Arc<CompletionQueue>>,
}

/// Answers that were posted to one thread.
#[derive(Debug, Default)]
pub struct CompletionQueue {
    pending: Mutex<Pending>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    completions: Vec<Completion>,
    /// Of the threads that were answered together with this one.
    wakeups: Vec<Arc<Wakeups>>,
}

#[derive(Debug)]
struct Completion {
    sender: oneshot::Sender<Answer>,
    answer: Answer,
}

/// The threads that are answered together. Whoever is woken wakes the next one: who answers may not run again until then.
#[derive(Debug)]
struct Wakeups {
    /// Weak, because each of them holds these wake-ups.
    queues: Vec<Weak<CompletionQueue>>,
    next: AtomicUsize,
}

// === impl Reply ===

impl Reply {
    /// To somebody whose thread drains this queue.
    pub fn through(queue: Arc<CompletionQueue>, sender: oneshot::Sender<Answer>) -> Self {
        Self { sender, queue: Some(queue) }
    }

    /// Answers.
    pub fn send(self, answer: Answer) {
        send_all([(self, answer)]);
    }
}

impl From<oneshot::Sender<Answer>> for Reply {
    /// To somebody who is woken by this answer alone.
    fn from(sender: oneshot::Sender<Answer>) -> Self {
        Self { sender, queue: None }
    }
}

/// Answers all of them, and wakes each thread that has a queue once.
pub fn send_all(answers: impl IntoIterator<Item = (Reply, Answer)>) {
    post(answers).go_on();
}

/// Answers all of them, but wakes nobody through a queue yet.
fn post(answers: impl IntoIterator<Item = (Reply, Answer)>) -> Arc<Wakeups> {
    // As many as there are workers: few enough to be looked through.
    let mut posts: Vec<(Arc<CompletionQueue>, Vec<Completion>)> = Vec::new();
    for (Reply { sender, queue }, answer) in answers {
        let completion = Completion { sender, answer };
        match queue {
            None => completion.complete(),
            Some(queue) => match posts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &queue)) {
                Some((_, completions)) => completions.push(completion),
                None => posts.push((queue, vec![completion])),
            },
        }
    }
    // Who gets a single answer is woken once by it, too, and that with one step less.
    for (_, completions) in posts.extract_if(.., |(_, completions)| completions.len() == 1) {
        completions.into_iter().for_each(Completion::complete);
    }
    let queues = posts.iter().map(|(queue, _)| Arc::downgrade(queue)).collect();
    let wakeups = Arc::new(Wakeups { queues, next: AtomicUsize::new(0) });
    for (queue, mut completions) in posts {
        let mut pending = queue.pending();
        pending.completions.append(&mut completions);
        pending.wakeups.push(wakeups.clone());
    }
    wakeups
}

// === impl CompletionQueue ===

impl CompletionQueue {
    /// Hands out the answers as they come, for ever; on the thread whose tasks wait for them.
    pub async fn drain(&self) {
        loop {
            self.posted.notified().await;
            let Pending { completions, wakeups } = mem::take(&mut *self.pending());
            wakeups.iter().for_each(|wakeups| wakeups.go_on());
            completions.into_iter().for_each(Completion::complete);
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Completion ===

impl Completion {
    fn complete(self) {
        // Whoever asked may have gone meanwhile.
        let _ = self.sender.send(self.answer);
    }
}

// === impl Wakeups ===

impl Wakeups {
    /// Wakes who was not woken yet.
    fn go_on(&self) {
        while let Some(queue) = self.queues.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            // Gone with its thread: then nobody is there to be woken.
            if let Some(queue) = queue.upgrade() {
                queue.posted.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::time::timeout;

    use super::*;

    /// Nobody waits as long: time stands still in these tests while anything can go on.
    const NEVER: Duration = Duration::from_secs(3600);

    type Waiting = Vec<oneshot::Receiver<Answer>>;

    /// Replies to so many requests through the queue, and what waits for them.
    fn requests(queue: &Arc<CompletionQueue>, count: usize) -> (Vec<Reply>, Waiting) {
        (0..count)
            .map(|_| {
                let (sender, answer) = oneshot::channel();
                (Reply::through(queue.clone(), sender), answer)
            })
            .unzip()
    }

    fn accepted(replies: Vec<Reply>) -> impl Iterator<Item = (Reply, Answer)> {
        replies.into_iter().map(|reply| (reply, Ok(Accepted { stamps: Vec::new() })))
    }

    async fn all_accepted(waiting: Waiting) -> bool {
        join_all(waiting).await.into_iter().all(|answer| matches!(answer, Ok(Ok(_))))
    }

    /// Every request gets its own answer, also those that have no queue and those that nobody waits for any more.
    #[tokio::test(start_paused = true)]
    async fn each_request_gets_its_own_answer() {
        let queue = Arc::new(CompletionQueue::default());
        let (mut replies, mut waiting) = requests(&queue, 3);
        drop(waiting.pop());
        let (sender, alone) = oneshot::channel();
        replies.push(sender.into());
        let answers = [Refusal::Overloaded, Refusal::DiskFull, Refusal::JournalFull, Refusal::JournalFailed];
        send_all(replies.into_iter().zip(answers.map(Err)));
        assert_eq!(alone.await.unwrap().unwrap_err(), Refusal::JournalFailed);
        let got = async { join_all(waiting).await.into_iter().map(|answer| answer.unwrap().unwrap_err()) };
        let got: Vec<_> = tokio::select! {
            () = queue.drain() => unreachable!(),
            got = timeout(NEVER, got) => got.expect("answers").collect(),
        };
        assert_eq!(got, [Refusal::Overloaded, Refusal::DiskFull]);
    }

    /// The thread that answers does not get its turn again before the first thread that it woke sleeps: the others do not wait
    /// for it.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_woken_wakes_the_next() {
        let queues = [(); 3].map(|()| Arc::new(CompletionQueue::default()));
        let (replies, waiting): (Vec<_>, Vec<_>) = queues.iter().map(|queue| requests(queue, 2)).unzip();
        let wakeups = post(accepted(replies.into_iter().flatten().collect()));
        wakeups.next.store(1, Ordering::Relaxed);
        queues[0].posted.notify_one();
        let [first, second, third] = &queues;
        tokio::select! {
            () = async { tokio::join!(first.drain(), second.drain(), third.drain()); } => unreachable!(),
            accepted = timeout(NEVER, all_accepted(waiting.into_iter().flatten().collect())) => {
                assert!(accepted.expect("an answer for all"));
            }
        }
    }

    /// A single answer needs nobody who drains the queue.
    #[tokio::test(start_paused = true)]
    async fn a_single_answer_comes_without_a_detour() {
        let (replies, waiting) = requests(&Arc::default(), 1);
        send_all(accepted(replies));
        assert!(timeout(NEVER, all_accepted(waiting)).await.expect("an answer"));
    }

    /// A queue whose thread has gone keeps nobody from being answered; a reply that is dropped says so through a queue as well.
    #[tokio::test(start_paused = true)]
    async fn who_has_gone_keeps_nobody_waiting() {
        let (gone, here) = (Arc::new(CompletionQueue::default()), Arc::new(CompletionQueue::default()));
        let (replies, _) = requests(&gone, 2);
        let (mut others, mut waiting) = requests(&here, 3);
        let (dropped, unanswered) = (others.pop(), waiting.pop());
        let wakeups = post(accepted(replies.into_iter().chain(others).collect()));
        drop(gone);
        wakeups.go_on();
        drop(dropped);
        tokio::select! {
            () = here.drain() => unreachable!(),
            accepted = timeout(NEVER, all_accepted(waiting)) => assert!(accepted.expect("an answer")),
        }
        assert!(unanswered.expect("the third").await.is_err());
    }
}
