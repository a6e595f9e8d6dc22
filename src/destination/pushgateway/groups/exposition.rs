//! A group in the text format of Prometheus.

use std::fmt::Write as _;

use super::{Family, Group, Kind, Value};

// === impl Group ===

impl Group {
    /// In the text format of Prometheus.
    pub(in super::super) fn text(&self) -> String {
        let mut out = String::with_capacity(self.bytes);
        for (name, family) in self.families.iter().filter(|(_, family)| !family.series.is_empty()) {
            family.write(name, &mut out).expect("a String takes every text");
        }
        out
    }
}

// === impl Family ===

impl Family {
    fn write(&self, name: &str, out: &mut String) -> std::fmt::Result {
        if !self.help.is_empty() {
            writeln!(out, "# HELP {name} {}", self.help.replace('\\', "\\\\").replace('\n', "\\n"))?;
        }
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        };
        writeln!(out, "# TYPE {name} {kind}")?;
        for (labels, series) in &self.series {
            let line = |out: &mut String, suffix: &str, more: &str, value: &str| {
                let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
                match labels.is_empty() && more.is_empty() {
                    true => writeln!(out, "{name}{suffix} {value}"),
                    false => writeln!(out, "{name}{suffix}{{{labels}{comma}{more}}} {value}"),
                }
            };
            match &series.value {
                Value::Number(value) => line(out, "", "", &float(*value))?,
                Value::Histogram { bounds, counts, sum, count } => {
                    let mut below = 0_u64;
                    for (bound, count) in bounds.iter().zip(counts) {
                        below = below.saturating_add(*count);
                        line(out, "_bucket", &format!("le=\"{}\"", float(*bound)), &below.to_string())?;
                    }
                    line(out, "_bucket", "le=\"+Inf\"", &count.to_string())?;
                    if let Some(sum) = sum {
                        line(out, "_sum", "", &float(*sum))?;
                    }
                    line(out, "_count", "", &count.to_string())?;
                }
                Value::Summary { quantiles, sum, count } => {
                    for (quantile, value) in quantiles {
                        line(out, "", &format!("quantile=\"{}\"", float(*quantile)), &float(*value))?;
                    }
                    line(out, "_sum", "", &float(*sum))?;
                    line(out, "_count", "", &count.to_string())?;
                }
            }
        }
        Ok(())
    }
}

/// A number as Prometheus reads it.
fn float(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}
