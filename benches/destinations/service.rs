//! A server of a script in `tests/services`, in a directory of its own.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

pub struct Service {
    script: PathBuf,
    pub dir: TempDir,
    /// One for each protocol that was asked for.
    pub ports: Vec<u16>,
}

impl Service {
    /// Starts it with so many ports; `None`, and a word about it, where it is not installed.
    pub fn start(name: &str, ports: usize) -> Option<Self> {
        Self::start_with(name, ports, &[], &[])
    }

    /// The same with these variables in its environment, and more words for its script.
    pub fn start_with(name: &str, ports: usize, variables: &[(&str, &str)], more: &[&str]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(name);
        if !Command::new(&script).arg("version").output().is_ok_and(|output| output.status.success()) {
            println!("{name} is left out: `tests/services/{name} version` fails");
            return None;
        }
        let dir = TempDir::new().expect("a temporary directory");
        // The server may run as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("its owner is this process");
        let listeners: Vec<_> =
            (0..ports).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
        let ports: Vec<_> =
            listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect();
        drop(listeners);
        let mut start = Command::new(&script);
        start.envs(variables.iter().copied());
        start.arg("start").arg(dir.path()).args(ports.iter().map(u16::to_string)).args(more);
        assert!(start.output().is_ok_and(|started| started.status.success()), "{name} starts");
        Some(Self { script, dir, ports })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("kill").arg(self.dir.path()).output();
    }
}
