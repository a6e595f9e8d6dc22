//! The result: one row a scenario, the targets beside, as text and as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{load::Tally, rig::Outcome, scenario::BATCHES_AGAIN};

const BATCHES_FLOOR_PERCENT_MIN: f64 = 25.0;
const SINGLES_FLOOR_PERCENT_MIN: f64 = 60.0;
const P99_MS_MAX: f64 = 15.0;
const CPU_US_PER_EVENT_MAX: f64 = 2.5;
const PEAK_RSS_MB_MAX: f64 = 128.0;
const BACKLOG_PERCENT_MIN: f64 = 90.0;
const BLACKHOLE_PERCENT_MAX: f64 = 5.0;
const OTLP_FORWARDED_PER_S_MIN: f64 = 1_000_000.0;
const OTLP_CPU_US_PER_EVENT_MAX: f64 = 1.5;
const OTLP_ROWS_PER_S_MIN: f64 = 400_000.0;

/// What others may use of the cores before a row says little about the server. The kernel's own threads,
/// which write what is synced, are among the others.
const OTHERS_CPU_PERCENT_MAX: f64 = 5.0;

/// Everything a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    cores: usize,
    window_seconds: u64,
    rows: Vec<Row>,
    targets: Vec<Target>,
    notes: Vec<String>,
}

/// One scenario. Rates and latencies are of the measured window, everything else of the whole scenario.
#[derive(Debug, Serialize)]
pub struct Row {
    scenario: String,
    acked_events_per_s: f64,
    delivered_events_per_s: f64,
    floor_events_per_s: Option<f64>,
    floor_percent: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    floor_p50_ms: Option<f64>,
    floor_p99_ms: Option<f64>,
    others_cpu_percent: f64,
    floor_others_cpu_percent: Option<f64>,
    cpu_us_per_event: f64,
    /// What each sink beyond the first adds to the processor time of an event; a negative one is noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent_per_blackhole: Option<f64>,
    peak_rss_mb: f64,
    commits: Option<f64>,
    requests_per_commit: Option<f64>,
    acked_events: u64,
    acked_requests: u64,
    delivered_events: u64,
    delivered_bytes: u64,
    lost_events: u64,
    errors: BTreeMap<String, u64>,
    #[serde(skip)]
    blackholes: Option<usize>,
}

/// What is wanted of a value, and what it is.
#[derive(Debug, Serialize)]
struct Target {
    what: &'static str,
    wanted: Limit,
    measured: f64,
    is_met: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

// === impl Row ===

impl Row {
    /// From what a server did.
    pub fn new(scenario: &str, outcome: &Outcome) -> Self {
        let tally = &outcome.tally;
        let commits = outcome.metrics.first_of(&["forebay_buffer_commit_seconds_count"]);
        let requests = ["forebay_buffer_commit_requests_sum", "forebay_buffer_commit_requests_total"];
        let requests = outcome.metrics.first_of(&requests);
        Self {
            scenario: scenario.to_owned(),
            acked_events_per_s: tally.events_per_s(),
            delivered_events_per_s: outcome.delivered_events as f64 / outcome.elapsed.as_secs_f64(),
            floor_events_per_s: None,
            floor_percent: None,
            p50_ms: tally.latencies.quantile_ms(0.5),
            p99_ms: tally.latencies.quantile_ms(0.99),
            floor_p50_ms: None,
            floor_p99_ms: None,
            others_cpu_percent: tally.others_cpu_percent,
            floor_others_cpu_percent: None,
            cpu_us_per_event: outcome.cpu.as_secs_f64() * 1e6 / outcome.acked_events as f64,
            cpu_percent_per_blackhole: None,
            peak_rss_mb: outcome.rss_peak_bytes as f64 / 1e6,
            commits,
            requests_per_commit: requests.zip(commits).map(|(requests, commits)| requests / commits),
            acked_events: outcome.acked_events,
            acked_requests: tally.acked_requests,
            delivered_events: outcome.delivered_events,
            delivered_bytes: outcome.delivered_bytes,
            lost_events: outcome.acked_events.saturating_sub(outcome.delivered_events),
            errors: tally.errors.clone(),
            blackholes: None,
        }
    }

    /// Beside what the floor did under the same load.
    pub fn with_floor(self, floor: &Tally) -> Self {
        Self {
            floor_events_per_s: Some(floor.events_per_s()),
            floor_percent: Some(100.0 * self.acked_events_per_s / floor.events_per_s()),
            floor_p50_ms: floor.latencies.quantile_ms(0.5),
            floor_p99_ms: floor.latencies.quantile_ms(0.99),
            floor_others_cpu_percent: Some(floor.others_cpu_percent),
            ..self
        }
    }

    /// As one of the runs that differ in the number of sinks beyond the first.
    pub fn with_blackholes(self, blackholes: usize) -> Self {
        Self { blackholes: Some(blackholes), ..self }
    }

    fn cells(&self) -> [String; 13] {
        let number = |value: Option<f64>, digits: usize| match value {
            Some(value) => format!("{value:.digits$}"),
            None => "-".to_owned(),
        };
        [
            self.scenario.clone(),
            number(Some(self.acked_events_per_s), 0),
            number(Some(self.delivered_events_per_s), 0),
            number(self.floor_events_per_s, 0),
            number(self.floor_percent, 1),
            number(self.p50_ms, 2),
            number(self.p99_ms, 2),
            number(Some(self.cpu_us_per_event), 2),
            number(Some(self.peak_rss_mb), 1),
            number(self.commits, 0),
            number(self.requests_per_commit, 1),
            self.delivered_events.to_string(),
            self.lost_events.to_string(),
        ]
    }
}

const HEADINGS: [&str; 13] = [
    "scenario",
    "acked ev/s",
    "delivered ev/s",
    "floor ev/s",
    "% floor",
    "p50 ms",
    "p99 ms",
    "CPU us/ev",
    "RSS MB",
    "commits",
    "req/commit",
    "delivered",
    "lost",
];

// === impl Report ===

impl Report {
    /// An empty one.
    pub fn new(window: Duration) -> Self {
        let window_seconds = window.as_secs();
        Self { cores: cores(), window_seconds, rows: Vec::new(), targets: Vec::new(), notes: Vec::new() }
    }

    /// Adds a scenario.
    pub fn push(&mut self, row: Row) {
        if row.lost_events > 0 {
            self.note(format!(
                "{} LOST {} events: {} acknowledged, {} delivered when the wait ended",
                row.scenario, row.lost_events, row.acked_events, row.delivered_events
            ));
        }
        let others = row.others_cpu_percent.max(row.floor_others_cpu_percent.unwrap_or(0.0));
        if others > OTHERS_CPU_PERCENT_MAX {
            self.note(format!("{}: others used {others:.0} % of the cores, measure again", row.scenario));
        }
        if row.acked_events == 0 {
            self.note(format!("{}: no event was acknowledged", row.scenario));
        }
        if !row.errors.is_empty() {
            self.note(format!("{}: requests without a 2xx: {:?}", row.scenario, row.errors));
        }
        self.rows.push(row);
    }

    /// Adds what a reader must know; also said at once.
    pub fn note(&mut self, note: String) {
        eprintln!("end_to_end: {note}");
        self.notes.push(note);
    }

    /// Whether every scenario acknowledged something and everything acknowledged arrived.
    pub fn is_sound(&self) -> bool {
        self.rows.iter().all(|row| row.acked_events > 0 && row.lost_events == 0)
    }

    /// Compares the rows with each other and with the targets.
    pub fn judge(&mut self) {
        let alone = self.rows.iter().find(|row| row.blackholes == Some(0)).map(|row| row.cpu_us_per_event);
        for row in &mut self.rows {
            if let (Some(alone), Some(blackholes @ 1..)) = (alone, row.blackholes) {
                let added = 100.0 * (row.cpu_us_per_event / alone - 1.0);
                row.cpu_percent_per_blackhole = Some(added / blackholes as f64);
            }
        }
        let row = |name: &str| self.rows.iter().find(|row| row.scenario == name);
        let (batches, singles) = (row("batches"), row("singles-256"));
        let empty = batches.zip(row(BATCHES_AGAIN));
        let empty =
            empty.map(|(before, behind)| (before.acked_events_per_s + behind.acked_events_per_s) / 2.0);
        let backlog = row("backlog").zip(empty);
        let peak_rss_mb = self.rows.iter().map(|row| row.peak_rss_mb).reduce(f64::max);
        // The more sinks, the less of a difference is noise.
        let blackhole = self.rows.iter().filter_map(|row| row.cpu_percent_per_blackhole).next_back();
        let (at_least, at_most) = (Limit::AtLeast, Limit::AtMost);
        let targets = [
            (
                "batches, % of floor",
                at_least(BATCHES_FLOOR_PERCENT_MIN),
                batches.and_then(|r| r.floor_percent),
            ),
            (
                "singles-256, % of floor",
                at_least(SINGLES_FLOOR_PERCENT_MIN),
                singles.and_then(|r| r.floor_percent),
            ),
            ("batches, p99 ms", at_most(P99_MS_MAX), batches.and_then(|r| r.p99_ms)),
            ("singles-256, p99 ms", at_most(P99_MS_MAX), singles.and_then(|r| r.p99_ms)),
            ("batches, CPU us per event", at_most(CPU_US_PER_EVENT_MAX), batches.map(|r| r.cpu_us_per_event)),
            ("peak RSS of any scenario, MB", at_most(PEAK_RSS_MB_MAX), peak_rss_mb),
            (
                "backlog, % of the empty case",
                at_least(BACKLOG_PERCENT_MIN),
                backlog.map(|(full, empty)| 100.0 * full.acked_events_per_s / empty),
            ),
            (
                "otlp-forward, delivered a second",
                at_least(OTLP_FORWARDED_PER_S_MIN),
                row("otlp-forward").map(|r| r.delivered_events_per_s),
            ),
            (
                "otlp-forward, CPU us per record",
                at_most(OTLP_CPU_US_PER_EVENT_MAX),
                row("otlp-forward").map(|r| r.cpu_us_per_event),
            ),
            (
                "otlp-rows, delivered a second",
                at_least(OTLP_ROWS_PER_S_MIN),
                row("otlp-rows").map(|r| r.delivered_events_per_s),
            ),
            ("CPU added by a blackhole, %", at_most(BLACKHOLE_PERCENT_MAX), blackhole),
        ];
        let targets = targets.into_iter().filter_map(|(what, wanted, measured)| {
            let measured = measured?;
            Some(Target { what, wanted, measured, is_met: wanted.is_met(measured) })
        });
        self.targets = targets.collect();
    }
}

/// Cores that all parts share.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} s a scenario, {} cores for all parts\n", self.window_seconds, self.cores)?;
        let lines: Vec<[String; 13]> =
            std::iter::once(HEADINGS.map(str::to_owned)).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|cells| cells[column].len()).max().unwrap_or(0);
        for cells in &lines {
            write!(f, "{:<width$}", cells[0], width = width(0))?;
            for (column, cell) in cells.iter().enumerate().skip(1) {
                write!(f, "  {cell:>width$}", width = width(column))?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for row in &self.rows {
            if let Some(percent) = row.cpu_percent_per_blackhole {
                writeln!(f, "{}: {percent:+.1} % CPU per event and further sink", row.scenario)?;
            }
        }
        for target in &self.targets {
            let verdict = if target.is_met { "met" } else { "NOT MET" };
            let (wanted, measured) = (target.wanted, target.measured);
            writeln!(f, "{:<32} {measured:>10.2}  wanted {wanted:<9} {verdict}", target.what)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

// === impl Limit ===

impl Limit {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(limit) => measured >= limit,
            Self::AtMost(limit) => measured <= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::AtMost(limit) => format!("<= {limit}"),
        })
    }
}
