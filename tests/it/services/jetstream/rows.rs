//! Workers that deliver to a real server.

use super::{
    super::{assert_each_once, postgres::Postgres},
    *,
};
use crate::support::thorough;

/// Scenario: two workers share a stream and write to one table. Under load one of them is killed with SIGKILL, then the
/// receiver, too; both come back, again and again.
/// Guarantee: every event that the receiver has acknowledged is one row, also where the dead worker had written it and could
/// not say so any more.
#[test]
fn p1_p3_a_worker_and_the_receiver_die_and_each_event_is_one_row() {
    let test = "p1_p3_a_worker_and_the_receiver_die_and_each_event_is_one_row";
    let (Some(shared), Some(postgres)) = (Shared::start(test), Postgres::start(test)) else { return };
    let worker = || shared.place().sink("db", &postgres.sink(""));
    let (staying, dying, receiving) = (worker(), worker(), shared.place());
    let staying = staying.start();
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for _ in 0..thorough(1, 10) {
        let mut dying = dying.start();
        acknowledged.extend(std::thread::scope(|scope| {
            // In here, so that the load ends with it, whatever fails.
            let mut receiver = receiving.start();
            let (address, posts, ended) = (receiver.address, &posts, &ended);
            let load = scope.spawn(move || load(address, posts, ended));
            until("both workers deliver", || {
                [&staying, &dying]
                    .iter()
                    .all(|worker| worker.metric("forebay_sink_sent_events_total", "db") > 0.0)
            });
            dying.kill();
            let before = postgres.count();
            until("rows arrive under load", || postgres.count() > before + 2_000);
            receiver.kill();
            load.join().unwrap()
        }));
    }
    until("the stream is empty", || shared.stream().state.messages == 0);
    let rows = postgres.sql("SELECT event_id FROM events");
    assert_each_once(&acknowledged, rows.lines().map(str::to_owned));
    assert_eq!(staying.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}
