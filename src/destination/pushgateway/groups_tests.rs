use super::{
    super::request::{
        Any, AnyValue, Exponential, Gauge, Histogram, Metric, Nothing, Quantile, Resource, Scope, Summary,
    },
    *,
};

const ROOM: usize = 1 << 20;

fn attributes(pairs: &[(&str, &str)]) -> Vec<Attribute> {
    let attribute = |(key, value): &(&str, &str)| Attribute {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Any::Text((*value).to_owned())) }),
    };
    pairs.iter().map(attribute).collect()
}

fn number(at_nanos: u64, value: f64, labels: &[(&str, &str)]) -> NumberPoint {
    NumberPoint { attributes: attributes(labels), at_nanos, value: Some(Number::Double(value)), flags: 0 }
}

fn metric(name: &str, unit: &str, points: Points) -> Metric {
    Metric { name: name.to_owned(), description: String::new(), unit: unit.to_owned(), points: Some(points) }
}

fn sum(temporality: i32, is_monotonic: bool, points: Vec<NumberPoint>) -> Points {
    Points::Sum(Sum { points, temporality, is_monotonic })
}

fn of(metrics: Vec<Metric>) -> ResourceMetrics {
    let scope_metrics = vec![ScopeMetrics { scope: None, metrics }];
    ResourceMetrics { resource: None, scope_metrics }
}

fn grouping() -> Grouping {
    Grouping {
        job: None,
        labels: BTreeMap::from([("instance".to_owned(), "{service.instance.id}".to_owned())]),
    }
}

fn apply(group: &mut Group, metrics: &ResourceMetrics) -> Refused {
    let grouping = grouping();
    let resource = metrics.resource.as_ref().map(|resource| resource.attributes.clone()).unwrap_or_default();
    group.apply(metrics, &grouping, &grouping.key(&resource), ROOM)
}

/// Every kind of metric as the text format has it, with help, units, labels that the group has already, and the resource's
/// other attributes.
#[test]
fn every_kind_has_its_text() {
    let resource = attributes(&[
        ("service.name", "api"),
        ("service.namespace", "shop"),
        ("service.instance.id", "1"),
        ("os.type", "linux"),
    ]);
    let histogram = HistogramPoint {
        attributes: attributes(&[("le", "x")]),
        at_nanos: 1,
        count: 6,
        sum: Some(2.5),
        bucket_counts: vec![1, 2, 3],
        bounds: vec![0.1, 1.0],
        flags: 0,
    };
    let quantiles = vec![Quantile { quantile: 0.5, value: f64::NAN }];
    let summary =
        SummaryPoint { attributes: Vec::new(), at_nanos: 1, count: 2, sum: 3.0, quantiles, flags: 0 };
    let mut requests =
        metric("http.requests", "{request}", sum(2, true, vec![number(1, 3.0, &[("job", "x")])]));
    requests.description = "all\nof \\ them".to_owned();
    let metrics = vec![
        requests,
        metric("queue", "1", sum(2, false, vec![number(1, -1.0, &[])])),
        metric("temp", "Cel", Points::Gauge(Gauge { points: vec![number(1, f64::INFINITY, &[])] })),
        metric("took", "s", Points::Histogram(Histogram { points: vec![histogram], temporality: 2 })),
        metric("old", "", Points::Summary(Summary { points: vec![summary] })),
    ];
    let scope = Some(Scope { name: "lib".to_owned(), version: String::new() });
    let request = ResourceMetrics {
        resource: Some(Resource { attributes: resource.clone() }),
        scope_metrics: vec![ScopeMetrics { scope, metrics }],
    };
    let mut group = Group::default();
    assert_eq!(apply(&mut group, &request), Refused::default());
    assert_eq!(
        grouping().key(&resource),
        [("job".to_owned(), "shop/api".to_owned()), ("instance".to_owned(), "1".to_owned())]
    );
    assert_eq!(
        group.text(),
        "# HELP http_requests_total all\\nof \\\\ them\n# TYPE http_requests_total counter\n\
         http_requests_total{exported_job=\"x\",otel_scope_name=\"lib\"} 3\n\
         # TYPE old summary\nold{otel_scope_name=\"lib\",quantile=\"0.5\"} NaN\nold_sum{otel_scope_name=\"lib\"} 3\n\
         old_count{otel_scope_name=\"lib\"} 2\n\
         # TYPE queue gauge\nqueue{otel_scope_name=\"lib\"} -1\n\
         # TYPE target_info gauge\ntarget_info{os_type=\"linux\"} 1\n\
         # TYPE temp_celsius gauge\ntemp_celsius{otel_scope_name=\"lib\"} +Inf\n\
         # TYPE took_seconds histogram\n\
         took_seconds_bucket{exported_le=\"x\",otel_scope_name=\"lib\",le=\"0.1\"} 1\n\
         took_seconds_bucket{exported_le=\"x\",otel_scope_name=\"lib\",le=\"1\"} 3\n\
         took_seconds_bucket{exported_le=\"x\",otel_scope_name=\"lib\",le=\"+Inf\"} 6\n\
         took_seconds_sum{exported_le=\"x\",otel_scope_name=\"lib\"} 2.5\n\
         took_seconds_count{exported_le=\"x\",otel_scope_name=\"lib\"} 6\n"
    );
}

/// The latest value of a series wins, whatever order they come in; deltas add up; a series that has ended is gone.
#[test]
fn the_latest_value_wins() {
    let mut group = Group::default();
    let gauge =
        |at, value| of(vec![metric("g", "", Points::Gauge(Gauge { points: vec![number(at, value, &[])] }))]);
    for (at, value) in [(5, 1.0), (7, 2.0), (6, 3.0)] {
        apply(&mut group, &gauge(at, value));
    }
    assert_eq!(group.text(), "# TYPE g gauge\ng 2\n");
    let delta = |at| of(vec![metric("c", "", sum(DELTA, true, vec![number(at, 2.5, &[])]))]);
    for at in [2, 1] {
        apply(&mut group, &delta(at));
    }
    assert!(group.text().contains("c_total 5\n"), "{}", group.text());
    let ended = NumberPoint { flags: NO_VALUE, ..number(9, 0.0, &[]) };
    apply(&mut group, &of(vec![metric("g", "", Points::Gauge(Gauge { points: vec![ended] }))]));
    assert_eq!(group.text(), "# TYPE c_total counter\nc_total 5\n");
}

/// A delta histogram adds up while its bounds stay, and begins anew with others.
#[test]
fn delta_histograms_add_up() {
    let mut group = Group::default();
    let delta = |bound: f64| {
        let point = HistogramPoint {
            attributes: Vec::new(),
            at_nanos: 1,
            count: 3,
            sum: Some(1.5),
            bucket_counts: vec![1, 2],
            bounds: vec![bound],
            flags: 0,
        };
        of(vec![metric("h", "", Points::Histogram(Histogram { points: vec![point], temporality: DELTA }))])
    };
    apply(&mut group, &delta(1.0));
    apply(&mut group, &delta(1.0));
    assert!(
        group.text().contains("h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 6\nh_sum 3\nh_count 6\n"),
        "{}",
        group.text()
    );
    apply(&mut group, &delta(2.0));
    assert!(group.text().contains("h_bucket{le=\"2\"} 1\nh_bucket{le=\"+Inf\"} 3\n"), "{}", group.text());
}

/// What no group can have is counted by its reason, and the rest is taken.
#[test]
fn what_cannot_be_pushed_is_counted() {
    let mut group = Group::default();
    let gauge = |name: &str| metric(name, "", Points::Gauge(Gauge { points: vec![number(1, 1.0, &[])] }));
    let exponential = Points::Exponential(Exponential { points: vec![Nothing {}, Nothing {}] });
    let twice = metric("a", "", Points::Summary(Summary { points: vec![SummaryPoint::default()] }));
    let refused = apply(&mut group, &of(vec![metric("e", "", exponential), gauge("a"), twice]));
    assert_eq!(refused, Refused { exponential: 2, other_type: 1, no_room: 0 });
    let (grouping, metrics) = (grouping(), of(vec![gauge("b"), gauge("c")]));
    let of_b = family_bytes("b", "") + SERIES_BYTES;
    let refused = group.apply(&metrics, &grouping, &grouping.key(&[]), group.bytes + of_b);
    assert_eq!(refused.no_room, 1);
    assert_eq!(group.text(), "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n");
}

/// Scenario: a replay brings values, an end and a resource that are older than what is there.
/// Guarantee: they do nothing. An end took away a series that had come again since, and an older resource the newer one's labels.
#[test]
fn r0565_what_was_superseded_ended_a_series() {
    let mut group = Group::default();
    let request = |at_nanos, value: Option<f64>, os: &str| {
        let flags = if value.is_none() { NO_VALUE } else { 0 };
        let point = NumberPoint { flags, value: value.map(Number::Double), ..number(at_nanos, 0.0, &[]) };
        let resource = Some(Resource { attributes: attributes(&[("os.type", os)]) });
        ResourceMetrics {
            resource,
            ..of(vec![metric("g", "", Points::Gauge(Gauge { points: vec![point] }))])
        }
    };
    apply(&mut group, &request(3, Some(3.0), "new"));
    for old in [request(1, Some(1.0), "old"), request(2, None, "old")] {
        apply(&mut group, &old);
    }
    let text = "# TYPE g gauge\ng 3\n# TYPE target_info gauge\ntarget_info{os_type=\"new\"} 1\n";
    assert_eq!(group.text(), text);
    let before = group.clone();
    apply(&mut group, &request(4, None, "new"));
    assert!(group.has_lost_any_of(&before) && !before.has_lost_any_of(&group));
    assert_eq!(group.bytes, family_bytes(TARGET_INFO, "") + SERIES_BYTES + "os_type=\"new\"".len());
}

/// Scenario: a metric with a long description finds no room, then some, and its only series ends.
/// Guarantee: nothing of it stays where it is refused, its name and what is kept of its description count, and all of that is
/// given back. A metric that was refused stayed, for ever and without a series, and no name or description counted.
#[test]
fn r0299_a_metric_that_was_refused_stayed_for_ever() {
    let (mut group, grouping) = (Group::default(), grouping());
    let help = format!("x{}", "\u{e9}".repeat(HELP_BYTES_MAX));
    let mut take = |point: NumberPoint, bytes_max: usize| {
        let points = Points::Gauge(Gauge { points: vec![point] });
        let long = Metric { description: help.clone(), ..metric("long", "", points) };
        let refused = group.apply(&of(vec![long]), &grouping, &grouping.key(&[]), bytes_max);
        (refused.no_room, group.clone())
    };
    let kept = format!("x{}", "\u{e9}".repeat(HELP_BYTES_MAX / 2 - 1));
    let room = family_bytes("long", &kept) + SERIES_BYTES;
    let (no_room, none) = take(number(1, 1.0, &[]), room - 1);
    assert!(no_room == 1 && none.families.is_empty() && none.bytes == 0, "{none:?}");
    let (no_room, one) = take(number(1, 1.0, &[]), room);
    assert_eq!((no_room, one.bytes), (0, room));
    assert_eq!(one.text(), format!("# HELP long {kept}\n# TYPE long gauge\nlong 1\n"));
    let (no_room, ended) = take(NumberPoint { flags: NO_VALUE, ..number(2, 0.0, &[]) }, room);
    assert!(no_room == 0 && ended.families.is_empty() && ended.bytes == 0, "{ended:?}");
    assert!(ended.has_lost_any_of(&one) && !ended.has_lost_any_of(&none));
}

/// What a histogram grows by, as a delta with other bounds or as a whole, is counted, and has to find room.
#[test]
fn histograms_that_grow_are_counted() {
    for temporality in [DELTA, 2] {
        let (mut group, grouping) = (Group::default(), grouping());
        let mut take = |bounds: usize, bytes_max: usize| {
            let point = HistogramPoint {
                bucket_counts: vec![1; bounds + 1],
                bounds: vec![1.0; bounds],
                ..HistogramPoint::default()
            };
            let points = Points::Histogram(Histogram { points: vec![point], temporality });
            let metrics = of(vec![metric("h", "", points)]);
            let refused = group.apply(&metrics, &grouping, &grouping.key(&[]), bytes_max);
            (refused.no_room, group.bytes)
        };
        let (_, small) = take(1, ROOM);
        assert_eq!(take(3, small + 31), (1, small));
        assert_eq!(take(3, small + 32), (0, small + 32));
    }
}
