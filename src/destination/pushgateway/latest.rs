//! What is at the gateway of a sink, as far as this process has pushed it.
//!
//! A sink and the replays beside it have a destination each, and a panic makes the sink's anew. They share this: the newest
//! values are those of all, a push has whole metrics whoever makes it, and the groups are deleted when the last of them is
//! gone. The sink's factory has it as long as the sink lives, so that is the sink's end. Deleting holds up nobody, and the end of
//! the process waits for it ([`Gateways::end`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use forebay_actors::record::SinkName;
use tokio::{
    sync::OnceCell,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{
    Changes,
    groups::{Group, GroupKey, Label, Refused},
    wire::{FAREWELL_TIME_MAX, Wire},
};
use crate::config::PushgatewaySink;

/// What a label takes beside its texts, and a group beside its labels.
const LABEL_BYTES: usize = 48;
/// The share of `state_bytes` for the names of groups that were forgotten, which are still to be deleted at the end.
const FORGOTTEN_SHARE: usize = 16;

/// What the sinks of a process have at their gateways, by sink. It is there as long as a destination or a factory has it.
#[derive(Default)]
pub struct Gateways {
    is_of_sinks: bool,
    sinks: Mutex<Sinks>,
    farewells: Farewells,
}

#[derive(Default)]
struct Sinks {
    by_name: BTreeMap<SinkName, Weak<Latest>>,
    /// Those that may have something to delete, also while the last who has one is letting go of it.
    all: Vec<Arc<Pushed>>,
}

/// Threads that are deleting groups.
type Farewells = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// The latest values of one sink. Its end is the sink's.
pub struct Latest(Arc<Pushed>);

/// What one sink has at its gateway.
pub struct Pushed {
    pub(super) options: PushgatewaySink,
    /// Whether its end is the end of a sink. That of a command is not.
    is_of_sink: bool,
    /// Whether its groups were deleted already.
    has_left: AtomicBool,
    /// What a sink of this name had under other options, until something is pushed under these.
    before: Mutex<Option<Arc<Pushed>>>,
    begun: OnceCell<()>,
    farewells: Farewells,
    /// Held while a batch is pushed: what the next one changes, it changes in what this one has made.
    pub(super) groups: tokio::sync::Mutex<Groups>,
    pub(super) said: Said,
}

/// What was pushed, as far as there is room for it.
#[derive(Debug, Default)]
pub(super) struct Groups {
    held: HashMap<GroupKey, Held>,
    bytes: usize,
    /// Those whose values are not held any more.
    forgotten: HashSet<GroupKey>,
    forgotten_bytes: usize,
    batches: u64,
}

#[derive(Debug)]
struct Held {
    group: Group,
    /// The last batch that had something for it.
    batch: u64,
}

/// Reasons that were logged: each says the same for every batch.
#[derive(Debug, Default)]
pub(super) struct Said {
    others: AtomicBool,
    exponential: AtomicBool,
    other_type: AtomicBool,
    no_room: AtomicBool,
}

// === impl Gateways ===

impl Gateways {
    /// Of the process whose sinks they are: what they have pushed is deleted at their end, where that is wanted.
    pub fn of_sinks() -> Self {
        Self { is_of_sinks: true, ..Self::default() }
    }

    /// What is at the gateway of a sink with these options. With others it begins anew.
    pub fn of(&self, sink: &SinkName, options: &PushgatewaySink) -> Arc<Latest> {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.by_name.retain(|_, latest| latest.strong_count() > 0);
        sinks.all.retain(|pushed| !pushed.has_left.load(Ordering::Acquire));
        let known = sinks.by_name.get(sink).and_then(Weak::upgrade);
        if let Some(latest) = known.as_ref().filter(|latest| latest.options == *options) {
            return latest.clone();
        }
        let before = known.map(|latest| latest.0.clone());
        let pushed = Arc::new(Pushed::new(options, self.is_of_sinks, before, &self.farewells));
        sinks.all.push(pushed.clone());
        let latest = Arc::new(Latest(pushed));
        sinks.by_name.insert(sink.clone(), Arc::downgrade(&latest));
        latest
    }

    /// The end of the process: what is to be deleted is deleted now, in a few seconds at most, and also where a sink that has
    /// ended is not gone yet.
    pub async fn end(&self) {
        let deadline = Instant::now() + FAREWELL_TIME_MAX;
        let sinks = std::mem::take(&mut *self.sinks.lock().unwrap_or_else(PoisonError::into_inner));
        for pushed in sinks.all {
            // One that is still being pushed to has missed the end.
            if let Ok(groups) = timeout_at(deadline, pushed.groups.lock()).await {
                pushed.leave(&groups);
            }
        }
        all(&self.farewells).await;
    }
}

/// Waits for the farewells that have begun, a few seconds at most.
async fn all(farewells: &Farewells) {
    let farewells = std::mem::take(&mut *farewells.lock().unwrap_or_else(PoisonError::into_inner));
    if !farewells.is_empty() {
        let ended = spawn_blocking(move || farewells.into_iter().for_each(|farewell| drop(farewell.join())));
        // Each has a bound of its own; what goes wrong is in the log.
        drop(ended.await);
    }
}

// === impl Latest ===

impl Deref for Latest {
    type Target = Pushed;

    fn deref(&self) -> &Pushed {
        &self.0
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        // Who else looks at them now is the end of the process, which does the same.
        if let Ok(groups) = self.0.groups.try_lock() {
            self.0.leave(&groups);
        }
    }
}

// === impl Pushed ===

impl Pushed {
    fn new(
        options: &PushgatewaySink,
        is_of_sink: bool,
        before: Option<Arc<Self>>,
        farewells: &Farewells,
    ) -> Self {
        let (groups, said, has_left, begun) = Default::default();
        let (options, before, farewells) = (options.clone(), Mutex::new(before), farewells.clone());
        Self { options, is_of_sink, has_left, before, begun, farewells, groups, said }
    }

    /// Comes before the first push: what another sink deletes at its end it does not delete behind that.
    pub(super) async fn begin(&self) {
        let begin = async || {
            let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(before) = before {
                before.leave(&*before.groups.lock().await);
            }
            all(&self.farewells).await;
        };
        self.begun.get_or_init(begin).await;
    }

    /// Begins to delete what was pushed, where that is wanted.
    fn leave(&self, groups: &Groups) {
        let has_left = self.has_left.swap(true, Ordering::AcqRel);
        let mut names = groups.names().peekable();
        if has_left || !self.is_of_sink || !self.options.delete_on_exit || names.peek().is_none() {
            return;
        }
        match Wire::new(&self.options) {
            Ok(wire) => {
                let farewell = wire.delete(names.map(|key| wire.place(key)).collect());
                let mut farewells = self.farewells.lock().unwrap_or_else(PoisonError::into_inner);
                farewells.retain(|farewell| !farewell.is_finished());
                farewells.push(farewell);
            }
            Err(error) => tracing::warn!(%error, "groups are left at the gateway"),
        }
    }
}

// === impl Groups ===

impl Groups {
    /// A group as it is now.
    pub(super) fn group(&self, key: &[Label]) -> Group {
        self.held.get(key).map(|held| held.group.clone()).unwrap_or_default()
    }

    /// Whether the group would have a metric less than it has now.
    pub(super) fn would_lose(&self, key: &[Label], group: &Group) -> bool {
        self.held.get(key).is_some_and(|held| group.has_lost_any_of(&held.group))
    }

    /// Every group that was pushed, as far as it is known.
    fn names(&self) -> impl Iterator<Item = &GroupKey> {
        self.held.keys().chain(&self.forgotten)
    }

    /// Keeps what was pushed, and forgets the groups that were not heard of for the longest time where there is more.
    pub(super) fn keep(&mut self, groups: BTreeMap<GroupKey, Group>, bytes_max: usize) {
        self.batches += 1;
        for (key, group) in groups {
            if self.forgotten.remove(&key) {
                self.forgotten_bytes -= key_bytes(&key);
            }
            let name = key_bytes(&key);
            self.bytes += name + group.bytes;
            let held = Held { group, batch: self.batches };
            self.bytes -= self.held.insert(key, held).map_or(0, |before| name + before.group.bytes);
        }
        while self.bytes + self.forgotten_bytes > bytes_max && self.held.len() > 1 {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.batch).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            let name = key_bytes(&oldest);
            self.bytes -= self.held.remove(&oldest).map_or(0, |held| name + held.group.bytes);
            if self.forgotten_bytes + name <= bytes_max / FORGOTTEN_SHARE {
                self.forgotten_bytes += name;
                self.forgotten.insert(oldest);
            }
        }
    }
}

fn key_bytes(key: &[Label]) -> usize {
    LABEL_BYTES + key.iter().map(|(label, value)| LABEL_BYTES + label.len() + value.len()).sum::<usize>()
}

// === impl Said ===

impl Said {
    pub(super) fn say(&self, shown: &str, changes: &Changes) {
        let Refused { exponential, other_type, no_room } = changes.refused;
        for (said, count, why) in [
            (&self.others, changes.others, "a Pushgateway takes only metrics"),
            (&self.exponential, exponential, "its text format has no exponential histograms"),
            (
                &self.other_type,
                other_type,
                "there is a metric of their name and of another type in the group",
            ),
            (&self.no_room, no_room, "state_bytes has no room for further series of the group"),
        ] {
            if count > 0 && !said.swap(true, Ordering::Relaxed) {
                tracing::warn!(gateway = %shown, count, why, "events are refused, and counted as such from now on");
            }
        }
    }
}

#[cfg(test)]
#[path = "latest_tests.rs"]
mod tests;
