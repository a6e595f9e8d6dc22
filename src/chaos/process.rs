//! The process that is under attack: the same binary, started with a configuration of its own, killed and started again.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    rc::Rc,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::oneshot,
};

use super::ChaosError;

/// Time for a start: a journal of gigabytes is looked through in that.
const START_MAX: Duration = Duration::from_secs(60);

/// Time for an answer. Nothing that is asked here takes long but for a process that has just been killed.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What the process prints when it can be reached.
const LISTENS: &str = "listening on http://";

/// The process under attack.
pub struct Process {
    binary: PathBuf,
    config_file: PathBuf,
    log: Rc<RefCell<File>>,
    token: String,
    client: reqwest::Client,
    child: RefCell<Option<Child>>,
    /// `None` while it is down.
    address: Cell<Option<SocketAddr>>,
    /// Starts so far.
    lives: Cell<u64>,
}

/// What `GET /admin/actors` says.
#[derive(Debug, Deserialize)]
pub struct Tree {
    /// Every actor, by name.
    pub actors: Vec<Actor>,
}

/// One actor, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Actor {
    /// As in metrics.
    pub name: String,
    /// `running`, where all is well.
    pub state: String,
    /// Since the process' start.
    pub restarts: u64,
    /// How far it has come, where it is a sink.
    pub sink: Option<Progress>,
}

/// How far a sink has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Progress {
    /// Every event before this has its outcome.
    pub next: u64,
    /// Events behind it.
    pub lag_events: u64,
}

impl Process {
    /// A process that has not been started yet; what it says goes to the log.
    ///
    /// # Errors
    /// Where there is no log or no client.
    pub fn new(
        binary: PathBuf,
        config_file: PathBuf,
        log_file: &Path,
        token: String,
    ) -> Result<Self, ChaosError> {
        let log = File::options().create(true).append(true).open(log_file);
        let log = log.map_err(|error| ChaosError::file(log_file, error))?;
        let client = crate::destination::local_client().map_err(|e| ChaosError::Client(e.to_string()))?;
        let client = client.timeout(ANSWER_MAX).build().map_err(|e| ChaosError::Client(e.to_string()))?;
        let (child, log) = (RefCell::default(), Rc::new(RefCell::new(log)));
        let (address, lives) = (Cell::new(None), Cell::new(0));
        Ok(Self { binary, config_file, log, token, client, child, address, lives })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// Where it ends instead, or takes too long.
    pub async fn start(&self) -> Result<(), ChaosError> {
        let mut child = Command::new(&self.binary)
            .arg("--config")
            .arg(&self.config_file)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for this process, which then ends that one itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ChaosError::file(&self.binary, error))?;
        let (listens, heard) = oneshot::channel();
        let listens = Rc::new(RefCell::new(Some(listens)));
        // With a console sink, standard output is the sink's, and all else is on the other.
        if let Some(stdout) = child.stdout.take() {
            tokio::task::spawn_local(listen(stdout, None, listens.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::task::spawn_local(listen(stderr, Some(self.log.clone()), listens));
        }
        let address = tokio::select! {
            heard = tokio::time::timeout(START_MAX, heard) => match heard {
                Ok(Ok(address)) => address,
                Ok(Err(_)) => return Err(ChaosError::Ended(child.wait().await.ok())),
                Err(_) => return Err(ChaosError::DoesNotStart(START_MAX)),
            },
            ended = child.wait() => return Err(ChaosError::Ended(ended.ok())),
        };
        *self.child.borrow_mut() = Some(child);
        self.address.set(Some(address));
        self.lives.set(self.lives.get() + 1);
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&self) {
        self.address.set(None);
        let child = self.child.borrow_mut().take();
        if let Some(mut child) = child {
            // One that has ended already is what is wanted.
            let _ = child.kill().await;
        }
    }

    /// How it ended, where nobody killed it and it did.
    pub fn ended_by_itself(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Where it listens; `None` while it is down.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get()
    }

    /// Starts so far.
    pub fn lives(&self) -> u64 {
        self.lives.get()
    }

    /// Every actor, its restarts and its progress; `None` where the process does not answer.
    pub async fn tree(&self) -> Option<Tree> {
        self.get("/admin/actors").await.ok()
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// What the process said, or why it could not be asked.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, String> {
        let address = self.address().ok_or("it is down")?;
        let request = self.client.get(format!("http://{address}{target}")).bearer_auth(&self.token);
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let body = answer.bytes().await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&body).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&body)))
    }

    /// Brings an actor down: `kill`, `panic` or `stall?for=…`.
    ///
    /// # Errors
    /// What the process said, or why it could not be asked.
    pub async fn inject(&self, actor: &str, fault: &str) -> Result<(), String> {
        let address = self.address().ok_or("it is down")?;
        let request = self.client.post(format!("http://{address}/admin/actors/{actor}/{fault}"));
        let answer = request.bearer_auth(&self.token).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("{status}: {}", answer.text().await.unwrap_or_default())),
        }
    }

    /// A client for events.
    pub fn client(&self) -> reqwest::Client {
        self.client.clone()
    }
}

/// Looks for the address, and keeps what is said where somebody wants it.
async fn listen(
    from: impl AsyncRead + Unpin,
    log: Option<Rc<RefCell<File>>>,
    listens: Rc<RefCell<Option<oneshot::Sender<SocketAddr>>>>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let address = line.strip_prefix(LISTENS).and_then(|address| address.trim().parse().ok());
        if let Some(address) = address
            && let Some(listens) = listens.borrow_mut().take()
        {
            let _ = listens.send(address);
        }
        if let Some(log) = &log {
            // A log that cannot be written is no reason to stop reading: the process would hang.
            let _: io::Result<()> = writeln!(log.borrow_mut(), "{line}");
        }
    }
}
