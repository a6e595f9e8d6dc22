//! `type: pushgateway` against a real gateway: the binary pushes, the gateway's own API and a Prometheus are asked.

mod faults;
mod lasting;

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Service, complains, event, post};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    until,
};

pub(super) struct Gateway(Service);

impl Gateway {
    pub(super) fn start(test: &str) -> Option<Self> {
        Service::start("pushgateway", test).map(Self)
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.0.port).into()
    }

    fn get(&self, path: &str) -> String {
        request(self.address(), "GET", path, &[], b"").map_or(String::new(), |answer| answer.text())
    }

    /// Whether there is a series of exactly this line.
    fn has(&self, line: &str) -> bool {
        self.get("/metrics").lines().any(|found| found == line)
    }

    /// The groups that it has.
    fn groups(&self) -> Vec<Value> {
        let groups: Value = serde_json::from_str(&self.get("/api/v1/metrics")).unwrap();
        groups["data"].as_array().unwrap().iter().map(|group| group["labels"].clone()).collect()
    }

    pub(super) fn sink(&self, keys: &str) -> String {
        sink_to(&format!("127.0.0.1:{}", self.0.port), keys)
    }
}

/// A sink to whoever is at this part of a URL: a user perhaps, a host and a port.
fn sink_to(authority: &str, keys: &str) -> String {
    let patience = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";
    format!("{{ type: pushgateway, url: \"http://{authority}\", {patience}{keys} }}")
}

fn attributes(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect()
}

/// A request with these metrics of one process.
fn metrics(instance: &str, metrics: Value) -> Value {
    let resource =
        attributes(&[("service.name", "shop"), ("service.instance.id", instance), ("os.type", "linux")]);
    json!({"resourceMetrics": [{"resource": {"attributes": resource},
        "scopeMetrics": [{"scope": {"name": "lib", "version": "1.2"}, "metrics": metrics}]}]})
}

fn counter(name: &str, value: u64, labels: &[(&str, &str)]) -> Value {
    let point = json!({"attributes": attributes(labels), "timeUnixNano": "1778051289000000000", "asInt": value.to_string()});
    json!({"name": name, "unit": "By", "sum": {"dataPoints": [point], "aggregationTemporality": 2, "isMonotonic": true}})
}

#[track_caller]
fn export(forebay: &Forebay, path: &str, body: &Value) {
    let json = [("Content-Type", "application/json")];
    let answer = request(forebay.otlp(), "POST", path, &json, body.to_string().as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn delivered(forebay: &Forebay) {
    until("all has its outcome", || forebay.metric("forebay_buffer_events", "") == 0.0);
}

/// Counters, gauges, histograms and summaries of two processes are at the gateway under OpenTelemetry's names for Prometheus, in
/// a group for each process, with unicode and quotes in their labels; a later value replaces an earlier one, and a series that
/// a batch does not have stays. A Prometheus that scrapes the gateway answers with the values, under the groups' own labels.
#[test]
fn metrics_are_pushed_and_scraped() {
    let Some(gateway) = Gateway::start("metrics_are_pushed_and_scraped") else { return };
    let forebay = Place::empty().sink("push", &gateway.sink("")).start();
    let point = json!({"timeUnixNano": "1778051289000000000", "count": "6", "sum": 2.5, "bucketCounts": ["1", "2", "3"],
        "explicitBounds": [0.1, 1.0]});
    let quantile = json!({"quantile": 0.5, "value": 1.5});
    let all = json!([
        counter("net.io", 7, &[("dir", "in \"ü\" \\ \u{1F600}")]),
        counter("net.io", 8, &[("dir", "out")]),
        {"name": "temp", "description": "how\nwarm", "unit": "Cel", "gauge": {"dataPoints": [{"asDouble": 21.5}]}},
        {"name": "took", "unit": "s", "histogram": {"dataPoints": [point], "aggregationTemporality": 2}},
        {"name": "old", "summary": {"dataPoints": [{"count": "2", "sum": 3.0, "quantileValues": [quantile]}]}},
    ]);
    export(&forebay, "/v1/metrics", &metrics("1", all));
    export(&forebay, "/v1/metrics", &metrics("a/b ü", json!([counter("net.io", 5, &[])])));
    delivered(&forebay);
    let scope = "otel_scope_name=\"lib\",otel_scope_version=\"1.2\"";
    for line in [
        &format!(
            "net_io_bytes_total{{dir=\"in \\\"ü\\\" \\\\ \u{1F600}\",instance=\"1\",job=\"shop\",{scope}}} 7"
        ),
        &format!("temp_celsius{{instance=\"1\",job=\"shop\",{scope}}} 21.5"),
        "# HELP temp_celsius how\\nwarm",
        &format!("took_seconds_bucket{{instance=\"1\",job=\"shop\",{scope},le=\"1\"}} 3"),
        &format!("took_seconds_count{{instance=\"1\",job=\"shop\",{scope}}} 6"),
        &format!("old{{instance=\"1\",job=\"shop\",{scope},quantile=\"0.5\"}} 1.5"),
        &format!("net_io_bytes_total{{instance=\"a/b ü\",job=\"shop\",{scope}}} 5"),
        "target_info{instance=\"1\",job=\"shop\",os_type=\"linux\"} 1",
    ] {
        assert!(gateway.has(line), "{line}\n{}", gateway.get("/metrics"));
    }
    let mut later = counter("net.io", 9, &[("dir", "out")]);
    later["sum"]["dataPoints"][0]["timeUnixNano"] = "1778051290000000000".into();
    export(&forebay, "/v1/metrics", &metrics("1", json!([later])));
    delivered(&forebay);
    let of = |dir: &str, value| {
        format!("net_io_bytes_total{{dir=\"{dir}\",instance=\"1\",job=\"shop\",{scope}}} {value}")
    };
    until("the later value is there", || gateway.has(&of("out", 9)));
    assert!(gateway.has(&of("in \\\"ü\\\" \\\\ \u{1F600}", 7)), "{}", gateway.get("/metrics"));
    assert_eq!(forebay.metric("forebay_sink_refused_events_total", "push"), 0.0);

    let dir = Service::dir();
    std::fs::write(dir.path().join("target"), format!("127.0.0.1:{}", gateway.0.port)).unwrap();
    let Some(prometheus) = Service::start_in(dir, None, "prometheus", "metrics_are_pushed_and_scraped")
    else {
        return;
    };
    let query = "/api/v1/query?query=sum%20by%20(job,instance)%20(net_io_bytes_total)";
    let expected = json!([["1", "shop", "16"], ["a/b ü", "shop", "5"]]);
    let mut found = Value::Null;
    until("Prometheus has scraped them", || {
        let answer =
            request(([127, 0, 0, 1], prometheus.port).into(), "GET", query, &[], b"").unwrap().json();
        let Some(series) = answer["data"]["result"].as_array() else { return false };
        let mut rows: Vec<_> = series
            .iter()
            .map(|series| json!([series["metric"]["instance"], series["metric"]["job"], series["value"][1]]))
            .collect();
        rows.sort_by_key(Value::to_string);
        found = rows.into();
        found == expected
    });
}

/// What is no metric, and what no gateway can have, is counted as refused and said once; a value that contradicts what the
/// gateway has becomes a dead letter alone, with the gateway's words.
#[test]
fn p2_what_cannot_be_pushed_is_counted() {
    let Some(gateway) = Gateway::start("p2_what_cannot_be_pushed_is_counted") else { return };
    let pushed = request(
        gateway.address(),
        "PUT",
        "/metrics/job/other",
        &[],
        b"# TYPE mine_bytes_total gauge\nmine_bytes_total 1\n",
    );
    assert_eq!(pushed.unwrap().status, 200);
    let place = Place::empty().sink("push", &gateway.sink(""));
    let forebay = place.start();
    post(&forebay, &[event("a"), event("b")]);
    let exponential = json!({"name": "e", "exponentialHistogram": {"dataPoints": [{"count": "1", "scale": 1}], "aggregationTemporality": 2}});
    let all =
        json!([counter("yours", 1, &[]), counter("mine", 2, &[]), exponential, counter("ours", 3, &[])]);
    export(&forebay, "/v1/metrics", &metrics("1", all));
    delivered(&forebay);
    assert_eq!(forebay.metric("forebay_sink_refused_events_total", "push"), 3.0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "push"), 1.0);
    assert_eq!(forebay.metric("forebay_sink_sent_events_total", "push"), 2.0);
    let letters = place.run(&["dead-letter", "list", "push"]).ok();
    // Of the two that contradict each other, the gateway names any.
    assert!(letters.contains("is not a GAUGE") || letters.contains("is not a COUNTER"), "{letters}");
    let text = gateway.get("/metrics");
    assert!(text.contains("yours_bytes_total{") && text.contains("ours_bytes_total{"), "{text}");
    for why in ["a Pushgateway takes only metrics", "no exponential histograms"] {
        forebay.says(why);
        assert_eq!(forebay.log().matches(why).count(), 1, "{}", forebay.log());
    }
}

/// Scenario: the gateway is killed and comes again; `validate` asks it then, and once more when it is away for good.
/// Guarantee: the sink says so and waits, and what the gateway has then is the latest value. `validate` says that it answers, and
/// not that it would take a push, or why it is not reached.
#[test]
fn a_gateway_that_is_away_is_waited_for() {
    let Some(mut gateway) = Gateway::start("a_gateway_that_is_away_is_waited_for") else { return };
    let place =
        Place::empty().sink("push", &gateway.sink(", job: batch, grouping: { region: eu }, method: put"));
    let forebay = place.start();
    export(&forebay, "/v1/metrics", &metrics("1", json!([counter("a", 1, &[])])));
    delivered(&forebay);
    gateway.0.down("kill");
    let mut later = counter("a", 2, &[]);
    later["sum"]["dataPoints"][0]["timeUnixNano"] = "1778051290000000000".into();
    export(&forebay, "/v1/metrics", &metrics("1", json!([later])));
    complains(&forebay, "no connection");
    gateway.0.up();
    delivered(&forebay);
    let scope = "otel_scope_name=\"lib\",otel_scope_version=\"1.2\"";
    assert!(
        gateway.has(&format!("a_bytes_total{{instance=\"\",job=\"batch\",{scope},region=\"eu\"}} 2")),
        "{}",
        gateway.get("/metrics")
    );
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "push"), 0.0);
    let said = place.run(&["validate"]).ok();
    let row = said.lines().find(|line| line.contains("sink push")).unwrap_or_default();
    let columns: Vec<_> = row.split_whitespace().collect();
    assert_eq!(columns, ["ok", "sink", "push", "pushgateway", "yes", "?", "-", "same"], "{said}");
    assert!(said.contains("which need not take the rights of a push"), "{said}");
    gateway.0.down("kill");
    let refused = place.run(&["validate"]);
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("no connection"), "{refused:?}");
}

/// At its end the sink deletes the groups that it pushed to, where that is wanted, and only these.
#[test]
fn groups_are_deleted_at_the_end() {
    let Some(gateway) = Gateway::start("groups_are_deleted_at_the_end") else { return };
    let pushed = request(gateway.address(), "PUT", "/metrics/job/other", &[], b"mine 1\n");
    assert_eq!(pushed.unwrap().status, 200);
    let other = [json!({"job": "other", "instance": ""})];
    for (is_wanted, groups) in [(true, 1), (false, 3)] {
        let sink = gateway.sink(&format!(", delete_on_exit: {is_wanted}"));
        let mut forebay = Place::empty().sink("push", &sink).start();
        for instance in ["1", "2/ü"] {
            export(&forebay, "/v1/metrics", &metrics(instance, json!([counter("a", 1, &[])])));
        }
        delivered(&forebay);
        assert_eq!(gateway.groups().len(), 3);
        assert_eq!(forebay.stop(), Some(0));
        // The gateway answers a DELETE before it has done it.
        until("the groups are as wanted", || gateway.groups().len() == groups);
        assert_eq!(gateway.groups().iter().filter(|labels| labels["job"] == "other").count(), other.len());
    }
}

/// Scenario: Forebay's own metrics are pushed; the gateway is killed and comes again; the sink is another by a reload; the process
/// ends.
/// Guarantee: what GET /metrics answers is at the gateway, in a group of the process; a push that fails is counted and costs
/// nothing else; the last values are those of the end, or the group is gone where nothing is to stay.
#[test]
fn own_metrics_are_pushed() {
    let Some(mut gateway) = Gateway::start("own_metrics_are_pushed") else { return };
    let mut place = Place::empty();
    place.set_sink("push", Some(&gateway.sink(", own_metrics: 50ms")));
    let mut forebay = place.start();
    let instance = |label: &Value| label["instance"].as_str().unwrap_or_default().to_owned();
    until("the group is there", || gateway.groups().len() == 1);
    let groups = gateway.groups();
    assert_eq!(groups[0]["job"], "forebay");
    assert!(instance(&groups[0]).ends_with(&format!(":{}", forebay.address.port())), "{groups:?}");
    let pushes = |forebay: &Forebay, outcome: &str| {
        forebay.metric("forebay_own_metrics_pushes_total", &format!("outcome=\"{outcome}\""))
    };
    gateway.0.down("kill");
    until("failures are counted", || pushes(&forebay, "failed") > 1.0);
    assert_eq!(forebay.get("/health").json()["status"], "healthy");
    let before = pushes(&forebay, "ok");
    gateway.0.up();
    until("it is pushed again", || pushes(&forebay, "ok") > before);
    forebay.says("own metrics cannot be pushed");
    assert_eq!(forebay.log().matches("own metrics cannot be pushed").count(), 1, "{}", forebay.log());

    // So seldom that only the end brings what comes now.
    place.set_sink("push", Some(&gateway.sink(", own_metrics: 1h, job: relay")));
    place.write();
    forebay.signal("HUP");
    until("there is another group", || gateway.groups().iter().any(|group| group["job"] == "relay"));
    post(&forebay, &[event("a"), event("b")]);
    delivered(&forebay);
    assert_eq!(forebay.stop(), Some(0));
    let text = gateway.get("/metrics");
    let accepted = |line: &str| {
        line.starts_with("forebay_receiver_events_total{")
            && line.contains("job=\"relay\"")
            && line.ends_with(" 2")
    };
    assert!(text.lines().any(accepted), "{text}");

    place.set_sink("push", Some(&gateway.sink(", own_metrics: 1h, job: gone, delete_on_exit: true")));
    let mut forebay = place.start();
    let is_there = || gateway.groups().iter().any(|group| group["job"] == "gone");
    until("a third one is there", is_there);
    assert_eq!(forebay.stop(), Some(0));
    until("the third one is gone", || !is_there());
}
