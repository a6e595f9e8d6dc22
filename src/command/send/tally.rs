//! What became of the lines so far, and what is said about it at the end.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;

use super::{LAST_WORDS, Verdict};

/// Of so many wrong lines it is said what is wrong.
const REASONS_MAX: usize = 10;

/// A line whose fate is known.
pub(super) enum Known {
    /// It was empty.
    Empty,
    /// It was wrong before it was sent.
    Wrong(String),
    /// It was sent, and this became of it.
    Judged(Verdict),
}

/// Why it ended before the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// The server is not there, or refuses everything.
    Failed(String),
    /// A line was wrong, and that is to be enough.
    Strict,
    /// It could not be read any further.
    Unread(String),
}

/// Counts lines in their order.
#[derive(Debug)]
pub(super) struct Tally {
    strict: bool,
    accepted: u64,
    rejected: u64,
    /// Sent, but not delivered.
    failed: u64,
    /// Line and reason, of the first that are wrong.
    reasons: Vec<(u64, String)>,
    /// Everything up to this line is done.
    done_to: u64,
    /// A line behind it is not.
    broken: bool,
    bytes: u64,
    end: Option<End>,
}

impl Tally {
    pub fn new(skipped: u64, strict: bool) -> Self {
        Self {
            strict,
            accepted: 0,
            rejected: 0,
            failed: 0,
            reasons: Vec::new(),
            done_to: skipped,
            broken: false,
            bytes: 0,
            end: None,
        }
    }

    /// Counts the next line. Where nothing more is to be sent: the time that what is on its way still has.
    pub fn count(&mut self, number: u64, known: Known) -> Option<Duration> {
        let mut stop = None;
        match known {
            Known::Empty => {}
            Known::Wrong(why) | Known::Judged(Verdict::Rejected(why)) => stop = self.reject(number, 1, why),
            Known::Judged(Verdict::Accepted { items, rejected, reason }) => {
                self.accepted += items;
                if rejected > 0 {
                    stop = self.reject(number, rejected, reason.unwrap_or_default());
                }
            }
            Known::Judged(Verdict::Failed(why)) => {
                self.failed += 1;
                self.broken = true;
                self.end.get_or_insert(End::Failed(why));
                stop = Some(Duration::ZERO);
            }
            Known::Judged(Verdict::Stopped) => {
                self.failed += 1;
                self.broken = true;
            }
        }
        if !self.broken {
            self.done_to = number;
        }
        stop
    }

    fn reject(&mut self, number: u64, items: u64, why: String) -> Option<Duration> {
        self.rejected += items;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push((number, why));
        }
        if !self.strict {
            return None;
        }
        self.broken = true;
        self.end.get_or_insert(End::Strict);
        Some(LAST_WORDS)
    }

    /// Somebody wants it to end: the time that what is on its way still has. A second time there is none.
    pub fn interrupt(&mut self) -> Duration {
        if self.end == Some(End::Interrupted) {
            return Duration::ZERO;
        }
        self.end = Some(End::Interrupted);
        LAST_WORDS
    }

    /// Everything that was sent has its fate, and so many bytes were read, until there were no more or an error came.
    pub fn finish(&mut self, bytes: u64, error: Option<String>) {
        self.bytes = bytes;
        if let Some(error) = error {
            self.end.get_or_insert(End::Unread(error));
        }
    }

    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether everything was accepted.
    pub fn is_clean(&self) -> bool {
        self.end.is_none() && self.rejected + self.failed == 0
    }

    /// How far it is, beside a progress bar.
    pub fn line(&self) -> String {
        let wrong = if self.rejected == 0 { String::new() } else { format!(", {} rejected", self.rejected) };
        format!("{} accepted{wrong}", self.accepted)
    }
}

/// What is said at the end.
pub(super) struct Summary<'a> {
    pub tally: &'a Tally,
    pub input: String,
    pub to: &'a str,
    pub took: Duration,
}

impl Summary<'_> {
    fn per_second(&self) -> u64 {
        (self.tally.accepted as f64 / self.took.as_secs_f64().max(1e-3)) as u64
    }

    /// Why it ended early, for people.
    fn end(&self) -> Option<String> {
        Some(match self.tally.end.as_ref()? {
            End::Interrupted => "interrupted".to_owned(),
            End::Failed(why) => why.clone(),
            End::Strict => "a line is wrong".to_owned(),
            End::Unread(why) => why.clone(),
        })
    }

    pub fn text(&self) -> String {
        let Tally { accepted, rejected, failed, reasons, done_to, bytes, .. } = self.tally;
        let (input, to, seconds) = (&self.input, self.to, self.took.as_secs_f64());
        let mut text = format!(
            "{input} to {to}: {accepted} accepted, {rejected} rejected, {bytes} bytes in {seconds:.2} s ({}/s)\n",
            self.per_second()
        );
        for (line, why) in reasons {
            let _ = writeln!(text, "line {line}: {why}");
        }
        if *rejected > reasons.len() as u64 {
            text.push_str("(these are the first)\n");
        }
        if let Some(why) = self.end() {
            let _ = writeln!(text, "stopped: {why}");
            if *failed > 0 {
                let _ = writeln!(text, "{failed} were on their way and may have arrived");
            }
            let _ =
                writeln!(text, "up to line {done_to} everything is done; go on with --skip-lines {done_to}");
        }
        text
    }

    pub fn json(&self) -> String {
        let tally = self.tally;
        let reasons: Vec<_> =
            tally.reasons.iter().map(|(line, reason)| json!({"line": line, "reason": reason})).collect();
        let summary = json!({
            "to": self.to,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "undelivered": tally.failed,
            "reasons": reasons,
            "lines_done": tally.done_to,
            "bytes": tally.bytes,
            "seconds": self.took.as_secs_f64(),
            "per_second": self.per_second(),
            "stopped": self.end(),
        });
        format!("{summary}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> Known {
        Known::Judged(Verdict::Accepted { items: 1, rejected: 0, reason: None })
    }

    /// Wrong lines are done, since nobody will ever take them; a line that was not delivered ends what is done, whatever
    /// became of those behind it.
    #[test]
    fn what_is_done_ends_at_the_first_gap() {
        let mut tally = Tally::new(10, false);
        assert_eq!(tally.count(11, accepted()), None);
        assert_eq!(tally.count(12, Known::Wrong("no JSON".to_owned())), None);
        assert_eq!(tally.count(13, Known::Empty), None);
        assert_eq!(tally.done_to, 13);
        let failed = Known::Judged(Verdict::Failed("nobody is there".to_owned()));
        assert_eq!(tally.count(14, failed), Some(Duration::ZERO));
        tally.count(15, accepted());
        tally.count(16, Known::Judged(Verdict::Stopped));
        assert_eq!((tally.accepted, tally.rejected, tally.failed, tally.done_to), (2, 1, 2, 13));
        assert_eq!(tally.end(), Some(&End::Failed("nobody is there".to_owned())));
        let text = Summary { tally: &tally, input: "x".into(), to: "y", took: Duration::from_secs(1) }.text();
        assert!(text.contains("line 12: no JSON") && text.contains("--skip-lines 13"), "{text}");
    }

    /// With --strict a wrong line is where it has to go on.
    #[test]
    fn strict_stops_before_the_wrong_line() {
        let mut tally = Tally::new(0, true);
        tally.count(1, accepted());
        assert_eq!(tally.count(2, Known::Wrong("no JSON".to_owned())), Some(LAST_WORDS));
        tally.count(3, accepted());
        assert_eq!((tally.done_to, tally.end()), (1, Some(&End::Strict)));
    }
}
