//! `forebay send`.

mod events;
mod input;
mod otlp;
mod tally;

use std::{
    io::{IsTerminal as _, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use forebay_client::{Retry, Tls};
use futures::future::BoxFuture;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use self::{
    input::{Input, Kind},
    tally::{End, Known, Summary, Tally},
};
use super::{Done, EXIT_FAILURE, block_on, load, print};

/// What shells say of a process that SIGINT ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Lines on their way whose outcome is not known yet.
const ON_THEIR_WAY_MAX: usize = 16 * 1024;

/// What was read when somebody interrupts is still given this time.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Longer than any process runs, and short enough to be added to a time.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The waits between attempts double up to here.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

const PROGRESS_EVERY: Duration = Duration::from_millis(200);

const AFTER_HELP: &str = "\
ndjson is an event a line, as POST /events takes it: `service` and `message`, and where wanted
`timestamp`, `metadata` and `event_id`. It goes to http(s)://, or to gRPC with grpc(s)://. A line
without an event_id gets one, so it is one event however often it has to be tried; sent by a second
`forebay send` it is another event.

otlp-json is a request a line, as the Collector's file exporter writes them, or one document after
the other. Logs, metrics and traces are told apart by their first key, and go to /v1/logs,
/v1/metrics and /v1/traces.

auto looks at the first key: resourceLogs, resourceMetrics and resourceSpans are otlp-json.

Without --to, it goes to the address of the configuration that --config names: http.listen, or
otlp.http.listen.

Everything is sent in order, and is durable when it is counted as accepted. Whatever ends this early
(Ctrl-C, a server that stays away) says up to which line everything is done; --skip-lines goes on
from there.

Exit codes: 0 where everything was accepted, 1 where anything was not, 2 for arguments that make no
sense, 130 after Ctrl-C.";

/// `forebay send …`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Send {
    /// What to send; `-` is standard input. It may be packed with gzip or zstd.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Where to: http://, https://, grpc:// or grpcs://, with a port.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// What is in it.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// The bearer token; better in the variable, since everybody on this machine sees arguments.
    #[arg(long, value_name = "TOKEN", env = "FOREBAY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the bearer token in it; goes before --token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust the certificate authority in this PEM file, instead of the machine's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate: a PEM file.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key: a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Events of a request.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Requests on their way at the same time; 1 keeps the order also where one has to be tried again.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    in_flight: u16,
    /// At most so many lines a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Attempts of a request, or `forever`.
    #[arg(long, value_name = "N", default_value = "8", value_parser = attempts)]
    attempts: Attempts,
    /// Begin behind so many lines.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_lines: u64,
    /// Stop at the first line that is wrong, instead of going on with the others.
    #[arg(long)]
    strict: bool,
    /// Pack what is sent with gzip.
    #[arg(long)]
    gzip: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Told by its first key.
    Auto,
    /// An event a line.
    Ndjson,
    /// OpenTelemetry's requests as JSON.
    OtlpJson,
}

/// How often a request is tried.
#[derive(Debug, Clone, Copy)]
struct Attempts(Option<u32>);

fn attempts(text: &str) -> Result<Attempts, String> {
    match text.parse() {
        _ if text == "forever" => Ok(Attempts(None)),
        Ok(attempts @ 1..) => Ok(Attempts(Some(attempts))),
        _ => Err("a number from 1, or forever".to_owned()),
    }
}

impl Send {
    fn retry(&self) -> Retry {
        let retry = self.attempts.0.map_or_else(Retry::for_ever, Retry::attempts);
        retry.longest_wait(LONGEST_WAIT)
    }

    /// What is sent, for people.
    fn name(&self) -> String {
        if self.file == Path::new("-") {
            "standard input".to_owned()
        } else {
            self.file.display().to_string()
        }
    }

    fn token(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let text =
            std::fs::read_to_string(path).map_err(|e| format!("--token-file {}: {e}", path.display()))?;
        match text.trim() {
            "" => Err(format!("--token-file {}: it is empty; a token is needed", path.display())),
            token => Ok(Some(token.to_owned())),
        }
    }

    fn tls(&self) -> Result<Tls, String> {
        let read = |option: &str, path: &Path| {
            std::fs::read(path).map_err(|e| format!("{option} {}: {e}", path.display()))
        };
        let mut tls = Tls::new();
        if let Some(ca) = &self.ca {
            tls = tls.authority(read("--ca", ca)?);
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(tls.identity(read("--cert", cert)?, read("--key", key)?)),
            _ => Ok(tls),
        }
    }

    /// Where to send what is of this kind.
    fn to(&self, kind: Kind, config: Option<&Path>) -> Result<String, String> {
        if let Some(to) = &self.to {
            return Ok(to.clone());
        }
        let config = load(config).map_err(|e| e.to_string())?;
        let (key, address) = match kind {
            Kind::Events => ("http.listen", Some(config.http.listen)),
            Kind::OtlpLines | Kind::OtlpDocuments => {
                let all = config.otlp.addresses();
                all.first().map_or(("otlp.http.listen", None), |(key, address)| (*key, Some(*address)))
            }
        };
        let mut address = address
            .filter(|address| address.port() != 0)
            .ok_or_else(|| format!("{key} of the configuration names no address; say where with --to URL"))?;
        if address.ip().is_unspecified() {
            // What listens everywhere listens on loopback as well.
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                [0, 0, 0, 0, 0, 0, 0, 1].into()
            });
        }
        Ok(format!("http://{address}"))
    }
}

/// What is known of a line.
enum Fate {
    /// Nothing to send: it is empty.
    Empty,
    /// It is wrong, which needs no server to know.
    Wrong(String),
    /// It is on its way.
    Sent(BoxFuture<'static, Verdict>),
}

/// What became of what was sent.
#[derive(Debug)]
enum Verdict {
    /// So many items are durable, and so many are refused, for this reason.
    Accepted { items: u64, rejected: u64, reason: Option<String> },
    /// Refused for what it is.
    Rejected(String),
    /// Not delivered, and what comes behind it would not be either.
    Failed(String),
    /// Not delivered, because it was told to stop.
    Stopped,
}

/// Who sends lines.
trait Sender: std::marker::Send {
    /// Sends it; waits where too much is on its way.
    fn send<'a>(&'a mut self, line: &'a [u8]) -> BoxFuture<'a, Fate>;

    /// Ends what is on its way: every fate is known within about this time.
    fn end(&self, within: Duration) -> BoxFuture<'_, ()>;
}

/// Sends a file.
///
/// # Errors
/// Where it cannot be read or the arguments fit nothing. What is not accepted is no error but the exit code.
pub fn send(send: &Send, file: Option<&Path>) -> Done {
    let input = Input::open(&send.file, send.format, send.skip_lines)?;
    let kind = input.kind();
    let to = send.to(kind, file)?;
    let began = Instant::now();
    let tally = block_on(async {
        let sender: Box<dyn Sender> = match kind {
            Kind::Events => Box::new(events::EventSender::new(send, &to)?),
            Kind::OtlpLines | Kind::OtlpDocuments => Box::new(otlp::OtlpSender::new(send, &to)?),
        };
        Ok::<_, String>(run(input, sender, Tally::new(send.skip_lines, send.strict), send.rate).await)
    })?;
    let summary = Summary { tally: &tally, input: send.name(), to: &to, took: began.elapsed() };
    print(&if send.json { summary.json() } else { summary.text() })?;
    Ok(match tally.end() {
        Some(End::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        _ if tally.is_clean() => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_FAILURE),
    })
}

/// Sends lines until there are no more, or something ends it. Their fates are looked at in their order, so what is counted
/// last says up to where everything is done.
async fn run(input: Input, sender: Box<dyn Sender>, mut tally: Tally, rate: Option<u32>) -> Tally {
    let (fates, mut coming) = mpsc::channel(ON_THEIR_WAY_MAX);
    let (stop, stopped) = watch::channel(None);
    let read = input.read();
    let bar = stderr().is_terminal().then(|| bar(input.total_bytes()));
    let feeder = tokio::spawn(feed(input, sender, fates, stopped, rate));
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Before anything is sent, so that no interruption ends this process without its last words.
    let mut interrupts = signal(SignalKind::interrupt()).ok();
    let mut waiting = None;
    loop {
        tokio::select! {
            came = next(&mut coming, &mut waiting) => {
                let Some((number, known)) = came else { break };
                if let Some(within) = tally.count(number, known) {
                    stop.send_replace(Some(within));
                }
            }
            () = heard(&mut interrupts) => {
                stop.send_replace(Some(tally.interrupt()));
            }
            _ = ticks.tick() => if let Some(bar) = &bar {
                bar.set_position(read.packed_bytes());
                bar.set_message(tally.line());
            }
        }
    }
    bar.iter().for_each(ProgressBar::finish_and_clear);
    // A panic of the feeder is one of this process.
    let input = feeder.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
    tally.finish(read.unpacked_bytes(), input.error());
    tally
}

/// Reads and sends until there is nothing more, or it is told to stop within some time.
async fn feed(
    mut input: Input,
    mut sender: Box<dyn Sender>,
    fates: mpsc::Sender<(u64, Fate)>,
    mut stopped: watch::Receiver<Option<Duration>>,
    rate: Option<u32>,
) -> Input {
    let lines = async {
        let mut pace = Pace::new(rate);
        while let Some(line) = input.next().await {
            let fate = match &line.bytes {
                Ok(bytes) => {
                    pace.wait().await;
                    sender.send(bytes).await
                }
                Err(wrong) => Fate::Wrong(wrong.clone()),
            };
            if fates.send((line.number, fate)).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        biased;
        _ = stopped.changed() => {}
        () = lines => {}
    }
    drop(fates);
    loop {
        let within = stopped.borrow_and_update().unwrap_or(FOR_EVER);
        tokio::select! {
            () = sender.end(within) => return input,
            // Somebody became impatient.
            Ok(()) = stopped.changed() => {}
        }
    }
}

/// The next line whose fate is known, in order; the fate that is waited for outlives the wait.
async fn next(
    coming: &mut mpsc::Receiver<(u64, Fate)>,
    waiting: &mut Option<(u64, BoxFuture<'static, Verdict>)>,
) -> Option<(u64, Known)> {
    if waiting.is_none() {
        let (number, fate) = coming.recv().await?;
        match fate {
            Fate::Empty => return Some((number, Known::Empty)),
            Fate::Wrong(why) => return Some((number, Known::Wrong(why))),
            Fate::Sent(verdict) => *waiting = Some((number, verdict)),
        }
    }
    let (number, verdict) = waiting.as_mut().expect("it was just put there");
    let (number, verdict) = (*number, verdict.await);
    *waiting = None;
    Some((number, Known::Judged(verdict)))
}

async fn heard(signals: &mut Option<tokio::signal::unix::Signal>) {
    let came = match signals {
        Some(signals) => signals.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Keeps lines apart.
struct Pace {
    each: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        let each = rate.map(|rate| Duration::from_secs(1) / rate);
        Self { each, next: Instant::now() }
    }

    async fn wait(&mut self) {
        let Some(each) = self.each else { return };
        let now = Instant::now();
        if self.next > now {
            tokio::time::sleep_until(self.next).await;
        }
        // Time that the server took is made up for, but only a second of it.
        self.next = self.next.max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now)) + each;
    }
}

/// Over the bytes of the file, where it is one.
fn bar(total_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match total_bytes {
        Some(total) => {
            (ProgressBar::new(total), "{wide_bar} {bytes}/{total_bytes} {elapsed}, {eta} to go: {msg}")
        }
        None => (ProgressBar::no_length(), "{spinner} {bytes} {elapsed}: {wide_msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the templates are constants that parse");
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(style)
}
