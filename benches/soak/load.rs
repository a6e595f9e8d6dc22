//! The load: numbered events at a fixed rate, whatever the server does. What it could not be asked in time is left out: an
//! outage is not made up for by a flood.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{Failure, client::Connection, ledger::Ledger};

/// Connections, each with one request outstanding. Enough for the rate also where each waits for a commit.
const CONNECTIONS: usize = 16;
/// Events of a request.
const REQUEST_EVENTS: u64 = 100;
/// What is later than this is left out.
const LATE_MAX: Duration = Duration::from_secs(1);
/// A request that has no answer by then has none.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Rest before a broken connection is opened again, and after a refusal.
const AFTER_BREAK: Duration = Duration::from_millis(100);

/// What load there is to be.
#[derive(Debug, Clone)]
pub struct Load {
    /// Events a second.
    pub rate: u64,
    /// Chance.
    pub seed: u64,
    /// Where to; changes when the server is started anew.
    pub address: watch::Receiver<SocketAddr>,
    /// Where what is acknowledged is noted.
    pub ledger: Arc<Ledger>,
}

/// Load that is being made, until it is told to stop or dropped.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    connections: JoinSet<()>,
    turns: Rc<Turns>,
}

/// What the connections share.
#[derive(Debug)]
struct Turns {
    began: Instant,
    every: Duration,
    next: Cell<u32>,
    next_event: Cell<u64>,
    refused: RefCell<BTreeMap<String, u64>>,
}

// === impl Load ===

impl Load {
    /// Begins. Has to be called within a `LocalSet`.
    pub fn start(self) -> Running {
        let turns = Rc::new(Turns {
            began: Instant::now(),
            every: Duration::from_secs_f64(REQUEST_EVENTS as f64 / self.rate as f64),
            next: Cell::new(0),
            next_event: Cell::new(0),
            refused: RefCell::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        for index in 0..CONNECTIONS as u64 {
            let (load, turns, stopped) = (self.clone(), Rc::clone(&turns), stopped.clone());
            connections.spawn_local(load.keep_sending(turns, stopped, Rng::with_seed(self.seed ^ index)));
        }
        Running { stop, connections, turns }
    }

    async fn keep_sending(self, turns: Rc<Turns>, mut stopped: watch::Receiver<bool>, mut random: Rng) {
        let mut connection = None;
        loop {
            let due = turns.take();
            tokio::select! {
                // Also where `Running` was dropped.
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = tokio::time::sleep_until(due) => {}
            }
            let first = turns.next_event.get();
            let numbers = first..first + REQUEST_EVENTS;
            turns.next_event.set(numbers.end);
            let request = request(numbers.clone(), &mut random);
            let address = *self.address.borrow();
            match tokio::time::timeout(ANSWER_MAX, exchange(&mut connection, address, &request)).await {
                Ok(Ok(200..300)) => {
                    self.ledger.acknowledge(numbers);
                    continue;
                }
                Ok(Ok(status)) => turns.refused(status),
                Ok(Err(error)) => {
                    connection = None;
                    turns.refused(error.kind());
                }
                Err(_) => {
                    connection = None;
                    turns.refused("no answer");
                }
            }
            tokio::time::sleep(AFTER_BREAK).await;
        }
    }
}

// === impl Turns ===

impl Turns {
    /// When the next request is due. Turns that are too late are left out.
    fn take(&self) -> Instant {
        let now = Instant::now();
        let due = |turn: u32| self.began + self.every * turn;
        let mut turn = self.next.get();
        if due(turn) + LATE_MAX < now {
            turn = ((now - self.began).as_secs_f64() / self.every.as_secs_f64()) as u32;
        }
        self.next.set(turn + 1);
        due(turn)
    }

    fn refused(&self, what: impl ToString) {
        *self.refused.borrow_mut().entry(what.to_string()).or_default() += REQUEST_EVENTS;
    }
}

// === impl Running ===

impl Running {
    /// Ends the load with the answers that are still to come; events without a success, by what came instead.
    ///
    /// # Errors
    /// Where a connection does not end.
    pub async fn stop(mut self) -> Result<BTreeMap<String, u64>, Failure> {
        self.stop.send_replace(true);
        let all_ended = async { while self.connections.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(2 * ANSWER_MAX, all_ended).await;
        ended.map_err(|_| Failure::Timeout("the load does not end".to_owned()))?;
        Ok(self.turns.refused.take())
    }
}

async fn exchange(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    request: &[u8],
) -> std::io::Result<u16> {
    let open = match connection.take() {
        Some(open) => open,
        None => Connection::open(address).await?,
    };
    connection.insert(open).exchange(request).await
}

/// A request of events with these numbers as their ids, about 300 bytes each, with as much chance in them as logs have.
fn request(numbers: std::ops::Range<u64>, random: &mut Rng) -> Vec<u8> {
    let routes = ["orders", "customers", "baskets", "products", "shipments"];
    let mut body = String::new();
    for number in numbers {
        let (route, status) = (routes[random.usize(..5)], [200, 200, 201, 404, 500][random.usize(..5)]);
        let separator = if body.is_empty() { '[' } else { ',' };
        let duration_ms = random.u32(1..400);
        let _ = write!(
            body,
            "{separator}{{\"event_id\":\"{number}\",\"service\":\"checkout\",\
             \"message\":\"GET /api/v2/{route}/{} answered {status} in {duration_ms} ms\",\
             \"metadata\":{{\"host\":\"node-{:02}\",\"region\":\"eu-central-1\",\"trace_id\":\"{:032x}\",\
             \"status\":{status},\"duration_ms\":{duration_ms},\"bytes\":{},\"user_agent\":\"curl/8.9.1\"}}}}",
            random.u32(10_000..100_000),
            random.u8(..24),
            random.u128(..),
            random.u32(200..60_000),
        );
    }
    body.push(']');
    let head = format!(
        "POST /events?ids=false HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}
