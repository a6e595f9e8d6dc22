//! Whether something grows that should not.
//!
//! A backlog behind a destination that is away takes memory and disk, and gives them back: humps. What leaks lifts the floor
//! between the humps. So the second half of a run (the first is where caches fill) is cut into windows, the lowest value of
//! each is its floor, and a Theil-Sen line (the median of the slopes between all pairs of floors, which a quarter of the
//! floors being far off does not move) says by how much the floor rose over that half.

/// Windows the second half is cut into: enough for a median of slopes, each long enough to see a floor in a minute's run.
const WINDOWS: usize = 12;

/// With fewer windows that have a value, nothing is said.
const WINDOWS_MIN: usize = 6;

/// What may grow by how much: whichever of both is more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// In the unit of the values.
    pub absolute: f64,
    /// As a share of where it began.
    pub share: f64,
}

/// The line through the floors of the second half of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Where it begins: seconds and value.
    pub from: (f64, f64),
    /// Where it ends.
    pub to: (f64, f64),
}

/// A line and what it may grow by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What was found.
    pub line: Line,
    /// How much growth is taken for none.
    pub allowed: f64,
}

// === impl Line ===

impl Line {
    /// How much it rises.
    pub fn growth(&self) -> f64 {
        self.to.1 - self.from.1
    }
}

// === impl Verdict ===

impl Verdict {
    /// Nothing grew that should not have.
    pub fn holds(&self) -> bool {
        self.line.growth() <= self.allowed
    }
}

/// Judges values by their seconds, in order; `None` where the run was too short to say anything.
pub fn judge(points: &[(f64, f64)], allowance: Allowance) -> Option<Verdict> {
    let line = line_through(&floors(points))?;
    let allowed = allowance.absolute.max(allowance.share * line.from.1);
    Some(Verdict { line, allowed })
}

fn floors(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let from = first.0 + (last.0 - first.0) / 2.0;
    let window_s = (last.0 - from) / WINDOWS as f64;
    let floor = |index: usize| {
        let begin = from + window_s * index as f64;
        let is_last = index + 1 == WINDOWS;
        let within = points.iter().filter(|(at, _)| *at >= begin && (is_last || *at < begin + window_s));
        within.copied().min_by(|a, b| a.1.total_cmp(&b.1))
    };
    (0..WINDOWS).filter_map(floor).collect()
}

/// The Theil-Sen line: no assumption of how the values scatter, and no harm from a few that are far off.
fn line_through(points: &[(f64, f64)]) -> Option<Line> {
    if points.len() < WINDOWS_MIN {
        return None;
    }
    let pairs =
        points.iter().enumerate().flat_map(|(index, a)| points[index + 1..].iter().map(move |b| (a, b)));
    let slopes: Vec<f64> = pairs.filter(|(a, b)| b.0 > a.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect();
    let slope = median(slopes)?;
    let at_zero = median(points.iter().map(|(at, value)| value - slope * at).collect())?;
    let on_it = |at: f64| (at, at_zero + slope * at);
    Some(Line { from: on_it(points.first()?.0), to: on_it(points.last()?.0) })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}
