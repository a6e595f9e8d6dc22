//! Destinations against the real servers. Each server is started by a script of `tests/services`, in a temporary directory
//! and on loopback; where it is not installed, its tests are skipped by name, and fail in CI.

mod clickhouse;
mod postgres;
mod s3;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{binary::Forebay, http::Connection, skipped, until};

/// A server of a script in `tests/services`.
struct Service {
    script: PathBuf,
    dir: TempDir,
    port: u16,
    is_up: bool,
}

impl Service {
    /// Starts it, or says that `test` is skipped because it is not installed.
    fn start(name: &str, test: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(name);
        if !Command::new(&script).arg("version").output().is_ok_and(|output| output.status.success()) {
            let why = format!("`{} version` fails: the server is not installed", script.display());
            assert!(std::env::var_os("CI").is_none(), "{why}");
            skipped(test, &why);
            return None;
        }
        let dir = TempDir::with_prefix("forebay-it-").unwrap();
        // The server may run as another user.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut service = Self { script, dir, port: 0, is_up: false };
        // Another process may take the port before the server does; then another one is free.
        for _ in 0..5 {
            service.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if service.try_up().status.success() {
                service.is_up = true;
                return Some(service);
            }
        }
        panic!("{:?}", service.try_up());
    }

    /// Starts it again, at the same port.
    fn up(&mut self) {
        let started = self.try_up();
        assert!(started.status.success(), "{started:?}");
        self.is_up = true;
    }

    fn try_up(&self) -> Output {
        let dir = self.dir.path();
        Command::new(&self.script).arg("start").arg(dir).arg(self.port.to_string()).output().unwrap()
    }

    /// Ends it in order, or as a crash would.
    fn down(&mut self, how: &str) {
        self.is_up = false;
        let ended = Command::new(&self.script).arg(how).arg(self.dir.path()).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.is_up {
            let _ = Command::new(&self.script).arg("kill").arg(self.dir.path()).output();
        }
    }
}

fn event(id: &str) -> Value {
    json!({"event_id": id, "service": "api", "message": "m", "timestamp": "2026-05-06T07:08:09.123456Z"})
}

#[track_caller]
fn post(forebay: &Forebay, events: &[Value]) {
    let answer = forebay.post_json(Value::from(events).to_string()).ok(202).json();
    assert_eq!(answer["accepted"], events.len());
}

/// What the sink says of its last failure, once it has one that contains `text`.
#[track_caller]
fn complains(forebay: &Forebay, text: &str) {
    until(&format!("the sink says {text:?}: {}", forebay.get("/health").text()), || {
        forebay.get("/health").text().contains(text)
    });
}

/// Posts until it is told to end; the ids that were acknowledged.
fn load(address: SocketAddr, posts: &AtomicUsize, ended: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = Connection::open(address) else { return acknowledged };
    while !ended.load(Ordering::Relaxed) {
        let post = posts.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<_> = (0..100).map(|event| format!("p{post}-{event}")).collect();
        let body = Value::from(ids.iter().map(|id| event(id)).collect::<Vec<_>>()).to_string();
        match connection.request("POST", "/events", &[("Content-Type", "application/json")], body.as_bytes())
        {
            Ok(answer) if answer.status == 202 => acknowledged.extend(ids),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    acknowledged
}
