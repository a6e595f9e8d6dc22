//! What came of a run, in words, and whether that is good.

use std::{collections::BTreeMap, fmt, fmt::Write as _, time::Duration};

use super::{
    arguments::Arguments,
    judge::{Allowance, Verdict, judge},
    plot::{Panel, Plot},
    sample::Sample,
    schedule::Planned,
};

const MIB: f64 = 1024.0 * 1024.0;

/// What may grow over the second half of a run without being called growth. Memory: what an allocator keeps of the last
/// backlog. Disk: three generations of the journal, which come and go whole. Files: connections of clients and sinks.
const ALLOWED: [(Panel, Allowance); 3] = [
    (Panel::Rss, Allowance { absolute: 32.0 * MIB, share: 0.15 }),
    (Panel::Disk, Allowance { absolute: 48.0 * MIB, share: 0.15 }),
    (Panel::Files, Allowance { absolute: 12.0, share: 0.1 }),
];

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// All looks.
    pub samples: Vec<Sample>,
    /// What went wrong on purpose.
    pub faults: Vec<Planned>,
    /// How long the load was held.
    pub held: Duration,
    /// Events that were not acknowledged, by what came instead.
    pub refused: BTreeMap<String, u64>,
    /// From the end of the load until everything had arrived, or nothing came any more.
    pub waited: Duration,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Of all events, those that arrived.
    pub delivered: u64,
    /// How many of them came a further time.
    pub repeated: u64,
    /// Acknowledged, and did not arrive.
    pub lost: u64,
    /// The first of these.
    pub first_lost: Option<u64>,
    /// SIGHUPs.
    pub reloads: u64,
    /// SIGKILLs.
    pub kills: u64,
    /// The most memory that the last process had resident.
    pub rss_peak_bytes: u64,
}

// === impl Outcome ===

impl Outcome {
    /// By panel: what grew, and by how much it may.
    pub fn verdicts(&self) -> Vec<(Panel, Verdict)> {
        let value = |panel: Panel, sample: &Sample| match panel {
            Panel::Rss => sample.rss_bytes,
            Panel::Disk => sample.disk_bytes,
            Panel::Files => sample.open_files,
            Panel::Lag => sample.lag_events,
            Panel::Throughput => sample.acknowledged_per_s,
        };
        let verdict = |(panel, allowance)| {
            let points = self.samples.iter().map(|sample| (sample.seconds, value(panel, sample)));
            Some((panel, judge(&points.collect::<Vec<_>>(), allowance)?))
        };
        ALLOWED.into_iter().filter_map(verdict).collect()
    }

    /// Everything that is not as it should be; nothing where the run was good.
    pub fn faulted(&self) -> Vec<String> {
        let mut faulted = Vec::new();
        if let Some(first) = self.first_lost {
            faulted.push(format!("{} acknowledged events did not arrive, first number {first}", self.lost));
        }
        if self.acknowledged == 0 {
            faulted.push("nothing was acknowledged".to_owned());
        }
        for (panel, verdict) in self.verdicts().iter().filter(|(_, verdict)| !verdict.holds()) {
            let (title, unit) = panel.title();
            faulted.push(format!(
                "{title} grew by {:.1} {unit} over the second half; {:.1} are allowed",
                verdict.line.growth() / panel.unit(),
                verdict.allowed / panel.unit()
            ));
        }
        faulted
    }

    /// The plot of the run.
    pub fn svg(&self, arguments: &Arguments) -> String {
        let title = format!("Forebay soak: {} s under faults, seed {}", self.held.as_secs(), arguments.seed);
        let subtitle = format!(
            "{} events/s wanted · durability fsync · {} faults of the destination · {} SIGHUP · {} SIGKILL",
            arguments.rate,
            self.faults.iter().filter(|planned| planned.until > planned.at).count(),
            self.reloads,
            self.kills
        );
        let faulted = self.faulted();
        let sound = format!(
            "held: {} events acknowledged, {} delivered, {} lost, {} more than once",
            grouped(self.acknowledged),
            grouped(self.delivered),
            grouped(self.lost),
            grouped(self.repeated)
        );
        let outcome = if faulted.is_empty() { sound } else { format!("failed: {}", faulted.join("; ")) };
        let plot = Plot {
            title: &title,
            subtitle: &subtitle,
            outcome: (&outcome, faulted.is_empty()),
            samples: &self.samples,
            faults: &self.faults,
            verdicts: &self.verdicts(),
        };
        plot.svg()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
        self.faults.iter().for_each(|planned| *faults.entry(planned.fault.as_str()).or_default() += 1);
        let faults = faults.iter().fold(String::new(), |mut all, (name, count)| {
            let _ = write!(all, "{}{name} {count}", if all.is_empty() { "" } else { ", " });
            all
        });
        let per_s = self.acknowledged as f64 / self.held.as_secs_f64();
        writeln!(f, "held           {:.0} s, {per_s:.0} events/s acknowledged", self.held.as_secs_f64())?;
        writeln!(f, "faults         {faults}")?;
        writeln!(f, "acknowledged   {}", grouped(self.acknowledged))?;
        writeln!(
            f,
            "delivered      {} ({} more than once)",
            grouped(self.delivered),
            grouped(self.repeated)
        )?;
        writeln!(f, "lost           {}", grouped(self.lost))?;
        writeln!(f, "not taken      {:?}", self.refused)?;
        writeln!(f, "waited         {:.1} s after the load for the last of them", self.waited.as_secs_f64())?;
        writeln!(f, "peak RSS       {:.1} MiB", self.rss_peak_bytes as f64 / MIB)?;
        let verdicts = self.verdicts();
        for (panel, verdict) in &verdicts {
            let (title, unit) = panel.title();
            let (from, growth) = (verdict.line.from.1 / panel.unit(), verdict.line.growth() / panel.unit());
            let allowed = verdict.allowed / panel.unit();
            writeln!(
                f,
                "floor          {title}: {from:.1} {unit}, {growth:+.1} over the second half, {allowed:.1} allowed"
            )?;
        }
        if verdicts.is_empty() {
            writeln!(f, "floor          the run was too short to see what grows")?;
        }
        for fault in self.faulted() {
            writeln!(f, "FAILED         {fault}")?;
        }
        Ok(())
    }
}

/// A number as people read it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
