//! The latest values of all series, by the group that they are pushed to.
//!
//! | of OpenTelemetry | in the group |
//! |---|---|
//! | gauge; sum that is not monotonic | gauge |
//! | monotonic sum | counter |
//! | histogram with bounds | histogram |
//! | summary | summary |
//! | delta temporality | added up, from the first that came in this process' life |
//! | a point without a recorded value | the series ends; its metric, too, where it was the last |
//! | attributes of the resource, other than those that tell groups apart | labels of `target_info` |
//! | name and version of the scope | labels `otel_scope_name`, `otel_scope_version` |
//!
//! A point that is older than the one that is there does nothing, as one of a replay: it has been superseded. An exponential
//! histogram has no form in the text that a gateway takes, and a name cannot be of two types in one group; such points are
//! refused.

mod exposition;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    names::{labels, metric_name, text, written},
    request::{
        Attribute, HistogramPoint, Number, NumberPoint, Points, ResourceMetrics, ScopeMetrics, Sum,
        SummaryPoint,
    },
};
use crate::config::PushgatewaySink;

/// Of `flags`: the series has ended, or has nothing to say.
const NO_VALUE: u32 = 1;
/// Of aggregation temporalities, the one that is not cumulative.
const DELTA: i32 = 1;
/// What a series takes beside its labels and buckets, with the nodes of the maps that hold it.
const SERIES_BYTES: usize = 160;
/// What a metric takes beside its name, its description and its series: the first node of a map has room for eleven of these.
const FAMILY_BYTES: usize = 1024;
/// Of a description: it stands in every push of its metric.
const HELP_BYTES_MAX: usize = 1024;
/// Attributes that say who a resource is: they are `job`, and what grouping labels are made of.
const NAMESPACE: &str = "service.namespace";
pub(super) const SERVICE: &str = "service.name";
pub(super) const INSTANCE: &str = "service.instance.id";
/// As OpenTelemetry names a resource that does not say who it is.
const UNKNOWN: &str = "unknown_service";
/// The metric whose labels are the other attributes of a resource.
const TARGET_INFO: &str = "target_info";

/// How resources become groups.
#[derive(Debug)]
pub(super) struct Grouping {
    pub(super) job: Option<String>,
    /// A text, or an attribute in braces.
    pub(super) labels: BTreeMap<String, String>,
}

/// The labels of a group, `job` first.
pub(super) type GroupKey = Vec<Label>;
/// Its name and its value.
pub(super) type Label = (String, String);

/// A group as it stands, or as a batch would have it.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// By their names; each has a series.
    families: BTreeMap<String, Arc<Family>>,
    pub(super) bytes: usize,
}

#[derive(Debug, Clone)]
struct Family {
    kind: Kind,
    help: String,
    /// By their labels, as they stand in braces.
    series: BTreeMap<String, Series>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

#[derive(Debug, Clone)]
struct Series {
    at_nanos: u64,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(f64),
    Histogram { bounds: Vec<f64>, counts: Vec<u64>, sum: Option<f64>, count: u64 },
    Summary { quantiles: Vec<(f64, f64)>, sum: f64, count: u64 },
}

/// Points that a batch had, and those of them that no group can have.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) exponential: u64,
    pub(super) other_type: u64,
    pub(super) no_room: u64,
}

/// What points of one metric have in common.
struct Of<'a> {
    name: &'a str,
    kind: Kind,
    help: &'a str,
    is_delta: bool,
    /// Of the scope.
    labels: &'a BTreeMap<String, String>,
    key: &'a [Label],
    bytes_max: usize,
}

// === impl Refused ===

impl Refused {
    pub(super) fn add(&mut self, more: Self) {
        self.exponential += more.exponential;
        self.other_type += more.other_type;
        self.no_room += more.no_room;
    }
}

// === impl Grouping ===

impl Grouping {
    pub(super) fn of(options: &PushgatewaySink) -> Self {
        Self { job: options.job.clone(), labels: options.grouping.clone() }
    }

    /// The group of a resource.
    pub(super) fn key(&self, resource: &[Attribute]) -> GroupKey {
        let of = |key: &str| {
            let found = resource.iter().find(|attribute| attribute.key == key);
            found.map(|attribute| text(attribute.value.as_ref())).filter(|text| !text.is_empty())
        };
        let job = self.job.clone().unwrap_or_else(|| {
            let service = of(SERVICE).unwrap_or_else(|| UNKNOWN.to_owned());
            of(NAMESPACE).map_or(service.clone(), |namespace| format!("{namespace}/{service}"))
        });
        let label = |(name, value): (&String, &String)| {
            let attribute = value.strip_prefix('{').and_then(|value| value.strip_suffix('}'));
            let value = attribute.map_or_else(|| Some(value.clone()), of)?;
            Some((name.clone(), value))
        };
        std::iter::once(("job".to_owned(), job)).chain(self.labels.iter().filter_map(label)).collect()
    }

    /// Whether the attribute stands in the grouping labels already.
    fn has(&self, attribute: &str) -> bool {
        let in_job = self.job.is_none() && matches!(attribute, SERVICE | NAMESPACE);
        in_job
            || attribute == INSTANCE
            || self.labels.values().any(|value| *value == format!("{{{attribute}}}"))
    }
}

// === impl Group ===

impl Group {
    /// Takes in what a request has of the group's resource.
    pub(super) fn apply(
        &mut self,
        metrics: &ResourceMetrics,
        grouping: &Grouping,
        key: &[Label],
        bytes_max: usize,
    ) -> Refused {
        let mut refused = Refused::default();
        for scope in &metrics.scope_metrics {
            self.apply_scope(scope, key, bytes_max, &mut refused);
        }
        let resource =
            metrics.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
        let others = labels(resource.iter().filter(|attribute| !grouping.has(&attribute.key)));
        let at_nanos = metrics.newest();
        let is_superseded = self
            .families
            .get(TARGET_INFO)
            .is_some_and(|family| family.series.values().any(|series| series.at_nanos > at_nanos));
        let has_metrics = metrics.scope_metrics.iter().any(|scope| !scope.metrics.is_empty());
        if !others.is_empty() && has_metrics && !is_superseded {
            let none = BTreeMap::new();
            let of = Of {
                name: TARGET_INFO,
                kind: Kind::Gauge,
                help: "",
                is_delta: false,
                labels: &none,
                key,
                bytes_max,
            };
            // One line for each resource: an older one of the same group is not told apart from it.
            self.remove(TARGET_INFO);
            self.set(&of, &others, at_nanos, Value::Number(1.0), &mut Refused::default());
        }
        refused
    }

    fn apply_scope(&mut self, scope: &ScopeMetrics, key: &[Label], bytes_max: usize, refused: &mut Refused) {
        let mut of_scope = BTreeMap::new();
        if let Some(scope) = &scope.scope {
            of_scope.insert("otel_scope_name".to_owned(), scope.name.clone());
            of_scope.insert("otel_scope_version".to_owned(), scope.version.clone());
        }
        for metric in &scope.metrics {
            let (kind, is_delta) = match &metric.points {
                Some(Points::Sum(Sum { is_monotonic: true, temporality, .. })) => {
                    (Kind::Counter, *temporality == DELTA)
                }
                Some(Points::Sum(sum)) => (Kind::Gauge, sum.temporality == DELTA),
                Some(Points::Histogram(histogram)) => (Kind::Histogram, histogram.temporality == DELTA),
                Some(Points::Summary(_)) => (Kind::Summary, false),
                Some(Points::Exponential(exponential)) => {
                    refused.exponential += exponential.points.len() as u64;
                    continue;
                }
                Some(Points::Gauge(_)) => (Kind::Gauge, false),
                None => continue,
            };
            // Only what is no sum may be a ratio.
            let is_gauge = matches!(metric.points, Some(Points::Gauge(_)));
            let name = metric_name(&metric.name, &metric.unit, kind == Kind::Counter, is_gauge);
            let of = Of {
                name: &name,
                kind,
                help: &metric.description,
                is_delta,
                labels: &of_scope,
                key,
                bytes_max,
            };
            match &metric.points {
                Some(Points::Gauge(gauge)) => self.numbers(&of, &gauge.points, refused),
                Some(Points::Sum(sum)) => self.numbers(&of, &sum.points, refused),
                Some(Points::Histogram(histogram)) => self.histograms(&of, &histogram.points, refused),
                Some(Points::Summary(summary)) => self.summaries(&of, &summary.points, refused),
                Some(Points::Exponential(_)) | None => {}
            }
        }
    }

    fn numbers(&mut self, of: &Of<'_>, points: &[NumberPoint], refused: &mut Refused) {
        for point in points {
            let value = match point.value {
                Some(Number::Double(value)) if point.flags & NO_VALUE == 0 => value,
                Some(Number::Int(value)) if point.flags & NO_VALUE == 0 => value as f64,
                _ => {
                    self.end(of, &point.attributes, point.at_nanos);
                    continue;
                }
            };
            self.set(of, &labels(&point.attributes), point.at_nanos, Value::Number(value), refused);
        }
    }

    fn histograms(&mut self, of: &Of<'_>, points: &[HistogramPoint], refused: &mut Refused) {
        for point in points {
            if point.flags & NO_VALUE != 0 {
                self.end(of, &point.attributes, point.at_nanos);
                continue;
            }
            let value = Value::Histogram {
                bounds: point.bounds.clone(),
                counts: point.bucket_counts.clone(),
                sum: point.sum,
                count: point.count,
            };
            self.set(of, &labels(&point.attributes), point.at_nanos, value, refused);
        }
    }

    fn summaries(&mut self, of: &Of<'_>, points: &[SummaryPoint], refused: &mut Refused) {
        for point in points {
            if point.flags & NO_VALUE != 0 {
                self.end(of, &point.attributes, point.at_nanos);
                continue;
            }
            let quantiles =
                point.quantiles.iter().map(|quantile| (quantile.quantile, quantile.value)).collect();
            let value = Value::Summary { quantiles, sum: point.sum, count: point.count };
            self.set(of, &labels(&point.attributes), point.at_nanos, value, refused);
        }
    }

    /// A series has this value now, if it has no later one.
    fn set(
        &mut self,
        of: &Of<'_>,
        own: &BTreeMap<String, String>,
        at_nanos: u64,
        value: Value,
        refused: &mut Refused,
    ) {
        let labels = written(&series_labels(of, own));
        let room = of.bytes_max.saturating_sub(self.bytes);
        let bytes = SERIES_BYTES + labels.len() + value.bytes();
        let Some(family) = self.families.get_mut(of.name) else {
            let help = &of.help[..of.help.floor_char_boundary(HELP_BYTES_MAX)];
            let bytes = bytes + family_bytes(of.name, help);
            if bytes > room {
                refused.no_room += 1;
                return;
            }
            let series = BTreeMap::from([(labels, Series { at_nanos, value })]);
            let family = Family { kind: of.kind, help: help.to_owned(), series };
            self.families.insert(of.name.to_owned(), Arc::new(family));
            self.bytes += bytes;
            return;
        };
        if family.kind != of.kind {
            refused.other_type += 1;
            return;
        }
        // What other batches see stays as it is until this one is pushed.
        let series = &mut Arc::make_mut(family).series;
        match series.get_mut(&labels) {
            Some(before) if before.at_nanos > at_nanos && !of.is_delta => {}
            // A histogram may come again with more bounds.
            Some(before) if value.bytes() > before.value.bytes() + room => refused.no_room += 1,
            Some(before) => {
                self.bytes = (self.bytes + value.bytes()).saturating_sub(before.value.bytes());
                if of.is_delta {
                    before.value.add(value);
                } else {
                    before.value = value;
                }
                before.at_nanos = before.at_nanos.max(at_nanos);
            }
            None if bytes > room => refused.no_room += 1,
            None => {
                series.insert(labels, Series { at_nanos, value });
                self.bytes += bytes;
            }
        }
    }

    /// A series has ended, if it has no later value; with its last one, the metric.
    fn end(&mut self, of: &Of<'_>, attributes: &[Attribute], at_nanos: u64) {
        let labels = written(&series_labels(of, &labels(attributes)));
        let Some(family) = self.families.get_mut(of.name) else { return };
        if family.series.get(&labels).is_none_or(|before| before.at_nanos > at_nanos) {
            return;
        }
        let series = &mut Arc::make_mut(family).series;
        if let Some(ended) = series.remove(&labels) {
            self.bytes = self.bytes.saturating_sub(SERIES_BYTES + labels.len() + ended.value.bytes());
        }
        if series.is_empty() {
            self.remove(of.name);
        }
    }

    fn remove(&mut self, name: &str) {
        let Some(family) = self.families.remove(name) else { return };
        let bytes = |(labels, series): (&String, &Series)| SERIES_BYTES + labels.len() + series.value.bytes();
        let of_series: usize = family.series.iter().map(bytes).sum();
        self.bytes = self.bytes.saturating_sub(family_bytes(name, &family.help) + of_series);
    }

    /// Whether a metric that there was before is gone: a push by names would leave it at the gateway.
    pub(super) fn has_lost_any_of(&self, before: &Self) -> bool {
        before.families.keys().any(|name| !self.families.contains_key(name))
    }
}

/// Of a metric, without its series.
fn family_bytes(name: &str, help: &str) -> usize {
    FAMILY_BYTES + name.len() + help.len()
}

/// Labels of a series: the point's own, and its scope's. Those that the group has get another name, as Prometheus does it.
fn series_labels(of: &Of<'_>, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_taken =
        |name: &str| of.key.iter().any(|(label, _)| label == name) || matches!(name, "le" | "quantile");
    let renamed = own.iter().map(|(name, value)| {
        let name = if is_taken(name) { format!("exported_{name}") } else { name.clone() };
        (name, value.clone())
    });
    renamed.chain(of.labels.clone()).collect()
}

// === impl Value ===

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => 0,
            Self::Histogram { counts, bounds, .. } => (counts.len() + bounds.len()) * 8,
            Self::Summary { quantiles, .. } => quantiles.len() * 16,
        }
    }

    /// Adds what came since. A histogram with other bounds begins anew.
    fn add(&mut self, delta: Self) {
        match (self, delta) {
            (Self::Number(value), Self::Number(more)) => *value += more,
            (
                Self::Histogram { bounds, counts, sum, count },
                Self::Histogram { bounds: theirs, counts: more, sum: sum_more, count: count_more },
            ) if *bounds == theirs && counts.len() == more.len() => {
                counts.iter_mut().zip(more).for_each(|(count, more)| *count = count.saturating_add(more));
                *sum = sum.zip(sum_more).map(|(sum, more)| sum + more);
                *count = count.saturating_add(count_more);
            }
            (value, delta) => *value = delta,
        }
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
