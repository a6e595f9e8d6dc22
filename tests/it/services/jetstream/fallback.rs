//! `fallback` and `on_failure` where several processes share the journal: the books of what is held are shared, too.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use async_nats::jetstream::{kv, stream::StorageType};
use futures::TryStreamExt as _;

use super::*;
use crate::{
    services::s3::bucket::{Bucket, Kind},
    support::binary::Forebay,
};

/// A sink that delivers to the destination, and has `overflow` for the time when that is away.
fn with_fallback(destination: &Destination) -> String {
    destination
        .sink()
        .replace("{ type", "{ fallback: overflow, type")
        .replace("{ open_for", "{ failures: 2, open_for")
}

/// What holds, in a bucket that all processes reach.
fn overflow(bucket: &Bucket) -> String {
    bucket.sink(", only_as_fallback: true")
}

fn held(process: &Forebay) -> f64 {
    process.metric("forebay_sink_held_events", "sink=\"out\"")
}

/// Batches that the holder has.
fn objects(bucket: &Bucket) -> usize {
    bucket.objects().keys().filter(|key| key.starts_with("a/b/held/")).count()
}

impl Shared {
    /// What the books say of each batch.
    fn books(&self) -> Vec<(String, Value)> {
        self.ask(async |context| {
            let Ok(books) = context.get_stream("KV_FOREBAY_HELD").await else { return Vec::new() };
            let keys = books.info_with_subjects("$KV.FOREBAY_HELD.>").await.unwrap();
            let mut entries = Vec::new();
            for (key, _) in keys.try_collect::<Vec<_>>().await.unwrap() {
                // It may be cleared up meanwhile.
                let Ok(entry) = books.get_last_raw_message_by_subject(&key).await else { continue };
                if entry.headers.get("KV-Operation").is_none() {
                    entries.push((key, serde_json::from_slice(&entry.payload).unwrap()));
                }
            }
            entries
        })
    }

    /// Batches that the books know of.
    fn noted(&self) -> usize {
        self.books().len()
    }

    /// How often the only batch was said to be at somebody's hand.
    fn beat(&self) -> u64 {
        self.books()[0].1["beat"].as_u64().unwrap()
    }
}

/// Scenario: two workers have one sink, whose destination comes and goes while events come. One worker is killed while it has
/// batches held, the other while it reads them back; then one of the two never returns.
/// Guarantee: every event that was acknowledged arrives, also those that a worker has had held which is gone for good; nothing
/// stays at the holder, in the books or in the stream, and nothing becomes a dead letter.
#[test]
fn p2_what_one_worker_has_held_another_reads_back() {
    let Some(shared) = Shared::start("p2_what_one_worker_has_held_another_reads_back") else { return };
    let Some(bucket) = Bucket::start(Kind::Minio, "p2_what_one_worker_has_held_another_reads_back") else {
        return;
    };
    let destination = Destination::start();
    let worker = || {
        let place = shared.place().sink("out", &with_fallback(&destination));
        place.sink("overflow", &overflow(&bucket))
    };
    let receiver = shared.place().start();
    let places = [worker(), worker()];
    let mut workers = [places[0].start(), places[1].start()];
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let waits = |events: usize| {
        let before = posts.load(Ordering::Relaxed);
        until("it goes on", || posts.load(Ordering::Relaxed) > before + events);
    };
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(receiver.address, &posts, &ended));
        for _ in 0..thorough(1, 4) {
            destination.answer(503);
            until("both have some held", || {
                workers.iter().all(|worker| {
                    worker.metric("forebay_sink_given_to_fallback_events_total", "sink=\"out\"") > 0.0
                })
            });
            workers[0].kill();
            waits(50);
            until("what is held is known to both", || held(&workers[1]) > 0.0);
            workers[0] = places[0].start();
            until("also from the start", || held(&workers[0]) > 0.0);
            destination.answer(200);
            let reads =
                |worker: &Forebay| worker.metric("forebay_sink_read_back_events_total", "sink=\"out\"") > 0.0;
            until("it is read back", || workers.iter().any(reads));
            let at = usize::from(reads(&workers[1]));
            workers[at].kill();
            waits(50);
            workers[at] = places[at].start();
            until("nothing is held", || workers.iter().all(|worker| held(worker) == 0.0));
        }
        destination.answer(503);
        until("both have some held", || {
            workers.iter().all(|worker| {
                worker.metric("forebay_sink_given_to_fallback_events_total", "sink=\"out\"") > 0.0
            })
        });
        ended.store(true, Ordering::Relaxed);
        load.join().unwrap().into_iter().collect()
    });
    let [mut first, second] = workers;
    until("everything is held", || shared.stream().state.messages == 0);
    assert!(shared.noted() > 0 && objects(&bucket) > 0);
    first.kill();
    destination.answer(200);
    all_arrived(&destination, &acknowledged);
    until("nothing is held", || held(&second) == 0.0);
    until("the books are empty", || shared.noted() == 0);
    until("the holder has nothing", || objects(&bucket) == 0);
    assert_eq!(second.metric("forebay_sink_dead_letters_total", "out"), 0.0);
    until("all is well", || second.json("/health")["status"] == "healthy");
}

/// Accepts connections and says nothing on them; how many there were.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for connection in listener.incoming() {
            kept.push(connection);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, count)
}

/// Scenario: what was held is at the hand of a worker that reads it back, and whose destination says nothing; another worker, whose
/// destination is fine, is there, too. Then the first is killed.
/// Guarantee: the other leaves it alone while the first lives, and has it when `ack_wait` is over.
#[test]
fn p3_what_a_dead_worker_was_reading_back_goes_to_another() {
    let Some(shared) = Shared::start("p3_what_a_dead_worker_was_reading_back_goes_to_another") else {
        return;
    };
    let Some(bucket) = Bucket::start(Kind::Minio, "p3_what_a_dead_worker_was_reading_back_goes_to_another")
    else {
        return;
    };
    let destination = Destination::start();
    let place = |sink: &str| {
        // Longer than anything may take on a machine that does something else besides.
        let place =
            place(&format!("127.0.0.1:{}", shared.service.port), "replicas: 1, ack_wait: 10s", MAX_BYTES);
        place.sink("out", sink).sink("overflow", &overflow(&bucket))
    };
    destination.answer(503);
    let holding = place(&with_fallback(&destination));
    let mut holding = holding.start();
    post(&holding, &[event("a")]);
    until("it is held", || held(&holding) == 1.0);
    holding.kill();
    let (nobody, connections) = silent();
    let hanging =
        place(&format!("{{ type: http, url: \"http://{nobody}/\", timeout: 10m, fallback: overflow }}"));
    let mut hanging = hanging.start();
    until("the first delivers it", || connections.load(Ordering::Relaxed) > 0);
    destination.answer(200);
    let second = place(&with_fallback(&destination));
    let second = second.start();
    until("the second knows of it", || held(&second) == 1.0);
    // Time in which the first would be taken for dead if nothing was heard of it.
    let beats = shared.beat();
    until("the first is heard of", || shared.beat() > beats + 4);
    assert_eq!(destination.count(), 0);
    hanging.kill();
    all_arrived(&destination, &["a".to_owned()].into());
    until("the books are empty", || shared.noted() == 0);
    assert_eq!(second.metric("forebay_sink_read_back_events_total", "sink=\"out\""), 1.0);
}

/// Scenario: what is held waits for the destination of one worker, which is away, while that of another is fine.
/// Guarantee: the first keeps nothing from the second, however long it lives.
#[test]
fn p4_a_worker_that_cannot_deliver_keeps_nothing_from_one_that_can() {
    let test = "p4_a_worker_that_cannot_deliver_keeps_nothing_from_one_that_can";
    let Some(shared) = Shared::start(test) else { return };
    let (away, fine) = (Destination::start(), Destination::start());
    let Some(bucket) =
        Bucket::start(Kind::Minio, "p4_a_worker_that_cannot_deliver_keeps_nothing_from_one_that_can")
    else {
        return;
    };
    let place = |sink: &str| shared.place().sink("out", sink).sink("overflow", &overflow(&bucket));
    away.answer(503);
    let first = place(&with_fallback(&away));
    let first = first.start();
    let ids: Vec<_> = (0..5).map(|id| format!("e{id}")).collect();
    ids.iter().for_each(|id| post(&first, &[event(id)]));
    until("all are held", || held(&first) == 5.0);
    let tries = away.requests();
    until("the first has one at hand again and again", || away.requests() > tries + 10);
    let second = place(&with_fallback(&fine));
    let second = second.start();
    all_arrived(&fine, &ids.into_iter().collect());
    until("nothing is held", || held(&first) == 0.0 && held(&second) == 0.0);
    until("the books are empty", || shared.noted() == 0);
}

/// Scenario: the server of the books is killed while something is held, and comes back.
/// Guarantee: what is held is still known to both workers, and is read back.
#[test]
fn p1_the_books_outlive_a_crash_of_their_server() {
    let Some(mut shared) = Shared::start("p1_the_books_outlive_a_crash_of_their_server") else { return };
    let Some(bucket) = Bucket::start(Kind::Minio, "p1_the_books_outlive_a_crash_of_their_server") else {
        return;
    };
    let destination = Destination::start();
    destination.answer(503);
    let places = [(); 2].map(|()| {
        let place = shared.place().sink("out", &with_fallback(&destination));
        place.sink("overflow", &overflow(&bucket))
    });
    let workers = [places[0].start(), places[1].start()];
    let ids: Vec<_> = (0..20).map(|id| format!("e{id}")).collect();
    ids.iter().for_each(|id| post(&workers[0], &[event(id)]));
    until("all are held", || workers.iter().all(|worker| held(worker) == 20.0));
    shared.service.down("kill");
    workers.iter().for_each(|worker| worker.says("the books of what is held cannot be followed"));
    shared.service.up();
    workers.iter().for_each(|worker| worker.says("the books of what is held are followed again"));
    assert!(workers.iter().all(|worker| held(worker) == 20.0));
    destination.answer(200);
    all_arrived(&destination, &ids.into_iter().collect());
    until("nothing is held", || workers.iter().all(|worker| held(worker) == 0.0));
    until("the books are empty", || shared.noted() == 0);
    until("the holder has nothing", || objects(&bucket) == 0);
}

/// Scenario: a sink's destination is away for good, and another takes its events instead.
/// Guarantee: they are delivered there and go from the stream; what only stands by has no consumer that would keep events.
#[test]
fn what_cannot_be_delivered_goes_elsewhere() {
    let Some(shared) = Shared::start("what_cannot_be_delivered_goes_elsewhere") else { return };
    let (away, instead) = (Destination::start(), Destination::start());
    away.answer(503);
    let out = with_fallback(&away).replace("fallback", "on_failure").replace("overflow", "instead");
    let stands_by = instead.sink().replace("{ type", "{ only_as_fallback: true, type");
    let forebay = shared.place().sink("out", &out).sink("instead", &stands_by).start();
    post(&forebay, &[event("a"), event("b")]);
    all_arrived(&instead, &["a", "b"].map(str::to_owned).into());
    until("the stream is empty", || shared.stream().state.messages == 0);
    let consumers = shared.ask(async |context| {
        let stream = context.get_stream("FOREBAY").await.unwrap();
        stream.consumer_names().try_collect::<Vec<_>>().await.unwrap()
    });
    assert_eq!(consumers, ["forebay_out"]);
    assert_eq!((away.count(), shared.noted()), (0, 0));
}

/// Scenario: something is held when a configuration comes that would not have it read back: without the fallback, and with one
/// that keeps things elsewhere.
/// Guarantee: `validate` says so, also where no process runs; a reload is refused. A process without the sink is not concerned.
#[test]
fn p10_a_shared_holder_stays_where_it_is_while_it_holds() {
    let Some(shared) = Shared::start("p10_a_shared_holder_stays_where_it_is_while_it_holds") else { return };
    let Some(bucket) = Bucket::start(Kind::Minio, "p10_a_shared_holder_stays_where_it_is_while_it_holds")
    else {
        return;
    };
    let destination = Destination::start();
    destination.answer(503);
    let mut place = shared.place().sink("out", &with_fallback(&destination));
    place.set_sink("overflow", Some(&overflow(&bucket)));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    until("it is held", || held(&forebay) == 1.0);
    place.set_sink("overflow", Some(&*overflow(&bucket).replace("a/b", "a/c")));
    place.write();
    let said = place.run(&["reload"]).failed(1);
    assert!(said.contains("sinks.overflow: 1 events of \"out\" are held by \"overflow\""), "{said}");
    forebay.kill();
    for (sink, words) in [
        (destination.sink(), "sinks.out.fallback: 1 events of \"out\" are held by \"overflow\""),
        (with_fallback(&destination), "lie at"),
    ] {
        let mut place = shared.place().sink("out", &sink);
        if sink.contains("fallback") {
            place.set_sink("overflow", Some(&*overflow(&bucket).replace("a/b", "a/c")));
        }
        place.write();
        let said = place.run(&["validate"]).failed(1);
        assert!(said.contains(words), "{said}");
        assert!(!place.run(&["validate", "--offline"]).ok().contains("held"));
    }
    let other = shared.place().sink("other", "{ type: blackhole }");
    other.write();
    other.run(&["validate"]).ok();
}

/// Scenario: what was read back could not be removed from the holder before the workers ended; nothing is held when they are back.
/// Guarantee: it is removed then, without waiting for the next outage.
#[test]
fn r0588_what_was_read_back_stayed_at_the_holder_after_a_restart() {
    let Some(shared) = Shared::start("r0588_what_was_read_back_stayed_at_the_holder_after_a_restart") else {
        return;
    };
    let Some(bucket) =
        Bucket::start(Kind::Minio, "r0588_what_was_read_back_stayed_at_the_holder_after_a_restart")
    else {
        return;
    };
    let destination = Destination::start();
    destination.answer(503);
    let place = shared.place().sink("out", &with_fallback(&destination));
    let place = place.sink("overflow", &overflow(&bucket));
    let mut worker = place.start();
    post(&worker, &[event("a")]);
    until("it is held", || held(&worker) == 1.0);
    worker.kill();
    // As it is noted before the holder is asked.
    let (key, mut said) = shared.books().remove(0);
    (said["stage"], said["by"]) = ("leaving".into(), Value::Null);
    let key = key.trim_start_matches("$KV.FOREBAY_HELD.");
    shared.ask(async |context| {
        let books = context.get_key_value("FOREBAY_HELD").await.unwrap();
        books.put(key, said.to_string().into()).await.unwrap();
    });
    assert!(objects(&bucket) > 0);
    let _worker = place.start();
    until("the holder has nothing", || objects(&bucket) == 0);
    until("the books are empty", || shared.noted() == 0);
}

/// Scenario: somebody removes the bucket of the books under a worker that has a batch held.
/// Guarantee: it says what that costs, makes another, and holds and reads back as before.
#[test]
fn a_bucket_that_is_removed_is_made_again() {
    let Some(shared) = Shared::start("a_bucket_that_is_removed_is_made_again") else { return };
    let Some(bucket) = Bucket::start(Kind::Minio, "a_bucket_that_is_removed_is_made_again") else { return };
    let destination = Destination::start();
    destination.answer(503);
    let place = shared.place().sink("out", &with_fallback(&destination));
    let place = place.sink("overflow", &overflow(&bucket));
    let worker = place.start();
    post(&worker, &[event("lost from the books")]);
    until("it is held", || held(&worker) == 1.0);
    shared.ask(async |context| assert!(context.delete_key_value("FOREBAY_HELD").await.unwrap().success));
    worker.says("somebody has removed the bucket");
    until("nothing is known any more", || held(&worker) == 0.0);
    post(&worker, &[event("a")]);
    until("it is held", || held(&worker) == 1.0);
    destination.answer(200);
    all_arrived(&destination, &["a".to_owned()].into());
    until("all is well", || worker.json("/health")["status"] == "healthy");
}

/// Scenario: somebody has made the bucket of the books so that it forgets.
/// Guarantee: a process with a fallback does not begin, and says what is wrong; a receiver, which has nothing to do with it, does.
#[test]
fn books_that_forget_are_refused() {
    let Some(shared) = Shared::start("books_that_forget_are_refused") else { return };
    shared.ask(async |context| {
        let max_age = std::time::Duration::from_secs(3600);
        let (bucket, storage) = ("FOREBAY_HELD".to_owned(), StorageType::Memory);
        let bucket = kv::Config { bucket, storage, max_age, ..kv::Config::default() };
        context.create_key_value(bucket).await.unwrap();
    });
    let Some(bucket) = Bucket::start(Kind::Minio, "books_that_forget_are_refused") else { return };
    let place = shared.place().sink("out", "{ type: console, fallback: overflow }");
    let place = place.sink("overflow", &overflow(&bucket));
    place.write();
    let mut process = place.spawn();
    assert_eq!(process.wait().code(), Some(1));
    let words = "it would lose entries: max_age should be 0, storage should be file";
    assert!(process.log().contains(words), "{}", process.log());
    let receiver = shared.place();
    post(&receiver.start(), &[event("a")]);
    // The same by a reload.
    let mut place = shared.place().sink("out", "{ type: blackhole }");
    let worker = place.start();
    place.set_sink("out", Some("{ type: blackhole, fallback: overflow }"));
    place.set_sink("overflow", Some(&overflow(&bucket)));
    place.write();
    let said = place.run(&["reload"]).failed(1);
    assert!(said.contains(words), "{said}");
    until("it goes on as before", || worker.metric("forebay_sink_sent_events_total", "out") == 1.0);
}
