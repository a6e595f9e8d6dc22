//! The run: one server, its destination, the load, what goes wrong, and a look at all of it twice a second.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};

use super::{
    Failure,
    arguments::Arguments,
    ledger::Ledger,
    load::Load,
    numbers::NumberReader,
    process::Server,
    report::Outcome,
    sample::{self, CSV_HEADER, Sample},
    schedule::{Fault, Planned, Wishes, plan},
    sink::{Sink, Stance},
};

/// How long nothing may arrive at the end while something is missing.
const STALL_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What runs.
struct Stand {
    sink: Sink,
    ledger: Arc<Ledger>,
    config: PathBuf,
    bin: PathBuf,
    /// `None` only while it is killed and started anew.
    server: Option<Server>,
    addresses: watch::Sender<SocketAddr>,
    reloads: u64,
    kills: u64,
    /// Removed when nobody writes into it any more.
    dir: TempDir,
}

/// Holds the load for as long as was asked for, or until a signal, and waits until what was acknowledged has arrived.
///
/// # Errors
/// Where a part of it fails; a server that loses events or grows is an outcome.
pub async fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut stand = Stand::start(arguments).await?;
    let wishes = Wishes {
        seed: arguments.seed,
        total: arguments.total,
        reload_every: arguments.reload_every,
        kill_every: arguments.kill_every,
    };
    let plan = plan(&wishes);
    let load = Load {
        rate: arguments.rate,
        seed: arguments.seed,
        address: stand.addresses.subscribe(),
        ledger: Arc::clone(&stand.ledger),
    };
    let mut csv = Csv::create(arguments.csv.as_deref())?;
    let began = Instant::now();
    let running = load.start();
    let mut samples: Vec<Sample> = Vec::new();
    let mut before = (began, 0, 0);
    let mut steps = steps(&plan).into_iter().peekable();
    let mut next_sample = began + sample::EVERY;
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    while began.elapsed() < arguments.total {
        let next_step = steps.peek().map_or(next_sample, |(at, _)| began + *at);
        tokio::select! {
            () = tokio::time::sleep_until(next_sample.min(next_step)) => {}
            () = &mut interrupted => break,
        }
        if let Some((_, step)) = steps.next_if(|(at, _)| began + *at <= Instant::now()) {
            stand.take(step).await?;
            continue;
        }
        if let Some(sample) = stand.look(began, &mut before).await? {
            csv.write(&sample, &plan)?;
            samples.push(sample);
        }
        next_sample = Instant::now().max(next_sample + sample::EVERY);
    }
    let held = began.elapsed();
    stand.sink.set(Stance::Open);
    let refused = running.stop().await?;
    let waited = stand.settle().await?;
    let (delivered, repeated) = stand.ledger.delivered();
    let (lost, first_lost) = stand.ledger.lost();
    let rss_peak_bytes = stand.server()?.rss_peak_bytes()?;
    Ok(Outcome {
        samples,
        faults: plan.into_iter().filter(|planned| planned.at < held).collect(),
        held,
        refused,
        waited,
        acknowledged: stand.ledger.acknowledged(),
        delivered,
        repeated,
        lost,
        first_lost,
        reloads: stand.reloads,
        kills: stand.kills,
        rss_peak_bytes,
    })
}

/// Resolves at SIGINT or SIGTERM: the run then ends early, and is judged as far as it came.
fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(Failure::io("listen for signals"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The file of samples, if one is wanted.
struct Csv(Option<fs::File>);

impl Csv {
    fn create(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = fs::File::create(path).and_then(|mut file| writeln!(file, "{CSV_HEADER}").map(|()| file));
        file.map(|file| Self(Some(file))).map_err(Failure::io(format!("write {}", path.display())))
    }

    /// At once: a run may take hours, and what ends it may be anything.
    fn write(&mut self, sample: &Sample, plan: &[Planned]) -> Result<(), Failure> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let now = Duration::from_secs_f64(sample.seconds);
        let fault = plan.iter().find(|planned| planned.at <= now && now < planned.until);
        let line = sample.csv(fault.map_or("", |planned| planned.fault.as_str()));
        writeln!(file, "{line}").map_err(Failure::io("write the CSV"))
    }
}

/// One thing to do.
#[derive(Debug, Clone, Copy)]
enum Step {
    Sink(Stance),
    Reload,
    Kill,
}

/// The plan as single steps in order.
fn steps(plan: &[Planned]) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    for planned in plan {
        let stance = match planned.fault {
            Fault::Unavailable => Stance::Unavailable,
            Fault::Slow => Stance::Slow,
            Fault::Hung => Stance::Hung,
            Fault::Cut => Stance::Cut,
            Fault::Closed => Stance::Closed,
            Fault::Reload => {
                steps.push((planned.at, Step::Reload));
                continue;
            }
            Fault::Kill => {
                steps.push((planned.at, Step::Kill));
                continue;
            }
        };
        steps.extend([(planned.at, Step::Sink(stance)), (planned.until, Step::Sink(Stance::Open))]);
    }
    steps.sort_by_key(|(at, _)| *at);
    steps
}

// === impl Stand ===

impl Stand {
    async fn start(arguments: &Arguments) -> Result<Self, Failure> {
        fs::create_dir_all(&arguments.dir)
            .map_err(Failure::io(format!("create {}", arguments.dir.display())))?;
        let dir = TempDir::with_prefix_in("forebay-soak-", &arguments.dir)
            .map_err(Failure::io(format!("create a directory in {}", arguments.dir.display())))?;
        let ledger = Arc::new(Ledger::default());
        let sink = {
            let ledger = Arc::clone(&ledger);
            Sink::read_by(move |_| Box::new(NumberReader::new(Arc::clone(&ledger))))?
        };
        let config = dir.path().join("forebay.yaml");
        let (addresses, _) = watch::channel(sink.address());
        let bin = arguments.bin.clone();
        let mut stand =
            Self { sink, ledger, config, bin, server: None, addresses, reloads: 0, kills: 0, dir };
        stand.configure()?;
        stand.launch().await?;
        Ok(stand)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Writes the configuration; after every reload the sink is another one, so that it is replaced.
    fn configure(&self) -> Result<(), Failure> {
        let text = format!(
            "data_dir: {:?}\n\
             http: {{ listen: \"127.0.0.1:0\" }}\n\
         otlp: {{ http: {{ listen: null }}, grpc: {{ listen: null }} }}\n\
         ingest: {{ grpc: {{ listen: null }} }}\n\
             buffer: {{ durability: fsync, max_bytes: 8GiB }}\n\
             sinks:\n\
             \x20 soak:\n\
             \x20   type: http\n\
             \x20   url: \"http://{}/?reloads={}\"\n\
             \x20   encoding: ndjson\n\
             \x20   timeout: 2s\n\
             \x20   concurrency: 2\n\
             \x20   batch: {{ max_events: 5000, max_wait: 500ms }}\n\
             \x20   retry: {{ backoff_min: 50ms, backoff_max: 500ms, max_age: null }}\n\
             \x20   breaker: {{ failures: 5, open_for: 500ms, successes: 1 }}\n",
            self.data_dir(),
            self.sink.address(),
            self.reloads,
        );
        fs::write(&self.config, text).map_err(Failure::io(format!("write {}", self.config.display())))
    }

    async fn launch(&mut self) -> Result<(), Failure> {
        let server =
            Server::start(Command::new(&self.bin).args(["run", "--config"]).arg(&self.config)).await?;
        self.addresses.send_replace(server.address());
        self.server = Some(server);
        Ok(())
    }

    fn server(&self) -> Result<&Server, Failure> {
        self.server.as_ref().ok_or_else(|| Failure::Timeout("the server was not started again".to_owned()))
    }

    async fn take(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Sink(stance) => self.sink.set(stance),
            Step::Reload => {
                self.reloads += 1;
                self.configure()?;
                self.server()?.signal("HUP")?;
            }
            Step::Kill => {
                self.kills += 1;
                // Dropping it is SIGKILL.
                self.server = None;
                self.launch().await?;
            }
        }
        Ok(())
    }

    /// A look at everything; `None` where too little time has passed since the last one for a rate.
    async fn look(
        &self,
        began: Instant,
        before: &mut (Instant, u64, u64),
    ) -> Result<Option<Sample>, Failure> {
        let server = self.server()?;
        let metrics = server.metrics().await?;
        let (delivered, repeated) = self.ledger.delivered();
        let now = (Instant::now(), self.ledger.acknowledged(), delivered + repeated);
        let passed_s = (now.0 - before.0).as_secs_f64();
        if passed_s < sample::EVERY.as_secs_f64() / 4.0 {
            return Ok(None);
        }
        let sample = Sample {
            seconds: (now.0 - began).as_secs_f64(),
            acknowledged_per_s: (now.1 - before.1) as f64 / passed_s,
            delivered_per_s: (now.2 - before.2) as f64 / passed_s,
            lag_events: metrics.first_of(&["forebay_sink_lag_events"]).unwrap_or(0.0),
            rss_bytes: server.rss_bytes()? as f64,
            disk_bytes: disk_bytes(&self.data_dir()) as f64,
            open_files: server.open_files()? as f64,
        };
        *before = now;
        Ok(Some(sample))
    }

    /// Waits until everything acknowledged has arrived, or nothing arrives any more. How long that took.
    async fn settle(&self) -> Result<Duration, Failure> {
        let began = Instant::now();
        let mut progress = (self.ledger.delivered(), began);
        while self.ledger.lost().0 > 0 && progress.1.elapsed() < STALL_MAX {
            tokio::time::sleep(POLL).await;
            let delivered = self.ledger.delivered();
            if delivered != progress.0 {
                progress = (delivered, Instant::now());
            }
        }
        if self.sink.misunderstood() > 0 {
            return Err(self.server()?.failure("sent requests that the sink does not understand"));
        }
        Ok(began.elapsed())
    }
}

/// What the files below a directory take up. Some go while they are looked at.
fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}
