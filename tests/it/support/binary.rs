//! The real binary: its configuration, its process, its commands.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    eventually,
    http::{Connection, Response, request},
    until,
};

/// A place of its own for a process: a directory, and a configuration in it.
pub struct Place {
    dir: Arc<TempDir>,
    data_dir: PathBuf,
    http: Vec<String>,
    sections: Vec<String>,
    sinks: Vec<(String, String)>,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// With the event store as its only sink, and batches that do not wait.
    pub fn new() -> Self {
        Self::empty().sink("events", "{ type: store }")
    }

    /// Without any sink.
    pub fn empty() -> Self {
        let dir = Arc::new(TempDir::with_prefix("forebay-it-").unwrap());
        let data_dir = dir.path().join("data");
        Self { dir, data_dir, http: Vec::new(), sections: Vec::new(), sinks: Vec::new() }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Puts the data elsewhere.
    pub fn with_data_dir(self, data_dir: PathBuf) -> Self {
        Self { data_dir, ..self }
    }

    /// The path of a file beside the data.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A key of `http` with its value.
    pub fn http(mut self, entry: &str) -> Self {
        self.http.push(entry.to_owned());
        self
    }

    /// A section of the configuration, as a line.
    pub fn section(mut self, line: &str) -> Self {
        self.sections.push(line.to_owned());
        self
    }

    /// A sink; its section stands in braces.
    pub fn sink(mut self, name: &str, section: &str) -> Self {
        self.set_sink(name, Some(section));
        self
    }

    /// Adds, changes or removes a sink of the file that a running process reads again.
    pub fn set_sink(&mut self, name: &str, section: Option<&str>) {
        self.sinks.retain(|(other, _)| other != name);
        self.sinks.extend(section.map(|section| (name.to_owned(), section.to_owned())));
    }

    pub fn config_file(&self) -> PathBuf {
        self.file("forebay.yaml")
    }

    /// Writes the configuration as it is now.
    pub fn write(&self) -> PathBuf {
        let mut text = format!("data_dir: {}\nhttp:\n  listen: \"127.0.0.1:0\"\n", self.data_dir.display());
        self.http.iter().for_each(|entry| text.push_str(&format!("  {entry}\n")));
        if !self.sections.iter().any(|line| line.starts_with("otlp:")) {
            text.push_str("otlp: { listen: \"127.0.0.1:0\" }\n");
        }
        if !self.sections.iter().any(|line| line.starts_with("ingest:")) {
            text.push_str("ingest: { grpc: { listen: \"127.0.0.1:0\" } }\n");
        }
        if !self.sections.iter().any(|line| line.starts_with("batch:")) {
            text.push_str("batch: { max_wait: 10ms }\n");
        }
        self.sections.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        text.push_str(if self.sinks.is_empty() { "sinks: {}\n" } else { "sinks:\n" });
        self.sinks.iter().for_each(|(name, section)| text.push_str(&format!("  {name}: {section}\n")));
        let file = self.config_file();
        fs::write(&file, text).unwrap();
        file
    }

    /// Starts the process and waits until it is ready.
    pub fn start(&self) -> Forebay {
        self.write();
        let mut process = self.spawn();
        process.wait_until_it_listens();
        until("the process is ready", || process.get("/ready").status == 200);
        process
    }

    /// Starts the process with the configuration that is there.
    pub fn spawn(&self) -> Forebay {
        let mut child = command()
            .current_dir(self.dir.path())
            .arg("--config")
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let (output, log) = (Lines::default(), Lines::default());
        output.collect(child.stdout.take().unwrap());
        log.collect(child.stderr.take().unwrap());
        Forebay { child, output, log, _dir: self.dir.clone(), address: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }

    /// Runs a command with this configuration.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = command();
        command.current_dir(self.dir.path()).arg("--config").arg(self.config_file()).args(arguments);
        Finished::of(&mut command)
    }
}

/// The binary, without what this machine's environment may say.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for name in [
        "FOREBAY_CONFIG",
        "BUFFER_MAX_SIZE",
        "BATCH_SIZE",
        "DRAIN_INTERVAL",
        "RETENTION_DAYS",
        "RETENTION_CRON_SCHEDULE",
        "LOG_LEVEL",
    ] {
        command.env_remove(name);
    }
    command
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// What a command that has to succeed printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// What a command that has to fail with this code said about it.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr + &self.stdout
    }
}

/// Lines of a process, gathered by a thread.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    /// From how many more is to come.
    open: usize,
}

impl Lines {
    pub fn collect(&self, from: impl Read + Send + 'static) {
        let lines = self.clone();
        lines.collected().open += 1;
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                lines.collected().lines.push(line);
            }
            lines.collected().open -= 1;
        });
    }

    pub fn text(&self) -> String {
        self.collected().lines.join("\n")
    }

    /// Whether no more is to come.
    fn is_all(&self) -> bool {
        self.collected().open == 0
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running process; killed when it is dropped.
pub struct Forebay {
    child: Child,
    output: Lines,
    log: Lines,
    /// Goes when nobody uses it any more.
    _dir: Arc<TempDir>,
    pub address: SocketAddr,
}

impl Forebay {
    #[track_caller]
    pub fn wait_until_it_listens(&mut self) {
        self.address = eventually("the process listens", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended instead: {ended:?}\n{}{}", self.output(), self.log());
            let output = self.output();
            let line = output.lines().find_map(|line| line.strip_prefix("listening on http"))?;
            line.trim_start_matches('s').strip_prefix("://")?.trim().parse().ok()
        });
    }

    /// What it printed to standard output.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// What it printed to standard error, as far as it has come here: all of it once [`Forebay::wait`] is back.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until its log has these words. What a request or a metric shows may be in the log a moment later.
    #[track_caller]
    pub fn says(&self, words: &str) {
        until(&format!("the log says {words:?}"), || self.log().contains(words));
    }

    /// Where it takes OpenTelemetry.
    #[track_caller]
    pub fn otlp(&self) -> SocketAddr {
        let output = self.output();
        let line = output.lines().find_map(|line| line.strip_prefix("OpenTelemetry over HTTP and gRPC on "));
        line.and_then(|line| line.parse().ok()).expect("it listens at one address")
    }

    /// Where it takes batches over gRPC.
    #[track_caller]
    pub fn ingest(&self) -> SocketAddr {
        let output = self.output();
        let line = output.lines().find_map(|line| line.strip_prefix("batches over gRPC on "));
        line.and_then(|line| line.parse().ok()).expect("it listens")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: TERM, HUP.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.unwrap().success(), "kill -{name}");
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the process ends", || self.child.try_wait().unwrap());
        until("its last words are here", || self.output.is_all() && self.log.is_all());
        eprintln!("{}", self.log());
        status
    }

    /// Asks it to end and waits; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait().code()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address).expect("it listens")
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        request(self.address, "GET", target, &[], b"").expect("it answers")
    }

    /// The JSON of a path that has to answer with 200.
    #[track_caller]
    pub fn json(&self, target: &str) -> Value {
        self.get(target).ok(200).json()
    }

    #[track_caller]
    pub fn post(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        request(self.address, "POST", target, headers, body).expect("it answers")
    }

    #[track_caller]
    pub fn post_json(&self, body: impl AsRef<[u8]>) -> Response {
        self.post("/events", &[("Content-Type", "application/json")], body.as_ref())
    }

    #[track_caller]
    pub fn post_lines(&self, body: impl AsRef<[u8]>) -> Response {
        self.post("/events", &[("Content-Type", "application/x-ndjson")], body.as_ref())
    }

    /// Waits until the store has the event.
    #[track_caller]
    pub fn stored(&self, id: &str) -> Value {
        eventually(&format!("{id} is in the store"), || {
            let answer = self.get(&format!("/events/{id}"));
            (answer.status == 200).then(|| answer.json())
        })
    }

    /// Every event of the store, page by page.
    pub fn all_events(&self, query: &str) -> Vec<Value> {
        let (mut events, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = self.json(&format!("/events?{query}{cursor}"));
            let Value::Array(more) = page["events"].take() else { panic!("a page has events: {page}") };
            events.extend(more);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return events,
            }
        }
    }

    /// The sum of all counts over time.
    pub fn counted(&self) -> u64 {
        let stats = self.json("/events/stats?bucket=1d");
        stats["buckets"].as_array().unwrap().iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum()
    }

    /// The sum of a metric's values over all its labels that contain the text.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").ok(200).text();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(['{', ' ']) && rest.contains(label)).then(|| rest.rsplit(' ').next())?
        });
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }
}

impl Drop for Forebay {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- forebay said:\n{}\n{}", self.output(), self.log());
        }
    }
}
