//! What was found out about the destinations, as a table, and below it the reasons.

use std::time::Duration;

use forebay_actors::{
    examination::{Examination, Finding},
    runtime::clock::Clock,
};
use tokio::time::Instant;

use super::Findings;

/// A clock that is further off than this is worth a warning: machines that follow a time server agree within a tenth of a second,
/// so theirs does not, or ours. Nothing breaks at once, but times from there cannot be compared with times from here, and
/// far off, signatures and certificates are refused.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(2);

const HEAD: [&str; 6] = ["destination", "type", "reachable", "authorised", "schema", "clock"];

/// What is said of a destination, row by row.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

struct Row {
    cells: [String; 6],
    examination: Examination,
    /// By how much its clock is off.
    skew_seconds: Option<f64>,
}

/// How a row stands, by its worst cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

impl Table {
    /// Adds what was just found out about a sink.
    pub(super) fn add(&mut self, name: &str, kind: &str, examination: Examination) {
        let (now, at) = (Clock::system().now(), Instant::now());
        let skew_seconds = examination.clock.map(|clock| clock.ahead_seconds(now, at));
        let [(_, reachable), (_, authorised), (_, schema)] =
            examination.findings().map(|(name, finding)| (name, word(finding)));
        let cells = [
            format!("sink {name}"),
            kind.to_owned(),
            reachable,
            authorised,
            schema,
            skew_words(skew_seconds),
        ];
        self.rows.push(Row { cells, examination, skew_seconds });
    }

    /// Writes the table and what there is to say of its rows.
    pub(super) fn write(self, findings: &mut Findings) {
        if self.rows.is_empty() {
            return;
        }
        let head = HEAD.map(str::to_owned);
        let widths: [usize; 6] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| &row.cells).chain([&head]);
            cells.map(|cells| cells[column].chars().count()).max().unwrap_or_default()
        });
        let line = |mark: &str, cells: &[String; 6]| {
            let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            let cells = cells.collect::<Vec<_>>().join("  ");
            format!("{mark:4}  {}\n", cells.trim_end())
        };
        findings.text.push_str(&line("", &head));
        for row in &self.rows {
            findings.text.push_str(&line(row.grade().mark(), &row.cells));
        }
        self.rows.iter().for_each(|row| row.explain(findings));
    }
}

impl Row {
    fn grade(&self) -> Grade {
        let is_unfit = |(_, finding): &(_, &Finding)| matches!(finding, Finding::Unfit(_));
        if self.examination.findings().iter().any(is_unfit) {
            Grade::Fail
        } else if self.is_off() {
            Grade::Warn
        } else {
            Grade::Ok
        }
    }

    fn is_off(&self) -> bool {
        self.skew_seconds.is_some_and(|seconds| seconds.abs() > CLOCK_SKEW_MAX.as_secs_f64())
    }

    fn explain(&self, findings: &mut Findings) {
        let what = &self.cells[0];
        for (name, finding) in self.examination.findings() {
            match finding {
                Finding::Unfit(why) => findings.fail(what, why),
                Finding::Unknown(why) if !why.is_empty() => {
                    findings.ok(what, format!("{name} is not known: {why}"));
                }
                Finding::Absent | Finding::Fit | Finding::Unknown(_) => {}
            }
        }
        if self.is_off() {
            let words = skew_words(self.skew_seconds);
            let max = CLOCK_SKEW_MAX.as_secs();
            findings.warn(what, format!("its clock is {words}; up to {max} s are no matter. Its clock is wrong, or that of this machine"));
        }
        if let Some(note) = &self.examination.note {
            findings.ok(what, note);
        }
    }
}

impl Grade {
    const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

fn word(finding: &Finding) -> String {
    let word = match finding {
        Finding::Absent => "-",
        Finding::Fit => "yes",
        Finding::Unknown(_) => "?",
        Finding::Unfit(_) => "NO",
    };
    word.to_owned()
}

fn skew_words(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.abs() < 0.05 => "same".to_owned(),
        Some(seconds) if seconds > 0.0 => format!("{seconds:.1} s ahead"),
        Some(seconds) => format!("{:.1} s behind", -seconds),
    }
}

#[cfg(test)]
mod tests {
    use forebay_actors::examination::ClockReading;

    use super::*;

    fn written(rows: Vec<(&str, &str, Examination)>) -> (String, bool) {
        let (mut table, mut findings) = (Table::default(), Findings::default());
        rows.into_iter().for_each(|(name, kind, examination)| table.add(name, kind, examination));
        table.write(&mut findings);
        (findings.text, findings.failed)
    }

    fn clock(ahead_seconds: i64) -> Option<ClockReading> {
        let at = Instant::now();
        let said = Clock::system().now().nanos() + ahead_seconds * 1_000_000_000;
        let said = forebay_actors::event::Timestamp::from_nanos(said);
        Some(ClockReading { said, resolution: Duration::ZERO, asked: at, answered: at })
    }

    /// One row for each sink, in columns, and the reasons below; only what is unfit fails.
    #[test]
    fn rows_stand_in_columns_and_reasons_below() {
        let unfit = Examination::unfit("the table is gone").with_clock(clock(-60));
        let unsaid = Finding::Unknown("it answered 405".to_owned());
        let unsaid =
            Examination { authorised: unsaid, note: Some("3 events".to_owned()), ..Examination::fit() };
        let (text, failed) = written(vec![("a", "http", unsaid.clone()), ("warehouse", "postgres", unfit)]);
        let expected = "      destination     type      reachable  authorised  schema  clock\n\
                        ok    sink a          http      yes        ?           -       -\n\
                        FAIL  sink warehouse  postgres  yes        yes         NO      60.0 s behind\n\
                        ok    sink a: authorised is not known: it answered 405\n\
                        ok    sink a: 3 events\n\
                        FAIL  sink warehouse: the table is gone\n\
                        warn  sink warehouse: its clock is 60.0 s behind; up to 2 s are no matter. Its clock is wrong, or that \
                        of this machine\n";
        assert_eq!((&*text, failed), (expected, true));
        let (text, failed) = written(vec![("a", "http", unsaid.with_clock(clock(90)))]);
        assert!(text.contains("warn  sink a ") && text.contains("s ahead") && !failed, "{text}");
        assert_eq!(written(Vec::new()), (String::new(), false));
    }

    /// What failed first is said; what was not looked at behind it is not.
    #[test]
    fn what_was_not_looked_at_is_not_explained() {
        let (text, _) = written(vec![("a", "s3", Examination::unreachable("no connection"))]);
        assert!(text.contains("FAIL  sink a       s3    NO         ?"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
