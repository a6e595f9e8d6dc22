//! The client against a server in memory, in paused time.

mod delivery;
mod limits;
mod spooling;

use std::{
    collections::VecDeque,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    Builder, Client, Event, Receipt, Retry,
    transport::{Answer, Fault, Rejection, Transport, Verdict},
};

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Takes it, but for the events at these places.
    Take(Vec<usize>),
    /// Answers with this.
    Fail(Verdict),
    /// Never answers.
    Hang,
    /// Panics on the client's side.
    Panic,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub batch_id: String,
    pub events: Vec<String>,
    pub at: Instant,
}

/// A server: what it does next, what it does always, and what came.
#[derive(Clone)]
pub(super) struct Server(Arc<State>);

struct State {
    next: Mutex<VecDeque<Act>>,
    always: Mutex<Act>,
    calls: watch::Sender<Vec<Call>>,
    /// Requests are answered only while this is true.
    gate: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub fn new(always: Act) -> Self {
        Self(Arc::new(State {
            next: Mutex::default(),
            always: Mutex::new(always),
            calls: watch::Sender::new(Vec::new()),
            gate: watch::Sender::new(true),
        }))
    }

    pub fn then(&self, acts: impl IntoIterator<Item = Act>) -> &Self {
        lock(&self.0.next).extend(acts);
        self
    }

    pub fn always(&self, act: Act) {
        *lock(&self.0.always) = act;
    }

    pub fn gate(&self, open: bool) {
        self.0.gate.send_replace(open);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.calls.borrow().clone()
    }

    /// Sizes of the requests that came.
    pub fn sizes(&self) -> Vec<usize> {
        self.calls().iter().map(|call| call.events.len()).collect()
    }

    /// Waits for so many requests.
    pub async fn came(&self, count: usize) -> Vec<Call> {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| calls.len() >= count).await.unwrap().clone()
    }

    pub fn builder(&self) -> Builder {
        Client::builder("memory://")
            .retry(Retry::attempts(3).first_wait(Duration::from_millis(100)))
            .batch_age(Duration::from_millis(50))
    }

    pub fn start(&self, builder: Builder) -> Client {
        builder.start(Box::new(self.clone())).unwrap()
    }

    pub fn spooling(&self, dir: &Path) -> Client {
        self.start(self.builder().spool(dir, 1 << 20))
    }
}

impl Transport for Server {
    fn deliver<'a>(
        &'a self,
        batch_id: &'a str,
        events: Vec<&'a Event>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        let events = events.iter().map(|event| event.id().unwrap().to_owned()).collect();
        let call = Call { batch_id: batch_id.to_owned(), events, at: Instant::now() };
        self.0.calls.send_modify(|calls| calls.push(call));
        let act = lock(&self.0.next).pop_front().unwrap_or_else(|| lock(&self.0.always).clone());
        Box::pin(async move {
            self.0.gate.subscribe().wait_for(|open| *open).await.unwrap();
            match act {
                Act::Take(rejected) => {
                    let words = |index| Rejection { index, error: format!("number {index} is wrong") };
                    Ok(rejected.into_iter().map(words).collect())
                }
                Act::Fail(verdict) => Err(Fault { verdict, words: "the server's words".to_owned() }),
                Act::Hang => std::future::pending().await,
                Act::Panic => panic!("a panic that the test wants"),
            }
        })
    }
}

pub(super) const BUSY: Act = Act::Fail(Verdict::Retry { after: None });

pub(super) fn taking() -> Server {
    Server::new(Act::Take(Vec::new()))
}

pub(super) async fn send(client: &Client, id: impl ToString) -> Receipt {
    client.send(Event::new("s", "m").with_id(id.to_string())).await.unwrap()
}

pub(super) async fn send_all(client: &Client, ids: std::ops::Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for id in ids {
        receipts.push(send(client, id).await);
    }
    receipts
}

pub(super) const LONG: Duration = Duration::from_secs(3600);
