//! Objects that go in parts, and what breaks meanwhile: a wire, the server, the process. Each request is broken at the place that
//! the test names, so that none of them is met by chance.

use std::{
    collections::VecDeque,
    fs,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
};

use serde_json::Value;

use super::{
    bucket::{Bucket, Kind, Who},
    delivered, events_of, events_of_parquet,
    front::{Turn, front},
};
use crate::{
    services::{assert_each_once, event, post},
    support::{
        PATIENCE,
        binary::{Forebay, Place},
        testbed::incompressible,
        until,
    },
};

/// Events of a batch, which is one object of 19 MiB or more: three parts at least, whatever packs them.
const EVENTS: usize = 450;
/// Events of a request.
const POSTED: usize = 90;
/// Objects up to here are of a single small event.
const FIRST_BYTES_MAX: usize = 64 * 1024;
/// From here on an object goes in parts.
const MULTIPART_BYTES: usize = 16 * 1024 * 1024;

/// A request by its method and by what its query begins with.
type Asked = (&'static str, &'static str);

const BEGIN: Asked = ("POST ", "?uploads");
const PART_1: Asked = ("PUT ", "?partNumber=1&");
const PART_2: Asked = ("PUT ", "?partNumber=2&");
const PART_3: Asked = ("PUT ", "?partNumber=3&");
const END: Asked = ("POST ", "?uploadId=");
const GIVE_UP: Asked = ("DELETE ", "?uploadId=");
const LOOK: Asked = ("HEAD ", "");

/// A bucket of MinIO, and the way that the sink goes to it.
struct Archive {
    bucket: Bucket,
    way: Way,
    format: &'static str,
}

/// The way to the server: what is planned becomes of the next request that it is planned for, one after the other.
struct Way {
    port: u16,
    traffic: Arc<Mutex<Traffic>>,
}

#[derive(Default)]
struct Traffic {
    plan: VecDeque<(Asked, Fate)>,
    /// The first line of every request.
    heard: Vec<String>,
}

/// What becomes of a request.
enum Fate {
    /// The wire breaks before the server hears of it.
    Unasked,
    /// The wire breaks in the middle of it.
    Halved,
    /// The server has done it when the wire breaks.
    Unanswered,
    /// It waits before the server hears of it.
    HeldBack(Pause),
    /// The server has done it, and the answer waits.
    AnsweredLate(Pause),
}

/// Where a request waits.
struct Pause {
    reached: Sender<()>,
    go_on: Receiver<()>,
}

/// A request that is to wait: it goes on when this is dropped.
struct Halt {
    reached: Receiver<()>,
    _go_on: Sender<()>,
}

// === impl Archive ===

impl Archive {
    fn start(format: &'static str, test: &str) -> Option<Self> {
        let bucket = Bucket::start(Kind::Minio, test)?;
        let way = Way::to(bucket.service.port);
        Some(Self { bucket, way, format })
    }

    /// A sink whose batches are cut by their number of events alone.
    fn place(&self, keys: &str) -> Place {
        let keys = format!(
            ", format: {}, batch: {{ max_events: {EVENTS}, max_bytes: 64MiB, max_wait: 5m }}{keys}",
            self.format
        );
        Place::empty().sink("archive", &self.bucket.sink_at(self.way.port, Who::Writer, "archive", &keys))
    }

    /// Every one of so many batches is one object that went in parts, and there is no other; every event is in one of them, as
    /// it was posted.
    #[track_caller]
    fn assert_holds(&self, batches: usize) {
        let mut objects = self.bucket.objects();
        objects.retain(|_, body| body.len() > FIRST_BYTES_MAX);
        assert_eq!(objects.len(), batches, "{:?}", objects.keys());
        for (key, body) in &objects {
            assert!(body.len() > MULTIPART_BYTES, "{key} went as a whole: {} bytes", body.len());
        }
        let events = if self.format == "parquet" { events_of_parquet(&objects) } else { events_of(&objects) };
        let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
        for event in &events {
            let posted = large(id(event).parse().unwrap());
            let is_posted = ["service", "message"].iter().all(|field| event[*field] == posted[*field]);
            // Not shown: it is long.
            assert!(is_posted, "event {} is not what was posted", id(event));
        }
        let posted = (0..batches * EVENTS).map(|number| number.to_string()).collect();
        assert_each_once(&posted, events.iter().map(id));
        assert_eq!(events.len(), posted.len());
    }

    /// Uploads that were begun, and neither ended nor given up: what MinIO has of them on its disk.
    fn abandoned(&self) -> usize {
        let of_keys = self.bucket.service.dir.path().join("data/.minio.sys/multipart");
        let uploads =
            fs::read_dir(of_keys).unwrap().flat_map(|key| fs::read_dir(key.unwrap().path()).unwrap());
        uploads.filter(|upload| upload.as_ref().unwrap().path().join("xl.meta").exists()).count()
    }
}

/// The event with this number: 60 kB that nothing packs well.
fn large(number: usize) -> Value {
    let mut event = event(&number.to_string());
    event["message"] = format!("{number} {}", incompressible(number)).into();
    event
}

/// Has one event delivered, an object of its own: what comes to an idle sink first goes at once, and what comes behind it waits
/// until its batch is whole.
#[track_caller]
fn post_first(forebay: &Forebay) {
    let sent = || forebay.metric("forebay_sink_sent_events_total", "archive");
    let before = sent();
    post(forebay, &[event("first")]);
    until("the first is delivered", || sent() > before);
}

/// Posts the events of a whole batch.
#[track_caller]
fn post_batch(forebay: &Forebay, batch: usize) {
    let first = batch * EVENTS;
    for from in (first..first + EVENTS).step_by(POSTED) {
        post(forebay, &(from..from + POSTED).map(large).collect::<Vec<_>>());
    }
}

#[track_caller]
fn all_is_delivered(forebay: &Forebay) {
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "archive"), 0.0);
}

fn failures(forebay: &Forebay) -> f64 {
    forebay.metric("forebay_sink_errors_total", "archive")
}

// === impl Way ===

impl Way {
    fn to(server: u16) -> Self {
        let traffic = Arc::<Mutex<Traffic>>::default();
        let port = front(server, {
            let traffic = traffic.clone();
            move |head| turn(&traffic, head)
        });
        Self { port, traffic }
    }

    fn plan(&self, fates: impl IntoIterator<Item = (Asked, Fate)>) {
        self.traffic.lock().unwrap().plan.extend(fates);
    }

    /// Lets the next such request wait.
    fn halt(&self, asked: Asked, fate: fn(Pause) -> Fate) -> Halt {
        let (reaches, reached) = mpsc::channel();
        let (lets_go, go_on) = mpsc::channel();
        self.plan([(asked, fate(Pause { reached: reaches, go_on }))]);
        Halt { reached, _go_on: lets_go }
    }

    /// How much of the plan is still to come.
    fn planned(&self) -> usize {
        self.traffic.lock().unwrap().plan.len()
    }

    /// The methods of the requests that came after the last such one.
    fn methods_after(&self, asked: Asked) -> Vec<String> {
        let traffic = self.traffic.lock().unwrap();
        let last = traffic.heard.iter().rposition(|line| is(line, asked)).expect("it was asked for");
        let method = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
        traffic.heard[last + 1..].iter().map(method).collect()
    }
}

fn is(line: &str, (method, query): Asked) -> bool {
    line.starts_with(method) && line.contains(query)
}

fn turn(traffic: &Mutex<Traffic>, head: &str) -> Turn {
    let line = head.lines().next().unwrap_or_default();
    let mut traffic = traffic.lock().unwrap();
    traffic.heard.push(line.to_owned());
    let fate = traffic.plan.pop_front_if(|(asked, _)| is(line, *asked)).map(|(_, fate)| fate);
    // A request that waits lets others pass.
    drop(traffic);
    match fate {
        None => Turn::Passed,
        Some(Fate::Unasked) => Turn::Answered(String::new()),
        Some(Fate::Halved) => Turn::Halved,
        Some(Fate::Unanswered) => Turn::Done(String::new()),
        Some(Fate::HeldBack(pause)) => {
            pause.wait();
            Turn::Passed
        }
        Some(Fate::AnsweredLate(pause)) => Turn::Late(Box::new(move || pause.wait())),
    }
}

impl Pause {
    fn wait(self) {
        // Either side of a test that fails is gone.
        let _ = self.reached.send(());
        let _ = self.go_on.recv();
    }
}

impl Halt {
    /// Waits until the request is there.
    #[track_caller]
    fn is_reached(&self) {
        self.reached.recv_timeout(PATIENCE).expect("the request comes");
    }
}

/// Scenario: the wire breaks in the middle of a part, between parts, and where an upload begins, ends and is given up: before the
/// server hears of it, and when it has done it. The last ones break the batch's second upload, of an object that is there.
/// Guarantee: the object is there once and whole. Uploads that broke are given up, but for the one whose beginning was not
/// answered and the one whose giving up was not heard.
fn cuts_leave_it_whole(format: &'static str, test: &str) {
    let Some(archive) = Archive::start(format, test) else { return };
    // Two parts are on their way at a time: between two breaks within parts there is always one that only the next upload meets.
    archive.way.plan([
        (BEGIN, Fate::Unanswered),
        (PART_2, Fate::Halved),
        (END, Fate::Unasked),
        (PART_3, Fate::Unanswered),
        (GIVE_UP, Fate::Unasked),
        (END, Fate::Unanswered),
        (PART_1, Fate::Halved),
        (BEGIN, Fate::Unasked),
        (PART_3, Fate::Unasked),
    ]);
    let place = archive.place("");
    let forebay = place.start();
    post_first(&forebay);
    post_batch(&forebay, 0);
    all_is_delivered(&forebay);
    assert_eq!(archive.way.planned(), 0);
    assert_eq!(failures(&forebay), 8.0, "all of the plan but the giving up breaks an upload");
    archive.assert_holds(1);
    assert_eq!(archive.abandoned(), 2);
}

#[test]
fn p3_cuts_between_parts_leave_whole_objects_in_minio() {
    cuts_leave_it_whole("ndjson", "p3_cuts_between_parts_leave_whole_objects_in_minio");
}

#[test]
fn p3_cuts_between_parts_leave_whole_parquet_in_minio() {
    cuts_leave_it_whole("parquet", "p3_cuts_between_parts_leave_whole_parquet_in_minio");
}

/// Scenario: the process is killed while a part is on its way; the server, when it has some parts and lacks one; both, when the
/// object is there and the process has not heard it.
/// Guarantee: at each of these moments only whole objects are to be seen, and afterwards each batch is one. What the first two
/// left of their uploads is no object, and stays.
fn kills_leave_it_whole(format: &'static str, test: &str) {
    let Some(mut archive) = Archive::start(format, test) else { return };
    let place = archive.place("");

    let halt = archive.way.halt(PART_2, Fate::HeldBack);
    let mut forebay = place.start();
    post_first(&forebay);
    post_batch(&forebay, 0);
    halt.is_reached();
    archive.assert_holds(0);
    forebay.kill();
    drop(halt);

    let halt = archive.way.halt(PART_3, Fate::HeldBack);
    let mut forebay = place.start();
    post_batch(&forebay, 1);
    halt.is_reached();
    archive.assert_holds(0);
    archive.bucket.toggle(true);
    drop(halt);
    until("the sink has seen it", || failures(&forebay) > 0.0);
    archive.bucket.toggle(false);
    all_is_delivered(&forebay);
    archive.assert_holds(2);

    let halt = archive.way.halt(END, Fate::AnsweredLate);
    post_first(&forebay);
    post_batch(&forebay, 2);
    halt.is_reached();
    archive.assert_holds(3);
    forebay.kill();
    archive.bucket.toggle(true);
    drop(halt);
    archive.bucket.toggle(false);
    let forebay = place.start();
    // It comes again, and overwrites itself.
    delivered(&forebay, EVENTS);
    all_is_delivered(&forebay);
    archive.assert_holds(3);
    // A server that is not all there yet may answer the beginning of one more and nothing else.
    assert!(archive.abandoned() >= 2, "{}", archive.abandoned());
}

#[test]
fn p3_kills_between_parts_leave_whole_objects_in_minio() {
    kills_leave_it_whole("ndjson", "p3_kills_between_parts_leave_whole_objects_in_minio");
}

#[test]
fn p3_kills_between_parts_leave_whole_parquet_in_minio() {
    kills_leave_it_whole("parquet", "p3_kills_between_parts_leave_whole_parquet_in_minio");
}

/// Scenario: `overwrite` is off, and the answer to an upload's end gets lost, so that its batch comes again; then the wire breaks
/// when the sink looks whether the object is there.
/// Guarantee: it looks again, finds the object, and writes nothing. A look that failed counted as one that found nothing.
#[test]
fn p3_a_large_object_that_is_there_is_not_written_again() {
    let test = "p3_a_large_object_that_is_there_is_not_written_again";
    let Some(archive) = Archive::start("ndjson", test) else { return };
    let place = archive.place(", overwrite: false");
    archive.way.plan([(END, Fate::Unanswered), (LOOK, Fate::Unasked)]);
    let forebay = place.start();
    post_first(&forebay);
    let sent = || forebay.metric("forebay_sink_sent_bytes_total", "archive");
    let before = sent();
    post_batch(&forebay, 0);
    all_is_delivered(&forebay);
    assert_eq!((failures(&forebay), sent()), (2.0, before));
    assert_eq!(archive.way.methods_after(END), ["DELETE", "HEAD", "HEAD"]);
    archive.assert_holds(1);
}
