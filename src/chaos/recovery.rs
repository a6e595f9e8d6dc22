//! What the process under attack shows while it is attacked: restarts, progress, and how long it took to recover.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ledger::Ledger,
    process::{Process, Progress, Tree},
    schedule::SINK_PREFIX,
};

/// How often the tree of actors is looked at, and so how exact recovery times are.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Watch(RefCell<Seen>);

#[derive(Debug, Default)]
struct Seen {
    actors: BTreeMap<String, SeenActor>,
    open: Vec<Hit>,
    /// By the number of the fault.
    recovered: BTreeMap<usize, Duration>,
}

#[derive(Debug, Default)]
struct SeenActor {
    running: bool,
    /// The life of the process that it was last seen in, and its restarts in that one.
    life: u64,
    restarts: u64,
    /// Restarts in earlier lives.
    restarts_before: u64,
    progress: Option<Progress>,
    /// When its progress was last seen to change.
    moved: Option<Instant>,
}

/// A fault whose end is over, and whose consequences may not be.
#[derive(Debug)]
struct Hit {
    /// The fault.
    number: usize,
    since: Instant,
    /// Sinks that have to get on.
    sinks: BTreeSet<String>,
    /// The actor that has to be there again, the life it was hit in, and its restarts when it was.
    actor: Option<(String, u64, u64)>,
}

impl Watch {
    /// Looks until it is dropped.
    pub async fn look_on(&self, process: &Process, ledger: &RefCell<Ledger>, in_sandbox: bool) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(process).await;
            self.find_recovered(&ledger.borrow(), in_sandbox);
        }
    }

    /// Looks once.
    pub async fn look(&self, process: &Process) {
        let life = process.lives();
        if let Some(tree) = process.tree().await
            && process.lives() == life
        {
            self.0.borrow_mut().add(tree, life);
        }
    }

    /// From now on these have to recover from the fault of this number: the sinks of these names, and the actor.
    pub fn hit(&self, number: usize, sinks: impl IntoIterator<Item = String>, actor: Option<&str>) {
        let mut seen = self.0.borrow_mut();
        let actor = actor.map(|name| {
            let before = seen.actors.get(name);
            (name.to_owned(), before.map_or(0, |a| a.life), before.map_or(0, SeenActor::all_restarts))
        });
        seen.open.push(Hit { number, since: Instant::now(), sinks: sinks.into_iter().collect(), actor });
    }

    /// Restarts of each actor that had some, over all lives.
    pub fn restarts(&self) -> BTreeMap<String, u64> {
        let seen = self.0.borrow();
        let all = seen.actors.iter().map(|(name, actor)| (name.clone(), actor.all_restarts()));
        all.filter(|(_, restarts)| *restarts > 0).collect()
    }

    /// The names of all actors.
    pub fn actors(&self) -> Vec<String> {
        self.0.borrow().actors.keys().cloned().collect()
    }

    /// Events that the sink has still to deliver; `None` where it was not seen.
    pub fn lag_events(&self, sink: &str) -> Option<u64> {
        let seen = self.0.borrow();
        Some(seen.actors.get(&format!("{SINK_PREFIX}{sink}"))?.progress?.lag_events)
    }

    /// The largest lag of all sinks.
    pub fn lag_events_max(&self) -> u64 {
        let seen = self.0.borrow();
        seen.actors.values().filter_map(|actor| Some(actor.progress?.lag_events)).max().unwrap_or(0)
    }

    /// Faults that have not been recovered from.
    pub fn open(&self) -> usize {
        self.0.borrow().open.len()
    }

    /// How long it took to recover from each fault, by its number.
    pub fn recovered(&self) -> BTreeMap<usize, Duration> {
        self.0.borrow().recovered.clone()
    }

    /// Takes out of the open ones those from which the process has recovered: something that was posted since is
    /// acknowledged, the sinks that were hit have taken something since, and the actor that was hit runs again.
    fn find_recovered(&self, ledger: &Ledger, in_sandbox: bool) {
        let mut seen = self.0.borrow_mut();
        let Seen { actors, open, recovered } = &mut *seen;
        let moved = |sink: &String, since| match in_sandbox {
            true => ledger.arrived_since(sink, since),
            false => {
                actors.get(&format!("{SINK_PREFIX}{sink}")).is_some_and(|actor| actor.moved >= Some(since))
            }
        };
        open.retain(|Hit { number, since, sinks, actor }| {
            let is_back = actor.as_ref().is_none_or(|(name, life, restarts)| {
                let now = actors.get(name);
                now.is_some_and(|now| now.running && (now.life > *life || now.all_restarts() > *restarts))
            });
            let is_over =
                is_back && ledger.acknowledged_since(*since) && sinks.iter().all(|sink| moved(sink, *since));
            if is_over {
                recovered.insert(*number, since.elapsed());
            }
            !is_over
        });
    }
}

impl Seen {
    fn add(&mut self, tree: Tree, life: u64) {
        for actor in tree.actors {
            let seen = self.actors.entry(actor.name).or_default();
            if seen.life != life {
                seen.restarts_before += std::mem::take(&mut seen.restarts);
                seen.life = life;
            }
            (seen.running, seen.restarts) = (actor.state == "running", actor.restarts);
            if seen.progress.map(|progress| progress.next) != actor.sink.map(|progress| progress.next) {
                seen.moved = Some(Instant::now());
            }
            seen.progress = actor.sink;
        }
    }
}

impl SeenActor {
    fn all_restarts(&self) -> u64 {
        self.restarts_before + self.restarts
    }
}

/// The value below which so many percent of the sorted values are.
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::process::Actor;

    fn tree(restarts: u64, next: u64) -> Tree {
        let sink = Some(Progress { next, lag_events: 3 });
        Tree {
            actors: vec![Actor { name: "sink:up".to_owned(), state: "running".to_owned(), restarts, sink }],
        }
    }

    /// A fault is over when the actor is back, the sink gets on and posts are acknowledged again, not before.
    #[tokio::test(start_paused = true)]
    async fn a_recovery_needs_all_three() {
        let (watch, mut ledger) = (Watch::default(), Ledger::new(1, ["up".to_owned()]));
        watch.0.borrow_mut().add(tree(0, 5), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        watch.hit(7, ["up".to_owned()], Some("sink:up"));
        tokio::time::advance(Duration::from_secs(2)).await;
        let still_open = |ledger: &Ledger| {
            watch.find_recovered(ledger, false);
            watch.open() == 1
        };
        assert!(still_open(&ledger));
        watch.0.borrow_mut().add(tree(1, 5), 1);
        assert!(still_open(&ledger));
        let first = ledger.post(0, 1);
        ledger.acknowledge(first, Instant::now());
        assert!(still_open(&ledger));
        watch.0.borrow_mut().add(tree(1, 6), 1);
        assert!(!still_open(&ledger));
        assert_eq!(watch.recovered(), [(7, Duration::from_secs(2))].into());
        assert_eq!(watch.lag_events("up"), Some(3));
    }

    /// A process that starts again counts its restarts from 0; the sum does not.
    #[tokio::test]
    async fn restarts_are_those_of_all_lives() {
        let watch = Watch::default();
        for (restarts, life) in [(1, 1), (2, 1), (0, 2), (1, 2), (0, 3)] {
            watch.0.borrow_mut().add(tree(restarts, 0), life);
        }
        assert_eq!(watch.restarts(), [("sink:up".to_owned(), 3)].into());
    }

    #[test]
    fn percentiles() {
        let times: Vec<_> = (1..=200).map(Duration::from_secs).collect();
        assert_eq!(percentile(&times, 50), Some(Duration::from_secs(100)));
        assert_eq!(percentile(&times, 99), Some(Duration::from_secs(198)));
        assert_eq!(percentile(&times[..1], 99), Some(Duration::from_secs(1)));
        assert_eq!(percentile(&[], 50), None);
    }
}
