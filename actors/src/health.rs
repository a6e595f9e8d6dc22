//! `Health`: looks at everybody, and says how the whole is.
//!
//! - Owns: how long each sink has made no progress.
//! - Receives: nothing; it looks once a second.
//! - Sends: nothing; its word is in [`HealthBoard`], which anybody reads without waiting.
//! - On failure: the word grows old, and liveness says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::{Actor, AsyncContext as _, Context, Supervised};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    record::Position,
    runtime::{
        metrics::Probe,
        supervisor::{Child, ChildState},
    },
    sink::{SinkProbe, SinkReport, SinkState},
};

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Without progress for this long a sink that has work makes the whole degraded: several of the longest usual waits
/// between two deliveries (a first retry, a slow answer).
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// A word older than this says that the actors' thread is stuck.
const STALE_AFTER: Duration = Duration::from_secs(15);

/// Messages that may wait; it is sent none.
pub const MAILBOX_MESSAGES: usize = 1;

/// What a `Health` is built from.
#[derive(Clone)]
pub struct HealthSpec {
    /// Who is looked at. Shared with the pipeline, which adds and removes.
    pub watched: Watched,
    /// Where its word is.
    pub board: HealthBoard,
}

/// The children and sinks that are looked at.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<Members>>);

#[derive(Debug, Default)]
struct Members {
    /// By name, and what those of them show that are sinks.
    children: BTreeMap<String, (Child, Option<SinkProbe>)>,
    /// Sinks that only stand by for others: there is no actor of theirs.
    standbys: BTreeMap<String, SinkProbe>,
}

/// The last word of `Health`.
#[derive(Debug, Clone)]
pub struct HealthBoard(Arc<Mutex<(Instant, HealthReport)>>);

/// How the whole is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthReport {
    /// In one word.
    pub status: Status,
    /// Every actor by name.
    pub actors: BTreeMap<String, ActorReport>,
    /// Every sink by name.
    pub sinks: BTreeMap<String, SinkHealth>,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything is as it should be.
    Healthy,
    /// Events are taken, but something does not get on.
    Degraded,
    /// Events are not taken.
    Unhealthy,
}

/// One actor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActorReport {
    /// Where its supervision stands.
    pub state: &'static str,
    /// Restarts since the start.
    pub restarts: u64,
    /// Messages that wait.
    pub waiting: i64,
    /// Messages wait, and none is handled: its thread is held.
    pub stuck: bool,
}

/// One sink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SinkHealth {
    /// In one word.
    pub status: Status,
    /// What it says of itself.
    #[serde(flatten)]
    pub report: SinkReport,
}

// === impl Watched ===

impl Watched {
    /// Looks at this child from now on.
    pub fn add(&self, child: Child, sink: Option<SinkProbe>) {
        self.lock().children.insert(child.name().to_owned(), (child, sink));
    }

    /// Looks at it no more.
    pub fn remove(&self, name: &str) {
        self.lock().children.remove(name);
    }

    /// Looks from now on at what this sink shows that has no actor.
    pub fn add_standby(&self, sink: &str, probe: SinkProbe) {
        self.lock().standbys.insert(sink.to_owned(), probe);
    }

    /// Looks at it no more.
    pub fn remove_standby(&self, sink: &str) {
        self.lock().standbys.remove(sink);
    }

    /// What the sinks show that have no actor, by name.
    pub fn standbys(&self) -> BTreeMap<String, SinkProbe> {
        self.lock().standbys.clone()
    }

    /// Everybody, by name, with what those show that are sinks.
    pub fn all(&self) -> Vec<(Child, Option<SinkProbe>)> {
        self.lock().children.values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl HealthBoard ===

impl Default for HealthBoard {
    fn default() -> Self {
        let nothing =
            HealthReport { status: Status::Unhealthy, actors: BTreeMap::new(), sinks: BTreeMap::new() };
        Self(Arc::new(Mutex::new((Instant::now(), nothing))))
    }
}

impl HealthBoard {
    /// The last word, and whether the way in is stuck: by its own word, or because the word is so old.
    pub fn read(&self) -> (HealthReport, bool) {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A sink that holds its thread holds nobody else's; starting the process again would not help it.
        let stuck = board.1.actors.iter().any(|(name, actor)| actor.stuck && !name.starts_with("sink:"));
        (board.1.clone(), stuck || board.0.elapsed() > STALE_AFTER)
    }

    fn write(&self, report: HealthReport) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), report);
    }
}

/// The actor.
pub struct Health {
    spec: HealthSpec,
    probe: Probe,
    /// Where each sink was when it last moved.
    progress: BTreeMap<String, (Position, Instant)>,
    /// What each actor had handled when it last handled something.
    handled: BTreeMap<String, (u64, Instant)>,
}

impl Health {
    /// A health as its specification says.
    pub fn new(spec: HealthSpec, probe: Probe) -> Self {
        Self { spec, probe, progress: BTreeMap::new(), handled: BTreeMap::new() }
    }

    fn look(&mut self, _: &mut Context<Self>) {
        let watched = self.spec.watched.all();
        let mut report =
            HealthReport { status: Status::Healthy, actors: BTreeMap::new(), sinks: BTreeMap::new() };
        for (child, sink) in watched {
            let state = child.state();
            let stuck = self.is_stuck(&child, state);
            let actor = ActorReport {
                state: state.as_str(),
                restarts: child.restarts(),
                waiting: child.waiting(),
                stuck,
            };
            report.actors.insert(child.name().to_owned(), actor);
            let mut status = match state {
                ChildState::Starting | ChildState::Running => Status::Healthy,
                ChildState::Restarting | ChildState::Failed | ChildState::Ended => Status::Degraded,
            };
            if let Some(sink) = sink {
                let sink_report = sink.report();
                status = status.max(self.sink_status(child.name(), &sink_report));
                let name = child.name().trim_start_matches("sink:").to_owned();
                report.sinks.insert(name, SinkHealth { status, report: sink_report });
            } else if stuck || state == ChildState::Failed || state == ChildState::Ended {
                // Without one of these nothing can be accepted.
                status = Status::Unhealthy;
            }
            report.status = report.status.max(status);
        }
        for (name, sink) in self.spec.watched.standbys() {
            let sink_report = sink.report();
            let status = self.sink_status(&name, &sink_report);
            report.status = report.status.max(status);
            report.sinks.insert(name, SinkHealth { status, report: sink_report });
        }
        self.progress.retain(|name, _| report.actors.contains_key(name));
        self.handled.retain(|name, _| report.actors.contains_key(name));
        self.spec.board.write(report);
    }

    /// Whether a child that should handle messages has not handled one for long.
    fn is_stuck(&mut self, child: &Child, state: ChildState) -> bool {
        let now = Instant::now();
        let handled = child.handled();
        let (seen, since) = self.handled.entry(child.name().to_owned()).or_insert((handled, now));
        if *seen != handled || child.waiting() <= 0 || state != ChildState::Running {
            (*seen, *since) = (handled, now);
        }
        now.duration_since(*since) >= STALE_AFTER
    }

    fn sink_status(&mut self, name: &str, report: &SinkReport) -> Status {
        let now = Instant::now();
        let (seen, since) = self.progress.entry(name.to_owned()).or_insert((report.next, now));
        // By its own word, which is good no longer than it says: it may not come to say another.
        let gathers =
            report.state == SinkState::Delivering && report.gathers_until.is_some_and(|until| now < until);
        // What other processes have taken from a queue is no work of this sink.
        let has_work = report.lag_events > 0 && report.state != SinkState::Idle && !gathers;
        if *seen != report.next || !has_work {
            (*seen, *since) = (report.next, now);
        }
        let stalled = now.duration_since(*since) >= STALLED_AFTER;
        if stalled || report.error.is_some() { Status::Degraded } else { Status::Healthy }
    }
}

impl Actor for Health {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        tracing::debug!(waiting = self.probe.waiting(), "health looks");
        self.look(ctx);
        ctx.run_interval(LOOK_INTERVAL, Self::look);
    }
}

impl Supervised for Health {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self::new(self.spec.clone(), self.probe.clone());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::runtime::metrics::ActorMetrics;

    /// What health says of a sink that shows the same for so long.
    async fn after(health: &mut Health, seconds: u64, report: &SinkReport) -> Status {
        let mut status = health.sink_status("a", report);
        for _ in 0..seconds {
            tokio::time::advance(LOOK_INTERVAL).await;
            status = health.sink_status("a", report);
        }
        status
    }

    /// Scenario: a sink has less than a full batch and waits five minutes for more; then the batch does not go.
    /// Guarantee: it is degraded ten seconds after the batch was due, and not before: it was ten seconds after the first
    /// event came. So is one that has a full batch, and one whose breaker is open.
    #[tokio::test(start_paused = true)]
    async fn r0281_a_sink_that_waited_for_its_batch_was_degraded() {
        let spec = HealthSpec { watched: Watched::default(), board: HealthBoard::default() };
        let mut health = Health::new(spec, ActorMetrics::new(&Registry::new()).probe("health"));
        let gathers_until = Some(Instant::now() + Duration::from_secs(300));
        let (state, lag_events) = (SinkState::Delivering, 1);
        let gathers = SinkReport { state, lag_events, gathers_until, ..SinkReport::default() };
        assert_eq!(after(&mut health, 308, &gathers).await, Status::Healthy, "at 299 s it still gathers");
        assert_eq!(after(&mut health, 1, &gathers).await, Status::Degraded);

        let gathers_until = Some(Instant::now() + Duration::from_secs(300));
        let delivers = SinkReport { next: Position(1), gathers_until: None, ..gathers.clone() };
        let breaker_open =
            SinkReport { next: Position(2), state: SinkState::BreakerOpen, gathers_until, ..gathers };
        for has_work in [delivers, breaker_open] {
            assert_eq!(after(&mut health, 9, &has_work).await, Status::Healthy);
            assert_eq!(after(&mut health, 1, &has_work).await, Status::Degraded);
        }
    }
}
