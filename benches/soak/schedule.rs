//! What goes wrong and when: a function of the seed and the length of the run, so that a run can be had again.

use std::time::Duration;

use fastrand::Rng;

/// Seconds that a fault of the destination lasts, and that nothing is wrong between two of them.
const FAULT_S: std::ops::Range<f64> = 2.0..5.0;
const CALM_S: std::ops::Range<f64> = 3.0..7.0;

/// The last part of a run is without faults of the destination: what then still grows grows for no reason.
const CALM_END_SHARE: f64 = 0.15;

/// Something that goes wrong, or is done to the server, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The destination answers 503.
    Unavailable,
    /// It answers late.
    Slow,
    /// It answers nothing.
    Hung,
    /// It takes the batch and breaks the connection.
    Cut,
    /// It does not listen.
    Closed,
    /// SIGHUP, with a sink that is described differently.
    Reload,
    /// SIGKILL, and a new start.
    Kill,
}

/// A fault in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// When, from the start of the run.
    pub at: Duration,
    /// Until when; the same where it is done at once.
    pub until: Duration,
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Chance.
    pub seed: u64,
    /// How long the run is.
    pub total: Duration,
    /// SIGHUP this often; never where it is zero.
    pub reload_every: Duration,
    /// SIGKILL this often; never where it is zero.
    pub kill_every: Duration,
}

// === impl Fault ===

impl Fault {
    /// Those of the destination: one of each comes before the second of any.
    pub const OF_THE_DESTINATION: [Self; 5] =
        [Self::Unavailable, Self::Slow, Self::Hung, Self::Cut, Self::Closed];

    /// Its name in the plot and the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "503",
            Self::Slow => "slow",
            Self::Hung => "hung",
            Self::Cut => "cut off",
            Self::Closed => "closed",
            Self::Reload => "SIGHUP",
            Self::Kill => "SIGKILL",
        }
    }
}

/// All that will go wrong, in order.
pub fn plan(wishes: &Wishes) -> Vec<Planned> {
    let mut random = Rng::with_seed(wishes.seed);
    let calm_from = wishes.total.mul_f64(1.0 - CALM_END_SHARE);
    let mut within = |range: &std::ops::Range<f64>| {
        Duration::from_secs_f64(range.start + random.f64() * (range.end - range.start))
    };
    let mut spans = Vec::new();
    let mut at = within(&CALM_S);
    loop {
        let until = at + within(&FAULT_S);
        if until > calm_from {
            break;
        }
        spans.push((at, until));
        at = until + within(&CALM_S);
    }
    let mut round = Vec::new();
    let mut plan = Vec::new();
    for (at, until) in spans {
        if round.is_empty() {
            round = Fault::OF_THE_DESTINATION.to_vec();
            random.shuffle(&mut round);
        }
        plan.extend(round.pop().map(|fault| Planned { fault, at, until }));
    }
    for (fault, every) in [(Fault::Reload, wishes.reload_every), (Fault::Kill, wishes.kill_every)] {
        let mut at = every;
        while !every.is_zero() && at < calm_from {
            plan.push(Planned { fault, at, until: at });
            at += every;
        }
    }
    plan.sort_by_key(|planned| planned.at);
    plan
}
