//! The parts of the way of an event, each alone: codec, JSON, journal, broadcast, conditions. The whole is `end_to_end`.

use std::{fs::File, hint::black_box, io::Read as _, path::PathBuf, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forebay::{
    config::{Config, SinkConfig, SinkKind, When},
    ingress::events::{Framing, parse},
    pipeline::{self, Pipeline},
};
use forebay_actors::{
    event::{
        BLOCK_BYTES, Block, BlockBuilder, Draft, EventWriter, Events, IdSource, Stamp, Stamped, Timestamp,
    },
    journal::{Durability, Journal, SledJournal},
    message::Admit,
    otlp::{Items, Rows, Signal, check, cut},
    record::{Batch, Position, Record, Span},
    runtime::clock::Clock,
};
use prometheus::Registry;
use tokio::sync::oneshot;

/// Events of a request, as in the end-to-end benchmark.
const EVENTS: usize = 500;

/// Sinks that are broadcast to.
const SINKS: [usize; 4] = [1, 2, 4, 8];

/// Lines like the ones a web server logs, about 330 bytes each; the real ones where they are at hand.
fn lines() -> String {
    let data =
        std::env::var_os("FOREBAY_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    if let Ok(file) = File::open(data.join("access_events.ndjson.gz")) {
        let mut text = String::new();
        if flate2::read::GzDecoder::new(file).read_to_string(&mut text).is_ok() {
            return text.lines().take(EVENTS).flat_map(|line| [line, "\n"]).collect();
        }
    }
    let line = |i: usize| {
        format!(
            "{{\"timestamp\":\"2026-01-31T08:00:{:02}Z\",\"service\":\"web\",\"message\":\"GET /item/{i} HTTP/1.1\",\"metadata\":{{\"client\":\"192.0.2.{}\",\"status\":200,\"bytes\":{},\"user_agent\":\"{}\"}}}}\n",
            i % 60,
            i % 250,
            i * 37,
            "Mozilla/5.0 (X11; Linux x86_64) ".repeat(5),
        )
    };
    (0..EVENTS).map(line).collect()
}

fn blocks(lines: &str) -> Vec<Block> {
    parse(lines.as_bytes(), Framing::Ndjson, 1 << 20).expect("the lines are events").blocks
}

fn stamped(lines: &str) -> Vec<Stamped> {
    let ingested_at = Timestamp::from_nanos(1_767_000_000_000_000_000);
    let mut ids = IdSource::new(1);
    let stamp = |block: Block| {
        let first_id = ids.first_of(block.count(), ingested_at);
        block.stamped(Stamp { first_id, ingested_at })
    };
    blocks(lines).into_iter().map(stamp).collect()
}

fn json(c: &mut Criterion) {
    let lines = lines();
    let array = format!("[{}]", lines.trim_end().replace('\n', ","));
    let single = lines.lines().next().expect("there are lines").to_owned();
    let mut group = c.benchmark_group("json");
    for (name, body, framing, events) in [
        ("array of 500", &array, Framing::Json, EVENTS),
        ("500 lines", &lines, Framing::Ndjson, EVENTS),
        ("one object", &single, Framing::Json, 1),
    ] {
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(name, |b| b.iter(|| parse(black_box(body.as_bytes()), framing, 1 << 20)));
    }
}

fn codec(c: &mut Criterion) {
    let payload: Vec<u8> = stamped(&lines()).iter().flat_map(|block| block.bytes().to_vec()).collect();
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("encode 500", |b| {
        let draft = Draft {
            event_id: None,
            timestamp: Some(Timestamp::from_nanos(1)),
            service: "web",
            message: "GET /item/1 HTTP/1.1",
            metadata: Some("{\"client\":\"192.0.2.1\",\"status\":200}"),
        };
        b.iter(|| {
            let mut builder = BlockBuilder::with_capacity(EVENTS * 100);
            (0..EVENTS).for_each(|_| builder.push(black_box(&draft)));
            builder.finish()
        });
    });
    group.bench_function("decode 500", |b| {
        b.iter(|| {
            let (mut events, mut count) = (Events::new(black_box(&payload)), 0);
            while let Some(Ok(_)) = events.next_event() {
                count += 1;
            }
            count
        });
    });
    group.bench_function("decode 500 and write as JSON", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            let mut writer = EventWriter::default();
            let mut events = Events::new(black_box(&payload));
            while let Some(Ok(event)) = events.next_event() {
                writer.write(&event, &mut out);
            }
            out.len()
        });
    });
}

fn journal(c: &mut Criterion) {
    let blocks = stamped(&lines());
    let mut group = c.benchmark_group("journal");
    group.throughput(Throughput::Elements(EVENTS as u64)).measurement_time(Duration::from_secs(5));
    for (name, durability) in [
        ("commit 500, fsync", Durability::Fsync),
        ("commit 500, interval", Durability::Interval(Duration::MAX)),
    ] {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let journal =
            SledJournal::open(dir.path(), durability, Position(0), Clock::system()).expect("a journal");
        let forget = |journal: &SledJournal| {
            let (upto, ever) = (journal.span().end, Timestamp::from_nanos(i64::MAX));
            journal.remove(upto, ever).expect("generations can be removed");
        };
        group.bench_function(name, |b| {
            b.iter(|| journal.commit(&blocks).expect("a commit"));
            forget(&journal);
        });
    }
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let journal =
        SledJournal::open(dir.path(), Durability::Fsync, Position(0), Clock::system()).expect("a journal");
    (0..200).for_each(|_| drop(journal.commit(&blocks).expect("a commit")));
    group.bench_function("read 500", |b| {
        let mut at = journal.span().first;
        b.iter(|| {
            let pieces = journal.read(at, 1).expect("a reading");
            let end = pieces.last().map_or(at, forebay_actors::journal::Piece::end);
            at = if end >= journal.span().end { journal.span().first } else { end };
            pieces
        });
    });
}

/// From the ingress' door to the last of so many sinks, without a disk: what each further sink costs.
fn broadcast(c: &mut Criterion) {
    let lines = lines();
    let mut group = c.benchmark_group("broadcast");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(20);
    for sinks in SINKS {
        let blackhole = SinkConfig::new(SinkKind::Blackhole(Default::default()));
        let mut config = Config { sinks: Default::default(), ..Config::default() };
        config.buffer.durability = forebay::config::Durability::Memory;
        config.batch.max_wait = Duration::ZERO;
        config.sinks.extend((0..sinks).map(|i| (format!("sink{i}"), blackhole.clone())));
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let system = actix::System::new();
        let pipeline = system.block_on(async {
            let destinations = pipeline::destinations(&config, dir.path(), Clock::system());
            Pipeline::start(&config, dir.path(), &Registry::new(), Clock::system(), destinations)
                .expect("a pipeline")
        });
        let (receiver, view) = (pipeline.receiver(), pipeline.view());
        group.bench_function(BenchmarkId::from_parameter(sinks), |b| {
            b.iter(|| {
                system.block_on(async {
                    let (reply, answer) = oneshot::channel();
                    let admitted = receiver.offer(Admit::one(blocks(&lines), reply));
                    assert!(admitted.is_ok(), "the mailbox has room for one");
                    answer.await.expect("an answer").expect("a success");
                    while view.cursors.lowest() < Some(view.journal.span().end) {
                        tokio::task::yield_now().await;
                    }
                });
            });
        });
        drop(pipeline);
    }
}

/// Log records of OpenTelemetry, about 230 bytes each.
fn otlp_logs(records: usize) -> Vec<u8> {
    use forebay_actors::otlp::wire::put_bytes;
    let attribute = |out: &mut Vec<u8>, number, key: &str, value: &str| {
        let (mut any, mut pair) = (Vec::new(), Vec::new());
        put_bytes(&mut any, 1, value.as_bytes());
        put_bytes(&mut pair, 1, key.as_bytes());
        put_bytes(&mut pair, 2, &any);
        put_bytes(out, number, &pair);
    };
    let mut scope_logs = Vec::new();
    for index in 0..records {
        // Both times, a severity and its text, as they stand on the wire.
        let mut record = b"\x09\x00\x00\x34\xa4\x6d\x2d\x90\x18\x10\x09\x1a\x04INFO".to_vec();
        let mut body = Vec::new();
        put_bytes(
            &mut body,
            1,
            format!("GET /api/v2/orders/{index} answered 200 in {} ms", index % 400).as_bytes(),
        );
        put_bytes(&mut record, 5, &body);
        attribute(&mut record, 6, "http.request.method", "GET");
        attribute(&mut record, 6, "http.response.status_code", "200");
        attribute(&mut record, 6, "client.address", "192.0.2.17");
        put_bytes(&mut record, 9, &(index as u128 + 1).to_be_bytes());
        put_bytes(&mut record, 10, &(index as u64 + 1).to_be_bytes());
        record.extend_from_slice(b"\x59\x00\x00\x34\xa4\x6d\x2d\x90\x18");
        put_bytes(&mut scope_logs, 2, &record);
    }
    let (mut resource, mut resource_logs, mut request) = (Vec::new(), Vec::new(), Vec::new());
    attribute(&mut resource, 1, "service.name", "checkout");
    put_bytes(&mut resource_logs, 1, &resource);
    put_bytes(&mut resource_logs, 2, &scope_logs);
    put_bytes(&mut request, 1, &resource_logs);
    request
}

/// What is done with a request of OpenTelemetry on its way in and out.
fn otlp(c: &mut Criterion) {
    const LARGE_BYTES: usize = 64 << 20;
    let request = otlp_logs(EVENTS);
    let mut group = c.benchmark_group("otlp");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("check 500", |b| b.iter(|| check(black_box(&request), Signal::Logs)));
    group.bench_function("count 500", |b| b.iter(|| Items::of(black_box(&request), Signal::Logs).count()));
    group.bench_function("block of 500", |b| {
        b.iter(|| Block::otlp(Signal::Logs, black_box(&request), EVENTS as u32));
    });
    group.bench_function("rows of 500", |b| {
        b.iter(|| {
            let (mut rows, mut bytes) = (Rows::of(black_box(&request), Signal::Logs), 0);
            while let Some(row) = rows.next_row() {
                bytes += row.metadata.len();
            }
            bytes
        });
    });
    let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::from_nanos(1) };
    let payload = Block::otlp(Signal::Logs, &request, EVENTS as u32).stamped(stamp).bytes().to_vec();
    group.bench_function("rows of 500 as JSON lines", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            let mut writer = EventWriter::default();
            let mut events = Events::new(black_box(&payload));
            while let Some(Ok(event)) = events.next_event() {
                writer.write(&event, &mut out);
            }
            out.len()
        });
    });
    let large = otlp_logs(LARGE_BYTES / (request.len() / EVENTS));
    group.sample_size(10).throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("cut 64 MiB into blocks", |b| {
        b.iter(|| cut(black_box(&large), Signal::Logs, BLOCK_BYTES / 8 * 7).count());
    });
}

/// What a condition costs its sink: for each event, whether it takes it or not.
fn condition(c: &mut Criterion) {
    let batch = |blocks: Vec<Stamped>| {
        let payload: Vec<u8> = blocks.iter().flat_map(|block| block.bytes().to_vec()).collect();
        let (first, written_at) = (Position(0), Timestamp::from_nanos(1));
        let record = Record { first, count: EVENTS as u32, written_at, payload: payload.into() };
        Arc::new(Batch::new(Span { first, end: record.end() }, vec![record.into()]))
    };
    let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::from_nanos(1) };
    let logs = Block::otlp(Signal::Logs, &otlp_logs(EVENTS), EVENTS as u32).stamped(stamp);
    let (events, logs) = (batch(stamped(&lines())), batch(vec![logs]));
    let mut group = c.benchmark_group("condition");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, batch, when) in [
        ("events by signal", &events, serde_json::json!({ "signal": "traces" })),
        ("events by service", &events, serde_json::json!({ "service": ["shop-*", "w?w"] })),
        (
            "events by metadata",
            &events,
            serde_json::json!({ "fields": { "metadata.status": { "gte": 500 } } }),
        ),
        (
            "events by pattern",
            &events,
            serde_json::json!({ "fields": { "message": { "matches": "/item/\\d+9 " } } }),
        ),
        ("logs by service", &logs, serde_json::json!({ "service": "check*" })),
        (
            "logs by attribute",
            &logs,
            serde_json::json!({ "fields": { "attributes.http.response.status_code": { "gte": 500 } } }),
        ),
    ] {
        let when: When = serde_json::from_value(when).expect("it is a condition");
        let condition = when.condition().expect("it is a condition");
        group.bench_function(name, |b| b.iter(|| condition.view(black_box(batch))));
    }
}

criterion_group!(parts, json, codec, journal, broadcast, otlp, condition);
criterion_main!(parts);
