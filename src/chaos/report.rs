//! What came out of a run: a verdict, a table for people, JSON for machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use serde::Serialize;

use super::{
    ledger::{Ledger, Tally},
    schedule::{FaultKind, Injection},
};

/// Ids that a verdict names; a loss of thousands is shown by its first.
const IDS_SHOWN: usize = 5;

/// What came out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the faults were drawn from.
    pub seed: u64,
    /// How often each kind was injected.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Restarts by actor.
    pub restarts: BTreeMap<String, u64>,
    /// What became of the events, by sink.
    pub sinks: BTreeMap<String, SinkOutcome>,
    /// From a fault's end to the recovery from it.
    pub recovery_ms: Percentiles,
    /// Starts of the process after a crash.
    pub process_restarts: u64,
    /// Faults from which it had not recovered at the end.
    pub unrecovered: u64,
    /// Posted, acknowledged or not.
    pub posted: u64,
    /// The longest time without an acknowledgement.
    #[serde(serialize_with = "as_millis")]
    pub longest_stall_ms: Duration,
    /// How long faults were injected.
    #[serde(serialize_with = "as_millis")]
    pub duration_ms: Duration,
    /// Events a second that were to be posted.
    pub rate: u32,
    /// Whether the sinks were the sandbox's.
    pub sandbox: bool,
    /// What went wrong besides.
    pub problems: Vec<String>,
    /// What is good to know, and no failure.
    pub notes: Vec<String>,
    /// Every fault, when it was due.
    pub timeline: Vec<Happened>,
}

/// One fault, and what it took to recover from it.
#[derive(Debug, Serialize)]
pub struct Happened {
    /// The fault.
    #[serde(flatten)]
    pub injection: Injection,
    /// From its end; absent where it was not injected, or not recovered from.
    pub recovery_ms: Option<u64>,
}

/// What became of the acknowledged events at one sink.
#[derive(Debug, Serialize)]
pub struct SinkOutcome {
    /// How that is known.
    pub proof: Proof,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that it has.
    pub delivered: u64,
    /// Deliveries of events that it had already, or rows of them; absent where nobody can know.
    pub duplicated: Option<u64>,
    /// Events that were acknowledged and have no outcome.
    pub lost: u64,
    /// Events that are dead letters of it.
    pub dead_letters: u64,
    /// Events that it had not come to when the patience was over: not lost, and not proven.
    pub undelivered: u64,
    /// Events that came behind a later one of the same producer, where the sink promises order.
    pub reordered: u64,
    /// The first that are lost.
    pub lost_ids: Vec<String>,
}

/// How it is known what a sink has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The sandbox has seen every event.
    Received,
    /// The event store was asked for every event.
    Stored,
    /// Only the sink's cursor was looked at: what it has passed, its destination has said yes to.
    Cursor,
}

/// Of the recovery times, in milliseconds; absent without any.
#[derive(Debug, Default, Serialize)]
pub struct Percentiles {
    /// Half of them took at most this.
    pub p50: Option<u64>,
    /// All but one in a hundred took at most this.
    pub p99: Option<u64>,
}

/// What a sink's dead letters explain.
#[derive(Debug, Default)]
pub struct Explained {
    /// Numbers of events that are dead letters.
    pub events: BTreeSet<u64>,
    /// Positions in ranges whose bytes are gone.
    pub positions: u64,
}

// === impl SinkOutcome ===

impl SinkOutcome {
    /// Judges a sink: what is missing is a dead letter, or still to come where the sink lags, or lost.
    pub fn judge(
        proof: Proof,
        tally: Tally,
        explained: &Explained,
        lag_events: u64,
        in_order: bool,
        ledger: &Ledger,
    ) -> Self {
        let Tally { acknowledged, delivered, duplicated, reordered, mut missing } = tally;
        let before = missing.len() as u64;
        missing.retain(|number| !explained.events.contains(number));
        // Which events stood in a range nobody can say any more.
        let in_ranges = explained.positions.min(missing.len() as u64);
        let dead_letters = before - missing.len() as u64 + in_ranges;
        let unexplained = missing.len() as u64 - in_ranges;
        let undelivered = unexplained.min(lag_events);
        let lost = unexplained - undelivered;
        let shown = if lost > 0 { IDS_SHOWN } else { 0 };
        Self {
            proof,
            acknowledged,
            delivered,
            duplicated: Some(duplicated),
            lost,
            dead_letters,
            undelivered,
            reordered: if in_order { reordered } else { 0 },
            lost_ids: missing.iter().take(shown).map(|number| ledger.id(*number)).collect(),
        }
    }

    /// A sink of which nothing is known but how far it has come.
    pub fn by_cursor(acknowledged: u64, explained: &Explained, lag_events: u64) -> Self {
        let dead_letters = (explained.events.len() as u64 + explained.positions).min(acknowledged);
        let undelivered = lag_events.min(acknowledged - dead_letters);
        Self {
            proof: Proof::Cursor,
            acknowledged,
            delivered: acknowledged - dead_letters - undelivered,
            duplicated: None,
            lost: 0,
            dead_letters,
            undelivered,
            reordered: 0,
            lost_ids: Vec::new(),
        }
    }
}

// === impl Percentiles ===

impl Percentiles {
    /// Of these times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent| super::recovery::percentile(&times, percent).map(|time| time.as_millis() as u64);
        Self { p50: at(50), p99: at(99) }
    }
}

// === impl Proof ===

impl Proof {
    const fn words(self) -> &'static str {
        match self {
            Self::Received => "every event was seen to come",
            Self::Stored => "the store was asked for every event",
            Self::Cursor => "only its cursor is known; nobody asked the destination",
        }
    }
}

// === impl Report ===

impl Report {
    /// What is wrong, a line each; nothing where every promise was kept.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = self.problems.clone();
        if self.unrecovered > 0 {
            let faults = self.unrecovered;
            findings.push(format!(
                "from {faults} faults it had not recovered when the patience (--settle) was over"
            ));
        }
        for (name, sink) in &self.sinks {
            let SinkOutcome { acknowledged, lost, undelivered, reordered, .. } = *sink;
            if lost > 0 {
                let ids = sink.lost_ids.join(", ");
                let more = if lost as usize > sink.lost_ids.len() { ", …" } else { "" };
                findings.push(format!(
                    "{lost} of {acknowledged} acknowledged events are lost at sink {name}: {ids}{more}"
                ));
            }
            if undelivered > 0 {
                findings.push(format!(
                    "{undelivered} events had not come to sink {name} when the patience (--settle) was over; they are \
                     in the journal, so not lost, but not proven either"
                ));
            }
            if reordered > 0 {
                findings.push(format!(
                    "{reordered} events came to sink {name} behind a later one of the same producer"
                ));
            }
        }
        findings
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let kinds = self.faults.iter().map(|(kind, count)| vec![kind.as_str().to_owned(), count.to_string()]);
        write_table(&mut out, &["fault", "injected"], kinds.collect());
        let mut restarts: Vec<_> =
            self.restarts.iter().map(|(name, count)| vec![name.clone(), count.to_string()]).collect();
        restarts.push(vec!["(process)".to_owned(), self.process_restarts.to_string()]);
        write_table(&mut out, &["actor", "restarts"], restarts);
        let of_sink = |(name, sink): (&String, &SinkOutcome)| {
            let SinkOutcome { acknowledged, delivered, lost, dead_letters, undelivered, .. } = *sink;
            let mut row = vec![name.clone(), acknowledged.to_string(), delivered.to_string()];
            row.push(sink.duplicated.map_or("?".to_owned(), |count| count.to_string()));
            row.extend([lost, dead_letters, undelivered].map(|count| count.to_string()));
            row
        };
        let heads =
            ["sink", "acknowledged", "delivered", "duplicated", "lost", "dead letters", "undelivered"];
        write_table(&mut out, &heads, self.sinks.iter().map(of_sink).collect());
        for (name, sink) in &self.sinks {
            let _ = writeln!(out, "{name}: {}", sink.proof.words());
        }
        let times = |millis: Option<u64>| millis.map_or("-".to_owned(), |millis| format!("{millis} ms"));
        let (p50, p99) = (times(self.recovery_ms.p50), times(self.recovery_ms.p99));
        let _ = writeln!(
            out,
            "\nlongest time without an acknowledgement: {} ms",
            self.longest_stall_ms.as_millis()
        );
        let _ = writeln!(out, "recovery: p50 {p50}, p99 {p99}, not at all {}", self.unrecovered);
        let slowest = self.timeline.iter().max_by_key(|happened| happened.recovery_ms);
        if let Some(Happened { injection, recovery_ms: Some(millis) }) = slowest {
            let Injection { at, kind, target, .. } = injection;
            let (at, kind) = (at.as_secs_f64(), kind.as_str());
            let _ = writeln!(out, "slowest recovery: {millis} ms, from {kind} of {target} at {at:.1} s");
        }
        self.notes.iter().for_each(|note| {
            let _ = writeln!(out, "note: {note}");
        });
        let findings = self.findings();
        if findings.is_empty() {
            let unseen = self.sinks.iter().filter(|(_, sink)| sink.proof == Proof::Cursor);
            let unseen: Vec<_> = unseen.map(|(name, _)| name.as_str()).collect();
            let how_far = match unseen.is_empty() {
                true => String::new(),
                false => format!("; of {}, as far as a cursor can tell", unseen.join(", ")),
            };
            let _ = writeln!(out, "\nOK: nothing that was acknowledged was lost{how_far}");
        }
        findings.iter().for_each(|finding| {
            let _ = writeln!(out, "\nFAIL: {finding}");
        });
        out
    }
}

/// Columns as wide as they need to be, numbers to the right.
fn write_table(out: &mut String, heads: &[&str], rows: Vec<Vec<String>>) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in [heads].iter().chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
}

fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Ten acknowledged events of one producer; those with these numbers came.
    fn ledger(came: &[u64]) -> Ledger {
        let mut ledger = Ledger::new(1, ["up".to_owned()]);
        ledger.post(0, 10);
        ledger.acknowledge(0, Instant::now());
        came.iter().for_each(|number| ledger.arrived("up", ledger.id(*number).clone().as_bytes()));
        ledger
    }

    fn judge(ledger: &Ledger, explained: &Explained, lag_events: u64) -> SinkOutcome {
        SinkOutcome::judge(Proof::Received, ledger.tally("up"), explained, lag_events, true, ledger)
    }

    fn report(outcome: SinkOutcome) -> Report {
        Report {
            seed: 7,
            faults: [(FaultKind::SinkKill, 2), (FaultKind::Crash, 1)].into(),
            restarts: [("sink:up".to_owned(), 2)].into(),
            sinks: [("up".to_owned(), outcome)].into(),
            recovery_ms: Percentiles::of([700, 30].map(Duration::from_millis).to_vec()),
            process_restarts: 1,
            unrecovered: 0,
            posted: 12,
            longest_stall_ms: Duration::from_millis(412),
            duration_ms: Duration::from_secs(5),
            rate: 2,
            sandbox: true,
            problems: Vec::new(),
            notes: Vec::new(),
            timeline: Vec::new(),
        }
    }

    /// An acknowledged event that never came, that no dead letter has and that no sink is behind of, is lost, and named.
    #[test]
    fn a_lost_event_is_found_and_named() {
        let ledger = ledger(&[0, 1, 2, 3, 4, 5, 6, 8, 9]);
        let outcome = judge(&ledger, &Explained::default(), 0);
        assert_eq!((outcome.delivered, outcome.lost), (9, 1));
        let report = report(outcome);
        assert_eq!(report.findings(), ["1 of 10 acknowledged events are lost at sink up: chaos-00000001-7"]);
        assert!(report.table().contains("\nFAIL: 1 of 10 "), "{}", report.table());
    }

    /// A dead letter is an outcome; so is a range of them. What the sink still has before it is not lost, but is said.
    #[test]
    fn what_is_explained_is_not_lost() {
        let ledger = ledger(&[0, 1, 2, 3, 4, 5, 6]);
        let outcome = judge(&ledger, &Explained { events: [7].into(), positions: 1 }, 1);
        let counts = (outcome.lost, outcome.dead_letters, outcome.undelivered);
        assert_eq!(counts, (0, 2, 1));
        assert_eq!(outcome.lost_ids, [""; 0]);
        let findings = report(outcome).findings();
        assert!(findings.len() == 1 && findings[0].contains("not lost"), "{findings:?}");
        let outcome = judge(&ledger, &Explained { events: [7].into(), positions: 100 }, 0);
        assert_eq!((outcome.lost, outcome.dead_letters), (0, 3));
    }

    #[test]
    fn a_good_run_says_so() {
        let ledger = ledger(&[0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let report = report(judge(&ledger, &Explained::default(), 0));
        assert_eq!(report.findings(), [""; 0]);
        let table = report.table();
        for line in [
            "fault      injected",
            "sink-kill         2",
            "sink:up           2",
            "(process)         1",
            "up              10         10           1     0             0            0",
            "longest time without an acknowledgement: 412 ms",
            "recovery: p50 30 ms, p99 700 ms, not at all 0",
            "OK: nothing that was acknowledged was lost",
        ] {
            assert!(table.lines().any(|found| found == line), "{line:?} in\n{table}");
        }
    }

    /// Of a sink that nobody can ask only what its cursor says is claimed, and the table says so.
    #[test]
    fn what_only_a_cursor_says_is_not_claimed() {
        let explained = Explained { events: [1].into(), positions: 2 };
        let outcome = SinkOutcome::by_cursor(10, &explained, 4);
        let counts = (outcome.delivered, outcome.dead_letters, outcome.undelivered, outcome.duplicated);
        assert_eq!(counts, (3, 3, 4, None));
        let report = report(SinkOutcome::by_cursor(10, &Explained::default(), 0));
        let table = report.table();
        assert!(table.ends_with("lost; of up, as far as a cursor can tell\n"), "{table}");
        assert!(table.contains("up              10         10           ?     0 "), "{table}");
    }
}
