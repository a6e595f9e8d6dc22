//! What comes again within the time that a stream knows ids, as long as that is by default.

use super::*;

/// Scenario: under load the server is killed with SIGKILL and started again, a moment later the process is, and so on in turns.
/// The stream is as Forebay makes it where nobody says how long it is to know ids.
/// Guarantee: every acknowledged event is one message: what was on its way comes again first of all, far within the two
/// minutes.
#[test]
fn p3_kills_in_turns_stay_within_the_default_window() {
    let test = "p3_kills_in_turns_stay_within_the_default_window";
    // What the system has of the server survives its SIGKILL, and the backlog is short.
    let dir = Service::dir();
    std::fs::write(dir.path().join("sync"), "2m").unwrap();
    let Some(mut nats) = Service::start_in(dir, None, "nats", test).map(Nats::of) else { return };
    let keys = format!("{MADE}, batch: {{ max_events: 500, max_wait: 50ms }}");
    let place = Place::empty().sink("db", &nats.sink(&keys));
    let more = |nats: &Nats| {
        let before = nats.count();
        until("messages arrive under load", || nats.count() > before + 200);
    };
    let under_load = |_, _: &Forebay, nats: &mut Nats| {
        more(nats);
        nats.service.down("kill");
        nats.service.up();
        more(nats);
    };
    let acknowledged = through_kills(&place, thorough(4, 30), &mut nats, under_load, |_, _| ());
    let made =
        nats.with(async |context| context.get_stream("events").await.unwrap().cached_info().config.clone());
    assert_eq!(made.duplicate_window, Duration::from_secs(120));
    assert_each_once(&acknowledged, nats.ids());
}
