//! A whole pipeline on a directory of its own, with destinations in memory.
//!
//! It keeps the ids of all acknowledged events, whatever becomes of the pipeline: what is promised is promised for
//! these. [`TestBed::end`] fails where a child is left alive.

mod producer;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use forebay::{
    config::{BlackholeSink, BreakerConfig, Config, RetryConfig, SinkConfig, SinkKind, SupervisorConfig},
    data_dir,
    pipeline::{Destinations, Drained, END_WAIT_MAX, Pipeline},
};
use forebay_actors::{
    event::{Events, Timestamp},
    record::{Position, SinkName},
    runtime::{clock::Clock, supervisor::ChildState},
    state::{Cursors, DeadLetter, Reason, StateDb, WhenFull},
};
use prometheus::{Registry, TextEncoder};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

pub use self::producer::{Load, NotAcknowledged, Producer};
use super::destination::Fake;

/// How long anything may take that should come at once: two busy cores and a slow disk included.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on an actix system of its own thread, and ends it where it hangs.
pub fn run(test: impl Future<Output = ()>) {
    let limited = async { timeout(2 * PATIENCE, test).await.expect("the test comes to an end") };
    actix::System::new().block_on(limited);
}

/// Waits until it holds, looking every millisecond.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let look = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("not until now: {what}"));
}

/// A configuration with these sinks, which restarts and retries at once.
pub fn config(sinks: &[&str]) -> Config {
    let sinks = sinks.iter().map(|name| ((*name).to_owned(), sink())).collect();
    let mut config = Config { sinks, ..Config::default() };
    config.supervisor = SupervisorConfig {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        restarts_max: 1_000_000,
        ..SupervisorConfig::default()
    };
    config.batch.max_wait = Duration::from_millis(2);
    config
}

/// A sink as [`config`] makes it. Its type does not matter: the test bed brings its own destinations.
pub fn sink() -> SinkConfig {
    let (backoff_min, backoff_max) = (Duration::from_millis(1), Duration::from_millis(5));
    SinkConfig {
        retry: RetryConfig { backoff_min, backoff_max, max_age: None },
        breaker: BreakerConfig { failures: 1_000_000, open_for: Duration::from_millis(1), successes: 1 },
        ..SinkConfig::new(SinkKind::Blackhole(BlackholeSink::default()))
    }
}

/// A message that cannot be compressed: `bytes` of letters and digits, the same for the same index.
pub fn incompressible(index: usize) -> &'static str {
    static POOL: OnceLock<Vec<String>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(7);
        (0..16).map(|_| (0..INCOMPRESSIBLE_BYTES).map(|_| random.alphanumeric()).collect()).collect()
    });
    &pool[index % pool.len()]
}

/// Bytes of an [`incompressible`] message.
pub const INCOMPRESSIBLE_BYTES: usize = 60_000;

/// The pipeline and its surroundings.
pub struct TestBed {
    pub pipeline: Pipeline,
    dir: TempDir,
    surroundings: Surroundings,
    registry: Registry,
}

/// What outlives a pipeline.
#[derive(Clone, Default)]
struct Surroundings {
    fakes: Arc<Mutex<BTreeMap<SinkName, Fake>>>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    /// How far the clock is off, in nanoseconds.
    clock_off: Arc<AtomicI64>,
}

// === impl TestBed ===

impl TestBed {
    /// A pipeline on an empty directory.
    pub async fn start(config: &Config) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        Self::start_in(dir, config, Surroundings::default()).await
    }

    /// A pipeline whose destinations have their orders before it starts.
    pub async fn start_with(config: &Config, order: impl Fn(&dyn Fn(&str) -> Fake)) -> Self {
        let surroundings = Surroundings::default();
        order(&|name| surroundings.fake(&name.into()));
        let dir = TempDir::new().expect("a temporary directory can be made");
        Self::start_in(dir, config, surroundings).await
    }

    async fn start_in(dir: TempDir, config: &Config, surroundings: Surroundings) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let registry = Registry::new();
            let fakes = surroundings.clone();
            let destinations: Destinations = Arc::new(move |name, _| fakes.fake(name).factory());
            match Pipeline::start(config, dir.path(), &registry, surroundings.clock(), destinations) {
                Ok(pipeline) => return Self { pipeline, dir, surroundings, registry },
                // A thread of the pipeline before may hold its files for a moment.
                Err(error) => assert!(Instant::now() < deadline, "the pipeline does not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The destination of this sink.
    pub fn fake(&self, name: &str) -> Fake {
        self.surroundings.fake(&name.into())
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Sets the pipeline's clock: so many seconds on, or back.
    pub fn move_clock(&self, seconds: i64) {
        self.surroundings.clock_off.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
    }

    /// What time the pipeline takes it for.
    pub fn now(&self) -> Timestamp {
        self.surroundings.clock().now()
    }

    /// Who posts to this pipeline.
    pub fn producer(&self) -> Producer {
        Producer::new(self.pipeline.receiver(), self.surroundings.acknowledged.clone())
    }

    /// Posts one request, which has to be acknowledged, and returns the ids of its events.
    pub async fn post(&self, messages: &[&str]) -> Vec<String> {
        self.producer().post(messages).await.expect("the request is acknowledged")
    }

    /// Posts one request of so many small events.
    pub async fn post_many(&self, events: usize) -> Vec<String> {
        self.post(&vec!["a small event"; events]).await
    }

    /// Begins to post from several producers.
    pub fn load(&self) -> Load {
        Load::start(&self.producer())
    }

    /// The ids of all acknowledged events, in no special order where there were several producers.
    pub fn acknowledged(&self) -> Vec<String> {
        self.surroundings.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.pipeline.config().clone()
    }

    /// The sink's dead letters.
    pub fn dead_letters(&self, sink: &str) -> Vec<DeadLetter> {
        let letters = self.pipeline.view().dead_letters.list(&sink.into(), None, usize::MAX);
        letters.expect("dead letters can be read").into_iter().map(|(_, letter)| letter).collect()
    }

    /// The sum of a metric over all label sets that have these labels; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).expect("metrics are text");
        let wanted: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it =
                series.split('{').next() == Some(name) && wanted.iter().all(|label| series.contains(label));
            is_it.then(|| value.parse::<f64>().expect("a sample is a number"))
        };
        text.lines().filter(|line| !line.starts_with('#')).filter_map(of).sum()
    }

    /// Waits until the sink has an outcome for everything that is in the journal now.
    pub async fn settled(&self, sink: &str) {
        let (view, name) = (self.pipeline.view(), SinkName::from(sink));
        let head = view.journal.span().end;
        let what = format!("{sink} has an outcome for everything up to {head}");
        eventually(&what, || view.cursors.get(&name).next >= head).await;
    }

    /// How far the sink has come.
    pub fn cursor(&self, sink: &str) -> Position {
        self.pipeline.view().cursors.get(&sink.into()).next
    }

    /// Where the sink would go on if the process died now.
    pub fn saved_cursor(&self, sink: &str) -> Option<Position> {
        let copy = TempDir::new().expect("a temporary directory can be made");
        copy_dir(&data_dir::state(self.path()), copy.path());
        let state = StateDb::open(copy.path()).expect("the copy can be opened");
        let cursors = Cursors::open(Arc::new(state)).expect("the copy can be read");
        let nowhere = Position(u64::MAX);
        let found = cursors.activate(&sink.into(), WhenFull::Block, nowhere).next;
        (found != nowhere).then_some(found)
    }

    /// Every acknowledged event is delivered to the sink, or is one of its dead letters; or, where ranges of
    /// positions are, may be in one of these.
    pub fn assert_outcomes(&self, sink: &str) {
        let seen = self.fake(sink).seen();
        let letters = self.dead_letters(sink);
        let dead: Vec<_> = letters.iter().filter_map(event_id).collect();
        let found: HashSet<_> = seen.distinct().into_iter().chain(dead.iter().map(String::as_str)).collect();
        let acknowledged = self.acknowledged();
        let without: Vec<_> = acknowledged.iter().filter(|id| !found.contains(id.as_str())).collect();
        let ranges = letters.iter().filter(|letter| letter.event.is_none());
        let accounted: u64 = ranges.map(|letter| letter.span.count()).sum();
        assert!(
            without.len() as u64 <= accounted,
            "{} of {} acknowledged events have no outcome at {sink} ({accounted} are in ranges); the first is {:?}",
            without.len(),
            acknowledged.len(),
            without.first()
        );
    }

    /// Every acknowledged event was delivered to the sink.
    pub fn assert_delivered(&self, sink: &str) {
        let seen = self.fake(sink).seen();
        let found: HashSet<_> = seen.events().into_iter().collect();
        let acknowledged = self.acknowledged();
        let without = acknowledged.iter().filter(|id| !found.contains(id.as_str())).count();
        assert_eq!(without, 0, "of {} acknowledged events, so many never came to {sink}", acknowledged.len());
    }

    /// The sink was given events in the order of their positions; what came again came at the position it had.
    pub fn assert_order(&self, sink: &str) {
        let (seen, mut at) = (self.fake(sink).seen(), BTreeMap::new());
        for (batch, ids) in &seen.taken {
            let (first, end) = batch.split_once('-').expect("a batch's id is a span");
            let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
            assert_eq!(end - first, ids.len() as u64, "{sink}: {batch}");
            for (position, id) in (first..end).zip(ids) {
                let last = at.last_key_value().map_or(0, |(last, _)| *last);
                match at.insert(position, id) {
                    Some(known) => assert_eq!(known, id, "{sink}: two events at {position}"),
                    None => assert!(position >= last, "{sink}: {position} came after {last}"),
                }
            }
        }
        let distinct: HashSet<_> = at.values().collect();
        assert_eq!(distinct.len(), at.len(), "{sink}: an event at two positions");
    }

    /// The process dies now, and starts again: all that is left of it is what stands on the disk at this moment.
    pub async fn crash(self) -> Self {
        let config = self.config();
        self.crash_into(&config).await
    }

    /// The same, with another configuration for what starts.
    pub async fn crash_into(self, config: &Config) -> Self {
        // Before the copy, so that no destination sees more of this life than what is copied accounts for.
        self.surroundings.end_life();
        let copy = TempDir::new().expect("a temporary directory can be made");
        copy_dir(self.path(), copy.path());
        let surroundings = self.surroundings.clone();
        self.stop(Duration::ZERO).await;
        Self::start_in(copy, config, surroundings).await
    }

    /// An orderly end after so long at most, and a new start in the same directory.
    pub async fn restart(self, config: &Config, patience: Duration) -> Self {
        self.restart_after(config, patience, |_| {}).await
    }

    /// The same; meanwhile something is done to the data directory.
    pub async fn restart_after(
        self,
        config: &Config,
        patience: Duration,
        meanwhile: impl FnOnce(&Path),
    ) -> Self {
        let surroundings = self.surroundings.clone();
        let (dir, _) = self.stop(patience).await;
        meanwhile(dir.path());
        Self::start_in(dir, config, surroundings).await
    }

    /// Ends the pipeline, with everything delivered.
    pub async fn end(self) {
        let (_, drained) = self.stop(PATIENCE).await;
        assert_eq!(drained.left, BTreeMap::new(), "everything is delivered at the end");
    }

    /// Ends the pipeline after so long at most.
    ///
    /// # Panics
    /// Where a child is left alive.
    pub async fn stop(self, patience: Duration) -> (TempDir, Drained) {
        let children: Vec<_> = self.pipeline.children().cloned().collect();
        let began = Instant::now();
        let drained = self.pipeline.drain(began + patience).await;
        // The drain waits for them, but not for ever: the thread of a sink that was told to panic may still look up the names of a
        // backtrace.
        let has_waited = began.elapsed() >= END_WAIT_MAX;
        for child in children {
            assert!(has_waited || child.state() == ChildState::Ended, "{} was not waited for", child.name());
            eventually(&format!("{} ends", child.name()), || child.state() == ChildState::Ended).await;
        }
        (self.dir, drained)
    }
}

impl Surroundings {
    /// The system's clock, moved as far as the test says.
    fn clock(&self) -> Clock {
        let (system, off) = (Clock::system(), self.clock_off.clone());
        Clock::from_fn(move || Timestamp::from_nanos(system.now().nanos() + off.load(Ordering::Relaxed)))
    }

    fn end_life(&self) {
        self.fakes.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(Fake::end_life);
    }

    fn fake(&self, name: &SinkName) -> Fake {
        self.fakes.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }
}

/// The id of the letter's event; `None` where its bytes are gone.
pub fn event_id(letter: &DeadLetter) -> Option<String> {
    let payload = letter.event.as_deref()?;
    let mut events = Events::new(payload);
    let event = events.next_event()?.expect("the event of a dead letter can be read");
    Some(event.event_id.to_string())
}

/// Events of the letters that have this reason.
pub fn events_with(letters: &[DeadLetter], reason: Reason) -> u64 {
    letters.iter().filter(|letter| letter.reason == reason).map(|letter| letter.span.count()).sum()
}

/// The journal's directory of a data directory.
pub fn journal_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir::journal(data_dir)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("the directory can be read") {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("it is there");
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            // A file of sled's may be renamed while we look.
            let _ = fs::copy(&from, &to);
        }
    }
}
