//! SIGKILL, again and again.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{
    binary::Place,
    http::{Connection, Destination},
    thorough, until,
};

const CLIENTS: usize = 4;

/// Posts at the end of which a process is killed: enough that kills come at different places of the way.
const ACKNOWLEDGED_PER_LIFE: usize = 40;

/// What the posting threads share.
struct Posting {
    /// Where the process listens now.
    address: RwLock<SocketAddr>,
    /// Ids whose post was answered with 202.
    acknowledged: Mutex<BTreeSet<String>>,
    posts: AtomicUsize,
    ended: AtomicBool,
}

/// Posts until it is told to end: single events, batches, and now and then an id that was posted before.
fn post(posting: &Posting, client: usize) {
    let mut connection: Option<Connection> = None;
    let mut round = 0;
    while !posting.ended.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            connection =
                Connection::open(*posting.address.read().unwrap_or_else(PoisonError::into_inner)).ok();
            // Nobody listens while the process starts.
            std::thread::park_timeout(std::time::Duration::from_millis(1));
            continue;
        };
        round += 1;
        let ids: Vec<_> = match round % 3 {
            0 => (0..50).map(|i| format!("c{client}-r{round}-{i}")).collect(),
            // Ids of the round before, whether or not that was answered.
            1 if round > 1 => (0..3).map(|i| format!("c{client}-r{}-{i}", round - 1)).collect(),
            _ => vec![format!("c{client}-r{round}-0")],
        };
        let event = |id: &String| json!({"service": format!("client-{client}"), "message": "m".repeat(200), "event_id": id});
        let body = match &ids[..] {
            [one] => event(one).to_string(),
            many => Value::from(many.iter().map(event).collect::<Vec<_>>()).to_string(),
        };
        match open.request("POST", "/events", &[], body.as_bytes()) {
            Ok(answer) if answer.status == 202 => {
                posting.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
                posting.posts.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => connection = None,
        }
    }
}

/// Promises P1 and P3: while four clients post, the process is killed ten times (in CI forty) with SIGKILL and started again on the
/// same data. Every acknowledged event is then in the store exactly once, whatever id was posted twice, and at the
/// HTTP destination at least once.
#[test]
fn p1_p3_ten_sigkills_lose_nothing() {
    let kills = thorough(10, 40);
    let destination = Destination::start();
    let place = Place::new().sink("up", &destination.sink());
    let mut forebay = place.start();
    let posting = Posting {
        address: RwLock::new(forebay.address),
        acknowledged: Mutex::default(),
        posts: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let posting = &posting;
            scope.spawn(move || post(posting, client));
        }
        for life in 0..kills {
            let before = posting.posts.load(Ordering::Relaxed);
            // Another number each time, so that deliveries, saves of cursors and trims are hit at other places.
            let enough = before + ACKNOWLEDGED_PER_LIFE + 7 * life;
            until("posts are acknowledged", || posting.posts.load(Ordering::Relaxed) >= enough);
            forebay.kill();
            forebay = place.start();
            *posting.address.write().unwrap_or_else(PoisonError::into_inner) = forebay.address;
        }
        posting.ended.store(true, Ordering::Relaxed);
    });
    let acknowledged = posting.acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > kills * ACKNOWLEDGED_PER_LIFE, "{} events are too few", acknowledged.len());
    until("every sink has caught up", || forebay.metric("forebay_buffer_events", "") == 0.0);

    let ids = |order: &str| -> Vec<String> {
        let events = forebay.all_events(&format!("limit=1000&order={order}"));
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
    };
    let rows = ids("oldest");
    let stored: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), stored.len(), "an id has two rows");
    assert_eq!(ids("newest").into_iter().rev().collect::<Vec<_>>(), rows);
    assert_eq!(forebay.counted(), rows.len() as u64, "the counts are those of the rows");
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{} acknowledged events are not in the store: {lost:?}", lost.len());
    let delivered = destination.events();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !delivered.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} acknowledged events never came: {lost:?}", lost.len());
    assert!(stored.iter().all(|id| delivered.contains_key(id)), "both sinks have the same");
    for id in acknowledged.iter().step_by(acknowledged.len() / 20) {
        assert_eq!(forebay.stored(id)["event_id"], **id);
    }
    assert_eq!(forebay.stop(), Some(0));
}
