//! The load: producers that post numbered events at a rate, and write down what was acknowledged.
//!
//! A request that is not acknowledged is never sent again: what is then delivered twice, Forebay has delivered twice.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    ledger::{Ledger, SERVICE},
    process::Process,
};

/// Requests on their way at the same time, at most one of each producer.
const PRODUCERS: usize = 4;

/// Requests a second, all producers together: events beyond come several in a request.
const REQUESTS_PER_SECOND_MAX: u32 = 40;

/// The producer of the events that fill the journal.
const FILLER: usize = PRODUCERS;

/// Pause of a filler whose request was not taken.
const FILLER_PAUSE: Duration = Duration::from_millis(20);

/// Events of a request that fills, and the most bytes of each: a record of the journal, so that nothing is repeated
/// within the reach of its compression.
const FILLER_EVENTS: u64 = 8;
const FILLER_EVENT_BYTES_MAX: usize = 256 * 1024;

/// Posts until it is stopped.
pub struct Load {
    shared: Rc<Shared>,
    producers: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    process: Rc<Process>,
    ledger: Rc<RefCell<Ledger>>,
    stopped: Cell<bool>,
    filling: Cell<bool>,
    /// Posts that were refused because the journal is full.
    refused_full: Cell<u64>,
    /// Text without any repetition.
    filler: String,
}

impl Load {
    /// Begins to post so many events a second. `event_bytes_max` is what the process takes.
    pub fn start(
        process: Rc<Process>,
        ledger: Rc<RefCell<Ledger>>,
        events_per_second: u32,
        event_bytes_max: usize,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(0);
        let filler_bytes = FILLER_EVENT_BYTES_MAX.min(event_bytes_max / 2);
        let filler = (0..filler_bytes).map(|_| random.alphanumeric()).collect();
        let (stopped, filling, refused_full) = Default::default();
        let shared = Rc::new(Shared { process, ledger, stopped, filling, refused_full, filler });
        shared.ledger.borrow_mut().begin();
        let requests_per_second = events_per_second.clamp(1, REQUESTS_PER_SECOND_MAX);
        let events = f64::from(events_per_second) / f64::from(requests_per_second);
        let period = Duration::from_secs(PRODUCERS as u64) / requests_per_second;
        let mut producers = Vec::new();
        for producer in 0..PRODUCERS {
            let offset = period * producer as u32 / PRODUCERS as u32;
            producers
                .push(tokio::task::spawn_local(shared.clone().produce(producer, events, period, offset)));
        }
        producers.push(tokio::task::spawn_local(shared.clone().fill()));
        Self { shared, producers }
    }

    /// From now on large events fill the journal as fast as it takes them; or no more.
    pub fn fill(&self, filling: bool) {
        self.shared.filling.set(filling);
    }

    /// Posts that were refused so far because the journal was full.
    pub fn refused_full(&self) -> u64 {
        self.shared.refused_full.get()
    }

    /// Ends, when the requests on their way have their answers.
    pub async fn stop(&mut self) {
        self.shared.stopped.set(true);
        for producer in self.producers.drain(..) {
            // A producer that panicked has said so.
            let _ = producer.await;
        }
        self.shared.ledger.borrow_mut().end();
    }
}

impl Shared {
    async fn produce(self: Rc<Self>, producer: usize, events: f64, period: Duration, offset: Duration) {
        let mut ticks = tokio::time::interval_at(Instant::now() + offset, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A request has whole events; what is left over the next has more.
        let mut owed = 0.0;
        while !self.stopped.get() {
            ticks.tick().await;
            owed += events;
            self.post(producer, owed as u64, "an event of forebay chaos").await;
            owed = owed.fract();
        }
    }

    async fn fill(self: Rc<Self>) {
        while !self.stopped.get() {
            if !self.filling.get() || !self.post(FILLER, FILLER_EVENTS, &self.filler).await {
                tokio::time::sleep(FILLER_PAUSE).await;
            }
        }
    }

    /// Posts one request; whether it was acknowledged.
    async fn post(&self, producer: usize, events: u64, message: &str) -> bool {
        let Some(address) = self.process.address() else { return false };
        let (first, body) = {
            let mut ledger = self.ledger.borrow_mut();
            let first = ledger.post(producer, events);
            let event =
                |number| json!({"event_id": ledger.id(number), "service": SERVICE, "message": message});
            (first, (first..first + events).map(event).collect::<Value>().to_string())
        };
        let begun = Instant::now();
        let request = self.process.client().post(format!("http://{address}/events"));
        let Ok(answer) = request.header("Content-Type", "application/json").body(body).send().await else {
            return false;
        };
        let status = answer.status().as_u16();
        let Ok(text) = answer.text().await else { return false };
        match status {
            200..=299 => self.ledger.borrow_mut().acknowledge(first, begun),
            503 if text.contains("\"journal_full\"") => self.refused_full.set(self.refused_full.get() + 1),
            _ => tracing::debug!(status, text, "a request of the load was refused"),
        }
        (200..=299).contains(&status)
    }
}
