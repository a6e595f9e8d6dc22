//! Objects, in a directory that is synced: what the sink costs beside a server is the same wherever they go.
//!
//! NDJSON stands beside a bare loop that compresses the same lines at the same level and writes them to synced files: what is
//! left between the two is what the sink adds to compression. Parquet stands for itself, as input a second of one core.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use forebay::{
    config::{S3Format, S3Sink},
    destination::s3::S3Destination,
};
use forebay_actors::{
    destination::Destination as _,
    event::{BlockBuilder, Draft, EventWriter, Timestamp},
    record::Batch,
};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{ROUNDS, batches::taken, median, report};

/// Of the bare loop's speed: bound by compression is what spends most of its time there. What is missing is reading events
/// and writing them as JSON.
const NDJSON_WANTED: f64 = 0.5;

/// MB of JSON a second of one core.
const PARQUET_WANTED: f64 = 50.0;

/// What `/proc` counts a process' time in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Events of an object.
const OBJECT_ROWS: usize = 50_000;

/// What is read of a request.
#[derive(serde::Deserialize)]
struct Access<'a> {
    timestamp: &'a str,
    service: &'a str,
    message: Cow<'a, str>,
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// Whether the sink reaches what is wanted of it.
pub async fn measure(rows: u64) -> bool {
    let Some(batches) = real_requests(rows) else { return true };
    let batches = &batches;
    let dir = TempDir::new().expect("a temporary directory");
    let lines: Vec<_> = batches.iter().map(|batch| lines(batch)).collect();
    let bytes: usize = lines.iter().map(Vec::len).sum();
    let rows: u64 = batches.iter().map(|batch| batch.count()).sum();

    let (mut delivered, mut packed) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (took, _) = deliver(S3Format::Ndjson, dir.path(), batches).await;
        let began = Instant::now();
        pack(&dir.path().join("bare"), &lines);
        // The first is for caches and files.
        if round > 0 {
            delivered.push(took);
            packed.push(began.elapsed());
        }
    }
    let ndjson =
        report("s3, ndjson", "compressing and writing alone", NDJSON_WANTED, rows, delivered, packed);

    let mut cores = Vec::new();
    for _ in 0..ROUNDS {
        cores.push(deliver(S3Format::Parquet, dir.path(), batches).await.1);
    }
    let rate = bytes as f64 / 1e6 / median(cores).as_secs_f64();
    println!(
        "s3, parquet: {rate:.0} MB/s of JSON a core, {PARQUET_WANTED:.0} are wanted (median of {ROUNDS} rounds)"
    );
    ndjson && rate >= PARQUET_WANTED
}

/// Delivers all into an empty archive; what it took by the clock, and of the cores.
async fn deliver(format: S3Format, dir: &Path, batches: &[Arc<Batch>]) -> (Duration, Duration) {
    let archive = dir.join("archive");
    let mut options = S3Sink::to(format!("file://{}", archive.display()));
    (options.format, options.key) = (format, "{stream}-{first}-{last}.{extension}".to_owned());
    let sink = S3Destination::new(&options).expect("the options are right");
    let (began, before) = (Instant::now(), cpu());
    for batch in batches {
        sink.deliver(batch.clone()).await.expect("the directory takes it");
    }
    let took = (began.elapsed(), cpu() - before);
    fs::remove_dir_all(archive).expect("it was just written");
    took
}

/// Batches of real requests, since what is made up compresses too well; those there are come again and again.
fn real_requests(rows: u64) -> Option<Vec<Arc<Batch>>> {
    let dir = std::env::var_os("FOREBAY_DATA").map_or_else(|| "../shared/data".into(), PathBuf::from);
    let Ok(file) = File::open(dir.join("access_events.ndjson.gz")) else {
        println!("s3 is left out: there are no real requests in {}; set FOREBAY_DATA", dir.display());
        return None;
    };
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).expect("it is compressed by gzip");
    let requests: Vec<Access<'_>> =
        text.lines().map(|line| serde_json::from_str(line).expect("a request")).collect();
    let rows = usize::try_from(rows).expect("so many fit into memory");
    let mut rest = requests.iter().cycle().take(rows).peekable();
    let (mut batches, mut first) = (Vec::new(), 0);
    while rest.peek().is_some() {
        let mut builder = BlockBuilder::default();
        for request in rest.by_ref().take(OBJECT_ROWS) {
            builder.push(&Draft {
                event_id: None,
                timestamp: Some(Timestamp::parse(request.timestamp).expect("a time")),
                service: request.service,
                message: &request.message,
                metadata: Some(request.metadata.get()),
            });
        }
        let batch = taken(first, builder);
        first += batch.count();
        batches.push(Arc::new(batch));
    }
    Some(batches)
}

fn pack(dir: &Path, lines: &[Vec<u8>]) {
    fs::create_dir_all(dir).expect("a directory");
    for (number, lines) in lines.iter().enumerate() {
        let mut packed = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
        packed.write_all(lines).expect("a Vec takes everything");
        let mut file = File::create(dir.join(number.to_string())).expect("a file");
        file.write_all(&packed.finish().expect("a Vec takes everything")).expect("there is room");
        file.sync_all().expect("the device works");
    }
}

fn lines(batch: &Batch) -> Vec<u8> {
    let (mut lines, mut writer, mut events) = (Vec::new(), EventWriter::default(), batch.events());
    while let Some(event) = events.next_event() {
        writer.write(&event.expect("it was just encoded"), &mut lines);
        lines.push(b'\n');
    }
    lines
}

/// Time of this process on all cores, its own and the system's for it.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let behind_the_name = stat.rsplit_once(')').expect("it has a name").1;
    let ticks = behind_the_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
}
