//! Where the answer to a request goes.
//!
//! Under load a commit answers a hundred requests. Where each answer wakes the thread that waits for it, the kernel of a busy
//! machine may let that thread run in place of the one that answers, which gets its turn back for one answer more, and so on.
//! So the answers for one thread are posted to its [`CompletionQueue`] before it is woken, once.

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

    /// Answers this one; [`send_all`] is for several.
    pub fn send(self, answer: Answer) {
        Completion { sender: self.sender, answer }.complete();
    }
}

impl From<oneshot::Sender<Answer>> for Reply {
    /// To somebody who is woken by this answer alone.
    fn from(sender: oneshot::Sender<Answer>) -> Self {
        Self { sender, queue: None }
    }
}

/// Answers all of them. Each thread that has a queue is woken once, when the answers of all of them are posted.
pub fn send_all(answers: impl IntoIterator<Item = (Reply, Answer)>) {
    let Posted { wakeups, others } = post(answers);
    wakeups.go_on();
    others.into_iter().for_each(Completion::complete);
}

/// What is left to do when answers are posted.
struct Posted {
    wakeups: Arc<Wakeups>,
    /// Of those who have no queue. Also where only one answer goes through a queue: it wakes its thread once by itself, with one
    /// step less.
    others: Vec<Completion>,
}

fn post(answers: impl IntoIterator<Item = (Reply, Answer)>) -> Posted {
    // As many as there are workers: few enough to be looked through.
    let mut posts: Vec<(Arc<CompletionQueue>, Vec<Completion>)> = Vec::new();
    let mut others = Vec::new();
    for (Reply { sender, queue }, answer) in answers {
        let completion = Completion { sender, answer };
        match queue {
            None => others.push(completion),
            Some(queue) => match posts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &queue)) {
                Some((_, completions)) => completions.push(completion),
                None => posts.push((queue, vec![completion])),
            },
        }
    }
    if let [(_, completions)] = &mut posts[..]
        && completions.len() == 1
    {
        others.append(completions);
        posts.clear();
    }
    let queues = posts.iter().map(|(queue, _)| Arc::downgrade(queue)).collect();
    let wakeups = Arc::new(Wakeups { queues, next: AtomicUsize::new(0) });
    for (queue, completions) in &mut posts {
        queue.pending().completions.append(completions);
    }
    // Behind all answers: a thread that is awake already takes the wake-ups as soon as they are there, and uses them up.
    for (queue, _) in &posts {
        queue.pending().wakeups.push(wakeups.clone());
    }
    Posted { wakeups, others }
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
    use std::{pin::pin, task::Context, thread, time::Duration};

    use futures::{FutureExt as _, future::join_all, task::ArcWake};
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

    /// Counts how often somebody is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A thread is woken once for all its answers, and all of them are there then.
    #[test]
    fn a_thread_is_woken_once_for_all_its_answers() {
        let (queue, woken) = (Arc::new(CompletionQueue::default()), Arc::new(Woken::default()));
        let waker = futures::task::waker(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut drain = pin!(queue.drain());
        assert!(drain.as_mut().poll(&mut context).is_pending());
        let (replies, waiting) = requests(&queue, 100);
        send_all(accepted(replies));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(drain.as_mut().poll(&mut context).is_pending());
        assert_eq!(all_accepted(waiting).now_or_never(), Some(true));
    }

    /// The thread that answers does not get its turn again before the first thread that it woke sleeps: the others do not wait
    /// for it.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_woken_wakes_the_next() {
        let queues = [(); 3].map(|()| Arc::new(CompletionQueue::default()));
        let (replies, waiting): (Vec<_>, Vec<_>) = queues.iter().map(|queue| requests(queue, 2)).unzip();
        let posted = post(accepted(replies.into_iter().flatten().collect()));
        posted.wakeups.next.store(1, Ordering::Relaxed);
        queues[0].posted.notify_one();
        let [first, second, third] = &queues;
        tokio::select! {
            () = async { tokio::join!(first.drain(), second.drain(), third.drain()); } => unreachable!(),
            accepted = timeout(NEVER, all_accepted(waiting.into_iter().flatten().collect())) => {
                assert!(accepted.expect("an answer for all"));
            }
        }
    }

    /// A thread that is awake for another reason takes its answers while those of the next one are still being posted: the next
    /// one is woken for them all the same.
    #[tokio::test(start_paused = true)]
    async fn wakeups_are_not_used_up_before_all_answers_are_posted() {
        let (first, second) = (Arc::new(CompletionQueue::default()), Arc::new(CompletionQueue::default()));
        let (replies, waiting): (Vec<_>, Vec<_>) =
            [&first, &second].map(|queue| requests(queue, 2)).into_iter().unzip();
        let held = second.pending();
        let poster = thread::spawn(move || send_all(accepted(replies.into_iter().flatten().collect())));
        while first.pending().completions.is_empty() {
            thread::yield_now();
        }
        first.posted.notify_one();
        assert!(first.drain().now_or_never().is_none());
        // Of a wake-up that came too early.
        let _ = second.posted.notified().now_or_never();
        drop(held);
        poster.join().expect("the poster");
        tokio::select! {
            () = async { tokio::join!(first.drain(), second.drain()); } => unreachable!(),
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

    /// A queue whose thread has gone is not kept, and keeps nobody from being answered; a reply that is dropped says so through a
    /// queue as well.
    #[tokio::test(start_paused = true)]
    async fn who_has_gone_keeps_nobody_waiting() {
        let (gone, here) = (Arc::new(CompletionQueue::default()), Arc::new(CompletionQueue::default()));
        let (replies, _) = requests(&gone, 2);
        let (mut others, mut waiting) = requests(&here, 3);
        let (dropped, unanswered) = (others.pop(), waiting.pop());
        let posted = post(accepted(replies.into_iter().chain(others).collect()));
        let trace = Arc::downgrade(&gone);
        drop(gone);
        assert!(trace.upgrade().is_none());
        posted.wakeups.go_on();
        drop(dropped);
        tokio::select! {
            () = here.drain() => unreachable!(),
            accepted = timeout(NEVER, all_accepted(waiting)) => assert!(accepted.expect("an answer")),
        }
        assert!(unanswered.expect("the third").await.is_err());
    }
}
