//! The only wiring: who is started, on which thread, and who knows whom.
//!
//! One table of children drives start, health, drain and kill. Three kinds of threads: one for the way in (`Receiver`,
//! `Buffer`, `Batcher`), one for the house (`Retention`, `Health`), and one for every sink, so that a destination that
//! holds its thread holds nobody else's.

mod change;
mod end;
mod niceness;
mod open;
mod spec;
mod standby;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use actix::Arbiter;
use forebay_actors::{
    batcher::{self, Batcher, BatcherMetrics, BatcherSpec},
    broadcast::Broadcast,
    buffer::{self, Buffer, BufferMetrics, BufferSpec},
    condition::Condition,
    destination::DestinationFactory,
    health::{self, Health, HealthBoard, HealthSpec, Watched},
    journal::{Journal, JournalError, Queue},
    receiver::{self, Gate, Receiver, ReceiverMetrics, ReceiverSpec},
    record::SinkName,
    retention::{self, Retention, RetentionSpec},
    runtime::{
        clock::Clock,
        fault::Fault,
        mailbox::Mailbox,
        metrics::ActorMetrics,
        supervisor::{Child, RestartPolicy, supervise},
    },
    sink::{Sink, SinkMetrics, SinkProbe},
    state::{Books, Cursors, DeadLetters, StateDb, StateError},
};
use prometheus::Registry;

pub(crate) use self::spec::queue_messages;
use self::{
    change::{activate, sink_names},
    open::{Opened, open_journal},
    spec::{durability, limits, restart_policy, retention_spec},
};
pub use self::{
    end::{Drained, END_WAIT_MAX},
    spec::{condition, destinations, destinations_of_sinks},
    standby::{Misplaced, misplaced},
};
use crate::{
    config::{Config, SinkConfig},
    data_dir,
    shared_journal::JetStream,
};

/// Blocking threads of the way in: a commit, a trim, a save of cursors, an interval's sync, and one to spare.
const CORE_BLOCKING_THREADS: usize = 5;

const RETENTION: &str = "retention";

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
    held: Arc<dyn Books>,
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
        "the journal on disk has {events} events that the sink {sink} has not had; let buffer.backend: disk with \
         durability: fsync or interval deliver them, then change over"
    )]
    LeftBehind {
        /// Who is behind, the furthest of all.
        sink: SinkName,
        /// Events.
        events: u64,
    },
    /// The same, of what another sink holds.
    #[error(
        "{events} events of the sink {owner} are held by {holder}, by the books of this data directory; let buffer.backend: \
         disk read them back, then change over"
    )]
    HeldBehind {
        /// Whose events they are.
        owner: SinkName,
        /// Who holds them.
        holder: SinkName,
        /// Events.
        events: u64,
    },
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
        let Opened { journal, shared, held } = open_journal(config, data_dir, state, &cursors, &clock)?;
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
        let (core, house) = (arbiter(CORE_BLOCKING_THREADS, || {}), arbiter(2, || {}));
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
        for misplaced in misplaced(&*pipeline.parts.held, &config).unwrap_or_default() {
            tracing::error!("{misplaced}");
        }
        pipeline.tell_of_other_places();
        pipeline.add_sinks(&config.sinks.keys().cloned().collect::<Vec<_>>());
        pipeline
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

fn start_retention(
    house: &Arbiter,
    spec: RetentionSpec,
    policy: RestartPolicy,
    metrics: &ActorMetrics,
) -> Child {
    let build = |probe| Retention::new(spec, probe);
    supervise(&house.handle(), RETENTION, retention::MAILBOX_MESSAGES, policy, metrics, build).1
}

/// A thread for actors, which begins with `prepare`, and what they do on blocking threads.
fn arbiter(blocking_threads: usize, prepare: fn()) -> Arbiter {
    Arbiter::with_tokio_rt(move || {
        prepare();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking_threads)
            .build()
            .expect("a runtime needs a thread and an event queue, without which nothing runs")
    })
}
