//! The load generator: one thread, many keep-alive connections, one request outstanding on each.
//!
//! It runs on the same two cores as the server, so what it spends the server lacks: requests are bytes
//! built beforehand, and of a response it reads the status and the length. One thread wakes once for many
//! responses; a second one would only take turns with the first.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::{JoinSet, LocalSet},
    time::Instant,
};

use super::{
    Failure, arguments::Protocol, client::Connection, events::Request, histogram::Histogram, otlp::Caller,
};

/// Not measured: caches, allocators and socket buffers find their size.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the last responses may take once the load has ended.
const LAST_RESPONSE_MAX: Duration = Duration::from_secs(10);
/// Rest of a connection after a refusal: a server that says 503 must not be asked in a tight loop.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);
/// Rest before a broken connection is opened again.
const AFTER_BREAK: Duration = Duration::from_millis(100);

/// What load there is to be.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// Sent in turn, by each connection from another place on.
    pub requests: Arc<[Request]>,
    /// Connections.
    pub connections: usize,
    /// In what the requests are carried.
    pub protocol: Protocol,
}

/// One connection of either protocol.
enum Sender {
    Http(Connection),
    Grpc(Caller),
}

impl Sender {
    async fn open(address: SocketAddr, protocol: Protocol) -> std::io::Result<Self> {
        Ok(match protocol {
            Protocol::Http => Self::Http(Connection::open(address).await?),
            Protocol::Grpc => Self::Grpc(Caller::open(address).await?),
        })
    }

    async fn exchange(&mut self, request: &Request) -> std::io::Result<u16> {
        match self {
            Self::Http(connection) => connection.exchange(&request.bytes).await,
            Self::Grpc(caller) => caller.exchange(request).await,
        }
    }
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Events acknowledged with 2xx, from the first request to the last response.
    pub acked_events: u64,
    /// Requests acknowledged with 2xx, likewise.
    pub acked_requests: u64,
    /// Events acknowledged while it was measured.
    pub measured_events: u64,
    /// How long it was measured.
    pub measured: Duration,
    /// Latencies of the requests acknowledged while it was measured.
    pub latencies: Histogram,
    /// Processor time that neither the bench nor the server used meanwhile, in percent of all cores; filled
    /// in by whoever knows the server.
    pub others_cpu_percent: f64,
    /// Requests without a 2xx, by status or by what broke.
    pub errors: BTreeMap<String, u64>,
}

/// Load that is being made. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    phase: watch::Sender<Phase>,
    tally: oneshot::Receiver<Tally>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Stop,
}

// === impl Tally ===

impl Tally {
    /// Acknowledged events a second, while it was measured.
    pub fn events_per_s(&self) -> f64 {
        self.measured_events as f64 / self.measured.as_secs_f64()
    }

    fn error(&mut self, what: impl ToString) {
        *self.errors.entry(what.to_string()).or_default() += 1;
    }
}

// === impl Load ===

impl Load {
    /// Makes load for a warm-up and `window`.
    ///
    /// # Errors
    /// Where the thread cannot be started or does not end.
    pub async fn measure(self, window: Duration) -> Result<Tally, Failure> {
        let running = self.start()?;
        tokio::time::sleep(WARM_UP).await;
        running.phase.send_replace(Phase::Measure);
        let began = Instant::now();
        tokio::time::sleep(window).await;
        let measured = began.elapsed();
        Ok(Tally { measured, ..running.stop().await? })
    }

    /// Makes load until it is stopped.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(self) -> Result<Running, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::io("start the load generator's runtime"))?;
        let (phase, phases) = watch::channel(Phase::WarmUp);
        let (done, tally) = oneshot::channel();
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                // Nobody listens any more where the run was interrupted.
                let _ = done.send(LocalSet::new().block_on(&runtime, self.drive(phases)));
            })
            .map_err(Failure::io("start the load generator's thread"))?;
        Ok(Running { phase, tally })
    }

    async fn drive(self, mut phases: watch::Receiver<Phase>) -> Tally {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut connections = JoinSet::new();
        for index in 0..self.connections {
            let first = index * self.requests.len() / self.connections;
            let (address, protocol, requests) = (self.address, self.protocol, Arc::clone(&self.requests));
            let (phases, tally) = (phases.clone(), Rc::clone(&tally));
            connections.spawn_local(async move {
                keep_sending(address, protocol, &requests, first, &phases, &tally).await
            });
        }
        // An error means that `Running` was dropped, which stops as well.
        let _ = phases.wait_for(|phase| *phase == Phase::Stop).await;
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_RESPONSE_MAX, all_ended).await.is_err() {
            for _ in 0..connections.len() {
                tally.borrow_mut().error("unanswered");
            }
            connections.shutdown().await;
        }
        tally.take()
    }
}

// === impl Running ===

impl Running {
    /// Ends the load, with the responses that are still to come.
    ///
    /// # Errors
    /// Where the load generator does not end.
    pub async fn stop(self) -> Result<Tally, Failure> {
        self.phase.send_replace(Phase::Stop);
        let stuck = || Failure::Timeout("the load generator does not end".to_owned());
        let tally = tokio::time::timeout(2 * LAST_RESPONSE_MAX, self.tally).await;
        tally.ok().and_then(Result::ok).ok_or_else(stuck)
    }
}

/// One connection's life, with as many sockets as the server makes necessary.
async fn keep_sending(
    address: SocketAddr,
    protocol: Protocol,
    requests: &[Request],
    first: usize,
    phases: &watch::Receiver<Phase>,
    tally: &RefCell<Tally>,
) {
    let mut turn = requests.iter().cycle().skip(first);
    while !is_over(phases) {
        let Ok(mut connection) = Sender::open(address, protocol).await else {
            tally.borrow_mut().error("connect");
            tokio::time::sleep(AFTER_BREAK).await;
            continue;
        };
        while !is_over(phases) {
            let request = turn.next().expect("a cycle over requests has no end");
            let began = Instant::now();
            let status = match connection.exchange(request).await {
                Ok(status) => status,
                Err(error) => {
                    tally.borrow_mut().error(error.kind());
                    tokio::time::sleep(AFTER_BREAK).await;
                    break;
                }
            };
            if !(200..300).contains(&status) {
                tally.borrow_mut().error(status);
                tokio::time::sleep(AFTER_REFUSAL).await;
                continue;
            }
            let mut tally = tally.borrow_mut();
            tally.acked_events += request.events;
            tally.acked_requests += 1;
            if *phases.borrow() == Phase::Measure {
                tally.measured_events += request.events;
                tally.latencies.record(began.elapsed());
            }
        }
    }
}

/// Whether the load has ended, or whoever wanted it has gone.
fn is_over(phases: &watch::Receiver<Phase>) -> bool {
    *phases.borrow() == Phase::Stop || phases.has_changed().is_err()
}
