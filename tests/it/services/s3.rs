//! `type: s3`, into a directory and against a real MinIO: the binary delivers, objects are read back by the library that
//! wrote them, and Parquet also by an engine that has nothing to do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use base64::Engine as _;
use futures::TryStreamExt as _;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig,
    aws::AmazonS3Builder,
    client::{HttpClient, HttpConnector},
    local::LocalFileSystem,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Service, complains, event, load, post};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    thorough, until,
};

const PATIENCE: &str = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";

/// Objects of a store by their keys.
pub(super) type Objects = BTreeMap<String, Vec<u8>>;

/// Everything below the store's root.
fn objects(store: &dyn ObjectStore) -> Objects {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        let mut objects = Objects::new();
        for object in listed {
            let body = store.get(&object.location).await.unwrap().bytes().await.unwrap();
            objects.insert(object.location.to_string(), body.to_vec());
        }
        objects
    })
}

fn in_directory(path: &Path) -> Objects {
    objects(&LocalFileSystem::new_with_prefix(path).unwrap())
}

/// The events of NDJSON objects.
fn events_of(objects: &Objects) -> Vec<Value> {
    let mut events = Vec::new();
    for (key, body) in objects {
        assert!(key.ends_with(".ndjson.gz"), "{key}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        events.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    events
}

/// The ids of the events; no id is there twice.
fn ids_of(objects: &Objects) -> BTreeSet<String> {
    let events = events_of(objects);
    let ids: BTreeSet<_> =
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), events.len(), "one event, one line of one object");
    ids
}

pub(super) struct Minio(Service);

/// The library's own client would need TLS, which a server on loopback does not.
#[derive(Debug)]
struct InTheClear;

impl HttpConnector for InTheClear {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build();
        Ok(HttpClient::new(client.unwrap()))
    }
}

impl Minio {
    pub(super) fn start(test: &str) -> Option<Self> {
        Service::start("minio", test).map(Self)
    }

    /// Kills it, or starts it again.
    pub(super) fn toggle(&mut self, is_down: bool) {
        if is_down { self.0.down("kill") } else { self.0.up() }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port)
    }

    pub(super) fn sink(&self, keys: &str) -> String {
        self.sink_as("secret-123", "archive", keys)
    }

    fn sink_as(&self, secret: &str, bucket: &str, keys: &str) -> String {
        let endpoint = self.endpoint();
        format!(
            "{{ type: s3, url: \"s3://{bucket}/a/b\", endpoint: \"{endpoint}\", access_key_id: forebay, \
             secret_access_key: {secret}, {PATIENCE}{keys} }}"
        )
    }

    pub(super) fn objects(&self) -> Objects {
        let store = AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_bucket_name("archive")
            .with_region("us-east-1")
            .with_access_key_id("forebay")
            .with_secret_access_key("secret-123")
            .with_http_connector(InTheClear)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build();
        objects(&store.unwrap())
    }
}

/// Waits until the sink has delivered so many events in this life of the process.
#[track_caller]
fn delivered(forebay: &Forebay, events: usize) {
    until("all is delivered", || {
        forebay.metric("forebay_sink_sent_events_total", "archive") >= events as f64
    });
}

/// An event with everything, one without metadata and one of a megabyte; of two services and three hours.
fn events() -> [Value; 3] {
    let metadata = json!({"a": [1, 2.5, null, {"ü": "\u{1F600} \"quoted\" \\ back\tslash"}], "zero": "\0"});
    [
        json!({"event_id": "a", "service": "api", "message": "Grüße, 世界 \u{1F600}\n'quoted' \0", "metadata": metadata,
            "timestamp": "2026-05-06T07:08:09.123456789Z"}),
        json!({"event_id": "b", "service": "ü/../x", "message": "", "timestamp": "1815-12-10T00:00:00.000000001Z"}),
        json!({"event_id": "c", "service": "api", "message": "x€".repeat(256 * 1024), "timestamp": "2026-05-06T09:00:00Z"}),
    ]
}

fn assert_events(found: &[Value]) {
    for expected in events() {
        let event = found.iter().find(|event| event["event_id"] == expected["event_id"]).unwrap();
        for field in ["service", "message", "timestamp"] {
            assert_eq!(event[field], expected[field]);
        }
        assert_eq!(event["metadata"], expected.get("metadata").cloned().unwrap_or_else(|| json!({})));
    }
    assert_eq!(found.len(), 3);
}

/// Unicode, quotes, no metadata, a message of a megabyte, times to the nanosecond: what lies in the objects is what was
/// sent, under keys that say what they hold. A service's name never leaves its place in the key.
#[test]
fn every_field_comes_back_from_a_directory() {
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let archive = dir.path().join("archive");
    let sink = format!("{{ type: s3, url: \"file://{}\", batch: {{ max_wait: 100ms }} }}", archive.display());
    let forebay = Place::empty().sink("archive", &sink).start();
    post(&forebay, &events());
    delivered(&forebay, 3);
    let found = in_directory(&archive);
    assert_events(&events_of(&found));
    let keys: Vec<_> = found.keys().map(|key| key.rsplit_once('/').unwrap().0).collect();
    assert_eq!(
        keys,
        [
            "events/%C3%BC%2F..%2Fx/date=1815-12-10/hour=00",
            "events/api/date=2026-05-06/hour=07",
            "events/api/date=2026-05-06/hour=09",
        ]
    );
}

/// Parquet as an engine reads it that did not write it: every field, and times as times.
#[test]
fn parquet_is_read_by_others() {
    let Some(engine) = Service::start("clickhouse-engine", "parquet_is_read_by_others") else { return };
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let archive = dir.path().join("archive");
    let sink = format!(
        "{{ type: s3, url: \"file://{}\", format: parquet, batch: {{ max_wait: 100ms }}, \
         key: \"{{stream}}-{{first}}-{{last}}.parquet\" }}",
        archive.display()
    );
    let forebay = Place::empty().sink("archive", &sink).start();
    post(&forebay, &events());
    delivered(&forebay, 3);
    let sql = format!(
        "SELECT event_id, service, message, metadata, toString(timestamp_nanos) AS nanos, \
         toString(toTimeZone(timestamp, 'UTC')) AS timestamp, toTypeName(ingested_at) AS kind \
         FROM file('{}/*.parquet', Parquet) ORDER BY event_id FORMAT JSON",
        archive.display()
    );
    let answer = request(([127, 0, 0, 1], engine.port).into(), "POST", "/", &[], sql.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rows = answer.json()["data"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 3);
    for (row, expected) in rows.iter().zip(events()) {
        for field in ["event_id", "service", "message"] {
            assert_eq!(row[field], expected[field]);
        }
        assert!(row["kind"].as_str().unwrap().contains("DateTime64(6"), "{row}");
    }
    assert_eq!(rows[0]["nanos"], "1778051289123456789");
    assert_eq!(rows[0]["timestamp"], "2026-05-06 07:08:09.123456");
    assert_eq!(
        serde_json::from_str::<Value>(rows[0]["metadata"].as_str().unwrap()).unwrap(),
        events()[0]["metadata"]
    );
    assert_eq!(rows[1]["metadata"], Value::Null);
}

/// Scenario: the process is killed again and again under load, so that batches come again.
/// Guarantee: every acknowledged event is a line of exactly one object.
#[test]
fn p3_an_event_is_in_one_object() {
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let archive = dir.path().join("archive");
    let keys = "batch: { max_events: 500, max_wait: 100ms }";
    let sink = format!("{{ type: s3, url: \"file://{}\", {keys} }}", archive.display());
    let place = Place::empty().sink("archive", &sink);
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for _ in 0..thorough(4, 20) {
        let mut forebay = place.start();
        let address = forebay.address;
        ended.store(false, Ordering::Relaxed);
        acknowledged.extend(std::thread::scope(|scope| {
            let load = scope.spawn(|| load(address, &posts, &ended));
            let sent = || forebay.metric("forebay_sink_sent_events_total", "archive");
            until("events arrive under load", || sent() > 2_000.0);
            forebay.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
    }
    let forebay = place.start();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let found = ids_of(&in_directory(&archive));
    assert!(acknowledged.is_subset(&found), "{} of {}", found.len(), acknowledged.len());
}

/// The same against a real store; one object is large enough to go in parts.
#[test]
fn every_field_comes_back_from_minio() {
    let Some(minio) = Minio::start("every_field_comes_back_from_minio") else { return };
    let keys = ", batch: { max_events: 100000, max_bytes: 64MiB, max_wait: 500ms }, \
                key: \"{service}/{stream}-{first}-{last}\"";
    let forebay = Place::empty().sink("archive", &minio.sink(keys)).start();
    post(&forebay, &events());
    delivered(&forebay, 3);
    let found: Objects = renamed(minio.objects());
    assert!(found.keys().all(|key| key.starts_with("a/b/")), "{:?}", found.keys());
    assert_events(&events_of(&found));

    // What nothing can pack: 30 MB of it are more than a request takes.
    let mut random = fastrand::Rng::with_seed(7);
    for post_at in 0..30 {
        let mut noise = vec![0; 768 * 1024];
        random.fill(&mut noise);
        let message = base64::engine::general_purpose::STANDARD.encode(&noise);
        let event = json!({"event_id": format!("large-{post_at}"), "service": "large", "message": message,
            "timestamp": "2026-05-06T09:00:00Z"});
        post(&forebay, &[event]);
    }
    delivered(&forebay, 33);
    let found = minio.objects();
    let largest = found.values().map(Vec::len).max().unwrap();
    assert!(largest > 16 * 1024 * 1024, "no object went in parts: {largest}");
    assert_eq!(ids_of(&renamed(found)).len(), 33);
}

/// Keys without an extension get one, for what reads them.
fn renamed(objects: Objects) -> Objects {
    objects.into_iter().map(|(key, body)| (format!("{key}.ndjson.gz"), body)).collect()
}

/// Scenario: the process and the server are killed again and again under load.
/// Guarantee: every acknowledged event is a line of exactly one object.
#[test]
fn p3_kills_on_both_sides_lose_nothing_in_minio() {
    let Some(mut minio) = Minio::start("p3_kills_on_both_sides_lose_nothing_in_minio") else { return };
    let keys = ", batch: { max_events: 2000, max_wait: 100ms }";
    let place = Place::empty().sink("archive", &minio.sink(keys));
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for round in 0..thorough(3, 12) {
        let mut forebay = place.start();
        let address = forebay.address;
        ended.store(false, Ordering::Relaxed);
        acknowledged.extend(std::thread::scope(|scope| {
            let load = scope.spawn(|| load(address, &posts, &ended));
            let sent = || forebay.metric("forebay_sink_sent_events_total", "archive");
            until("events arrive under load", || sent() > 2_000.0);
            if round % 2 == 0 {
                minio.0.down("kill");
                until("the sink has seen it", || {
                    forebay.metric("forebay_sink_errors_total", "archive") > 0.0
                });
            }
            forebay.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
        if round % 2 == 0 {
            minio.0.up();
        }
    }
    let forebay = place.start();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let found = ids_of(&minio.objects());
    assert!(acknowledged.is_subset(&found), "{} of {}", found.len(), acknowledged.len());
}

/// Nothing is lost while an operator has something to mend, and each time the sink and `validate` say what: a wrong secret,
/// a bucket that is missing, a server that is away.
#[test]
fn what_an_operator_can_mend_is_waited_for_by_s3() {
    let Some(mut minio) = Minio::start("what_an_operator_can_mend_is_waited_for_by_s3") else { return };
    let mut place = Place::empty();
    for (secret, bucket, id, word) in [
        ("secret-456", "archive", "a", "403 SignatureDoesNotMatch"),
        ("secret-123", "missing", "b", "404 NoSuchBucket"),
    ] {
        place.set_sink("archive", Some(&minio.sink_as(secret, bucket, "")));
        place.write();
        let refused = place.run(&["validate"]);
        assert!(refused.stdout.contains(word) || refused.stderr.contains(word), "{refused:?}");
        let mut forebay = place.start();
        post(&forebay, &[event(id)]);
        complains(&forebay, word);
        assert!(!forebay.get("/health").text().contains(secret) && !forebay.log().contains(secret));
        forebay.stop();
    }
    minio.0.down("kill");
    place.set_sink("archive", Some(&minio.sink("")));
    let forebay = place.start();
    post(&forebay, &[event("c")]);
    complains(&forebay, "tcp connect error");
    minio.0.up();
    delivered(&forebay, 3);
    let expected = ["a", "b", "c"].map(str::to_owned).into();
    assert_eq!(ids_of(&minio.objects()), expected);
    place.run(&["validate"]).ok();
    assert_eq!(ids_of(&minio.objects()), expected, "a probe leaves nothing behind");
}

/// An object that is there is left alone where `overwrite` is off, and counts as delivered.
#[test]
fn an_object_that_is_there_can_be_left_alone() {
    let Some(minio) = Minio::start("an_object_that_is_there_can_be_left_alone") else { return };
    let keys = ", overwrite: false, batch: { max_events: 1 }";
    let place = Place::empty().sink("archive", &minio.sink(keys));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    delivered(&forebay, 1);
    forebay.stop();
    let before = minio.objects();
    // The cursor is lost: everything that is kept is delivered again.
    std::fs::remove_dir_all(place.data_dir().join("state")).unwrap();
    let forebay = place.start();
    until("it was delivered again", || forebay.metric("forebay_sink_sent_events_total", "archive") == 1.0);
    assert_eq!(minio.objects(), before);
    assert_eq!(forebay.metric("forebay_sink_sent_bytes_total", "archive"), 0.0);
}

/// Storage class, encryption and the token of temporary credentials are asked for in the store's own headers.
#[test]
fn what_a_store_is_asked_for_is_in_the_headers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), said) = (stream, said.clone()) else { return };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let (mut head, mut line) = (String::new(), String::new());
                while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                    head.push_str(&line.to_ascii_lowercase());
                    line.clear();
                }
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).unwrap();
                let answer =
                    b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                reader.get_mut().write_all(answer).unwrap();
                // The test may have heard enough.
                let _ = said.send(head);
            });
        }
    });
    let sink = format!(
        "{{ type: s3, url: \"s3://archive\", endpoint: \"http://{address}/\", access_key_id: me, \
         secret_access_key: secret-123, session_token: token-1, storage_class: GLACIER_IR, encryption: kms, \
         kms_key_id: key-1 }}"
    );
    let forebay = Place::empty().sink("archive", &sink).start();
    post(&forebay, &[event("a")]);
    let head = heard.recv().unwrap();
    for expected in [
        "put /archive/events/api/date%3d2026-05-06/hour%3d07/",
        "x-amz-storage-class: glacier_ir",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: key-1",
        "x-amz-security-token: token-1",
        "content-type: application/gzip",
    ] {
        assert!(head.contains(expected), "{expected} in {head}");
    }
}

/// A store that answers each request by its method, with a status and a code, and a clock that stands still.
fn answering(of: impl Fn(&str) -> (&'static str, &'static str) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), of) = (stream, of.clone()) else { return };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let (mut head, mut line) = (String::new(), String::new());
                while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                    head.push_str(&line);
                    line.clear();
                }
                let (status, code) = of(head.split(' ').next().unwrap_or_default());
                let body = match code {
                    "" => {
                        "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>\
                           </InitiateMultipartUploadResult>"
                            .to_owned()
                    }
                    code => format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nDate: Sun, 31 May 2015 08:00:00 GMT\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                // Whoever asked may have gone.
                let _ = reader.get_mut().write_all(answer.as_bytes());
            });
        }
    });
    address
}

/// Scenario: a store lets read and not write; then it lets write, and not give up what was begun.
/// Guarantee: `validate` sees the first, which a look at what is there does not, and passes the second, and says so. It says that
/// the store's clock is off.
#[test]
fn r0511_validate_passed_a_bucket_that_cannot_be_written() {
    let says = |address: SocketAddr| {
        let sink = format!(
            "{{ type: s3, url: \"s3://archive\", endpoint: \"http://{address}/\", access_key_id: me, secret_access_key: secret-123 }}"
        );
        let place = Place::empty().sink("archive", &sink);
        place.write();
        place.run(&["validate"])
    };
    let said = says(answering(|method| match method {
        "POST" => ("403 Forbidden", "AccessDenied"),
        _ => ("404 Not Found", "NoSuchKey"),
    }));
    let said = said.failed(1);
    assert!(said.contains("FAIL  sink archive  s3    yes        NO          ?       "), "{said}");
    assert!(said.contains("403 AccessDenied") && said.contains("s behind"), "{said}");
    let said = says(answering(|method| match method {
        "POST" => ("200 OK", ""),
        _ => ("403 Forbidden", "AccessDenied"),
    }));
    let said = said.ok();
    assert!(said.contains("warn  sink archive  s3    yes        yes"), "{said}");
    assert!(said.contains("could not be given up") && said.contains("s behind"), "{said}");
}
