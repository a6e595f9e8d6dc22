//! The end and the reload of the process, under load, with a destination that is down.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
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

const CLIENTS: usize = 4;

/// What the posting threads share.
#[derive(Default)]
struct Load {
    acknowledged: Mutex<Vec<String>>,
    posts: AtomicUsize,
    refused: AtomicUsize,
    ended: AtomicBool,
}

impl Load {
    /// Posts while `meanwhile` runs, and returns what that does.
    fn while_posting<T>(&self, forebay: &mut Forebay, meanwhile: impl FnOnce(&Self, &mut Forebay) -> T) -> T {
        self.ended.store(false, Ordering::Relaxed);
        let address = forebay.address;
        std::thread::scope(|scope| {
            (0..CLIENTS).for_each(|_| drop(scope.spawn(move || self.post(address))));
            // Also where that fails: else the threads would go on for ever.
            let _end = OnDrop(|| self.ended.store(true, Ordering::Relaxed));
            meanwhile(self, forebay)
        })
    }

    fn post(&self, address: SocketAddr) {
        let mut connection = None;
        while !self.ended.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                connection = Connection::open(address).ok();
                // Nobody listens any more.
                connection.is_none().then(|| std::thread::park_timeout(Duration::from_millis(1)));
                continue;
            };
            let post = self.posts.fetch_add(1, Ordering::Relaxed);
            let ids: Vec<_> = (0..10).map(|event| format!("u{post}-{event}")).collect();
            let event = |id: &String| json!({"service": "s", "message": "m".repeat(200), "event_id": id});
            let body = Value::from(ids.iter().map(event).collect::<Vec<_>>()).to_string();
            match open.request("POST", "/events", &[("Content-Type", "application/json")], body.as_bytes()) {
                Ok(answer) if answer.status == 202 => {
                    self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
                }
                Ok(answer) => {
                    answer.error(503, "shutting_down");
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => connection = None,
            }
        }
    }

    fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn more_are_acknowledged(&self, more: usize) {
        let enough = self.acknowledged().len() + more;
        until("events are acknowledged", || self.acknowledged().len() >= enough);
    }
}

/// Runs its closure when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Under load, one destination down and one up, the process is told to end, and later told to end and then at once: it ends
/// within its deadline, with 3, and says what is left; producers hear 503 `shutting_down` or nothing. The next start knows
/// all of it; when the destination is back everything acknowledged comes to both.
#[test]
fn an_end_under_load_loses_nothing() {
    let (down, up) = (Destination::start(), Destination::start());
    down.answer(503);
    let place =
        Place::empty().sink("down", &down.sink()).sink("up", &up.sink()).section("shutdown_timeout: 1s");
    let load = Load::default();
    let lives = thorough(3, 15);
    for life in 0..lives {
        let mut forebay = place.start();
        let (code, took) = load.while_posting(&mut forebay, |load, forebay| {
            load.more_are_acknowledged(100 + 30 * life);
            let began = Instant::now();
            forebay.signal("TERM");
            // In every third life it gets no time to drain.
            if life % 3 == 2 {
                forebay.says("shutting down");
                forebay.signal("TERM");
            }
            (forebay.wait().code(), began.elapsed())
        });
        if life % 3 == 2 {
            assert_eq!(code, Some(143));
            continue;
        }
        assert_eq!(code, Some(3));
        // The deadline, the last answers, and what a busy machine takes.
        assert!(took < Duration::from_secs(10), "it took {took:?}");
        until("the log says what is left", || {
            let log = forebay.log();
            let mut left = log.lines().filter(|line| line.contains("not delivered by the deadline"));
            left.any(|line| line.contains("down") && line.contains("events="))
        });
    }
    let acknowledged = load.acknowledged();
    let mut forebay = place.start();
    until("what one was up for has come", || acknowledged.iter().all(|id| up.has(id)));
    assert_eq!(down.count(), 0);
    down.answer(200);
    until("everything comes", || acknowledged.iter().all(|id| down.has(id)));
    let refused = load.refused.load(Ordering::Relaxed);
    eprintln!(
        "{lives} ends under load: {} acknowledged, {refused} requests refused, 0 lost",
        acknowledged.len()
    );
    assert_eq!(forebay.stop(), Some(0));
}

/// Under load, with a destination that is down, the configuration is read again and again: its sink gets other limits, a
/// sink comes and goes and comes back, a file is wrong. Producers do not notice; when the destination is back everything
/// acknowledged comes to it, and to the sink that came back, from its first coming on.
#[test]
fn reloads_under_load_lose_nothing() {
    let (down, other) = (Destination::start(), Destination::start());
    down.answer(503);
    let mut place = Place::empty().sink("down", &down.sink()).sink("other", &other.sink());
    place = place.section("shutdown_timeout: 1s");
    let mut forebay = place.start();
    let load = Load::default();
    let rounds = thorough(6, 60);
    load.while_posting(&mut forebay, |load, forebay| {
        for round in 0..rounds {
            let limits = format!("batch: {{ max_events: {} }}, type: http", 10 + round);
            place.set_sink("down", Some(&down.sink().replace("type: http", &limits)));
            match round % 3 {
                // It keeps its place, and the journal does not wait for it: nothing may have been removed meanwhile, since
                // the other sink is behind.
                0 => place.set_sink("other", None),
                1 => place.set_sink("other", Some(&other.sink())),
                _ => place.set_sink("other", Some("{ type: nonsense }")),
            }
            place.write();
            let said = |what: &str| forebay.log().matches(what).count();
            let (read, stays) = (said("was read again"), said("stays as it was"));
            forebay.signal("HUP");
            match round % 3 {
                2 => until("a wrong file changes nothing", || said("stays as it was") > stays),
                _ => until("it is read again", || said("was read again") > read),
            }
            load.more_are_acknowledged(50);
        }
    });
    assert_eq!(load.refused.load(Ordering::Relaxed), 0, "producers do not notice");
    place.set_sink("other", Some(&other.sink()));
    place.write();
    forebay.signal("HUP");
    let acknowledged = load.acknowledged();
    until("the other sink has everything", || acknowledged.iter().all(|id| other.has(id)));
    assert_eq!(down.count(), 0);
    // And the end while it is down.
    assert_eq!(forebay.stop(), Some(3));
    down.answer(200);
    let mut forebay = place.start();
    until("everything comes", || acknowledged.iter().all(|id| down.has(id)));
    eprintln!("{rounds} reloads under load: {} acknowledged, 0 lost", acknowledged.len());
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", ""), 0.0);
    assert_eq!(forebay.stop(), Some(0));
}
