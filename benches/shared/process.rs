//! A server in a child process: how it starts, what it costs by `/proc`, what it says about itself.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{Failure, wire};

/// From starting a server to its first 200 at `/health/ready`.
const READY_MAX: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(20);
/// A server that does not answer a question about itself for so long is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Lines of its output that are kept for the case that it fails.
const OUTPUT_LINES: usize = 40;
/// What precedes the address in the line that a server prints when it listens.
const LISTENING: &str = "listening on http://";
/// Microseconds of one tick in `/proc/<pid>/stat`: `USER_HZ` is 100 on every Linux there is.
const TICK_US: u64 = 10_000;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    output: Output,
    address: SocketAddr,
}

type Output = Arc<Mutex<VecDeque<String>>>;

/// A scrape of `/metrics`: values by name, summed over their labels.
#[derive(Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

/// Owns the child until it is known to be a server, so that no way out of the start leaves it behind.
struct Starting(Option<Child>);

// === impl Server ===

impl Server {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not start, prints no address or is not ready in time; with what it printed.
    pub async fn start(command: &mut Command) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        // The configuration is the file alone, whatever the caller's environment holds.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("FOREBAY_")) {
            command.env_remove(key);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = Starting(Some(child.map_err(Failure::io(format!("start {name}")))?));
        let output = Output::default();
        let (found, mut addresses) = mpsc::channel(8);
        if let Some(child) = &mut child.0 {
            let streams: [Option<Box<dyn Read + Send>>; 2] = [
                child.stdout.take().map(|stream| Box::new(stream) as _),
                child.stderr.take().map(|stream| Box::new(stream) as _),
            ];
            for stream in streams.into_iter().flatten() {
                let (output, found) = (Arc::clone(&output), found.clone());
                std::thread::spawn(move || drain(stream, &output, &found));
            }
        }
        drop(found);
        let failure = |what: &str| Failure::Server { what: format!("{name} {what}"), output: tail(&output) };
        let deadline = Instant::now() + READY_MAX;
        let address = match tokio::time::timeout_at(deadline, addresses.recv()).await {
            Ok(Some(address)) => address,
            Ok(None) => return Err(failure("ended before it listened")),
            Err(_) => return Err(failure(&format!("printed no \"{LISTENING}<address>\" in {READY_MAX:?}"))),
        };
        loop {
            let answer = tokio::time::timeout_at(deadline, wire::get(address, "/health/ready")).await;
            match answer {
                Ok(Ok((200, _))) => break,
                Err(_) => return Err(failure(&format!("was not ready in {READY_MAX:?}"))),
                Ok(_) => tokio::time::sleep(READY_POLL).await,
            }
        }
        let child = child.0.take().expect("only this line takes the child");
        Ok(Self { child, output, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address in the line that it printed with these words before it.
    ///
    /// # Errors
    /// Where it printed none.
    pub fn address_behind(&self, words: &str) -> Result<SocketAddr, Failure> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let found = output.iter().find_map(|line| line.strip_prefix(words)?.trim().parse().ok());
        drop(output);
        found.ok_or_else(|| self.failure(&format!("printed no \"{words}<address>\"")))
    }

    /// Processor time it has used, in user and system mode, all threads that ever were.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        Ok(cpu_of_stat(&self.proc("stat")?))
    }

    /// Processor time that everybody else on the machine has used: all but this server and the bench.
    ///
    /// # Errors
    /// Where the server is gone.
    pub fn others_cpu(&self) -> Result<Duration, Failure> {
        let read = |path: &str| fs::read_to_string(path).map_err(Failure::io(format!("read {path}")));
        // The first line sums up all cores: cpu user nice system idle iowait irq softirq steal. Interrupts
        // are nobody's, and on loopback mostly our own.
        let machine = read("/proc/stat")?;
        let fields = machine.lines().next().unwrap_or_default().split_ascii_whitespace();
        let fields = fields.enumerate().filter(|(index, _)| matches!(index, 1..=3 | 8));
        let ticks: u64 = fields.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum();
        let ours = cpu_of_stat(&read("/proc/self/stat")?) + self.cpu()?;
        Ok(Duration::from_micros(ticks * TICK_US).saturating_sub(ours))
    }

    /// The most memory it has had resident.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn rss_peak_bytes(&self) -> Result<u64, Failure> {
        self.status_bytes("VmHWM:")
    }

    /// The memory it has resident.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn rss_bytes(&self) -> Result<u64, Failure> {
        self.status_bytes("VmRSS:")
    }

    /// Its open files, sockets included.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn open_files(&self) -> Result<u64, Failure> {
        let path = format!("/proc/{}/fd", self.child.id());
        let files =
            fs::read_dir(&path).map_err(|error| self.failure(&format!("is gone ({path}: {error})")))?;
        Ok(files.count() as u64)
    }

    /// Sends it a signal, by its name.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, name: &str) -> Result<(), Failure> {
        let kill = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        match kill.map_err(Failure::io(format!("send {name}")))?.success() {
            true => Ok(()),
            false => Err(self.failure(&format!("took no {name}: it is gone"))),
        }
    }

    fn status_bytes(&self, key: &str) -> Result<u64, Failure> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| self.failure(&format!("has no {key} it is a zombie")))
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// Where it does not answer 200.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        match tokio::time::timeout(ANSWER_MAX, wire::get(self.address, "/metrics")).await {
            Ok(Ok((200, text))) => Ok(Metrics::parse(&text)),
            Ok(Ok((status, _))) => Err(self.failure(&format!("answered {status} to GET /metrics"))),
            Ok(Err(error)) => Err(self.failure(&format!("did not answer GET /metrics: {error}"))),
            Err(_) => Err(self.failure(&format!("did not answer GET /metrics in {ANSWER_MAX:?}"))),
        }
    }

    /// Says that this server failed, with what it printed last.
    pub fn failure(&self, what: &str) -> Failure {
        Failure::Server { what: format!("the server {what}"), output: tail(&self.output) }
    }

    fn proc(&self, file: &str) -> Result<String, Failure> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).map_err(|error| self.failure(&format!("is gone ({path}: {error})")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            kill(child);
        }
    }
}

/// Ends a child that owes nobody anything any more. Both calls fail only where it has ended already.
fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads a stream of the child to its end, or a full pipe would stop the child.
fn drain(stream: impl Read, output: &Output, found: &mpsc::Sender<SocketAddr>) {
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(address) = listening_address(&line) {
            // Only the first address is waited for.
            let _ = found.try_send(address);
        }
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.len() == OUTPUT_LINES {
            output.pop_front();
        }
        output.push_back(line);
    }
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(LISTENING)?;
    // Colours, quotes or JSON may follow.
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(rest.len());
    rest[..end].trim_end_matches(['.', ':']).parse().ok()
}

fn tail(output: &Output) -> String {
    let output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.iter().map(|line| format!("  {line}\n")).collect()
}

/// User and system time in a `/proc/<pid>/stat`. The name in parentheses may hold anything, so fields are
/// counted from its end: these are the 14th and 15th of the line.
fn cpu_of_stat(stat: &str) -> Duration {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_micros(ticks * TICK_US)
}

// === impl Metrics ===

impl Metrics {
    fn parse(text: &str) -> Self {
        let mut metrics = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            if let Some(value) = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()) {
                *metrics.entry(name.to_owned()).or_default() += value;
            }
        }
        Self(metrics)
    }

    /// The value of the first of these names that there is.
    pub fn first_of(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| self.0.get(*name).copied())
    }
}
