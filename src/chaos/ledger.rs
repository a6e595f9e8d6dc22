//! The books of a run: which numbered events were posted, which of them were acknowledged, and what came of them at each
//! sink.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// The service of the events of a run.
pub const SERVICE: &str = "forebay-chaos";

/// Everything that is known of the events.
#[derive(Debug)]
pub struct Ledger {
    /// What the ids of this run begin with; another run on the same data has other ids.
    prefix: String,
    /// In the order of their numbers.
    posts: Vec<Post>,
    next: u64,
    acknowledged: u64,
    sinks: BTreeMap<String, Arrivals>,
    /// When the newest post was begun that was acknowledged.
    newest_acknowledged: Option<Instant>,
    last_acknowledgement: Option<Instant>,
    longest_stall: Duration,
}

/// One request: events with numbers one after the other.
#[derive(Debug)]
struct Post {
    first: u64,
    events: u64,
    producer: usize,
    acknowledged: bool,
}

/// What came to one sink.
#[derive(Debug, Default)]
struct Arrivals {
    /// By number: how often it came, and as the how many-th it came first.
    events: Vec<(u32, u64)>,
    received: u64,
    last: Option<Instant>,
}

/// What came of the acknowledged events at one sink.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that came, each once.
    pub delivered: u64,
    /// Deliveries of events that had come before, acknowledged or not.
    pub duplicated: u64,
    /// Acknowledged events that came behind a later one of the same producer.
    pub reordered: u64,
    /// Numbers of acknowledged events that never came.
    pub missing: Vec<u64>,
}

impl Ledger {
    /// Empty books for these sinks.
    pub fn new(run: u32, sinks: impl IntoIterator<Item = String>) -> Self {
        Self {
            prefix: format!("chaos-{run:08x}-"),
            posts: Vec::new(),
            next: 0,
            acknowledged: 0,
            sinks: sinks.into_iter().map(|sink| (sink, Arrivals::default())).collect(),
            newest_acknowledged: None,
            last_acknowledgement: None,
            longest_stall: Duration::ZERO,
        }
    }

    /// The load begins: from now on acknowledgements are waited for.
    pub fn begin(&mut self) {
        self.last_acknowledgement = Some(Instant::now());
    }

    /// The load has ended: nobody waits any more.
    pub fn end(&mut self) {
        self.longest_stall = self.longest_stall();
        self.last_acknowledgement = None;
    }

    /// Takes the numbers of a request; the first of them.
    pub fn post(&mut self, producer: usize, events: u64) -> u64 {
        let first = self.next;
        self.next += events;
        self.posts.push(Post { first, events, producer, acknowledged: false });
        first
    }

    /// The request with this first number, begun at that time, was acknowledged.
    pub fn acknowledge(&mut self, first: u64, begun: Instant) {
        let Ok(place) = self.posts.binary_search_by_key(&first, |post| post.first) else { return };
        self.posts[place].acknowledged = true;
        self.acknowledged += self.posts[place].events;
        self.newest_acknowledged = self.newest_acknowledged.max(Some(begun));
        self.longest_stall = self.longest_stall();
        self.last_acknowledgement = self.last_acknowledgement.map(|_| Instant::now());
    }

    /// The event with this id came to the sink. What is no event of this run does not count.
    pub fn arrived(&mut self, sink: &str, id: &[u8]) {
        let Some(number) = self.number(id) else { return };
        let Some(arrivals) = self.sinks.get_mut(sink) else { return };
        let place = number as usize;
        if arrivals.events.len() <= place {
            arrivals.events.resize(self.next as usize, (0, 0));
        }
        let (times, order) = &mut arrivals.events[place];
        arrivals.received += 1;
        if *times == 0 {
            *order = arrivals.received;
        }
        *times += 1;
        arrivals.last = Some(Instant::now());
    }

    /// The events of a body, one a line as sinks write them, came to the sink.
    pub fn body_arrived(&mut self, sink: &str, body: &[u8]) {
        // Not parsed: the sandbox must keep up with whatever the relay delivers.
        const KEY: &[u8] = b"{\"event_id\":\"";
        let mut from = 0;
        while from < body.len() {
            let line = &body[from..];
            if let Some(rest) = line.strip_prefix(KEY)
                && let Some(end) = memchr::memchr(b'"', rest)
            {
                self.arrived(sink, &rest[..end]);
            }
            from += memchr::memchr(b'\n', line).map_or(line.len(), |end| end + 1);
        }
    }

    /// The id of an event.
    pub fn id(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// The number of an id of this run.
    pub fn number(&self, id: &[u8]) -> Option<u64> {
        let digits = id.strip_prefix(self.prefix.as_bytes())?;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (number < self.next).then_some(number)
    }

    /// Events acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Events posted so far, acknowledged or not.
    pub fn posted(&self) -> u64 {
        self.next
    }

    /// Whether a request that was begun at this time or later was acknowledged.
    pub fn acknowledged_since(&self, time: Instant) -> bool {
        self.newest_acknowledged.is_some_and(|newest| newest >= time)
    }

    /// Whether events came to the sink at this time or later.
    pub fn arrived_since(&self, sink: &str, time: Instant) -> bool {
        self.sinks.get(sink).and_then(|sink| sink.last).is_some_and(|last| last >= time)
    }

    /// The longest time between two acknowledgements.
    pub fn longest_stall(&self) -> Duration {
        self.longest_stall.max(self.last_acknowledgement.map_or(Duration::ZERO, |last| last.elapsed()))
    }

    /// Whether every acknowledged event has come to the sink.
    pub fn is_complete(&self, sink: &str) -> bool {
        self.acknowledged_numbers().all(|(_, number)| self.times(sink, number).0 > 0)
    }

    /// What came of the acknowledged events at this sink.
    pub fn tally(&self, sink: &str) -> Tally {
        let mut tally = Tally { acknowledged: self.acknowledged, ..Tally::default() };
        let mut newest = BTreeMap::<usize, u64>::new();
        for (producer, number) in self.acknowledged_numbers() {
            let (times, order) = self.times(sink, number);
            if times == 0 {
                tally.missing.push(number);
                continue;
            }
            tally.delivered += 1;
            let newest = newest.entry(producer).or_insert(0);
            tally.reordered += u64::from(order < *newest);
            *newest = order.max(*newest);
        }
        let all = self.sinks.get(sink).map_or(&[][..], |sink| &sink.events);
        tally.duplicated = all.iter().map(|(times, _)| u64::from(times.saturating_sub(1))).sum();
        tally
    }

    fn acknowledged_numbers(&self) -> impl Iterator<Item = (usize, u64)> {
        let acknowledged = self.posts.iter().filter(|post| post.acknowledged);
        acknowledged.flat_map(|post| (post.first..post.first + post.events).map(|n| (post.producer, n)))
    }

    fn times(&self, sink: &str, number: u64) -> (u32, u64) {
        let events = self.sinks.get(sink).map_or(&[][..], |sink| &sink.events);
        events.get(number as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(0xfeed, ["up".to_owned()])
    }

    fn arrive(ledger: &mut Ledger, numbers: &[u64]) {
        for number in numbers {
            let line = format!("{{\"event_id\":\"{}\",\"message\":\"m\"}}\n", ledger.id(*number));
            ledger.body_arrived("up", line.as_bytes());
        }
    }

    /// What was acknowledged and did not come is missing, by number; what came twice or was not acknowledged is not.
    #[test]
    fn what_did_not_come_is_missing() {
        let mut ledger = ledger();
        for producer in [0, 1, 0] {
            ledger.post(producer, 2);
        }
        ledger.acknowledge(0, Instant::now());
        ledger.acknowledge(4, Instant::now());
        arrive(&mut ledger, &[0, 2, 1, 1, 1, 4]);
        assert!(!ledger.is_complete("up"));
        let tally = ledger.tally("up");
        let expected = Tally { acknowledged: 4, delivered: 3, duplicated: 2, reordered: 0, missing: vec![5] };
        assert_eq!(tally, expected);
        arrive(&mut ledger, &[5]);
        assert!(ledger.is_complete("up"));
        assert_eq!(ledger.tally("up").missing, [0; 0]);
    }

    /// Order is looked at for each producer, and only by the first time that an event comes.
    #[test]
    fn order_is_that_of_each_producer() {
        let mut ledger = ledger();
        for (first, producer) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
            assert_eq!(ledger.post(producer, 1), first);
            ledger.acknowledge(first, Instant::now());
        }
        arrive(&mut ledger, &[1, 0, 3, 0, 1, 2]);
        assert_eq!(ledger.tally("up").reordered, 0);
        let mut ledger = self::ledger();
        for first in 0..3 {
            ledger.post(0, 1);
            ledger.acknowledge(first, Instant::now());
        }
        arrive(&mut ledger, &[1, 0, 2]);
        assert_eq!(ledger.tally("up").reordered, 1);
    }

    /// Events of others, and of another run, do not count.
    #[test]
    fn strangers_do_not_count() {
        let mut ledger = ledger();
        ledger.post(0, 1);
        ledger.acknowledge(0, Instant::now());
        for id in ["chaos-0000beef-0", "chaos-0000feed-1", "chaos-0000feed-x", "0", ""] {
            ledger.arrived("up", id.as_bytes());
        }
        assert_eq!(ledger.tally("up").missing, [0]);
    }

    /// A stall lasts from one acknowledgement to the next, also when the next never comes.
    #[tokio::test(start_paused = true)]
    async fn the_longest_stall_counts_to_the_end() {
        let mut ledger = ledger();
        ledger.begin();
        for seconds in [3, 1] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let first = ledger.post(0, 1);
            ledger.acknowledge(first, Instant::now());
        }
        assert_eq!(ledger.longest_stall(), Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(5)).await;
        ledger.end();
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(ledger.longest_stall(), Duration::from_secs(5));
    }
}
