//! A server that dies, a wire that breaks, a stream that is full, a message that is none.

use async_nats::jetstream::{
    consumer::pull,
    stream::{Config, DiscardPolicy},
};

use super::*;
use crate::support::{
    thorough,
    wire::{Cut, Wire},
};

const TOKEN: &str = "sixteen-and-more-characters";

/// Scenario: the server is killed with SIGKILL under load, stays away for a while and comes back.
/// Guarantee: meanwhile posts are refused with 503 within seconds; then everything goes on without a restart, and what was
/// acknowledged is delivered.
#[test]
fn p1_the_server_dies_under_load_and_comes_back() {
    let Some(mut shared) = Shared::start("p1_the_server_dies_under_load_and_comes_back") else { return };
    let destination = Destination::start();
    let forebay = shared.place().sink("out", &destination.sink()).start();
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let address = forebay.address;
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..2).map(|_| scope.spawn(|| load(address, &posts, &ended))).collect();
        until("events come through", || destination.count() > 2000);
        shared.service.down("kill");
        let refused = forebay.post_json(json!([event("refused")]).to_string());
        refused.error(503, "journal_failed");
        until("it is not ready", || forebay.get("/ready").status == 503);
        shared.service.up();
        let before = destination.count();
        until("it goes on", || destination.count() > before + 2000);
        ended.store(true, Ordering::Relaxed);
        loads.into_iter().flat_map(|load| load.join().unwrap()).collect()
    });
    all_arrived(&destination, &acknowledged);
    until("it is ready", || forebay.get("/ready").status == 200);
    until("the stream is empty", || shared.stream().state.messages == 0);
}

/// Scenario: the connection to the server breaks again and again, in the middle of messages and of acknowledgements.
/// Guarantee: what was acknowledged to a producer arrives, whatever had to be sent again in between.
#[test]
fn p3_cuts_of_the_wire_to_the_journal_lose_nothing() {
    let Some(shared) = Shared::start("p3_cuts_of_the_wire_to_the_journal_lose_nothing") else { return };
    let destination = Destination::start();
    // Each after more than a start asks and is answered.
    let cuts = (1..=thorough(6, 40))
        .flat_map(|cut| [Cut::Asked(20_000 + 501 * cut), Cut::Answered(20_000 + 101 * cut)]);
    let wire = Wire::to(shared.service.port, cuts);
    let forebay = shared.place_with(wire.port, "").sink("out", &destination.sink()).start();
    let mut acknowledged = BTreeSet::new();
    let mut posted = 0;
    while wire.cuts_left() > 0 {
        let ids: Vec<_> = (0..50).map(|id| format!("w{}", posted + id)).collect();
        posted += 50;
        let body = Value::from(ids.iter().map(|id| event(id)).collect::<Vec<_>>()).to_string();
        if forebay.post_json(body).status == 202 {
            acknowledged.extend(ids);
        }
    }
    all_arrived(&destination, &acknowledged);
    until("the stream is empty", || shared.stream().state.messages == 0);
}

/// Scenario: the destination is away until the stream is as large as it may be, by the configuration or by the stream's own
/// word, then it comes back.
/// Guarantee: posts are refused as `journal_full`, nothing that was taken is lost, and there is room again by itself.
#[test]
fn p4_a_full_stream_refuses_and_recovers() {
    let Some(shared) = Shared::start("p4_a_full_stream_refuses_and_recovers") else { return };
    for (stream, own_max_bytes) in [("BY_CONFIGURATION", None), ("BY_ITSELF", Some(1 << 20))] {
        if let Some(max_bytes) = own_max_bytes {
            shared.ask(async |context| {
                let subjects = vec![format!("{stream}.records")];
                let (name, discard) = (stream.to_owned(), DiscardPolicy::New);
                context
                    .create_stream(Config { name, subjects, discard, max_bytes, ..Config::default() })
                    .await
                    .unwrap();
            });
        }
        let destination = Destination::start();
        destination.answer(503);
        let max_bytes = if own_max_bytes.is_some() { "1GiB" } else { "1MiB" };
        let jetstream = format!("replicas: 1, stream: {stream}");
        let servers = format!("127.0.0.1:{}", shared.service.port);
        let forebay = place(&servers, &jetstream, &format!("max_bytes: {max_bytes},"));
        let forebay = forebay.sink("out", &destination.sink()).start();
        let mut acknowledged = BTreeSet::new();
        let full = (0..100).find_map(|index| {
            let mut event = event(&format!("f{index}"));
            event["message"] = incompressible(index)[..60_000].into();
            let answer = forebay.post_json(Value::from(vec![event]).to_string());
            if answer.status == 202 {
                acknowledged.insert(format!("f{index}"));
                return None;
            }
            Some(answer)
        });
        full.expect("it is full at last").error(503, "journal_full");
        assert!(acknowledged.len() > 5, "{stream}: {}", acknowledged.len());
        until("it is not ready", || forebay.get("/ready").status == 503);
        destination.answer(200);
        all_arrived(&destination, &acknowledged);
        until("there is room", || {
            forebay.post_json(Value::from(vec![event("after")]).to_string()).status == 202
        });
        until("it arrives", || destination.has("after"));
    }
}

/// Scenario: the device of the server is full to the last byte while the destination is away. There is room again later, and the
/// server is started again: without that nats-server (2.15) takes nothing any more.
/// Guarantee: meanwhile posts are refused with 503 and a time to try again; then they are taken again without a restart of
/// Forebay, and what was acknowledged before and behind is delivered.
#[test]
fn p4_a_full_device_of_the_journal_refuses_and_recovers() {
    let test = "p4_a_full_device_of_the_journal_refuses_and_recovers";
    let Some(service) = Service::start_on_device("nats", 64, test) else { return };
    let mut shared = Shared::of(service);
    let destination = Destination::start();
    destination.answer(503);
    let forebay = shared.place().sink("out", &destination.sink()).start();
    let (mut acknowledged, mut posted) = (BTreeSet::new(), 0);
    // Each a message of its own, larger than what is left in any page.
    let mut offer = || {
        posted += 1;
        let id = format!("d{posted}");
        let mut event = event(&id);
        event["message"] = incompressible(posted)[..60_000].into();
        let answer = forebay.post_json(Value::from(vec![event]).to_string());
        if answer.status == 202 {
            acknowledged.insert(id);
        }
        answer
    };
    for _ in 0..thorough(1, 6) {
        for _ in 0..3 {
            assert_eq!(offer().status, 202);
        }
        until("it tries", || destination.requests() > 0);
        let ballast = shared.service.fill();
        let refused = (0..20).map(|_| offer()).find(|answer| answer.status != 202).expect("it is full");
        refused.error(503, "journal_failed");
        assert_eq!(refused.header("retry-after"), Some("1"));
        until("it is not ready", || forebay.get("/ready").status == 503);
        std::fs::remove_file(ballast).unwrap();
        shared.service.down("kill");
        shared.service.up();
        until("posts are taken again", || offer().status == 202);
    }
    destination.answer(200);
    all_arrived(&destination, &acknowledged);
    until("the stream is empty", || shared.stream().state.messages == 0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "out"), 0.0);
}

/// Scenario: a message that Forebay has not written stands in the stream between two that it has.
/// Guarantee: it is put aside and counted as damaged, and all others are delivered.
#[test]
fn p8_a_message_that_is_no_record_is_put_aside() {
    let Some(shared) = Shared::start("p8_a_message_that_is_no_record_is_put_aside") else { return };
    let destination = Destination::start();
    let place = shared.place().sink("out", &destination.sink());
    let forebay = place.start();
    post(&forebay, &[event("before")]);
    shared.ask(async |context| {
        context.publish("FOREBAY.records", "no record".into()).await.unwrap().await.unwrap();
    });
    post(&forebay, &[event("behind")]);
    until("both are there", || destination.has("before") && destination.has("behind"));
    until("it is a dead letter", || {
        forebay.metric("forebay_sink_dead_letters_total", "reason=\"damaged\"") == 1.0
    });
    let aside = place.data_dir().join("quarantine/FOREBAY-2");
    assert_eq!(std::fs::read(aside).unwrap(), b"no record");
    until("the stream is empty", || shared.stream().state.messages == 0);
    until("it is counted", || forebay.metric("forebay_buffer_damaged_records", "") == 1.0);
}

/// Scenario: the consumer of a sink is deleted by somebody while it is used.
/// Guarantee: it is made again, and what the stream still has is delivered.
#[test]
fn a_consumer_that_is_deleted_is_made_again() {
    let Some(shared) = Shared::start("a_consumer_that_is_deleted_is_made_again") else { return };
    let destination = Destination::start();
    let forebay = shared.place().sink("out", &destination.sink()).start();
    post(&forebay, &[event("before")]);
    until("it is there", || destination.has("before"));
    shared.ask(async |context| {
        let stream = context.get_stream("FOREBAY").await.unwrap();
        let _: async_nats::jetstream::consumer::Consumer<pull::Config> =
            stream.get_consumer("forebay_out").await.unwrap();
        stream.delete_consumer("forebay_out").await.unwrap();
    });
    post(&forebay, &[event("behind")]);
    until("it is there", || destination.has("behind"));
}

/// Scenario: the stream is deleted and made anew under a process that uses it.
/// Guarantee: it says so, and takes nothing more, since the new stream gives the old positions to other events; after a restart it
/// takes and delivers again.
#[test]
fn a_stream_that_is_made_anew_is_not_taken_for_the_old_one() {
    let Some(shared) = Shared::start("a_stream_that_is_made_anew_is_not_taken_for_the_old_one") else {
        return;
    };
    let destination = Destination::start();
    let place = shared.place().sink("out", &destination.sink());
    let mut forebay = place.start();
    post(&forebay, &[event("before")]);
    until("it is there", || destination.has("before"));
    until("the stream is empty", || shared.stream().state.messages == 0);
    shared.ask(async |context| {
        context.delete_stream("FOREBAY").await.unwrap();
        let (name, subjects) = ("FOREBAY".to_owned(), vec!["FOREBAY.records".to_owned()]);
        let discard = DiscardPolicy::New;
        context.create_stream(Config { name, subjects, discard, ..Config::default() }).await.unwrap();
    });
    forebay.says("the stream was made anew");
    forebay.post_json(json!([event("refused")]).to_string()).error(503, "journal_failed");
    forebay.says("was made anew since this process began; start it again");
    assert_eq!(shared.stream().state.last_sequence, 0, "nothing was written to it");
    assert_eq!(forebay.stop(), Some(0));
    let forebay = place.start();
    post(&forebay, &[event("behind")]);
    until("it is there", || destination.has("behind"));
    assert!(!destination.has("refused"));
}

/// Scenario: a sink is brought down again and again while it has taken what its destination does not take, and while it waits
/// for more.
/// Guarantee: it takes again what it had, and every event arrives, in the same batches.
#[test]
fn p7_a_sink_that_restarts_takes_again_what_it_had() {
    let Some(shared) = Shared::start("p7_a_sink_that_restarts_takes_again_what_it_had") else { return };
    let destination = Destination::start();
    let forebay = shared
        .place()
        .section(&format!("admin: {{ chaos: true, token: {TOKEN} }}"))
        .section("supervisor: { backoff_min: 10ms, restarts_max: 1000 }")
        .sink("out", &destination.sink())
        .start();
    let mut acknowledged = BTreeSet::new();
    for round in 0..thorough(6, 60) {
        destination.answer(if round % 2 == 0 { 503 } else { 200 });
        let before = destination.requests();
        let ids: Vec<_> = (0..20).map(|id| format!("k{round}-{id}")).collect();
        post(&forebay, &ids.iter().map(|id| event(id)).collect::<Vec<_>>());
        acknowledged.extend(ids);
        until("it delivers", || destination.requests() > before);
        let bearer = format!("Bearer {TOKEN}");
        let killed = forebay.post("/admin/actors/sink:out/panic", &[("Authorization", &bearer)], b"");
        assert_eq!(killed.status, 202, "{}", killed.text());
    }
    destination.answer(200);
    all_arrived(&destination, &acknowledged);
    until("the stream is empty", || shared.stream().state.messages == 0);
}
