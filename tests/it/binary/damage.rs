//! Files that were deleted, damaged or cannot be written, under the running process and before its start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    http::Destination,
    testbed::incompressible,
    until,
};

/// A process whose destination is down, and what it has acknowledged.
struct Backlog {
    place: Place,
    destination: Destination,
    forebay: Forebay,
    /// Of a request.
    events: usize,
    posts: usize,
    acknowledged: Vec<String>,
}

impl Backlog {
    /// So many requests wait, each of about half a MiB: 25 fill a generation.
    fn of(requests: usize) -> Self {
        Self::with(requests, 8)
    }

    /// So many requests wait, each of so many events of 60 KB. More than one are a record that is kept in several pieces.
    fn with(requests: usize, events: usize) -> Self {
        let destination = Destination::start();
        destination.answer(503);
        let place = Place::empty().sink("up", &destination.sink());
        let forebay = place.start();
        let mut backlog = Self { place, destination, forebay, events, posts: 0, acknowledged: Vec::new() };
        (0..requests).for_each(|_| assert_eq!(backlog.post(), 202));
        backlog
    }

    /// Posts a request; the status of its answer.
    fn post(&mut self) -> u16 {
        self.posts += 1;
        let ids: Vec<_> = (0..self.events).map(|event| format!("b{:04}-{event}", self.posts)).collect();
        let event = |(index, id): (usize, &String)| json!({"service": "s", "message": incompressible(index), "event_id": id});
        let body = Value::from(ids.iter().enumerate().map(event).collect::<Vec<_>>());
        let status = self.forebay.post_json(body.to_string()).status;
        if status == 202 {
            self.acknowledged.extend(ids);
        }
        status
    }

    fn data(&self, path: &str) -> PathBuf {
        self.place.data_dir().join(path)
    }

    /// The directories of the journal's generations, oldest first.
    fn generations(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data("journal")).unwrap().map(|entry| entry.unwrap().path());
        let is_generation = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
        };
        let mut generations: Vec<_> = entries.filter(is_generation).collect();
        generations.sort();
        generations
    }

    fn kill_and_damage(&mut self, damage: impl FnOnce(&Self)) {
        self.forebay.kill();
        damage(self);
        self.forebay = self.place.start();
    }

    /// Acknowledged events that have not come to the destination.
    fn missing(&self) -> usize {
        let come = self.destination.events();
        self.acknowledged.iter().filter(|id| !come.contains_key(*id)).count()
    }

    /// The destination is there again: everything comes but what is accounted for as damaged, which is between these
    /// numbers. The process works on.
    fn comes_but_for(mut self, damaged: std::ops::RangeInclusive<usize>, tried: &str) {
        self.destination.answer(200);
        // Where nothing is left that could be damaged, it is `expired`.
        let letters = || self.forebay.metric("forebay_sink_dead_letters_total", "");
        until("everything has its outcome", || letters() >= self.missing() as f64);
        let (letters, missing) = (letters(), self.missing());
        assert!(damaged.contains(&missing), "{missing} of {} are missing", self.acknowledged.len());
        assert!(letters >= missing as f64, "{missing} are missing, and {letters} are accounted for");
        if self.forebay.metric("forebay_sink_dead_letters_total", "reason=\"damaged\"") > 0.0 {
            let buffer = self.forebay.json("/health")["checks"]["buffer"].take();
            assert!(buffer["damaged"].as_u64() > Some(0) && buffer["status"] == "degraded", "{buffer}");
        }
        eprintln!(
            "{tried}: {} acknowledged, {missing} of them damaged and accounted for",
            self.acknowledged.len()
        );
        assert_eq!(self.post(), 202);
        until("the process works on", || self.missing() == missing);
        assert_eq!(self.forebay.metric("forebay_actor_restarts_total", ""), 0.0);
        assert_eq!(self.forebay.stop(), Some(0));
    }
}

/// An old generation's directory is deleted under the running process: its events are accounted for as damaged, and all
/// behind it are delivered. It was an error that was met again for ever, and nothing was delivered any more.
#[test]
fn r0312_a_deleted_generation_stopped_its_readers() {
    let backlog = Backlog::of(60);
    let generations = backlog.generations();
    assert!(generations.len() >= 3, "{generations:?}");
    fs::remove_dir_all(&generations[1]).unwrap();
    backlog.comes_but_for(100..=300, "an old generation deleted under the process");
}

/// The same before a start, and only its log.
#[test]
fn a_generation_without_its_log_is_accounted_for() {
    let mut backlog = Backlog::of(60);
    backlog.kill_and_damage(|backlog| fs::remove_file(backlog.generations()[1].join("db")).unwrap());
    backlog.comes_but_for(100..=300, "the log of an old generation deleted before the start");
}

/// The generation that is written, or the whole journal, is deleted under the running process: what comes then is not
/// acknowledged into a file without a name, but refused once, and then goes to a new generation. It was acknowledged, and
/// gone with the process.
#[test]
fn r0313_events_were_acknowledged_into_a_deleted_file() {
    for whole in [false, true] {
        let mut backlog = Backlog::of(3);
        match whole {
            false => fs::remove_dir_all(backlog.generations().pop().unwrap()).unwrap(),
            true => fs::remove_dir_all(backlog.data("journal")).unwrap(),
        }
        assert_eq!(backlog.post(), 503, "the file it would go to has no name");
        backlog.forebay.says("deleted while it was written");
        let lost = backlog.acknowledged.len();
        // What came while the commit failed may be refused with it.
        (0..4).for_each(|_| until("what comes then goes to a new generation", || backlog.post() == 202));
        backlog.forebay.kill();
        backlog.forebay = backlog.place.start();
        backlog.comes_but_for(0..=lost, "the newest generation deleted under the process");
    }
}

/// The whole journal is deleted before a start: the process says that it is gone, and works.
#[test]
fn a_journal_deleted_before_the_start_is_said() {
    let mut backlog = Backlog::of(1);
    backlog.destination.answer(200);
    until("it is delivered", || backlog.missing() == 0);
    assert_eq!(backlog.forebay.stop(), Some(0));
    backlog.kill_and_damage(|backlog| fs::remove_dir_all(backlog.data("journal")).unwrap());
    backlog.forebay.says("the journal is gone");
    backlog.comes_but_for(0..=0, "the journal deleted before the start");
}

/// The witness of the journal's end is deleted, or nonsense, before a start: nothing is lost, no position is given twice.
#[test]
fn a_lost_witness_costs_nothing() {
    for nonsense in [None, Some(&b"no"[..])] {
        let mut backlog = Backlog::of(3);
        backlog.kill_and_damage(|backlog| {
            let witness = backlog.generations().pop().unwrap().join("head");
            nonsense.map_or_else(|| fs::remove_file(&witness), |bytes| fs::write(&witness, bytes)).unwrap();
        });
        assert_eq!(backlog.post(), 202);
        backlog.comes_but_for(0..=0, "the witness lost");
    }
}

/// A bit flips in the newest or in an old generation, and the quarantine, where the bytes would be kept, cannot be made:
/// the sink waits, and says for what; nothing is given up before the bytes are safe. Then reading goes on, and one record is
/// lost.
#[test]
fn what_cannot_be_put_aside_is_not_given_up() {
    for what in ["the newest generation", "an old generation"] {
        let mut backlog = Backlog::with(30, 1);
        if what == "an old generation" {
            backlog.kill_and_damage(|_| {});
            assert_eq!(backlog.post(), 202);
        }
        backlog.kill_and_damage(|backlog| {
            flip_a_bit(&backlog.generations()[0].join("db"));
            fs::write(backlog.data("journal/quarantine"), "a file where the directory should be").unwrap();
        });
        backlog.destination.answer(200);
        until("health says what is in the way", || {
            let sink = backlog.forebay.json("/health")["checks"]["sinks"]["up"].take();
            sink["error"].as_str().is_some_and(|error| error.contains("quarantine"))
        });
        fs::remove_file(backlog.data("journal/quarantine")).unwrap();
        backlog.comes_but_for(1..=1, &format!("a flipped bit in {what}, and no quarantine at first"));
    }
}

/// A bit flips in an old generation that was opened at an earlier start: sled remembers that it was whole, and cannot open
/// it any more. One record is lost; it was the whole generation.
#[test]
fn r0314_a_flipped_bit_in_a_generation_opened_before_cost_all_of_it() {
    let mut backlog = Backlog::with(30, 1);
    backlog.kill_and_damage(|_| {});
    assert_eq!(backlog.post(), 202);
    backlog.kill_and_damage(|backlog| flip_a_bit(&backlog.generations()[0].join("db")));
    backlog.comes_but_for(1..=1, "a flipped bit in a generation that was opened before");
}

/// In the third record.
fn flip_a_bit(log: &Path) {
    let mut bytes = fs::read(log).unwrap();
    let mut records = bytes.windows(4).enumerate().filter(|(_, at)| at == b"FBR1").map(|(at, _)| at);
    let flipped = records.nth(2).unwrap() + 60;
    bytes[flipped] ^= 1;
    fs::write(log, bytes).unwrap();
}

/// The cursors are deleted, or garbage, before a start: the process says so and delivers everything it keeps, some of it
/// again.
#[test]
fn lost_cursors_are_said_and_everything_comes_again() {
    for garbage in [false, true] {
        let mut backlog = Backlog::of(2);
        backlog.destination.answer(200);
        until("all is delivered", || backlog.missing() == 0);
        backlog.kill_and_damage(|backlog| match garbage {
            false => fs::remove_dir_all(backlog.data("state")).unwrap(),
            true => garble(&backlog.data("state/db")),
        });
        backlog.forebay.says("the cursors are lost");
        until("it comes again", || backlog.destination.events().values().all(|(times, _)| *times > 1));
        backlog.comes_but_for(0..=0, "the cursors lost");
    }
}

/// Nothing in the file is what it was.
fn garble(path: &Path) {
    let mut random = fastrand::Rng::with_seed(5);
    let bytes: Vec<_> = fs::read(path).unwrap().iter().map(|_| random.u8(..)).collect();
    fs::write(path, bytes).unwrap();
}

/// The file of the event store is garbage before a start: the store says what is wrong and where, everybody else works on,
/// and what it could not take it takes when the file has been put aside.
#[test]
fn a_damaged_store_is_alone_and_waits() {
    let destination = Destination::start();
    let place = Place::new().sink("up", &destination.sink());
    let mut forebay = place.start();
    let post = |forebay: &Forebay, id: &str| {
        forebay.post_json(json!({"service": "s", "message": "m", "event_id": id}).to_string()).ok(202);
    };
    post(&forebay, "before");
    forebay.stored("before");
    assert_eq!(forebay.stop(), Some(0));
    let file = place.data_dir().join("store/events.db");
    // What is not in the one is in the other.
    for file in [&file, &file.with_file_name("events.db-wal")] {
        file.exists().then(|| garble(file));
    }
    let mut forebay = place.start();
    post(&forebay, "after");
    until("the other sink has it", || destination.has("after"));
    let sink = || forebay.json("/health")["checks"]["sinks"]["events"].take();
    until("health says what is wrong, and where", || {
        sink()["error"].as_str().is_some_and(|error| error.contains("events.db"))
    });
    assert_eq!(sink()["status"], "degraded");
    let answer = forebay.get("/events/before");
    assert!(answer.status >= 500, "{answer:?}");
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        let _ = fs::remove_file(file.with_file_name(name));
    }
    forebay.stored("after");
    assert_eq!(forebay.stop(), Some(0));
}
