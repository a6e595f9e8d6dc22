//! SIGKILL at chosen moments and in every durability mode, in short cycles: acknowledged against delivered, by number.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    binary::{Forebay, Place},
    http::{Connection, Destination},
    thorough, until,
};

const CLIENTS: usize = 3;

/// What `interval` may lose: what was sent this long before the kill, and what a busy machine adds.
const SYNC_INTERVAL: Duration = Duration::from_millis(40);
const LATE_AT_MOST: Duration = Duration::from_secs(3);

/// Clients that post to whatever process there is.
struct Load {
    /// Where the process listens now; `None` while there is none.
    address: Mutex<Option<SocketAddr>>,
    /// Ids that were answered with 202, and when they were sent.
    acknowledged: Mutex<BTreeMap<String, Instant>>,
    posts: AtomicUsize,
    ended: AtomicBool,
    events_of_a_post: usize,
    message_bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    fn new(events_of_a_post: usize, message_bytes: usize) -> Self {
        let (address, acknowledged) = (Mutex::default(), Mutex::default());
        let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { address, acknowledged, posts, ended, events_of_a_post, message_bytes }
    }

    /// Posts until it is told to end. What is refused or not answered counts as never sent: its ids are not used again.
    fn post(&self, client: usize) {
        let mut connection: Option<Connection> = None;
        let mut random = fastrand::Rng::with_seed(client as u64);
        let noise: String = (0..1 << 20).map(|_| random.alphanumeric()).collect();
        let mut round = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                let address = *lock(&self.address);
                connection = address.and_then(|address| Connection::open(address).ok());
                // Nobody listens while the process starts.
                std::thread::park_timeout(Duration::from_millis(1));
                continue;
            };
            round += 1;
            let ids: Vec<_> = (0..self.events_of_a_post).map(|i| format!("c{client}-r{round}-{i}")).collect();
            let event = |id: &String| {
                let from = random.usize(..noise.len() - self.message_bytes);
                json!({"service": "s", "message": noise[from..from + self.message_bytes], "event_id": id})
            };
            let body = Value::from(ids.iter().map(event).collect::<Vec<_>>()).to_string();
            // An answer may be read after the process is gone, but nothing is sent to it then.
            let sent = Instant::now();
            match open.request("POST", "/events", &[], body.as_bytes()) {
                Ok(answer) if answer.status == 202 => {
                    lock(&self.acknowledged).extend(ids.into_iter().map(|id| (id, sent)));
                    self.posts.fetch_add(1, Ordering::Relaxed);
                }
                // It is about to end.
                Ok(answer) if answer.status == 503 => connection = None,
                Ok(answer) => panic!("{answer:?}"),
                Err(_) => connection = None,
            }
        }
    }

    /// Waits until so many more posts were acknowledged.
    fn more(&self, posts: usize) {
        let enough = self.posts.load(Ordering::Relaxed) + posts;
        until("posts are acknowledged", || self.posts.load(Ordering::Relaxed) >= enough);
    }

    /// Lets clients post while processes are killed: `life` gets each process, and a random source of its own, and
    /// returns when it is to be killed. Returns the last process, and when the others were killed.
    fn under_kills(
        &self,
        place: &Place,
        kills: u64,
        mut life: impl FnMut(&mut Forebay, &mut fastrand::Rng),
    ) -> (Forebay, Vec<Instant>) {
        let mut killed = Vec::new();
        let last = std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || self.post(client));
            }
            let mut process = place.start();
            for seed in 0..kills {
                *lock(&self.address) = Some(process.address);
                life(&mut process, &mut fastrand::Rng::with_seed(seed));
                process.kill();
                // Answers may have come until now.
                killed.push(Instant::now());
                *lock(&self.address) = None;
                process = place.start();
            }
            self.ended.store(true, Ordering::Relaxed);
            process
        });
        (last, killed)
    }

    /// The acknowledged events that the destination never got. It gets events in order, so when one that is posted now has
    /// come, nothing before it will.
    fn lost(&self, last: &Forebay, destination: &Destination) -> Vec<(String, Instant)> {
        last.post_json(json!({"service": "s", "message": "after all", "event_id": "last"}).to_string())
            .ok(202);
        until("what is posted now is delivered", || destination.has("last"));
        let delivered = destination.events();
        let lost = lock(&self.acknowledged)
            .iter()
            .filter(|(id, _)| !delivered.contains_key(*id))
            .map(|(id, at)| (id.clone(), *at))
            .collect();
        let (_, twice) = destination.positions();
        assert!(twice.is_empty(), "positions were given twice: {twice:?}");
        lost
    }

    fn count(&self) -> usize {
        lock(&self.acknowledged).len()
    }
}

/// Events that the dead letters of the sink `up` account for as damaged.
fn damaged(place: &Place) -> u64 {
    let letters = place.run(&["dead-letter", "list", "up", "--limit", "1000"]).ok();
    let letters = letters.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    letters
        .filter(|letter| letter["reason"] == "damaged")
        .map(|letter| letter["events"].as_u64().unwrap())
        .sum()
}

/// Promise P1, `fsync`: the process is killed at random moments under load, and while the destination takes batches.
/// Nothing that was acknowledged is lost, nothing is reported as damaged, no position is given twice.
#[test]
fn p1_sigkills_cost_nothing_with_fsync() {
    let destination = Destination::start();
    let place =
        Place::empty().sink("up", &destination.sink()).section("batch: { max_events: 7, max_wait: 5ms }");
    let load = Load::new(4, 300);
    let (mut last, _) = load.under_kills(&place, thorough(8, 60), |_, random| load.more(random.usize(..80)));
    assert_eq!(load.lost(&last, &destination), []);
    assert_eq!(damaged(&place), 0);
    println!("{} acknowledged, none lost", load.count());
    assert_eq!(last.stop(), Some(0));
}

/// Promise P1, `interval`: as before, with a sync every few milliseconds. What is lost was acknowledged within the last
/// interval before a kill; the dead letters account for it; no position is given twice and the sink goes on.
#[test]
fn p1_sigkills_cost_at_most_the_last_interval() {
    let destination = Destination::start();
    let buffer =
        format!("buffer: {{ durability: interval, sync_interval: {}ms }}", SYNC_INTERVAL.as_millis());
    let place = Place::empty()
        .sink("up", &destination.sink())
        .section(&buffer)
        .section("batch: { max_events: 7, max_wait: 5ms }");
    let load = Load::new(4, 300);
    let mut lives = 0;
    let (mut last, killed) = load.under_kills(&place, thorough(8, 60), |_, random| {
        // What the destination has not got only the journal has.
        destination.answer(if random.bool() { 503 } else { 200 });
        load.more(random.usize(1..150));
        if lives % 16 == 0 {
            // Longer than the promised window, or nothing could be lost that must not.
            destination.answer(503);
            let begin = Instant::now();
            until("the window is over", || begin.elapsed() > SYNC_INTERVAL + LATE_AT_MOST);
        }
        lives += 1;
    });
    destination.answer(200);
    let lost = load.lost(&last, &destination);
    for (id, at) in &lost {
        let kill = killed.iter().find(|kill| **kill >= *at).expect("after the last start nothing was lost");
        let before = *kill - *at;
        assert!(
            before <= SYNC_INTERVAL + LATE_AT_MOST,
            "{id} was sent {before:?} before the kill, acknowledged, and lost"
        );
    }
    let accounted = damaged(&place);
    assert!(lost.len() as u64 <= accounted, "{} lost, {accounted} accounted for", lost.len());
    println!("{} acknowledged, {} lost, {accounted} accounted for", load.count(), lost.len());
    assert_eq!(last.stop(), Some(0));
}

/// Promise P1, `memory`: what was not delivered dies with the process, but the next one starts, goes on, and gives no
/// position twice: not even those of batches that the destination had taken a moment before the kill.
#[test]
fn p1_sigkills_with_memory_give_no_position_twice() {
    let destination = Destination::start();
    let place = Place::empty()
        .sink("up", &destination.sink())
        .section("buffer: { durability: memory }")
        .section("batch: { max_events: 4, max_wait: 5ms }");
    let load = Load::new(4, 300);
    let (mut last, _) = load.under_kills(&place, thorough(8, 60), |_, random| load.more(random.usize(1..80)));
    let lost = load.lost(&last, &destination);
    println!("{} acknowledged, {} lost with the memory", load.count(), lost.len());
    assert_eq!(last.stop(), Some(0));
}

/// Names in the journal's directory.
fn generations(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.data_dir().join("journal")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits, without giving the processor away, for something that is over in a moment.
fn seen(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never seen: {what}");
        std::thread::yield_now();
    }
}

/// Promise P1: the process is killed the moment a generation of the journal appears or goes away: while one is made, and
/// while retention removes one. Nothing that was acknowledged is lost, and nothing is reported as damaged.
#[test]
fn p1_sigkills_during_roll_and_retention_cost_nothing() {
    let destination = Destination::start();
    let place = Place::empty().sink("up", &destination.sink());
    let load = Load::new(12, 60_000);
    let (mut last, _) = load.under_kills(&place, thorough(4, 30), |_, random| {
        let before = generations(&place);
        let is_there = |now: &[String], name: &String| now.contains(name);
        if random.bool() {
            seen("a new generation", || generations(&place).iter().any(|name| !is_there(&before, name)));
        } else {
            seen("one less", || {
                let now = generations(&place);
                before.iter().any(|name| !is_there(&now, name))
            });
        }
        // A few system calls later each time.
        (0..random.usize(..40)).for_each(|_| std::thread::yield_now());
    });
    assert_eq!(load.lost(&last, &destination), []);
    assert_eq!(damaged(&place), 0);
    println!("{} acknowledged, none lost", load.count());
    assert_eq!(last.stop(), Some(0));
}

/// Promise P1: the process is killed on SIGTERM's way, while it drains to a destination that refuses. What was
/// acknowledged is delivered by the next.
#[test]
fn p1_sigkills_during_the_shutdown_cost_nothing() {
    let destination = Destination::start();
    let place = Place::empty().sink("up", &destination.sink());
    let load = Load::new(4, 300);
    let (mut last, _) = load.under_kills(&place, thorough(5, 30), |process, random| {
        destination.answer(if random.bool() { 503 } else { 200 });
        load.more(random.usize(1..40));
        process.signal("TERM");
        match random.u8(..3) {
            0 => {}
            1 => seen("the gate is closed", || {
                let probe =
                    Connection::open(process.address).and_then(|mut c| c.request("GET", "/ready", &[], b""));
                probe.is_ok_and(|answer| answer.status == 503) || process.has_ended()
            }),
            _ => (0..random.usize(..2_000)).for_each(|_| std::thread::yield_now()),
        }
    });
    destination.answer(200);
    assert_eq!(load.lost(&last, &destination), []);
    assert_eq!(damaged(&place), 0);
    println!("{} acknowledged, none lost", load.count());
    assert_eq!(last.stop(), Some(0));
}

/// The files of a first start, in the order in which they come. A kill comes when one of them is seen, or shortly after.
fn stages(data: &Path) -> Vec<Box<dyn Fn() -> bool>> {
    let there = |path: &str| -> Box<dyn Fn() -> bool> {
        let path = data.join(path);
        Box::new(move || path.exists())
    };
    let generation = "journal/00000000000000000000";
    let paths = ["", "LOCK", "ID", "state", "state/conf", "state/db", "journal"];
    let mut stages: Vec<_> = paths.into_iter().map(there).collect();
    for file in ["", "/blobs", "/conf", "/db", "/head"] {
        stages.push(there(&format!("{generation}{file}")));
    }
    stages.push(there("control.sock"));
    stages
}

/// Promise P1: the very first start is killed, again and again on the same data directory, each time when another of its
/// files appears. The next start is a whole one: it takes events and delivers them.
#[test]
fn p1_sigkills_during_the_first_start_cost_no_start() {
    for seed in 0..thorough(6, 60_u64) {
        let destination = Destination::start();
        let place = Place::new().sink("up", &destination.sink());
        place.write();
        let mut random = fastrand::Rng::with_seed(seed);
        let stages = stages(place.data_dir());
        // In the order of the files, or all of them would be there after the first.
        let at = seed as usize % stages.len();
        let further = random.usize(at..stages.len());
        for stage in [at, further] {
            let mut process = place.spawn();
            seen("a file of the first start", || stages[stage]() || process.has_ended());
            (0..random.usize(..30)).for_each(|_| std::thread::yield_now());
            process.kill();
        }
        let mut process = place.start();
        process.post_json(json!({"service": "s", "message": "m", "event_id": "first"}).to_string()).ok(202);
        until("it is delivered", || destination.has("first"));
        process.stored("first");
        assert_eq!(process.metric("forebay_buffer_damaged_records", ""), 0.0);
        assert_eq!(process.stop(), Some(0), "seed {seed}");
    }
}
