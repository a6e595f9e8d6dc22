//! The only wiring: who is started, on which thread, and who knows whom.
//!
//! One table of children drives start, health, drain and kill. Three kinds of threads: one for the way in (`Receiver`,
//! `Buffer`, `Batcher`), one for the house (`Retention`, `Health`), and one for every sink, so that a destination that
//! holds its thread holds nobody else's.

mod spec;
mod standby;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix::Arbiter;
use forebay_actors::{
    batcher::{self, Batcher, BatcherMetrics, BatcherSpec},
    broadcast::Broadcast,
    buffer::{self, Buffer, BufferMetrics, BufferSpec},
    condition::Condition,
    destination::DestinationFactory,
    health::{self, Health, HealthBoard, HealthSpec, Watched},
    journal::{self, Journal, JournalError, MemoryJournal, Queue, SledJournal},
    message::Drain,
    receiver::{self, Gate, Receiver, ReceiverMetrics, ReceiverSpec},
    record::SinkName,
    retention::{self, Retention, RetentionSpec},
    runtime::{
        clock::Clock,
        fault::Fault,
        mailbox::Mailbox,
        metrics::ActorMetrics,
        supervisor::{Child, ChildState, RestartPolicy, supervise},
    },
    sink::{Sink, SinkMetrics, SinkProbe, SinkSpec, Source},
    state::{Cursors, DeadLetters, HeldBatches, StateDb, StateError},
};
use prometheus::Registry;
use tokio::time::Instant;

pub(crate) use self::spec::queue_messages;
use self::spec::{durability, limits, restart_policy, retention_spec, sink_policy, when_full};
pub use self::{
    spec::{condition, destinations},
    standby::{Misplaced, misplaced},
};
use crate::{
    config::{Backend, Changes, Config, SinkConfig},
    data_dir,
    shared_journal::JetStream,
};

/// Blocking threads of the way in: a commit, a trim, a save of cursors, an interval's sync, and one to spare.
const CORE_BLOCKING_THREADS: usize = 5;

/// Blocking threads of a sink: reading the journal, delivering, and dead letters.
const SINK_BLOCKING_THREADS: usize = 3;

/// The same with a standby, which delivers and keeps books, too.
const STANDBY_BLOCKING_THREADS: usize = 5;

/// How often the drain looks whether everything is delivered.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

const RETENTION: &str = "retention";

/// The first children are those that take events in: receiver and buffer.
const WAY_IN: usize = 2;

/// The place of the house's thread among the arbiters.
const HOUSE: usize = 1;

/// Makes a destination's factory from its configuration; tests put their own here.
pub type Destinations = Arc<dyn Fn(&SinkName, &SinkConfig) -> DestinationFactory + Send + Sync>;

/// Everything that runs.
pub struct Pipeline {
    config: Config,
    parts: Parts,
    /// In the order they were started: the way in, then the house.
    children: Vec<Child>,
    sinks: BTreeMap<SinkName, SinkMember>,
    /// What is shown of sinks, also of those that only stand by.
    probes: BTreeMap<SinkName, SinkProbe>,
    receiver: Mailbox<Receiver>,
    buffer: Mailbox<Buffer>,
    /// The threads of the way in and of the house.
    arbiters: [Arbiter; 2],
    data_dir: PathBuf,
}

/// What all actors share.
#[derive(Clone)]
struct Parts {
    journal: Arc<dyn Journal>,
    /// The same, where other processes have it too.
    shared: Option<Arc<JetStream>>,
    cursors: Arc<Cursors>,
    dead_letters: Arc<DeadLetters>,
    held: Arc<HeldBatches>,
    clock: Clock,
    gate: Gate,
    broadcast: Broadcast,
    watched: Watched,
    board: HealthBoard,
    actor_metrics: ActorMetrics,
    sink_metrics: SinkMetrics,
    buffer_metrics: BufferMetrics,
    received: ReceiverMetrics,
    destinations: Destinations,
}

struct SinkMember {
    child: Child,
    /// What it takes from, where that is no log.
    queue: Option<Arc<dyn Queue>>,
    mailbox: Mailbox<Sink>,
    arbiter: Arbiter,
}

/// What others may look at.
#[derive(Clone)]
pub struct View {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// How far sinks have come.
    pub cursors: Arc<Cursors>,
    /// What was given up on.
    pub dead_letters: Arc<DeadLetters>,
    /// The last word of `Health`.
    pub board: HealthBoard,
    /// Every actor there is, also after a reload.
    pub watched: Watched,
    /// Closed while shutting down.
    pub gate: Gate,
    /// What the buffer shows.
    pub buffer: BufferMetrics,
    /// What the receiver shows.
    pub received: ReceiverMetrics,
    /// Tells the time.
    pub clock: Clock,
}

/// Why a pipeline cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal.
    #[error("the journal cannot be opened: {0}")]
    Journal(#[from] JournalError),
    /// Cursors and dead letters.
    #[error("cursors and dead letters cannot be opened: {0}")]
    State(#[from] StateError),
    /// The directory cannot be written.
    #[error("{0}")]
    DataDir(#[from] std::io::Error),
    /// Events would stay behind where nobody looks.
    #[error(
        "the journal on disk has {events} events that the sink {sink} has not had; let buffer.backend: disk deliver them, \
         then change over"
    )]
    LeftBehind {
        /// Who is behind, the furthest of all.
        sink: SinkName,
        /// Events.
        events: u64,
    },
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Events that stay in the journal, by sink; empty where everything was delivered.
    pub left: BTreeMap<SinkName, u64>,
}

// === impl Pipeline ===

impl Pipeline {
    /// Opens what is on disk and starts every actor. Needs an actix system around it.
    ///
    /// # Errors
    /// Where the journal or the state cannot be opened; then nothing was started.
    pub fn start(
        config: &Config,
        data_dir: &Path,
        registry: &Registry,
        clock: Clock,
        destinations: Destinations,
    ) -> Result<Self, StartError> {
        let state = Arc::new(StateDb::open(&data_dir::state(data_dir))?);
        let cursors = Arc::new(Cursors::open(state.clone())?);
        let dead_letters = Arc::new(DeadLetters::open(state.clone(), config.dead_letters.max_bytes)?);
        let held = Arc::new(HeldBatches::open(state)?);
        let shared = match config.buffer.backend {
            Backend::Disk => None,
            Backend::Jetstream => Some(Arc::new(open_shared(config, data_dir, &cursors, clock.clone())?)),
        };
        let durability = durability(&config.buffer);
        let floor = cursors.furthest();
        let journal: Arc<dyn Journal> = match (&shared, durability) {
            (Some(shared), _) => shared.clone(),
            (None, journal::Durability::Memory) => Arc::new(MemoryJournal::new(clock.clone(), floor)),
            (None, _) => {
                let journal =
                    SledJournal::open(&data_dir::journal(data_dir), durability, floor, clock.clone())?;
                Arc::new(journal.with_reserve())
            }
        };
        let parts = Parts {
            journal,
            shared,
            cursors,
            dead_letters,
            held,
            clock,
            gate: Gate::default(),
            broadcast: Broadcast::default(),
            watched: Watched::default(),
            board: HealthBoard::default(),
            actor_metrics: ActorMetrics::new(registry),
            sink_metrics: SinkMetrics::new(registry),
            buffer_metrics: BufferMetrics::new(registry),
            received: ReceiverMetrics::new(registry),
            destinations,
        };
        // Before anything is taken, every sink must count, or its first events could be trimmed away; and on disk,
        // or a crash before the first save would make a new sink begin behind events that were acknowledged.
        match &parts.shared {
            None => {
                activate(&parts, &config.sinks);
                parts.cursors.save()?;
            }
            Some(shared) => shared.make_consumers(&sink_names(&config.sinks))?,
        }
        let batcher_metrics = BatcherMetrics::new(registry);
        Ok(Self::wire(config.clone(), data_dir, parts, batcher_metrics))
    }

    fn wire(config: Config, data_dir: &Path, parts: Parts, batcher_metrics: BatcherMetrics) -> Self {
        let (core, house) = (arbiter(CORE_BLOCKING_THREADS), arbiter(2));
        let policy = restart_policy(&config);
        let metrics = &parts.actor_metrics;

        let spec = BatcherSpec { broadcast: parts.broadcast.clone(), metrics: batcher_metrics };
        let build = |probe| Batcher::new(spec, probe);
        let (batcher, batcher_child) =
            supervise(&core.handle(), "batcher", batcher::MAILBOX_COMMITS, policy, metrics, build);

        let spec = BufferSpec {
            journal: parts.journal.clone(),
            durability: durability(&config.buffer),
            cursors: parts.cursors.clone(),
            dead_letters: parts.dead_letters.clone(),
            batcher,
            limits: limits(&config.buffer),
            clock: parts.clock.clone(),
            metrics: parts.buffer_metrics.clone(),
            received: parts.received.clone(),
        };
        let build = |probe| Buffer::new(spec, probe);
        let (buffer, buffer_child) =
            supervise(&core.handle(), "buffer", buffer::MAILBOX_MESSAGES, policy, metrics, build);

        let spec = ReceiverSpec {
            buffer: buffer.clone(),
            clock: parts.clock.clone(),
            gate: parts.gate.clone(),
            metrics: parts.received.clone(),
        };
        let build = |probe| Receiver::new(spec, probe);
        let (receiver, receiver_child) =
            supervise(&core.handle(), "receiver", receiver::MAILBOX_REQUESTS, policy, metrics, build);

        let spec = retention_spec(&config, data_dir, parts.clock.clone(), buffer.clone());
        let retention_child = start_retention(&house, spec, policy, metrics);

        let spec = HealthSpec { watched: parts.watched.clone(), board: parts.board.clone() };
        let build = |probe| Health::new(spec, probe);
        let (_, health_child) =
            supervise(&house.handle(), "health", health::MAILBOX_MESSAGES, policy, metrics, build);

        let children = vec![receiver_child, buffer_child, batcher_child, retention_child, health_child];
        children.iter().for_each(|child| parts.watched.add(child.clone(), None));
        let (sinks, probes) = (BTreeMap::new(), BTreeMap::new());
        let arbiters = [core, house];
        let data_dir = data_dir.to_owned();
        let mut pipeline = Self {
            config: config.clone(),
            parts,
            children,
            sinks,
            probes,
            receiver,
            buffer,
            arbiters,
            data_dir,
        };
        for misplaced in pipeline.misplaced(&config).unwrap_or_default() {
            tracing::error!("{misplaced}");
        }
        pipeline.add_sinks(&config.sinks.keys().cloned().collect::<Vec<_>>());
        pipeline
    }

    /// Starts sinks of the configuration; those that only stand by have nothing to start.
    fn add_sinks(&mut self, names: &[String]) {
        // First, because others show what they do with these.
        for name in names {
            let probe = self.parts.sink_metrics.of(&SinkName::from(name.as_str()));
            if self.config.sinks[name].only_as_fallback {
                self.stand_by(name, &probe);
            }
            self.probes.insert(SinkName::from(name.as_str()), probe);
        }
        for name in names {
            let sink = self.config.sinks[name].clone();
            if !sink.only_as_fallback {
                self.add_sink(SinkName::from(name.as_str()), &sink);
            }
        }
    }

    fn add_sink(&mut self, name: SinkName, config: &SinkConfig) {
        let parts = &self.parts;
        let probe = self.probes[&name].clone();
        let standby = self.standby_spec(&name, config);
        let queue = parts.shared.as_ref().map(|shared| shared.queue(&name, queue_messages(config)));
        let spec = SinkSpec {
            name: name.clone(),
            factory: (parts.destinations)(&name, config),
            policy: sink_policy(config, &self.config.batch),
            when: condition(config),
            source: queue.clone().map_or_else(|| Source::Log(parts.journal.clone()), Source::Queue),
            cursors: parts.cursors.clone(),
            dead_letters: parts.dead_letters.clone(),
            buffer: self.buffer.clone(),
            clock: parts.clock.clone(),
            probe: probe.clone(),
            standby,
        };
        let has_standby = spec.standby.is_some();
        let arbiter = arbiter(if has_standby { STANDBY_BLOCKING_THREADS } else { SINK_BLOCKING_THREADS });
        let policy = restart_policy(&self.config);
        let actor = actor_name(&name);
        let build = |probe| Sink::new(spec, probe);
        let (mailbox, child) =
            supervise(&arbiter.handle(), &actor, config.mailbox_batches, policy, &parts.actor_metrics, build);
        parts.watched.add(child.clone(), Some(probe));
        if queue.is_none() {
            parts.broadcast.add(name.clone(), mailbox.clone());
        }
        self.sinks.insert(name, SinkMember { child, queue, mailbox, arbiter });
    }

    /// Ends sinks, all at once. Their cursors stay where they are.
    async fn end_sinks(&mut self, names: &[SinkName]) {
        let members: Vec<_> = names.iter().filter_map(|name| self.sinks.remove(name)).collect();
        names.iter().for_each(|name| self.parts.broadcast.remove(name));
        let children: Vec<_> = members.iter().map(|member| member.child.clone()).collect();
        for child in &children {
            self.parts.watched.remove(child.name());
            child.end();
        }
        ended(&children, Duration::from_secs(2)).await;
        // Only now: what it still had on its way would be delivered here and there.
        let queues: Vec<_> = members.iter().filter_map(|member| member.queue.clone()).collect();
        let released =
            tokio::task::spawn_blocking(move || queues.iter().for_each(|queue| queue.release())).await;
        if released.is_err() {
            tracing::error!("giving back what was not delivered panicked; others get it later");
        }
        members.iter().for_each(|member| {
            member.arbiter.stop();
        });
    }

    /// Brings the pipeline to a new configuration: sinks that changed are replaced, all others live on.
    pub async fn apply(&mut self, new: Config) -> Changes {
        let changes = self.config.diff(&new);
        let ending: Vec<_> =
            changes.sinks_removed.iter().chain(&changes.sinks_changed).map(|n| n.as_str().into()).collect();
        self.end_sinks(&ending).await;
        // Not one that comes back at once: meanwhile the journal could be trimmed of what it still needs.
        for name in &changes.sinks_removed {
            let name = SinkName::from(name.as_str());
            self.parts.cursors.deactivate(&name);
            self.parts.sink_metrics.forget(&name);
            self.parts.actor_metrics.forget(&actor_name(&name));
            self.probes.remove(&name);
        }
        self.forget_standbys(&new);
        self.config.sinks.clone_from(&new.sinks);
        match self.parts.shared.clone() {
            None => {
                activate(&self.parts, &new.sinks);
                save_cursors(self.parts.cursors.clone()).await;
            }
            Some(shared) => make_consumers(shared, sink_names(&new.sinks)).await,
        }
        let beginning: Vec<_> = changes.sinks_added.iter().chain(&changes.sinks_changed).cloned().collect();
        self.add_sinks(&beginning);
        if self.config.retention != new.retention || !changes.is_empty() {
            self.config.retention = new.retention;
            self.restart_retention().await;
        }
        self.config.log = new.log;
        self.config.limits = new.limits;
        self.config.auth = new.auth;
        if self.config.tls.can_become(&new.tls) {
            self.config.tls = new.tls;
        }
        changes
    }

    /// Retention keeps no state but its schedule, and it has to know whether there is a store: a new one is the
    /// simplest way to both.
    async fn restart_retention(&mut self) {
        let Some(index) = self.children.iter().position(|child| child.name() == RETENTION) else { return };
        self.children[index].end();
        ended(&self.children[index..=index], Duration::from_secs(2)).await;
        let spec =
            retention_spec(&self.config, &self.data_dir, self.parts.clock.clone(), self.buffer.clone());
        let policy = restart_policy(&self.config);
        let child = start_retention(&self.arbiters[HOUSE], spec, policy, &self.parts.actor_metrics);
        self.parts.watched.add(child.clone(), None);
        self.children[index] = child;
    }

    /// Delivers what can be delivered until the deadline, then ends every actor, the way in first. Whoever brings
    /// events must have stopped doing so.
    pub async fn drain(mut self, deadline: Instant) -> Drained {
        self.parts.gate.close();
        // What passed the gate before is committed first, and counts.
        let taking_in = |pipeline: &Self| {
            let door = pipeline.children.iter().take(WAY_IN);
            pipeline.parts.buffer_metrics.waiting_events.get() > 0 || door.map(Child::waiting).any(|n| n > 0)
        };
        while taking_in(&self) && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        // What waits in a queue waits for every process that has the sink: only what this one has taken is delivered by it.
        self.sinks.values().filter_map(|member| member.queue.as_ref()).for_each(|queue| queue.close());
        let head = self.parts.journal.span().end;
        let left_of = |pipeline: &Self, name: &SinkName, member: &SinkMember| match &member.queue {
            Some(queue) => queue.backlog().taken,
            None => head.since(pipeline.parts.cursors.get(name).next),
        };
        let left = loop {
            let left = self.sinks.iter().map(|(name, member)| (name.clone(), left_of(&self, name, member)));
            let left: BTreeMap<_, _> = left.filter(|(_, events)| *events > 0).collect();
            if left.is_empty() || Instant::now() >= deadline {
                break left;
            }
            for member in left.keys().filter_map(|name| self.sinks.get(name)) {
                // Again and again: a full mailbox does not take it, and a sink that restarts forgets it.
                let _ = member.mailbox.offer(Drain);
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        };
        let names: Vec<_> = self.sinks.keys().cloned().collect();
        self.end_sinks(&names).await;
        for (owner, holder, held) in self.parts.held.totals() {
            tracing::info!(sink = %owner, %holder, events = held.events, "held; they are read back after the next start");
        }
        self.children.iter().for_each(Child::end);
        ended(&self.children, Duration::from_secs(2)).await;
        let (cursors, journal) = (self.parts.cursors.clone(), self.parts.journal.clone());
        let saved = tokio::task::spawn_blocking(move || (cursors.save(), journal.sync())).await;
        match saved {
            Ok((Ok(()), Ok(()))) => {}
            Ok((cursors, journal)) => {
                cursors
                    .err()
                    .inspect(|error| tracing::error!(%error, "cursors could not be saved at the end"));
                journal
                    .err()
                    .inspect(|error| tracing::error!(%error, "the journal could not be synced at the end"));
            }
            Err(_) => tracing::error!("saving at the end panicked"),
        }
        self.arbiters.iter().for_each(|arbiter| {
            arbiter.stop();
        });
        Drained { left }
    }

    /// Who takes requests.
    pub fn receiver(&self) -> Mailbox<Receiver> {
        self.receiver.clone()
    }

    /// What others may look at.
    pub fn view(&self) -> View {
        View {
            journal: self.parts.journal.clone(),
            cursors: self.parts.cursors.clone(),
            dead_letters: self.parts.dead_letters.clone(),
            board: self.parts.board.clone(),
            watched: self.parts.watched.clone(),
            gate: self.parts.gate.clone(),
            buffer: self.parts.buffer_metrics.clone(),
            received: self.parts.received.clone(),
            clock: self.parts.clock.clone(),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The factory of a sink's destination, for whoever delivers beside the sink (replays).
    pub fn factory(&self, name: &SinkName) -> Option<DestinationFactory> {
        let config = self.config.sinks.get(name.as_str())?;
        Some((self.parts.destinations)(name, config))
    }

    /// Which events a sink takes, for the same; all where there is no condition.
    pub fn condition(&self, name: &SinkName) -> Option<Arc<Condition>> {
        self.config.sinks.get(name.as_str()).and_then(condition)
    }

    /// Every child there is.
    pub fn children(&self) -> impl Iterator<Item = &Child> {
        self.children.iter().chain(self.sinks.values().map(|member| &member.child))
    }

    /// What a sink shows of itself.
    pub fn sink_probe(&self, name: &str) -> Option<&SinkProbe> {
        self.probes.get(&SinkName::from(name))
    }

    /// Brings the named actor down; `false` where there is none of that name.
    pub fn inject(&self, name: &str, fault: Fault) -> bool {
        let child = self.children().find(|child| child.name() == name);
        child.inspect(|child| child.inject(fault)).is_some()
    }
}

/// Counts all these sinks in, with their policies. One that was never seen begins at the head. Where no sink was ever
/// seen, but the journal has events, the cursors are lost: then everything that is kept is delivered, some of it again.
fn activate(parts: &Parts, sinks: &BTreeMap<String, SinkConfig>) {
    let span = parts.journal.span();
    let lost = parts.cursors.is_empty() && span.count() > 0;
    if lost {
        tracing::error!(
            events = span.count(),
            "the cursors are lost: every sink begins at the oldest event that is kept"
        );
    }
    let start = if lost { span.first } else { span.end };
    for (name, sink) in sinks {
        let name = SinkName::from(name.as_str());
        if sink.only_as_fallback {
            // The journal keeps nothing for it, also where it once was a sink like others.
            parts.cursors.deactivate(&name);
        } else {
            parts.cursors.activate(&name, when_full(sink), start);
        }
    }
}

fn sink_names(sinks: &BTreeMap<String, SinkConfig>) -> Vec<SinkName> {
    sinks.keys().map(|name| SinkName::from(name.as_str())).collect()
}

/// Opens the journal that other processes have too, where no journal of this one would be forgotten for it.
fn open_shared(
    config: &Config,
    data_dir: &Path,
    cursors: &Cursors,
    clock: Clock,
) -> Result<JetStream, StartError> {
    let dir = data_dir::journal(data_dir);
    if std::fs::read_dir(&dir).is_ok_and(|mut files| files.next().is_some()) {
        let journal = SledJournal::open(&dir, journal::Durability::Fsync, cursors.furthest(), clock.clone())?;
        let end = journal.span().end;
        let behind = sink_names(&config.sinks).into_iter().filter(|_| !cursors.is_empty()).map(|sink| {
            let events = end.since(cursors.get(&sink).next.max(journal.span().first));
            (sink, events)
        });
        if let Some((sink, events)) =
            behind.filter(|(_, events)| *events > 0).max_by_key(|(_, events)| *events)
        {
            return Err(StartError::LeftBehind { sink, events });
        }
    }
    let quarantine = data_dir::quarantine(data_dir);
    let shared = JetStream::open(&config.buffer, config.http.max_event_bytes, &quarantine, clock)?;
    data_dir::note_stream(data_dir, &shared.identity())?;
    Ok(shared)
}

async fn make_consumers(shared: Arc<JetStream>, sinks: Vec<SinkName>) {
    match tokio::task::spawn_blocking(move || shared.make_consumers(&sinks)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "consumers could not be made; each sink tries it again"),
        Err(_) => tracing::error!("making consumers panicked"),
    }
}

async fn save_cursors(cursors: Arc<Cursors>) {
    match tokio::task::spawn_blocking(move || cursors.save()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "cursors could not be saved; it is tried again with the next that moves")
        }
        Err(_) => tracing::error!("saving cursors panicked"),
    }
}

fn start_retention(
    house: &Arbiter,
    spec: RetentionSpec,
    policy: RestartPolicy,
    metrics: &ActorMetrics,
) -> Child {
    let build = |probe| Retention::new(spec, probe);
    supervise(&house.handle(), RETENTION, retention::MAILBOX_MESSAGES, policy, metrics, build).1
}

/// The name of a sink's actor.
fn actor_name(sink: &SinkName) -> String {
    format!("sink:{sink}")
}

/// Waits until all of them have ended, but not for ever: a thread that is held does not answer.
async fn ended(children: &[Child], at_most: Duration) {
    let deadline = Instant::now() + at_most;
    while children.iter().any(|child| child.state() != ChildState::Ended) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn arbiter(blocking_threads: usize) -> Arbiter {
    Arbiter::with_tokio_rt(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking_threads)
            .build()
            .expect("a runtime needs a thread and an event queue, without which nothing runs")
    })
}
