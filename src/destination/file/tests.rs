//! A file destination in a directory of its own, with a clock that the test holds.

mod turns;

use std::sync::atomic::AtomicI64;

use flate2::read::MultiGzDecoder;
use forebay_actors::destination::{Cause, Verdict};
use tempfile::TempDir;

use super::*;
use crate::{config::Compression, destination::test_batch};

/// 2026-01-31T08:00:00Z.
const START_SECONDS: i64 = 1_769_846_400;

struct Bed {
    directory: TempDir,
    seconds: Arc<AtomicI64>,
    options: FileSink,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = FileSink {
            path: directory.path().join("out/events.ndjson"),
            rotate_bytes: None,
            rotate_every: None,
            compression: Compression::None,
            keep_files: None,
        };
        Self { directory, seconds: Arc::new(AtomicI64::new(START_SECONDS)), options }
    }

    /// As of a process of its own.
    fn destination(&self) -> FileDestination {
        self.one_of(&Writers::default())
    }

    fn one_of(&self, writers: &Writers) -> FileDestination {
        let seconds = self.seconds.clone();
        let clock = move || Timestamp::from_nanos(seconds.load(Ordering::Relaxed) * 1_000_000_000);
        FileDestination::new(&self.options, Arc::new(clock), writers).unwrap()
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    fn out(&self, name: &str) -> PathBuf {
        self.directory.path().join("out").join(name)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.options.path).unwrap()
    }

    /// Puts a file there before there is a destination.
    fn put(&self, name: &str, text: &[u8]) {
        fs::create_dir_all(self.out("")).unwrap();
        fs::write(self.out(name), text).unwrap();
    }

    /// All names but the lock's.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.out("")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        names
    }
}

/// Drops the destination and waits for its blocking threads, which hold the lock until they are done.
async fn close(destination: FileDestination) {
    let shared = Arc::downgrade(&destination.shared);
    drop(destination);
    while shared.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

fn batch(count: u32) -> Arc<Batch> {
    Arc::new(test_batch::of(count))
}

async fn failure(destination: &FileDestination) -> DeliveryError {
    let error = destination.deliver(batch(1)).await.unwrap_err();
    assert_eq!((error.cause, error.verdict), (Cause::Io, Verdict::Retry { after: None }));
    error
}

/// Batches follow each other, also over a restart, and the directories above the file are made.
#[tokio::test]
async fn batches_are_appended() {
    let bed = Bed::new();
    let first = bed.destination();
    let receipt = first.deliver(batch(2)).await.unwrap();
    assert_eq!(receipt.bytes, bed.text().len() as u64);
    close(first).await;
    let second = bed.destination();
    second.probe().await.unwrap();
    second.deliver(batch(3)).await.unwrap();
    let text = bed.text();
    assert_eq!(text.lines().count(), 5);
    assert!(text.ends_with('\n') && text.lines().all(|line| line.as_bytes().starts_with(LINE_START)));
    assert_eq!(bed.names(), ["events.ndjson"]);
}

/// A batch goes to the next file where it would make this one too large. A batch that is too large by itself
/// gets a file, and an empty file is never rotated.
#[tokio::test]
async fn a_full_file_is_rotated() {
    let mut bed = Bed::new();
    let line = encode_batch(&test_batch::of(1), Framing::Lines).unwrap().len() as u64;
    bed.options.rotate_bytes = Some(2 * line);
    let file = bed.destination();
    for count in [5, 1, 1, 1] {
        file.deliver(batch(count)).await.unwrap();
    }
    assert_eq!(
        bed.names(),
        ["events-20260131T080000Z-0.ndjson", "events-20260131T080000Z-1.ndjson", "events.ndjson"]
    );
    let lines = |name| fs::read_to_string(bed.out(name)).unwrap().lines().count();
    assert_eq!(lines("events-20260131T080000Z-0.ndjson"), 5);
    assert_eq!(lines("events-20260131T080000Z-1.ndjson"), 2);
    assert_eq!(lines("events.ndjson"), 1);
}

/// A file is rotated when it is old, counted from its first event; one from before the start by what the file
/// system says.
#[tokio::test]
async fn an_old_file_is_rotated() {
    let mut bed = Bed::new();
    bed.options.rotate_every = Some(std::time::Duration::from_secs(3600));
    let file = bed.destination();
    file.probe().await.unwrap();
    bed.pass(7200);
    for seconds in [0, 3599, 1] {
        bed.pass(seconds);
        file.deliver(batch(1)).await.unwrap();
    }
    assert_eq!(bed.names(), ["events-20260131T110000Z-0.ndjson", "events.ndjson"]);
    close(file).await;

    let made = born(&fs::metadata(&bed.options.path).unwrap()).unwrap().millis() / 1000;
    for (age, files) in [(3500, 2), (4000, 3)] {
        bed.seconds.store(made + age, Ordering::Relaxed);
        let file = bed.destination();
        file.deliver(batch(1)).await.unwrap();
        close(file).await;
        assert_eq!(bed.names().len(), files, "{:?}", bed.names());
    }
}

/// Names only grow: a clock that is set back neither overwrites a file nor makes a newer one look older.
#[tokio::test]
async fn rotated_names_only_grow() {
    let mut bed = Bed::new();
    bed.options.rotate_bytes = Some(1);
    bed.put("events-20260131T080000Z-9.ndjson.gz", b"taken");
    bed.put("events-other-20360131T080000Z-9.ndjson", b"another sink's");
    let file = bed.destination();
    for seconds in [0, 0, 5, -3600] {
        bed.pass(seconds);
        file.deliver(batch(1)).await.unwrap();
    }
    let names = bed.names();
    for name in ["080000Z-10.ndjson", "080005Z-0.ndjson", "080005Z-1.ndjson"] {
        assert!(names.contains(&format!("events-20260131T{name}")), "{names:?}");
    }
    assert_eq!(fs::read(bed.out("events-20260131T080000Z-9.ndjson.gz")).unwrap(), b"taken");
}

/// Rotated files are compressed, what a crash left half done is finished or removed, and the oldest go.
#[tokio::test]
async fn rotated_files_are_compressed_and_limited() {
    let mut bed = Bed::new();
    bed.options.rotate_bytes = Some(1);
    bed.options.compression = Compression::Gzip;
    bed.options.keep_files = Some(3);
    bed.put("events-20260101T000000Z-0.ndjson", b"the oldest");
    bed.put("events-20260101T000000Z-1.ndjson.gz", b"whole");
    bed.put("events-20260101T000000Z-1.ndjson", b"compressed already");
    bed.put("events-20260101T000000Z-2.ndjson", b"half compressed");
    bed.put("events-20260101T000000Z-2.ndjson.gz.tmp", b"half");
    bed.put("events-20260101T000000Z-3.ndjson.gz.tmp", b"of nothing");
    let file = bed.destination();
    file.deliver(batch(1)).await.unwrap();
    let first = bed.text();
    file.deliver(batch(1)).await.unwrap();
    // Whatever the other thread has done by now, after this all of it is done.
    let shared = file.shared.clone();
    tokio::task::spawn_blocking(move || shared.tidy()).await.unwrap();
    assert_eq!(
        bed.names(),
        [
            "events-20260101T000000Z-1.ndjson.gz",
            "events-20260101T000000Z-2.ndjson.gz",
            "events-20260131T080000Z-0.ndjson.gz",
            "events.ndjson",
        ]
    );
    let unzip = |name: &str| {
        let mut text = String::new();
        MultiGzDecoder::new(File::open(bed.out(name)).unwrap()).read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(unzip("events-20260101T000000Z-2.ndjson.gz"), "half compressed");
    assert_eq!(unzip("events-20260131T080000Z-0.ndjson.gz"), first);
    assert_eq!(fs::read(bed.out("events-20260101T000000Z-1.ndjson.gz")).unwrap(), b"whole");
}

/// A destination that is gone leaves no half-compressed file, and the plain one stays.
#[tokio::test]
async fn compressing_stops_with_the_destination() {
    let mut bed = Bed::new();
    bed.options.compression = Compression::Gzip;
    bed.put("events-20260101T000000Z-0.ndjson", b"plain");
    let rotated = Rotated::of(&bed.options.path).unwrap();
    rotated.tidy(None, Compression::Gzip, &AtomicBool::new(true)).unwrap();
    assert_eq!(bed.names(), ["events-20260101T000000Z-0.ndjson"]);
}

/// What a crash left behind the last line break is cut off, however long it is.
#[tokio::test]
async fn a_torn_line_is_cut_off() {
    let whole = String::from_utf8(encode_batch(&test_batch::of(2), Framing::Lines).unwrap()).unwrap();
    let long = format!("{{\"event_id\":\"{}", "x".repeat(200_000));
    for torn in ["{", "{\"event_id\":\"0198", long.as_str(), "\0\0\0\0"] {
        for before in ["", whole.as_str()] {
            let bed = Bed::new();
            bed.put("events.ndjson", format!("{before}{torn}").as_bytes());
            bed.destination().probe().await.unwrap();
            assert_eq!(bed.text().len(), before.len() + torn.len(), "a probe changes nothing");
            bed.destination().deliver(batch(2)).await.unwrap();
            assert_eq!(bed.text(), format!("{before}{whole}"));
        }
    }
}

/// A path that was mistyped to someone else's file costs them nothing.
#[tokio::test]
async fn a_foreign_file_is_left_alone() {
    let bed = Bed::new();
    bed.put("events.ndjson", b"{ \"theirs\": 1 }");
    let error = failure(&bed.destination()).await;
    assert!(error.message.contains("not an event of Forebay"), "{error}");
    assert_eq!(bed.text(), "{ \"theirs\": 1 }");
}

/// A file that was moved away, removed or emptied is begun anew: delivered means it is at the path.
#[tokio::test]
async fn a_file_that_was_taken_away_is_begun_anew() {
    let bed = Bed::new();
    let file = bed.destination();
    file.deliver(batch(3)).await.unwrap();
    fs::rename(&bed.options.path, bed.out("moved")).unwrap();
    file.deliver(batch(1)).await.unwrap();
    assert_eq!(bed.text().lines().count(), 1);
    File::create(&bed.options.path).unwrap();
    file.deliver(batch(2)).await.unwrap();
    assert_eq!(bed.text().lines().count(), 2);
}

/// A second writer, as another process has it, is kept out until the first is gone.
#[tokio::test]
async fn one_writer_at_a_time() {
    let bed = Bed::new();
    let (first, second) = (bed.destination(), bed.destination());
    first.deliver(batch(1)).await.unwrap();
    assert!(failure(&second).await.message.contains("another sink or process"));
    close(first).await;
    second.deliver(batch(1)).await.unwrap();
    assert_eq!(bed.text().lines().count(), 2);
}

/// Failures name the path, may pass, and do pass once the cause is gone.
#[tokio::test]
async fn failures_name_the_path_and_may_pass() {
    let bed = Bed::new();
    let path = &bed.options.path;
    let file = bed.destination();

    fs::write(bed.directory.path().join("out"), "a file where the directory should be").unwrap();
    let error = failure(&file).await;
    let directory = bed.directory.path().join("out");
    assert!(
        error.message.starts_with(&format!("{}: create the directory: ", directory.display())),
        "{error}"
    );

    fs::remove_file(&directory).unwrap();
    fs::create_dir_all(path).unwrap();
    let error = failure(&file).await;
    assert!(error.message.starts_with(&format!("{}: open: ", path.display())), "{error}");
    assert_eq!(file.probe().await.unwrap_err().cause, Cause::Io);

    fs::remove_dir(path).unwrap();
    file.deliver(batch(1)).await.unwrap();
    assert_eq!(bed.text().lines().count(), 1);
}

/// A path that can name no file is refused when the destination is built.
#[test]
fn a_path_must_name_a_file() {
    let mut bed = Bed::new();
    bed.options.path = PathBuf::from("/");
    let clock: WallClock = Arc::new(Timestamp::default);
    let error = FileDestination::new(&bed.options, clock, &Writers::default()).unwrap_err();
    assert_eq!(error.cause, Cause::Build);
}

/// A damaged record adds nothing to the file.
#[tokio::test]
async fn a_damaged_record_is_not_written() {
    let bed = Bed::new();
    let file = bed.destination();
    let error = file.deliver(Arc::new(test_batch::damaged())).await.unwrap_err();
    assert_eq!((error.cause, error.verdict), (Cause::Encode, Verdict::Reject));
    assert!(!bed.options.path.exists());
}

/// A disk that takes part of a batch, or takes it and cannot sync.
struct Disk {
    held: Vec<u8>,
    room: usize,
    syncs: bool,
}

impl Appendable for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let taken = bytes.len().min(self.room - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        if taken < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.syncs { Ok(()) } else { Err(io::Error::other("lost")) }
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.held.truncate(len as usize);
        Ok(())
    }
}

/// A batch that does not fit, or that may not be on the disk, leaves nothing of itself; the next try writes it
/// once.
#[test]
fn a_failed_batch_is_undone() {
    let mut disk = Disk { held: b"before\n".to_vec(), room: 10, syncs: true };
    let error = append_whole(&mut disk, 7, b"one\ntwo\n").unwrap_err();
    assert_eq!((error.kind(), disk.held.as_slice()), (io::ErrorKind::StorageFull, &b"before\n"[..]));
    (disk.room, disk.syncs) = (100, false);
    append_whole(&mut disk, 7, b"one\ntwo\n").unwrap_err();
    assert_eq!(disk.held, b"before\n");
    disk.syncs = true;
    append_whole(&mut disk, 7, b"one\ntwo\n").unwrap();
    assert_eq!(disk.held, b"before\none\ntwo\n");
}
