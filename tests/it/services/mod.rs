//! Destinations against the real servers. Each server is started by a script of `tests/services`, in a temporary directory
//! and on loopback; where it is not installed, its tests are skipped by name, and fail in CI.

mod postgres;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::support::skipped;

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
