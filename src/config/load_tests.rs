//! Files that load, and what is said of those that do not.

use super::*;
use crate::config::{BlackholeSink, SinkConfig, SinkKind};

fn unset(_: &str) -> Option<String> {
    None
}

fn load(yaml: &str) -> Result<Config, String> {
    Config::parse(yaml, Format::Yaml, "f.yaml", &unset).map_err(|e| e.to_string())
}

/// Promise to whoever reads the shipped file: with no variables set it is exactly the defaults.
#[test]
fn the_shipped_file_is_the_default() {
    assert_eq!(Config::embedded(&unset).unwrap(), Config::default());
}

#[test]
fn the_variables_of_the_shipped_file_work() {
    let env = |name: &str| {
        Some(match name {
            "BUFFER_MAX_SIZE" => "123".to_owned(),
            "BATCH_SIZE" => "45".to_owned(),
            "DRAIN_INTERVAL" => "250ms".to_owned(),
            "RETENTION_DAYS" => "7".to_owned(),
            "RETENTION_CRON_SCHEDULE" => "*/5 * * * *".to_owned(),
            "LOG_LEVEL" => "debug".to_owned(),
            _ => return None,
        })
    };
    let mut expected = Config::default();
    expected.buffer.memory_events_max = 123;
    expected.batch.max_events = 45;
    expected.batch.max_wait = std::time::Duration::from_millis(250);
    expected.retention.days = 7;
    expected.retention.schedule = "*/5 * * * *".to_owned();
    expected.log.level = "debug".to_owned();
    assert_eq!(Config::embedded(&env).unwrap(), expected);
}

/// A wrong variable is reported at the key it goes into, by its name.
#[test]
fn a_wrong_variable_is_named() {
    let env = |name: &str| (name == "BATCH_SIZE").then(|| "many".to_owned());
    let error = Config::embedded(&env).unwrap_err().to_string();
    assert!(error.contains("batch.max_events: (from BATCH_SIZE) \"many\" stands here"), "{error}");
    let env = |name: &str| (name == "RETENTION_DAYS").then(|| "0".to_owned());
    let error = Config::embedded(&env).unwrap_err().to_string();
    assert!(error.contains("retention.days: (from RETENTION_DAYS) is 0"), "{error}");
}

#[test]
fn the_examples_load() {
    let examples = Path::new(file!()).parent().unwrap().join("../../config/examples");
    let env = |name: &str| Some(format!("value-of-{name}"));
    let mut count = 0;
    for file in std::fs::read_dir(examples).unwrap() {
        let path = file.unwrap().path();
        Config::load(&path, &env).unwrap_or_else(|e| panic!("{e}"));
        count += 1;
    }
    assert!(count >= 3);
}

#[test]
fn an_empty_file_and_empty_sections_are_the_default() {
    assert_eq!(load("").unwrap(), Config::default());
    assert_eq!(load("http:\n  # workers: 3\nlimits:\n").unwrap(), Config::default());
}

/// The three formats say the same.
#[test]
fn all_formats_are_read_alike() {
    let yaml = load(
        "http: {listen: '0.0.0.0:0', max_body_bytes: 8MiB}\nbatch: {max_bytes: 1000}\n\
         sinks:\n  up:\n    url: http://x/\n    retry: {max_age: 1d}\n    type: http\n",
    );
    let toml = "[http]\nlisten = '0.0.0.0:0'\nmax_body_bytes = '8MiB'\n[batch]\nmax_bytes = 1_000\n\
                [sinks.up]\nurl = 'http://x/'\ntype = 'http'\nretry.max_age = '${AGE:-1d}'\n";
    let json = r#"{"http": {"listen": "0.0.0.0:0", "max_body_bytes": 8388608}, "batch": {"max_bytes": 1000},
                   "sinks": {"up": {"url": "http://x/", "retry": {"max_age": "1d"}, "type": "http"}}}"#;
    let toml = Config::parse(toml, Format::Toml, "f.toml", &unset).unwrap();
    let json = Config::parse(json, Format::Json, "f.json", &unset).unwrap();
    assert_eq!(yaml.as_ref(), Ok(&toml));
    assert_eq!(yaml.as_ref(), Ok(&json));
    assert_eq!(toml.batch.max_bytes, 1000);
}

#[test]
fn the_format_is_the_extension() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in
        [("a.yml", "data_dir: x"), ("a.toml", "data_dir = 'x'"), ("a.JSON", "{\"data_dir\": \"x\"}")]
    {
        std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(Config::load(&dir.path().join(name), &unset).unwrap().data_dir, Path::new("x"));
    }
    let error = Config::load(&dir.path().join("a.ini"), &unset).unwrap_err().to_string();
    assert!(error.contains("a.ini: the format is not known; the name should end in .yaml"), "{error}");
    let error = Config::load(&dir.path().join("b.yaml"), &unset).unwrap_err().to_string();
    assert!(error.contains("b.yaml: cannot be read"), "{error}");
}

/// Every kind of mistake, all reported at once, each with its line and what would be right.
#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = load(
        r#"
dat_dir: x
http:
  listen: localhost
  workers: -1
  max_body_bytes: 16 apples
  request_timeout: 30
buffer:
  durability: fsnyc
batch: 7
retention:
  days: "30"
  schedule: ${SCHEDULE}
sinks:
  up:
    type: http
    url: ftp://x
    mailbox_batchs: 4
    concurrency: 0
  down:
    type: htpp
    url: http://x
  side:
    url: http://x
  file:
    type: file
"#,
    )
    .unwrap_err();
    let lines = [
        "f.yaml:2: dat_dir: is not a key of a configuration; did you mean `data_dir`?",
        "f.yaml:4: http.listen: \"localhost\" is not an address with a port; like 127.0.0.1:8080",
        "f.yaml:5: http.workers: \"-1\" stands here; it should be a whole number from 0 to 18446744073709551615",
        "f.yaml:6: http.max_body_bytes: string \"16 apples\" stands here; it should be a size like 64MiB, 512KB \
         or a whole number of bytes",
        "f.yaml:7: http.request_timeout: integer `30` stands here; it should be a number with its unit, like 30s \
         or 30ms",
        "f.yaml:9: buffer.durability: \"fsnyc\" is not known; did you mean `fsync`?",
        "f.yaml:10: batch: a single value or a list stands here; it should be a section with keys",
        "f.yaml:12: retention.days: \"30\" is text; without the quotes it is a number",
        "f.yaml:13: retention.schedule: the environment variable SCHEDULE is not set; set it, or give a default: \
         ${SCHEDULE:-default}",
        "f.yaml:17: sinks.up.url: is not a URL; like `https://example.com/events`",
        "f.yaml:18: sinks.up.mailbox_batchs: is not a key of `sinks.up`; did you mean `mailbox_batches`?",
        "f.yaml:19: sinks.up.concurrency: is 0; it should be at least 1",
        "f.yaml:21: sinks.down.type: \"htpp\" is not known; did you mean `http`?",
        "f.yaml:23: sinks.side.type: is missing; `sinks.side` needs it: store, http, otlp, forebay, \
         postgres, clickhouse, s3, nats, pushgateway, cassandra, file, console or blackhole",
        "f.yaml:25: sinks.file.path: is missing; `sinks.file` needs it",
    ];
    assert_eq!(error.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn keys_that_resemble_nothing_get_the_list() {
    let error = load("batch: {qqq: 1}").unwrap_err();
    assert!(error.ends_with("there are max_events, max_bytes, max_wait"), "{error}");
}

/// What only follows from another mistake is not said.
#[test]
fn a_mistake_is_reported_once() {
    let error = load("limits: {ingest: {per_client_per_secnd: 5}}").unwrap_err();
    assert_eq!(
        error,
        "f.yaml:1: limits.ingest.per_client_per_secnd: is not a key of `limits.ingest`; did you mean \
         `per_client_per_second`?"
    );
}

/// Scenario: own metrics are to be pushed to groups that do not tell processes apart.
/// Guarantee: that is refused: each push would take the place of what others pushed there.
#[test]
fn own_metrics_need_a_group_of_their_own() {
    let of = |grouping: &str| {
        let sink = format!("type: pushgateway, url: \"http://a\", own_metrics: 15s{grouping}");
        load(&format!("sinks: {{push: {{{sink}}}}}"))
    };
    of("").unwrap();
    of(", grouping: {process: \"{service.instance.id}\"}").unwrap();
    for grouping in [", grouping: {}", ", job: relay, grouping: {region: eu}"] {
        let error = of(grouping).unwrap_err();
        assert!(error.contains("sinks.push.own_metrics: needs a label of `grouping`"), "{error}");
    }
}

/// A variable is one value: it can be a number or a size, but never a key, a list or a comment.
#[test]
fn variables_cannot_inject_structure() {
    let env = |name: &str| match name {
        "N" => Some("42".to_owned()),
        "EVIL" => Some("x\nsinks: {a: {type: blackhole}}\n# ".to_owned()),
        _ => None,
    };
    let yaml = "# ${NOPE} is not looked at in comments\ndata_dir: ${EVIL}\nbatch: {max_events: \"${N}\"}\n";
    let config = Config::parse(yaml, Format::Yaml, "f", &env).unwrap();
    assert_eq!(config.data_dir.to_str(), env("EVIL").as_deref());
    assert_eq!(config.batch.max_events, 42);
    assert_eq!(config.sinks, Config::default().sinks);
    let config = Config::parse("batch: {max_events: '$${N}'}", Format::Yaml, "f", &env).unwrap_err();
    assert!(config.to_string().contains("\"${N}\" stands here"), "{config}");
}

/// An option can be switched off by an empty variable.
#[test]
fn an_empty_variable_is_none() {
    let yaml = "sinks: {a: {type: blackhole, rate_events_per_second: \"${RATE:-}\"}}";
    let config = load(yaml).unwrap();
    let none = SinkKind::Blackhole(BlackholeSink { rate_events_per_second: None });
    assert_eq!(config.sinks["a"], SinkConfig::new(none));
}

#[test]
fn syntax_errors_have_a_line() {
    assert!(load("a: [\nb").unwrap_err().starts_with("f.yaml:2: "));
    let error = Config::parse("a = \nb = 1\nc = [", Format::Toml, "f.toml", &unset).unwrap_err().to_string();
    assert!(error.starts_with("f.toml:1: ") && error.contains("f.toml:3: "), "{error}");
    let error =
        Config::parse("{\"a\": 1\n\"b\": 2}", Format::Json, "f.json", &unset).unwrap_err().to_string();
    assert!(error.starts_with("f.json:2: "), "{error}");
    assert!(load("- a\n- b\n").unwrap_err().contains("f.yaml:1: a single value or a list"));
}

/// Every form of a condition is read, and written so that it reads back.
#[test]
fn conditions_of_sinks_read_back() {
    let yaml = r#"
sinks:
  a:
    type: console
    when:
      signal: traces
      service: [shop, "cart-*"]
      fields:
        metadata.level: { in: [warn, error] }
        metadata.http.status: { gte: 500, lt: 600.5 }
        metadata.code: [404, "0404", true]
        message: { contains: timeout, matches: '^\d+' }
        timestamp: { gte: "2026-01-01T00:00:00Z" }
        attributes.x: y
      any:
        - { signal: [events, logs] }
        - not: { fields: { metadata.debug: { exists: true }, event_id: { ne: 1 } } }
"#;
    let config = load(yaml).unwrap();
    let when = config.sinks["a"].when.as_ref().unwrap();
    assert_eq!(when.fields.as_ref().unwrap().len(), 6);
    assert!(when.condition().is_ok() && when.memory_bytes() > 0);
    for text in [config.to_yaml(), serde_json::to_string(&config).unwrap()] {
        assert_eq!(load(&text).unwrap(), config, "{text}");
    }
}

/// What is wrong in a condition is said at its line, with what would be right.
#[test]
fn what_is_wrong_in_a_condition_has_its_line() {
    let error = load(
        r#"
sinks:
  a:
    type: console
    when:
      sevice: shop
      signal: [traces, spans]
      fields:
        level: error
        metadata.status: { gt: high, equals: 5 }
        message: { matches: "(" }
        ingested_at: { gte: yesterday }
  b: { type: console, when: {} }
  c:
    type: console
    when:
      service: []
      any:
        - fields: { message.text: x }
        - fields: { metadata.x: {} }
"#,
    )
    .unwrap_err();
    let lines = [
        "f.yaml:6: sinks.a.when.sevice: is not a key of `sinks.a.when`; did you mean `service`?",
        "f.yaml:7: sinks.a.when.signal.1: \"spans\" is not known; there are events, logs, metrics, traces",
        "f.yaml:9: sinks.a.when.fields.level: is not a field of an event; there are event_id, timestamp, service, \
         message, ingested_at, and below metadata what the sender put there: did you mean `metadata.level`?",
        "f.yaml:10: sinks.a.when.fields.metadata.status.equals: is not a key of \
         `sinks.a.when.fields.metadata.status`; did you mean `eq`?",
        "f.yaml:10: sinks.a.when.fields.metadata.status.gt: is \"high\"; it should be a number",
        "f.yaml:11: sinks.a.when.fields.message.matches: is no regular expression: unclosed group",
        "f.yaml:12: sinks.a.when.fields.ingested_at.gte: is \"yesterday\"; it should be a time like \
         2026-01-31T08:00:00Z",
        "f.yaml:13: sinks.b.when: says nothing, so every event would do; leave it away, or say signal, service, \
         fields, any, all or not",
        "f.yaml:17: sinks.c.when.service: is empty; leave it away, or say what it should be",
        "f.yaml:19: sinks.c.when.any.0.fields.message.text: goes into message, which has no keys; did you mean \
         `metadata.text`?",
        "f.yaml:20: sinks.c.when.any.1.fields.metadata.x: asks nothing; give it a value, a list, or tests as { gte: \
         500 }",
    ];
    assert_eq!(error.lines().collect::<Vec<_>>(), lines);
}

/// What is wrong in the fields of a sink is said at its line; where a destination has none to choose from, that is said.
#[test]
fn what_is_wrong_in_fields_has_its_line() {
    let error = load(
        r#"
sinks:
  a:
    type: console
    fields:
      drop: [metadata.password, message]
      select: [level]
      rename:
        metadata.msg: text
        metadata.a: metadata.x
        metadata.b: metadata.x
  b: { type: console, fields: {} }
  c: { type: otlp, endpoint: "http://x:4317", fields: { drop: [metadata.x] } }
"#,
    )
    .unwrap_err();
    let lines = [
        "f.yaml:6: sinks.a.fields.drop.1: message is in every event, and goes to every destination; only keys of \
         metadata can be chosen",
        "f.yaml:7: sinks.a.fields.select.0: level is not a field of an event; there are event_id, timestamp, service, \
         message, ingested_at, and below metadata what the sender put there: did you mean `metadata.level`?",
        "f.yaml:8: sinks.a.fields.rename: gives metadata.x to several",
        "f.yaml:9: sinks.a.fields.rename.metadata.msg: is renamed to \"text\"; a new name is a key of the metadata \
         themselves, like `metadata.text`",
        "f.yaml:12: sinks.b.fields: says nothing; leave it away, or say select, drop or rename",
        "f.yaml:13: sinks.c.fields: cannot be used here: requests of OpenTelemetry are passed on in the bytes in which \
         they came; leave it away, and take out what must not go there by a processor of the destination",
    ];
    assert_eq!(error.lines().collect::<Vec<_>>(), lines);
    let yaml = "sinks: {a: {type: console, fields: {select: [metadata.a], drop: [metadata.a.b], rename: {metadata.x: metadata.y}}}}";
    let config = load(yaml).unwrap();
    assert_eq!(load(&config.to_yaml()).unwrap(), config);
}

/// What tables of OpenTelemetry in ClickHouse do not go with.
#[test]
fn tables_of_clickhouse_are_looked_at() {
    let error = load(
        r#"
sinks:
  a:
    type: clickhouse
    url: "http://x:8123"
    table: otel_logs
    ttl: 10ms
    fields: { drop: [metadata.x] }
  b: { type: clickhouse, url: "http://x:8123", table: otel_logs, otel: events, ttl: 30d, fields: { drop: [metadata.x] } }
"#,
    )
    .unwrap_err();
    let lines = [
        "f.yaml:6: sinks.a.table: may be one of OpenTelemetry's; call it otherwise, like `events`",
        "f.yaml:7: sinks.a.ttl: is less than a second; leave it away to keep rows for ever",
        "f.yaml:8: sinks.a.fields: cannot be used with otel: tables, which have all of an item; set otel: events, whose \
         rows are chosen from, or leave it away",
    ];
    assert_eq!(error.lines().collect::<Vec<_>>(), lines);
}

/// Concurrency is a number or bounds, and is written as it was said.
#[test]
fn concurrency_is_a_number_or_bounds() {
    for (said, min, max) in [("4", 4, 4), ("{min: 2, max: 16}", 2, 16), ("{max: 8}", 1, 8)] {
        let config = load(&format!("sinks: {{a: {{type: console, concurrency: {said}}}}}")).unwrap();
        let found = config.sinks["a"].concurrency;
        assert_eq!((found.min, found.max), (min, max));
        assert_eq!(load(&config.to_yaml()).unwrap(), config);
    }
    for (said, wrong) in [
        ("{min: 4, max: 2}", "sinks.a.concurrency.max: is less than min, which is 4"),
        ("{min: 0, max: 2}", "sinks.a.concurrency.min: is 0"),
        ("{min: 1, mix: 2}", "sinks.a.concurrency.mix: is not a key of `sinks.a.concurrency`; did you mean"),
        ("{min: 1}", "sinks.a.concurrency.max: is missing"),
        (
            "many",
            "sinks.a.concurrency: string \"many\" stands here; it should be a whole number, or { min: 1, max: 16 }",
        ),
    ] {
        let error = load(&format!("sinks: {{a: {{type: console, concurrency: {said}}}}}")).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
}
