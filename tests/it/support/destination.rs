//! A destination in memory: does as it is told, and remembers everything it was given.

use std::{
    collections::{BTreeMap, HashSet},
    future::{pending, ready},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, DestinationFactory, Receipt, Rejection},
    holding::{Fetched, HeldKey, Holding, Released, pack},
    record::Batch,
};
use futures::future::LocalBoxFuture;
use tokio::{sync::watch, time::timeout};

use super::testbed::PATIENCE;

/// The status that rejected events are answered with.
pub const REJECTED_STATUS: u16 = 422;

/// The destination of one sink, as the test sees it. It outlives the sink, and the pipeline.
#[derive(Clone)]
pub struct Fake {
    shared: Arc<Shared>,
    /// Of which life of the process it is the connection.
    life: u64,
}

struct Shared {
    state: Mutex<(Orders, Seen)>,
    /// Wakes a thread that is held.
    released: Condvar,
    /// Told of every change.
    changed: watch::Sender<()>,
}

/// What it is told to do.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// Take no batch and answer nothing.
    pub hang: bool,
    /// The same, and hold the thread too, as a driver that blocks.
    pub hold_thread: bool,
    /// The same for what begins before this position.
    pub hang_before: u64,
    /// The same for what begins there or behind it.
    pub hang_from: Option<u64>,
    /// Deliveries that fail, in a way that may pass, and whatever is asked of what it holds.
    pub fail: u64,
    /// Deliveries that are answered by a wish for fewer.
    pub throttle: u64,
    /// Hold what comes, and never say so.
    pub hold_in_silence: bool,
    /// Keep what is to be released.
    pub fail_to_release: bool,
    /// Deliveries that panic.
    pub panic: u64,
    /// Refuse batches that hold an event whose message contains this.
    pub reject: Option<&'static str>,
    /// Take batches without the events whose message contains this, and name those.
    pub name: Option<&'static str>,
    /// Take batches and say that so many of their events were left out, without a name.
    pub leave_out: u64,
    /// Panic on batches that hold an event whose message contains this.
    pub panic_on: Option<&'static str>,
    /// The same in the call itself, before there is a future: as an encoder does.
    pub panic_in_call_on: Option<&'static str>,
    /// Panic when it is to be built: nothing but the sink itself is there to bear that.
    pub panic_when_built: bool,
}

/// What it was given.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How often it was built.
    pub built: u64,
    /// The id of every batch it was asked to deliver, in order.
    pub asked: Vec<String>,
    /// How many it had at hand at the same time, at most.
    pub at_once: usize,
    /// How many it has at hand.
    running: usize,
    /// The batches it took: their ids, and the ids of their events.
    pub taken: Vec<(String, Vec<String>)>,
    /// What it holds for other sinks, by key.
    pub held: BTreeMap<String, Bytes>,
    /// Lives of the process that have ended.
    ended: u64,
}

impl Seen {
    /// Events in the order they were taken, each as often as it was.
    pub fn events(&self) -> Vec<&str> {
        self.taken.iter().flat_map(|(_, ids)| ids).map(String::as_str).collect()
    }

    /// Events taken.
    pub fn count(&self) -> usize {
        self.taken.iter().map(|(_, ids)| ids.len()).sum()
    }

    /// Events taken, each once, in the order of their first time.
    pub fn distinct(&self) -> Vec<&str> {
        let mut known = HashSet::new();
        self.events().into_iter().filter(|id| known.insert(*id)).collect()
    }
}

impl Default for Fake {
    fn default() -> Self {
        let (changed, _) = watch::channel(());
        let shared = Shared { state: Mutex::default(), released: Condvar::new(), changed };
        Self { shared: Arc::new(shared), life: 0 }
    }
}

impl Fake {
    /// Makes the destination, as often as the sink asks for it.
    pub fn factory(&self) -> DestinationFactory {
        let fake = Self { shared: self.shared.clone(), life: self.state().1.ended };
        Arc::new(move || {
            let panic = fake.change(|orders, seen| {
                seen.built += 1;
                orders.panic_when_built
            });
            assert!(!panic, "the destination cannot be built, and panics");
            Ok(Box::new(fake.clone()))
        })
    }

    /// The process that has it at hand is dead from now on: what it asks for has no effect and no answer any more.
    pub fn end_life(&self) {
        self.change(|_, seen| seen.ended += 1);
    }

    /// Changes what it does, also with what it has at hand.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.change(|orders, _| change(orders));
        self.shared.released.notify_all();
    }

    /// From now on it takes everything.
    pub fn heal(&self) {
        self.order(|orders| *orders = Orders::default());
    }

    /// What it was given so far.
    pub fn seen(&self) -> Seen {
        self.state().1.clone()
    }

    /// Waits until what it was given is as wanted.
    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let held = timeout(PATIENCE, changed.wait_for(|()| holds(&self.state().1))).await;
        if held.is_err() {
            let seen = self.seen();
            panic!("not until now: {what}; asked {} times, took {} events", seen.asked.len(), seen.count());
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Orders, &mut Seen) -> T) -> T {
        let mut state = self.state();
        let (orders, seen) = &mut *state;
        let result = change(orders, seen);
        drop(state);
        self.shared.changed.send_replace(());
        result
    }

    /// The same for a process, as long as it lives.
    async fn serve<T>(&self, change: impl FnOnce(&mut Orders, &mut Seen) -> T) -> T {
        let change =
            |orders: &mut Orders, seen: &mut Seen| (seen.ended == self.life).then(|| change(orders, seen));
        match self.change(change) {
            Some(result) => result,
            None => pending().await,
        }
    }

    fn state(&self) -> MutexGuard<'_, (Orders, Seen)> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let id = batch.id().to_string();
        self.change(|_, seen| seen.asked.push(id.clone()));
        drop(self.shared.released.wait_while(self.state(), |(orders, _)| orders.hold_thread));
        let mut changed = self.shared.changed.subscribe();
        // The sender lives as long as this.
        let first = batch.span().first.0;
        let hangs = |orders: &Orders| {
            orders.hang || first < orders.hang_before || orders.hang_from.is_some_and(|from| from <= first)
        };
        let _ = changed.wait_for(|()| !hangs(&self.state().0)).await;
        let spend = |count: &mut u64| count.checked_sub(1).map(|less| *count = less).is_some();
        let (fail, panic) = self.change(|orders, _| (spend(&mut orders.fail), spend(&mut orders.panic)));
        if self.change(|orders, _| spend(&mut orders.throttle)) {
            return Err(DeliveryError::transient(
                Cause::Throttled,
                "the destination was told to ask for less",
            ));
        }
        assert!(!panic, "the destination was told to panic");
        if fail {
            return Err(DeliveryError::transient(Cause::Connect, "the destination was told to fail"));
        }
        let orders = self.state().0.clone();
        let (mut ids, mut bytes, mut rejected, mut position) =
            (Vec::new(), 0, Vec::new(), batch.span().first);
        let mut events = batch.events();
        while let Some(event) = events.next_event() {
            let event = event.map_err(|e| DeliveryError::rejected(e.to_string()))?;
            let has = |marker: Option<&str>| marker.is_some_and(|marker| event.message.contains(marker));
            assert!(!has(orders.panic_on), "the destination cannot bear this event");
            if has(orders.reject) {
                let error = DeliveryError::rejected("the destination does not like this event");
                return Err(DeliveryError { status: Some(REJECTED_STATUS), ..error });
            }
            if has(orders.name) {
                let error = format!("the destination names {}", event.message);
                rejected.push(Rejection { position, error, status: Some(REJECTED_STATUS) });
            } else {
                ids.push(event.event_id.to_string());
                bytes += event.message.len() as u64;
            }
            position = position.plus(1);
        }
        self.serve(|_, seen| seen.taken.push((id, ids))).await;
        Ok(Receipt { rejected, refused: orders.leave_out, ..Receipt::of(bytes) })
    }
}

impl Fake {
    /// Changes or damages what it holds.
    pub fn with_held(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>)) {
        self.change(|_, seen| change(&mut seen.held));
    }

    /// Does something with what it holds, unless it was told to hang or to fail.
    async fn with_orders<T>(self, work: impl FnOnce(&Orders, &mut Seen) -> T) -> Result<T, DeliveryError> {
        let mut changed = self.shared.changed.subscribe();
        let _ = changed.wait_for(|()| !self.state().0.hang).await;
        let serve = |orders: &mut Orders, seen: &mut Seen| match orders.fail.checked_sub(1) {
            Some(less) => {
                orders.fail = less;
                Err(DeliveryError::transient(Cause::Connect, "the holder was told to fail"))
            }
            None => Ok(work(orders, seen)),
        };
        self.serve(serve).await
    }
}

impl Holding for Fake {
    fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Delivery {
        let (fake, key) = (self.clone(), key.to_string());
        Box::pin(async move {
            let packed = Bytes::from(pack(&batch).map_err(|e| DeliveryError::rejected(e.to_string()))?);
            let bytes = packed.len() as u64;
            let keep = |orders: &Orders, seen: &mut Seen| {
                seen.held.insert(key, packed);
                orders.hold_in_silence
            };
            if fake.clone().with_orders(keep).await? {
                let mut changed = fake.shared.changed.subscribe();
                let _ = changed.wait_for(|()| !fake.state().0.hold_in_silence).await;
            }
            Ok(Receipt::of(bytes))
        })
    }

    fn fetch(&self, key: &HeldKey) -> Fetched {
        let key = key.to_string();
        Box::pin(self.clone().with_orders(move |_, seen| seen.held.get(&key).cloned()))
    }

    fn release(&self, key: &HeldKey) -> Released {
        let key = key.to_string();
        let release = self.clone().with_orders(move |orders, seen| {
            if orders.fail_to_release {
                return Err(DeliveryError::transient(Cause::Refused, "nothing may be removed here"));
            }
            seen.held.remove(&key);
            Ok(())
        });
        Box::pin(async move { release.await? })
    }
}

impl Destination for Fake {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let marker = self.state().0.panic_in_call_on;
        if let Some(marker) = marker {
            let (mut events, mut poisoned) = (batch.events(), false);
            while let Some(Ok(event)) = events.next_event() {
                poisoned |= event.message.contains(marker);
            }
            // Counted here, because the future that does it otherwise is never made.
            poisoned.then(|| self.change(|_, seen| seen.asked.push(batch.id().to_string())));
            assert!(!poisoned, "the encoder cannot bear this event");
        }
        let fake = self.clone();
        Box::pin(async move {
            fake.change(|_, seen| {
                seen.running += 1;
                seen.at_once = seen.at_once.max(seen.running);
            });
            let taken = fake.clone().take(batch).await;
            fake.change(|_, seen| seen.running -= 1);
            taken
        })
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        Box::pin(ready(Ok(())))
    }

    fn holding(&self) -> Option<&dyn Holding> {
        Some(self)
    }
}
