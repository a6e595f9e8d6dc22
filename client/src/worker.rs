//! Gathers events into batches and has them carried, so many at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    Failure,
    batch::Batch,
    courier::{Courier, Stop, stopped},
    queued::Queued,
};

/// What waits in the client's queue. A flush has its place among the events, so it is about those before it.
pub(crate) enum Item {
    Event(Queued),
    Flush(oneshot::Sender<()>),
    Close,
}

/// When a batch is sent.
#[derive(Debug, Clone)]
pub(crate) struct BatchLimits {
    pub events_max: usize,
    pub bytes_max: usize,
    pub age_max: Duration,
    pub in_flight_max: usize,
}

/// The client's own task.
pub(crate) struct Worker {
    inbox: mpsc::Receiver<Item>,
    courier: Arc<Courier>,
    limits: BatchLimits,
    stop: Stop,
    /// The batch that is gathered, and its number.
    gathered: Vec<Queued>,
    gathered_bytes: usize,
    number: u64,
    /// When the oldest gathered event has waited long enough.
    due_at: Option<Instant>,
    /// It has, or somebody asked for a flush.
    due: bool,
    deliveries: JoinSet<()>,
    numbers: HashMap<task::Id, u64>,
    /// Who waits for all batches up to this number.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    open: bool,
}

impl Worker {
    pub fn new(inbox: mpsc::Receiver<Item>, courier: Arc<Courier>, limits: BatchLimits, stop: Stop) -> Self {
        Self {
            inbox,
            courier,
            limits,
            stop,
            gathered: Vec::new(),
            gathered_bytes: 0,
            number: 1,
            due_at: None,
            due: false,
            deliveries: JoinSet::new(),
            numbers: HashMap::new(),
            flushes: Vec::new(),
            open: true,
        }
    }

    /// Works until the client is closed, or nobody has it any more, and everything has its outcome.
    pub async fn run(mut self) {
        loop {
            self.launch();
            self.answer_flushes();
            if !self.open && self.gathered.is_empty() && self.deliveries.is_empty() {
                return;
            }
            let due_at = self.due_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => return self.give_up_all().await,
                Some(ended) = self.deliveries.join_next_with_id() => {
                    let id = ended.map_or_else(|panicked| panicked.id(), |(id, ())| id);
                    self.numbers.remove(&id);
                }
                item = self.inbox.recv(), if self.open && !self.is_full() => self.take(item),
                () = sleep_until(due_at), if self.due_at.is_some() && !self.due => self.due = true,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.gathered.len() >= self.limits.events_max || self.gathered_bytes >= self.limits.bytes_max
    }

    fn take(&mut self, item: Option<Item>) {
        match item {
            Some(Item::Event(event)) => {
                if self.gathered.is_empty() {
                    self.due_at = Some(Instant::now() + self.limits.age_max);
                }
                self.gathered_bytes += event.event().bytes();
                self.gathered.push(event);
            }
            Some(Item::Flush(done)) => {
                let last = if self.gathered.is_empty() { self.number - 1 } else { self.number };
                self.due = true;
                self.flushes.push((last, done));
            }
            // What others put into the queue before is still taken out of it.
            Some(Item::Close) => self.inbox.close(),
            None => {
                self.open = false;
                self.due = true;
            }
        }
    }

    /// Sends the gathered batch where it is time and there is a free place. Until then it grows, up to its bounds.
    fn launch(&mut self) {
        if self.gathered.is_empty() {
            self.due = !self.open;
            self.due_at = None;
            return;
        }
        if !(self.due || self.is_full()) || self.deliveries.len() >= self.limits.in_flight_max {
            return;
        }
        let events = self.cut();
        let task = self.deliveries.spawn(self.courier.clone().deliver(events, self.stop.clone()));
        self.numbers.insert(task.id(), self.number);
        self.number += 1;
    }

    fn cut(&mut self) -> Vec<Queued> {
        self.gathered_bytes = 0;
        self.due_at = None;
        self.due = !self.open;
        std::mem::take(&mut self.gathered)
    }

    fn answer_flushes(&mut self) {
        let pending = if self.gathered.is_empty() { None } else { Some(self.number) };
        let oldest = self.numbers.values().copied().chain(pending).min().unwrap_or(u64::MAX);
        for (_, done) in self.flushes.extract_if(.., |(last, _)| *last < oldest) {
            // Who does not wait any more had a deadline.
            let _ = done.send(());
        }
    }

    /// The time is over: everything that has no outcome gets one.
    async fn give_up_all(mut self) {
        self.inbox.close();
        loop {
            while !self.is_full()
                && let Some(item) = self.inbox.recv().await
            {
                self.take(Some(item));
            }
            let events = self.cut();
            if events.is_empty() {
                break;
            }
            self.courier.give_up(Batch::new(events), Failure::Closed).await;
        }
        // They were told, too.
        while self.deliveries.join_next().await.is_some() {}
    }
}
