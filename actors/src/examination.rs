//! What can be found out about a destination before anything is delivered to it: what an operator wants to know before a
//! start.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    destination::{Cause, DeliveryError},
    event::Timestamp,
};

/// Whether something about a destination is as it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Finding {
    /// There is no such thing: a file has no schema.
    #[default]
    Absent,
    /// It is.
    Fit,
    /// It cannot be told, and why: something before it failed, or only a delivery would show it.
    Unknown(String),
    /// It is not, and why.
    Unfit(String),
}

/// What was found out, in the order in which a delivery would come upon it.
#[derive(Debug, Clone, Default)]
pub struct Examination {
    /// It is there and answers.
    pub reachable: Finding,
    /// It takes events from whoever the configuration says we are.
    pub authorised: Finding,
    /// What it keeps events in is there, and fits them; or can be made.
    pub schema: Finding,
    /// What its clock said.
    pub clock: Option<ClockReading>,
    /// What else an operator should know, in words.
    pub note: Option<String>,
}

/// What a destination's clock said, and between which of our moments.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    /// What it said.
    pub said: Timestamp,
    /// The finest that it says: the `Date` of HTTP has whole seconds.
    pub resolution: Duration,
    /// Before it was asked.
    pub asked: Instant,
    /// After it had answered.
    pub answered: Instant,
}

impl Examination {
    /// It answers and takes events, and has no schema.
    pub fn fit() -> Self {
        Self { reachable: Finding::Fit, authorised: Finding::Fit, ..Self::default() }
    }

    /// What a first failure says, by its cause: what comes before it is fit, and what comes behind it unknown.
    pub fn failed(error: &DeliveryError) -> Self {
        let why = error.message.clone();
        match error.cause {
            Cause::Refused => Self::unauthorised(why),
            Cause::Rejected | Cause::Encode => Self::unfit(why),
            Cause::Connect
            | Cause::Timeout
            | Cause::Throttled
            | Cause::Server
            | Cause::Io
            | Cause::Build
            | Cause::Panicked => Self::unreachable(why),
        }
    }

    /// Of one question to the destination that says everything there is to say.
    pub fn of(answer: Result<(), DeliveryError>) -> Self {
        answer.map_or_else(|error| Self::failed(&error), |()| Self::fit())
    }

    /// It is not there, or does not answer as it should.
    pub fn unreachable(why: impl Into<String>) -> Self {
        let (authorised, schema) = (Finding::behind(), Finding::behind());
        Self { reachable: Finding::Unfit(why.into()), authorised, schema, ..Self::default() }
    }

    /// It is there, and does not take events from us.
    pub fn unauthorised(why: impl Into<String>) -> Self {
        Self { authorised: Finding::Unfit(why.into()), schema: Finding::behind(), ..Self::fit() }
    }

    /// It lets us in, and cannot take events as it is.
    pub fn unfit(why: impl Into<String>) -> Self {
        Self { schema: Finding::Unfit(why.into()), ..Self::fit() }
    }

    /// What both found: of each finding the worse one.
    pub fn and(self, other: Self) -> Self {
        Self {
            reachable: self.reachable.or_worse(other.reachable),
            authorised: self.authorised.or_worse(other.authorised),
            schema: self.schema.or_worse(other.schema),
            clock: self.clock.or(other.clock),
            note: self.note.or(other.note),
        }
    }

    /// The same with what its clock said.
    pub fn with_clock(self, clock: Option<ClockReading>) -> Self {
        Self { clock, ..self }
    }

    /// Its findings by name.
    pub fn findings(&self) -> [(&'static str, &Finding); 3] {
        [("reachable", &self.reachable), ("authorised", &self.authorised), ("schema", &self.schema)]
    }
}

impl Finding {
    /// What was not looked at, because what comes before it failed.
    pub fn behind() -> Self {
        Self::Unknown(String::new())
    }

    fn or_worse(self, other: Self) -> Self {
        let badness = |finding: &Self| match finding {
            Self::Absent => 0,
            Self::Fit => 1,
            Self::Unknown(_) => 2,
            Self::Unfit(_) => 3,
        };
        if badness(&other) > badness(&self) { other } else { self }
    }
}

impl ClockReading {
    /// Seconds by which the destination's clock is ahead of ours at least, below zero where it is behind; 0 where the two may
    /// say the same. `now` is what our clock says at the moment `at`.
    pub fn ahead_seconds(&self, now: Timestamp, at: Instant) -> f64 {
        let said = self.said.nanos().saturating_sub(now.nanos()) as f64 / 1e9;
        let least = said + (at.saturating_duration_since(self.answered)).as_secs_f64();
        let most =
            said + self.resolution.as_secs_f64() + (at.saturating_duration_since(self.asked)).as_secs_f64();
        if least > 0.0 { least } else { most.min(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two examinations each finding is the worse one, and what one of them did not look at is the other's.
    #[test]
    fn the_worse_finding_counts() {
        let nothing = Examination::default;
        let both = Examination::fit().and(Examination::unfit("no table"));
        assert_eq!((both.reachable, both.schema), (Finding::Fit, Finding::Unfit("no table".to_owned())));
        let both = Examination::unauthorised("no right").and(Examination::fit());
        assert_eq!(
            (both.authorised, both.schema),
            (Finding::Unfit("no right".to_owned()), Finding::behind())
        );
        assert_eq!(nothing().and(Examination::fit()).reachable, Finding::Fit);
        assert_eq!(Examination::fit().and(nothing()).schema, Finding::Absent);
    }

    /// Scenario: a clock of whole seconds, asked by a question that took half a second.
    /// Guarantee: what rounding or the way may explain is no difference; beyond that it is said both ways, by no more than is
    /// certain.
    #[tokio::test(start_paused = true)]
    async fn a_clock_differs_by_no_more_than_is_certain() {
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(500)).await;
        let answered = Instant::now();
        tokio::time::advance(Duration::from_millis(100)).await;
        let now = Timestamp::from_nanos(100_600_000_000);
        let ahead = |said: i64| {
            let said = Timestamp::from_nanos(said * 1_000_000_000);
            let reading = ClockReading { said, resolution: Duration::from_secs(1), asked, answered };
            (reading.ahead_seconds(now, Instant::now()) * 1000.0).round() / 1000.0
        };
        // Ours was 100.0 when it was asked and 100.5 when it had answered.
        assert_eq!([ahead(99), ahead(100)], [0.0, 0.0]);
        assert_eq!([ahead(101), ahead(104)], [0.5, 3.5]);
        assert_eq!([ahead(98), ahead(90)], [-1.0, -9.0]);
    }
}
