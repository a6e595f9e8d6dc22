//! A real OpenTelemetry Collector: its configuration, its process, what it says.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Stdio},
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
/// It takes OTLP over gRPC and over HTTP and hands it through the batch processor to the exporters that it is given. The
/// exporters `otlp_grpc`, `otlp_http` and `file` are in it.
pub struct Collector {
    child: Child,
    log: Lines,
    dir: TempDir,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

impl Collector {
    /// Starts one with these exporters, each a name and its section in braces; `None` where none is installed.
    ///
    /// `$DIR` in a section stands for a directory of its own.
    #[track_caller]
    pub fn start(test: &str, exporters: &[(&str, &str)]) -> Option<Self> {
        let program = installed("collector", test)?.join("collector");
        let dir = TempDir::with_prefix("forebay-collector-").unwrap();
        let file = dir.path().join("collector.yaml");
        fs::write(&file, configuration(exporters).replace("$DIR", dir.path().to_str().unwrap())).unwrap();
        let mut child = command(program)
            .arg(format!("--config=file:{}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the Collector can be started");
        let log = Lines::default();
        log.collect(child.stderr.take().unwrap());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut collector = Self { child, log, dir, grpc: nowhere, http: nowhere };
        let address_of = |server: &str, said: &[Value]| -> Option<SocketAddr> {
            let line = said.iter().find(|line| line["msg"] == server)?;
            line["endpoint"].as_str()?.parse().ok()
        };
        (collector.grpc, collector.http) = eventually("the Collector listens", || {
            let ended = collector.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended instead: {ended:?}\n{}", collector.log.text());
            let said = collector.said();
            said.iter().find(|line| line["msg"].as_str().is_some_and(|m| m.contains("ready")))?;
            address_of("Starting GRPC server", &said).zip(address_of("Starting HTTP server", &said))
        });
        Some(collector)
    }

    /// What it logged.
    pub fn said(&self) -> Vec<Value> {
        self.log.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The lines it logged that have a text in them.
    pub fn said_about(&self, text: &str) -> Vec<String> {
        self.log.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// What the `file` exporter wrote so far to a file in `$DIR`, a request in OTLP's JSON each.
    pub fn written(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the Collector said:\n{}", self.log.text());
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
