//! The circuit breaker: a destination that keeps failing is left alone for a while.
//!
//! `Closed` → (`failures` in a row) `Open` for `open_for` → `HalfOpen`, one delivery at a time → (`successes` in a row)
//! `Closed`, or at the first failure `Open` again.

use std::time::Duration;

use tokio::time::Instant;

/// When it opens and closes.
#[derive(Debug, Clone, Copy)]
pub struct BreakerPolicy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open.
    pub open_for: Duration,
    /// Successes in a row that close it again.
    pub successes: u32,
}

/// Where it stands; the value of `forebay_sink_breaker_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// Deliveries pass.
    Closed = 0,
    /// One delivery at a time passes, to see.
    HalfOpen = 1,
    /// None passes.
    Open = 2,
}

impl BreakerState {
    /// For people and for JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// One sink's breaker.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: BreakerState,
    /// Failures in a row while closed, successes in a row while half open.
    count: u32,
    open_until: Instant,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: BreakerState::Closed, count: 0, open_until: Instant::now() }
    }

    /// Where it stands now; an open one turns half open when its time is over.
    pub fn state(&mut self, now: Instant) -> BreakerState {
        if self.state == BreakerState::Open && now >= self.open_until {
            self.enter(BreakerState::HalfOpen);
        }
        self.state
    }

    /// How long it stays open; `None` unless it is.
    pub fn opens_in(&mut self, now: Instant) -> Option<Duration> {
        (self.state(now) == BreakerState::Open).then(|| self.open_until - now)
    }

    /// A delivery succeeded.
    pub fn succeeded(&mut self, now: Instant) {
        match self.state(now) {
            BreakerState::Closed => self.count = 0,
            BreakerState::HalfOpen => {
                self.count += 1;
                if self.count >= self.policy.successes {
                    self.enter(BreakerState::Closed);
                }
            }
            // It was on its way before the breaker opened.
            BreakerState::Open => {}
        }
    }

    /// A delivery failed.
    pub fn failed(&mut self, now: Instant) {
        self.count += 1;
        let opens = match self.state(now) {
            BreakerState::Closed => self.count >= self.policy.failures,
            BreakerState::HalfOpen => true,
            BreakerState::Open => false,
        };
        if opens {
            self.enter(BreakerState::Open);
            self.open_until = now + self.policy.open_for;
        }
    }

    fn enter(&mut self, state: BreakerState) {
        (self.state, self.count) = (state, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole story: opens after five, half opens after its time, opens again at one failure, closes after two.
    #[test]
    fn it_opens_probes_and_closes() {
        let policy = BreakerPolicy { failures: 5, open_for: Duration::from_secs(30), successes: 2 };
        let mut breaker = Breaker::new(policy);
        let now = Instant::now();
        (0..4).for_each(|_| breaker.failed(now));
        breaker.succeeded(now);
        (0..4).for_each(|_| breaker.failed(now));
        assert_eq!(breaker.state(now), BreakerState::Closed, "a success in between starts the count again");
        breaker.failed(now);
        assert_eq!(breaker.opens_in(now), Some(Duration::from_secs(30)));
        let later = now + Duration::from_secs(30);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        breaker.failed(later);
        assert_eq!(breaker.state(later), BreakerState::Open);
        let later = later + Duration::from_secs(31);
        breaker.succeeded(later);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        breaker.succeeded(later);
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }
}
