//! A real OpenTelemetry Collector: its configuration, its process, what it says.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    binary::Lines,
    clients::{command, installed},
    eventually,
};

/// A running Collector; killed when it is dropped.
///
/// The receiver `otlp` is in it, the processor `batch`, the exporters `otlp_grpc`, `otlp_http` and `file`, and the extensions
/// `bearertokenauth` and `file_storage`.
pub struct Collector {
    program: PathBuf,
    /// Without what `$DIR` and `$LIFE` stand for.
    configuration: String,
    dir: TempDir,
    lives: Vec<Lines>,
    child: Option<Child>,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

impl Collector {
    /// Starts one that takes OTLP over gRPC and over HTTP and hands it through the batch processor to these exporters, each a
    /// name and its section in braces; `None` where none is installed.
    ///
    /// `$DIR` in a section stands for a directory of its own.
    #[track_caller]
    pub fn start(test: &str, exporters: &[(&str, &str)]) -> Option<Self> {
        Self::start_as(test, configuration(exporters))
    }

    /// Starts one with this configuration, in which `$DIR` stands for a directory of its own and `$LIFE` for a number that each
    /// start has for itself. Its receiver takes port 0.
    #[track_caller]
    pub fn start_as(test: &str, configuration: String) -> Option<Self> {
        let program = installed("collector", test)?.join("collector");
        let dir = TempDir::with_prefix("forebay-collector-").unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut collector = Self {
            program,
            configuration,
            dir,
            lives: Vec::new(),
            child: None,
            grpc: nowhere,
            http: nowhere,
        };
        collector.up();
        Some(collector)
    }

    /// From the next start on it has this configuration.
    pub fn configure(&mut self, configuration: String) {
        self.configuration = configuration;
    }

    /// Starts it, at ports of this life, and waits until every component of it is ready.
    #[track_caller]
    pub fn up(&mut self) {
        let (dir, life) = (self.dir.path(), self.lives.len().to_string());
        let file = dir.join("collector.yaml");
        let configuration = self.configuration.replace("$DIR", dir.to_str().unwrap()).replace("$LIFE", &life);
        fs::write(&file, configuration).unwrap();
        let child = command(&self.program)
            .arg(format!("--config=file:{}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = self.child.insert(child.expect("the Collector can be started"));
        let log = Lines::default();
        log.collect(child.stderr.take().unwrap());
        self.lives.push(log.clone());
        let address_of = |server: &str, said: &[Value]| -> Option<SocketAddr> {
            let line = said.iter().find(|line| line["msg"] == server)?;
            line["endpoint"].as_str()?.parse().ok()
        };
        (self.grpc, self.http) = eventually("the Collector listens", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended instead: {ended:?}\n{}", log.text());
            let said: Vec<_> =
                log.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            said.iter().find(|line: &&Value| line["msg"].as_str().is_some_and(|m| m.contains("ready")))?;
            address_of("Starting GRPC server", &said).zip(address_of("Starting HTTP server", &said))
        });
    }

    /// Ends it in order, and waits for that.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "kill -TERM");
        let status = eventually("the Collector ends", || child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.lives.last().map(Lines::text).unwrap_or_default());
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The lines it logged in all its lives that have a text in them.
    pub fn said_about(&self, text: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        self.lives.iter().map(Lines::text).collect::<Vec<_>>().join("\n")
    }

    /// What the `file` exporter wrote so far to a file in `$DIR`, a request in OTLP's JSON each.
    pub fn written(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        // The last line may be half a one.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What it wrote to the files of this name in all its lives, `$LIFE` being in the name.
    pub fn written_in_all_lives(&self, name: &str) -> Vec<Value> {
        let of = |life: usize| self.written(&name.replace("$LIFE", &life.to_string()));
        (0..self.lives.len()).flat_map(of).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the Collector said:\n{}", self.log());
        }
    }
}

fn configuration(exporters: &[(&str, &str)]) -> String {
    let names: Vec<_> = exporters.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let mut text = "\
receivers:
  otlp: { protocols: { grpc: { endpoint: \"127.0.0.1:0\" }, http: { endpoint: \"127.0.0.1:0\" } } }
processors:
  batch: { timeout: 20ms, send_batch_size: 32, send_batch_max_size: 64 }
exporters:
"
    .to_owned();
    for (name, section) in exporters {
        text.push_str(&format!("  {name}: {section}\n"));
    }
    text.push_str(
        "service:\n  telemetry: { metrics: { level: none }, logs: { encoding: json } }\n  pipelines:\n",
    );
    for signal in ["logs", "metrics", "traces"] {
        let pipeline = format!("{{ receivers: [otlp], processors: [batch], exporters: [{names}] }}");
        text.push_str(&format!("    {signal}: {pipeline}\n"));
    }
    text
}
