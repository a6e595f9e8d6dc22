//! The batches that were accepted: by which one that comes again is known.
//!
//! - Owns: for every batch within the window its key, what its events were, and what came of it; at most so many, the oldest go
//!   first.
//! - Two at the same time: the second waits for what comes of the first. One that failed is not remembered.
//! - Not kept on disk: what holds over a restart stands in `recall` and at `first_id`.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ring::digest;
use tokio::{sync::watch, time::Instant};

/// What one batch that is remembered takes: its places in both tables and in that of the life before, each at its worst filling.
pub const BATCH_BYTES: u64 = 400;

/// Names a batch: a digest of who sends it and of its id, so that long names take no more room than short ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

/// What came of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// What its events were.
    pub(super) digest: [u8; 32],
    /// How many were accepted.
    pub(super) accepted: u32,
    /// How many were not.
    pub(super) rejected: u32,
}

/// The batches of the window.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    tables: Arc<Mutex<Tables>>,
    window: Duration,
    max: usize,
}

#[derive(Debug, Default)]
struct Tables {
    batches: HashMap<Key, State>,
    /// Those that were accepted, oldest first.
    order: VecDeque<(Instant, Key)>,
}

#[derive(Debug)]
enum State {
    /// Nobody knows yet; ends when somebody does.
    UnderWay(watch::Receiver<()>),
    Accepted(Taken),
}

/// Whether a batch is the first of its name.
pub(super) enum Claim {
    /// It is; whoever has this says what came of it.
    First(Ticket),
    /// It has been accepted before.
    Again(Taken),
}

/// A batch under way; dropped, it was never there.
pub(super) struct Ticket {
    seen: Seen,
    key: Key,
    /// Wakes those who wait.
    _waiting: watch::Sender<()>,
    accepted: bool,
}

impl Key {
    /// Of a batch; `None` where it has no id.
    pub(super) fn of(source: &str, batch_id: &str) -> Option<Self> {
        if batch_id.is_empty() {
            return None;
        }
        let mut digest = digest::Context::new(&digest::SHA256);
        // With its length before it, no source and id are taken for others with the border elsewhere.
        digest.update(&(source.len() as u64).to_be_bytes());
        digest.update(source.as_bytes());
        digest.update(batch_id.as_bytes());
        Some(Self(digest.finish().as_ref()[..16].try_into().expect("16 of 32 bytes")))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Seen {
    /// Remembers batches for so long, and so many.
    pub(super) fn new(window: Duration, max: usize) -> Self {
        Self { tables: Arc::default(), window, max }
    }

    /// Asks whether the batch is the first of its name, and waits for the one before where that is under way.
    pub(super) async fn claim(&self, key: Key) -> Claim {
        loop {
            let mut before = {
                let mut tables = self.lock();
                tables.forget(Instant::now(), self.window, self.max);
                match tables.batches.entry(key) {
                    Entry::Occupied(entry) => match entry.get() {
                        State::Accepted(taken) => return Claim::Again(*taken),
                        State::UnderWay(before) => before.clone(),
                    },
                    Entry::Vacant(entry) => {
                        let (waiting, under_way) = watch::channel(());
                        entry.insert(State::UnderWay(under_way));
                        let seen = self.clone();
                        return Claim::First(Ticket { seen, key, _waiting: waiting, accepted: false });
                    }
                }
            };
            // Nothing is ever sent: it ends with the ticket.
            let _ = before.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn forget(&mut self, now: Instant, window: Duration, max: usize) {
        while let Some((at, key)) = self.order.front()
            && (now.duration_since(*at) >= window || self.order.len() > max)
        {
            self.batches.remove(key);
            self.order.pop_front();
        }
    }
}

impl Ticket {
    /// The batch is durable.
    pub(super) fn accepted(mut self, taken: Taken) {
        let mut tables = self.seen.lock();
        tables.batches.insert(self.key, State::Accepted(taken));
        tables.order.push_back((Instant::now(), self.key));
        drop(tables);
        self.accepted = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.accepted {
            self.seen.lock().batches.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn taken(accepted: u32) -> Taken {
        Taken { digest: [7; 32], accepted, rejected: 0 }
    }

    async fn first(seen: &Seen, id: &str) -> Ticket {
        match seen.claim(Key::of("s", id).unwrap()).await {
            Claim::First(ticket) => ticket,
            Claim::Again(taken) => panic!("{id} was there already: {taken:?}"),
        }
    }

    async fn again(seen: &Seen, id: &str) -> Taken {
        match seen.claim(Key::of("s", id).unwrap()).await {
            Claim::First(_) => panic!("{id} was not there"),
            Claim::Again(taken) => taken,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_known_within_the_window_and_not_after() {
        let seen = Seen::new(MINUTE, 10);
        first(&seen, "a").await.accepted(taken(3));
        tokio::time::advance(MINUTE - Duration::from_millis(1)).await;
        assert_eq!(again(&seen, "a").await, taken(3));
        tokio::time::advance(Duration::from_millis(1)).await;
        first(&seen, "a").await;
        assert!(seen.lock().order.is_empty());
    }

    #[tokio::test]
    async fn only_so_many_are_kept_and_the_oldest_go_first() {
        let seen = Seen::new(MINUTE, 2);
        for id in ["a", "b", "c"] {
            first(&seen, id).await.accepted(taken(1));
        }
        first(&seen, "a").await;
        again(&seen, "b").await;
        again(&seen, "c").await;
        assert_eq!(seen.lock().batches.len(), 2, "one that failed is not remembered");
    }

    /// Scenario: the same batch twice at the same time, and the first fails; then once more, and it does not.
    /// Guarantee: the second waits, takes the place of the one that failed, and the third hears what came of it.
    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let seen = Seen::new(MINUTE, 10);
        let failing = first(&seen, "a").await;
        let mut second = std::pin::pin!(first(&seen, "a"));
        assert!(futures::poll!(&mut second).is_pending());
        drop(failing);
        let ticket = second.await;
        let mut third = std::pin::pin!(again(&seen, "a"));
        assert!(futures::poll!(&mut third).is_pending());
        ticket.accepted(taken(9));
        assert_eq!(third.await, taken(9));
    }

    #[test]
    fn names_are_not_mixed_up() {
        assert_ne!(Key::of("a", "bc"), Key::of("ab", "c"));
        assert_eq!(Key::of("a", ""), None);
    }
}
