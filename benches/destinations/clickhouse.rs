//! ClickHouse: the sink beside clickhouse-client's INSERT over the native protocol, into the same table.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use forebay::{config::ClickhouseSink, destination::clickhouse::ClickhouseDestination};
use forebay_actors::record::Batch;

use super::{Target, compare, service::Service};

struct Clickhouse(Service);

/// Whether the sink reaches what is wanted of it.
pub async fn measure(batches: &[Arc<Batch>]) -> bool {
    let Some(server) = Service::start("clickhouse", 2).map(Clickhouse) else { return true };
    if Command::new("clickhouse-client").arg("--version").output().is_err() {
        println!("clickhouse is left out: there is no clickhouse-client");
        return true;
    }
    let url = format!("http://127.0.0.1:{}", server.0.ports[0]);
    let sink = ClickhouseDestination::new(&ClickhouseSink::to(url)).expect("the options are right");
    compare("clickhouse", 0.80, &server, &sink, batches).await
}

impl Clickhouse {
    fn file(&self) -> PathBuf {
        self.0.dir.path().join("rows")
    }

    fn client(&self, sql: &str, from: Stdio, to: Stdio) -> String {
        let mut client = Command::new("clickhouse-client");
        client.args(["--host", "127.0.0.1", "--port", &self.0.ports[1].to_string(), "--query", sql]);
        let ran = client.stdin(from).stdout(to).stderr(Stdio::piped()).spawn();
        let ran = ran.and_then(std::process::Child::wait_with_output).expect("the client was just there");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

impl Target for Clickhouse {
    fn empty(&self) {
        self.client("TRUNCATE TABLE events", Stdio::null(), Stdio::piped());
    }

    fn count(&self) -> u64 {
        let count = self.client("SELECT count() FROM events", Stdio::null(), Stdio::piped());
        count.parse().expect("a number")
    }

    fn save(&self) {
        let file = File::create(self.file()).expect("a file in its own directory");
        self.client("SELECT * FROM events FORMAT Native", Stdio::null(), file.into());
    }

    fn load(&self) {
        let file = File::open(self.file()).expect("it was saved");
        self.client("INSERT INTO events FORMAT Native", file.into(), Stdio::piped());
    }
}
