use super::*;
use crate::config::Format;

/// The only problem of a file with these lines.
fn problem(yaml: &str) -> String {
    let yaml = if yaml.contains("sinks:") {
        yaml.to_owned()
    } else {
        format!("{yaml}\nsinks: {{e: {{type: store}}}}")
    };
    let error = Config::parse(&yaml, Format::Yaml, "f", &|_| None).expect_err(&yaml).to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn the_default_makes_sense() {
    assert_eq!(Config::default().check(), []);
}

/// Each of these would start and then not do what was meant.
#[test]
fn values_that_make_no_sense() {
    for (yaml, expected) in [
        ("log: {level: inof}", "log.level: \"inof\" is not a level"),
        ("log: {level: 'info,forebay=loud'}", "\"loud\""),
        ("http: {max_event_bytes: 0}", "http.max_event_bytes: is 0"),
        ("http: {header_timeout: 0s}", "http.header_timeout: is 0"),
        ("http: {max_body_bytes: 65MiB}", "http.max_inflight_bytes: is smaller than http.max_body_bytes"),
        ("http: {max_event_bytes: 17MiB}", "http.max_event_bytes: is larger"),
        (
            "http: {max_event_bytes: 2GiB, max_body_bytes: 2GiB, max_inflight_bytes: 2GiB}",
            "http.max_event_bytes: is more than the journal takes in one piece",
        ),
        (
            "http: {max_inflight_bytes: 1GiB}\notlp: {max_body_bytes: 129MiB}",
            "otlp.max_body_bytes: is more than the journal takes in one piece; give it at most 128MiB",
        ),
        (
            "http: {max_inflight_bytes: 1GiB}\ningest: {max_batch_bytes: 129MiB}",
            "ingest.max_batch_bytes: is more",
        ),
        ("ingest: {dedupe_window: 0s}", "ingest.dedupe_window: is 0"),
        ("ingest: {max_batch_bytes: 65MiB}", "ingest.max_batch_bytes: is larger"),
        ("buffer: {max_bytes: 127MiB}", "at least 128MiB"),
        ("batch: {max_events: 0}", "batch.max_events: is 0"),
        ("retention: {days: 0}", "retention.days: is 0"),
        (
            "sinks: {a: {type: s3, url: 's3://abc/', key: '{stream}-{first}-{last}'}, b: {type: s3, url: 's3://abc/', key: '{stream}-{first}-{last}', format: parquet}}",
            "sinks.b.key: gives objects the names of those of the sink \"a\", which are in another format",
        ),
        ("retention: {schedule: at three}", "retention.schedule: \"at three\" is not a schedule"),
        ("retention: {schedule: 0 25 * * *}", "retention.schedule"),
        ("limits: {query: {burst: 3}}", "limits.query: has no rate"),
        ("limits: {ingest: {global_per_second: 0}}", "limits.ingest.global_per_second: is 0"),
        ("supervisor: {backoff_min: 1m}", "supervisor.backoff_max: is shorter"),
        ("dead_letters: {max_bytes: 0}", "dead_letters.max_bytes: is 0"),
        ("admin: {chaos: true}", "admin.token: is missing"),
        ("admin: {chaos: true, token: short}", "admin.token: is shorter than 16 characters; give it"),
        ("admin: {chaos: true, token: 'sixteen and more characters'}", "a header cannot carry"),
        ("tls: {cert_file: c.pem}", "tls.key_file: is missing"),
        ("tls: {key_file: k.pem}", "tls.cert_file: is missing"),
        ("tls: {client_ca_file: ca.pem}", "tls.client_ca_file: asks clients for certificates"),
        ("tls: {client_auth: maybe}", "tls.client_auth"),
        ("auth: {allow: [10.0.0.0/33]}", "auth.allow.0: \"10.0.0.0/33\" is neither a network nor an address"),
        ("auth: {public: [healthy]}", "auth.public.0"),
        ("auth: {tenant_key: ''}", "auth.tenant_key: is not usable"),
        ("auth: {refusals: {burst: 0}}", "auth.refusals.burst: is 0"),
        (
            "auth: {tokens: [{name: a, hash: fby_secret, scopes: [query]}]}",
            "auth.tokens.0.hash: is not sha256:",
        ),
        ("auth: {tokens: [{name: a b, hash: HASH, scopes: [query]}]}", "auth.tokens.0.name: is not usable"),
        ("auth: {tokens: [{name: a, hash: HASH, scopes: []}]}", "auth.tokens.0.scopes: is empty"),
        ("auth: {tokens: [{name: a, hash: HASH, scopes: [read]}]}", "auth.tokens.0.scopes.0"),
        ("auth: {tokens: [{name: a, hash: HASH}]}", "auth.tokens.0.scopes: is missing"),
        (
            "auth: {tokens: [{name: a, hash: HASH, scopes: [query], expires: soon}]}",
            "auth.tokens.0.expires: \"soon\"",
        ),
        (
            "auth: {tokens: [{name: a, hash: HASH, scopes: [query], limits: {per_second: 0}}]}",
            "limits.per_second: is 0",
        ),
        (
            "auth: {tokens: [{name: a, hash: HASH, scopes: [query], tenant: \"a\\n\"}]}",
            "auth.tokens.0.tenant: is not usable",
        ),
        (
            "auth: {tokens: [{name: a, hash: HASH, scopes: [query]}, {name: a, hash: OTHER, scopes: [query]}]}",
            "auth.tokens.1.name: \"a\" is the name of entry 0 too",
        ),
        (
            "auth: {tokens: [{name: a, hash: HASH, scopes: [query]}, {name: b, hash: HASH, scopes: [query]}]}",
            "auth.tokens.1.hash: is the hash of \"a\" too",
        ),
        ("sinks: {}", "sinks: there is none"),
        (
            "buffer: {backend: jetstream, durability: interval}",
            "buffer.durability: is the servers' own matter",
        ),
        (
            "buffer: {backend: jetstream, jetstream: {url: 'nats://a:b@c'}}",
            "buffer.jetstream.url: has a user",
        ),
        (
            "buffer: {backend: jetstream, jetstream: {stream: 'a.b'}}",
            "buffer.jetstream.stream: is not usable",
        ),
        ("buffer: {backend: jetstream, jetstream: {replicas: 4}}", "buffer.jetstream.replicas: is 4"),
        (
            "buffer: {backend: jetstream, jetstream: {ack_wait: 100ms}}",
            "buffer.jetstream.ack_wait: is shorter",
        ),
        ("buffer: {backend: jetstream, jetstream: {user: a}}", "buffer.jetstream.password: is missing"),
        (
            "buffer: {backend: jetstream, jetstream: {tls: {cert_file: a}}}",
            "buffer.jetstream.tls.key_file: is",
        ),
        (
            "buffer: {backend: jetstream}\nsinks: {a: {type: console, when_full: drop_oldest}}",
            "sinks.a.when_full: cannot be drop_oldest",
        ),
        (
            "buffer: {backend: jetstream}\nsinks: {a: {type: console, fallback: b}, b: {type: file, path: x}}",
            "sinks.a.fallback: names files, which are on one machine",
        ),
        (
            "buffer: {backend: jetstream}\nsinks: {a: {type: console, fallback: b}, b: {type: s3, url: 'file:///x'}}",
            "sinks.a.fallback: names files, which are on one machine",
        ),
        ("sinks: {o: {type: otlp, endpoint: 'collector:4317'}}", "sinks.o.endpoint: is not a URL"),
        ("sinks: {o: {type: otlp, endpoint: 'http://u:p@c:4317'}}", "sinks.o.endpoint: has a user"),
        ("sinks: {o: {type: otlp, endpoint: 'http://c:4317/v1'}}", "sinks.o.endpoint: has the path /v1"),
        (
            "sinks: {o: {type: otlp, protocol: http, endpoint: 'http://c:4318/v1/logs'}}",
            "sinks.o.endpoint: ends with /v1/logs",
        ),
        (
            "sinks: {o: {type: otlp, endpoint: 'https://c:4317', tls: {key_file: k}}}",
            "sinks.o.tls.cert_file: is missing; key_file needs it",
        ),
        (
            "sinks: {o: {type: otlp, endpoint: 'http://c:4317', tls: {ca_file: k}}}",
            "sinks.o.endpoint: is not encrypted",
        ),
        ("sinks: {o: {type: otlp}}", "sinks.o.endpoint: is missing"),
        (
            "sinks: {a: {type: console, fallback: b}}",
            "sinks.a.fallback: names \"b\", and there is no such sink",
        ),
        ("sinks: {a: {type: file, path: x, fallback: a}}", "sinks.a.fallback: is the sink itself"),
        (
            "sinks: {a: {type: console, fallback: b}, b: {type: http, url: 'http://x'}}",
            "sinks.a.fallback: names \"b\", and http cannot hold batches to be read back; file, s3 and cassandra can",
        ),
        (
            "sinks: {a: {type: console, fallback: f, on_failure: b}, f: {type: file, path: x}, b: {type: blackhole}}",
            "sinks.a.on_failure: cannot be beside fallback",
        ),
        (
            "sinks: {a: {type: file, path: x, fallback: b}, b: {type: file, path: y}, c: {type: console, fallback: a}}",
            "sinks.c.fallback: names \"a\", which has fallback itself",
        ),
        (
            "sinks: {a: {type: console}, b: {type: file, path: x, only_as_fallback: true}}",
            "sinks.b.only_as_fallback: is true, and no sink names it",
        ),
        (
            "sinks: {a: {type: console, on_failure: b}, b: {type: file, path: x}}",
            "sinks.a.on_failure: names \"b\", and a file has one writer",
        ),
        ("sinks: {c: {type: cassandra, hosts: [], keyspace: k}}", "sinks.c.hosts: is empty"),
        ("sinks: {c: {type: cassandra, hosts: [u@h], keyspace: k}}", "sinks.c.hosts.0: is not a host"),
        ("sinks: {c: {type: cassandra, hosts: [h], keyspace: a-b}}", "sinks.c.keyspace: is not usable"),
        (
            "sinks: {c: {type: cassandra, hosts: [h], keyspace: k, metrics_table: events}}",
            "sinks.c.metrics_table: is the table of other rows too",
        ),
        (
            "sinks: {c: {type: cassandra, hosts: [h], keyspace: k, held_table: traces_overflow}}",
            "sinks.c.held_table: is the table of other rows too",
        ),
        (
            "sinks: {c: {type: cassandra, hosts: [h], keyspace: k, user: u}}",
            "sinks.c.password: is missing; user needs it",
        ),
        (
            "sinks: {c: {type: cassandra, hosts: [h], keyspace: k, traces_ttl: 8000d}}",
            "sinks.c.traces_ttl: is not usable",
        ),
        ("sinks: {s: {type: s3, url: 'ftp://b'}}", "sinks.s.url: begins with none of s3://, gs://"),
        ("sinks: {s: {type: s3, url: 's3://A/b'}}", "sinks.s.url: has no usable bucket"),
        ("sinks: {s: {type: s3, url: 'az://a_b/c'}}", "sinks.s.url: has no usable container"),
        ("sinks: {s: {type: s3, url: 'file://a'}}", "sinks.s.url: is not an absolute path"),
        (
            "sinks: {s: {type: s3, url: 'file:///a', storage_class: X}}",
            "sinks.s.storage_class: means nothing in a directory; leave it away",
        ),
        (
            "sinks: {s: {type: s3, url: 'gs://abc', region: eu}}",
            "sinks.s.region: is of s3:// alone; leave it away",
        ),
        (
            "sinks: {s: {type: s3, url: 'gs://abc', secret_access_key: s3cret}}",
            "sinks.s.secret_access_key: is of s3:// alone; who writes to gs:// is said by credentials_file or credentials_json",
        ),
        (
            "sinks: {s: {type: s3, url: 'az://abc', credentials_json: s3cret}}",
            "sinks.s.credentials_json: is of gs:// alone; who writes to az:// is said by account and account_key, or sas_token",
        ),
        (
            "sinks: {s: {type: s3, url: 's3://abc', sas_token: s3cret}}",
            "sinks.s.sas_token: is of az:// alone; who writes to s3:// is said by access_key_id and secret_access_key",
        ),
        ("sinks: {s: {type: s3, url: 'az://abc', encryption: kms}}", "sinks.s.encryption: is of s3:// alone"),
        (
            "sinks: {s: {type: s3, url: 'gs://abc', credentials_file: f, credentials_json: s3cret}}",
            "sinks.s.credentials_json: is there beside credentials_file; one of them is enough",
        ),
        (
            "sinks: {s: {type: s3, url: 'gs://abc', credentials_json: s3cret}}",
            "sinks.s.credentials_json: is not the JSON of a service account",
        ),
        (
            "sinks: {s: {type: s3, url: 'az://abc', account_key: '****'}}",
            "sinks.s.account_key: is not in base64",
        ),
        (
            "sinks: {s: {type: s3, url: 'az://abc', account_key: czNjcmV0, sas_token: s3cret}}",
            "sinks.s.sas_token: is there beside account_key; one of them is enough",
        ),
        (
            "sinks: {s: {type: s3, url: 'az://abc', sas_token: s3cret}}",
            "sinks.s.sas_token: is not a shared access signature; like sv=…&sig=…",
        ),
        (
            "sinks: {s: {type: s3, url: 's3://abc', access_key_id: a}}",
            "sinks.s.secret_access_key: is missing; access_key_id needs it",
        ),
        ("sinks: {Up: {type: store}}", "sinks.Up: the name"),
        ("sinks: {a: {type: store}, b: {type: store}}", "sinks.b.type: \"a\" is the store already"),
        (
            "sinks: {a: {type: store}, b: {type: postgres, url: 'postgres://h/d', store: true}}",
            "sinks.b.store: \"a\" is the store already",
        ),
        (
            "sinks: {b: {type: postgres, url: 'postgres://h/d', store: true, concurrency: 4, pool_max: 5}}",
            "sinks.b.pool_max: leaves no connection for questions; give it at least 6",
        ),
        ("sinks: {a: {type: file, path: x}, b: {type: file, path: ./x}}", "sinks.b.path: is the file"),
        ("sinks: {a: {type: file, path: ..}}", "sinks.a.path: is not a file's name"),
        ("sinks: {a: {type: http, url: 'ftp://x/'}}", "sinks.a.url: is not a URL"),
        ("sinks: {a: {type: http, url: localhost}}", "sinks.a.url: is not a URL"),
        ("sinks: {a: {type: http, url: 'http://x', headers: {'a b': c}}}", "sinks.a.headers.a b: is not"),
        ("sinks: {a: {type: http, url: 'http://x', headers: {a: \"b\\n\"}}}", "cannot be sent"),
        ("sinks: {a: {type: console, concurrency: 0}}", "sinks.a.concurrency: is 0"),
        (
            "sinks: {p: {type: pushgateway, url: 'http://h:9091', concurrency: {min: 1, max: 2}}}",
            "sinks.p.concurrency: is more than 1, which gains nothing",
        ),
        ("sinks: {a: {type: console, batch: {max_bytes: 0}}}", "sinks.a.batch.max_bytes: is 0"),
        ("sinks: {a: {type: console, retry: {max_age: 0s}}}", "sinks.a.retry.max_age: is 0"),
        ("sinks: {a: {type: console, breaker: {failures: 0}}}", "sinks.a.breaker.failures: is 0"),
        ("sinks: {a: {type: blackhole, rate_events_per_second: 0}}", "rate_events_per_second: is 0"),
    ] {
        let hash = |digit: &str| format!("'sha256:{}'", digit.repeat(64));
        let found = problem(&yaml.replace("HASH", &hash("a")).replace("OTHER", &hash("b")));
        assert!(found.contains(expected), "{yaml}: {found}");
        assert!(!found.contains("fby_secret") && !found.contains("s3cret"), "{found}");
    }
}

#[test]
fn what_is_unusual_but_makes_sense() {
    for yaml in [
        "buffer: {durability: memory, max_bytes: 1MiB}",
        "buffer: {backend: jetstream}\nsinks: {}",
        "buffer: {backend: jetstream}\nsinks: {a: {type: console, fallback: b}, b: {type: s3, url: 's3://abc/'}}",
        "buffer: {backend: jetstream}\nsinks: {a: {type: console, on_failure: b}, b: {type: blackhole, only_as_fallback: true}}",
        "http: {keep_alive: 0s, workers: 0}",
        "batch: {max_wait: 0s}",
        "log: {level: 'WARN,forebay=debug,[request{id=3}]=trace'}",
        "retention: {schedule: '*/30 2 * * * *'}",
        "limits: {ingest: {per_client_per_second: 1}}",
        "sinks: {a: {type: console, fallback: b}, c: {type: console, fallback: b}, b: {type: file, path: x}}",
        "sinks: {a: {type: console, fallback: b}, b: {type: cassandra, hosts: [h], keyspace: k, only_as_fallback: true}}",
        "sinks: {a: {type: console, on_failure: b}, b: {type: file, path: x, only_as_fallback: true}}",
        "sinks: {a: {type: s3, url: 's3://abc/'}, b: {type: s3, url: 's3://abc/', format: parquet}, c: {type: s3, url: 's3://abc/'}}",
        "sinks: {s: {type: s3, url: 'gs://a.b_c/d', credentials_file: f, storage_class: NEARLINE}}",
        "sinks: {s: {type: s3, url: 'az://abc', account: a, account_key: czNjcmV0, endpoint: 'http://h:1/a'}}",
        "sinks: {s: {type: s3, url: 'az://abc/d/', sas_token: '?sv=1&sig=a%2Bb', overwrite: false}}",
    ] {
        let parsed = Config::parse(yaml, Format::Yaml, "f", &|_| None);
        assert!(parsed.is_ok(), "{yaml}: {parsed:?}");
    }
}
