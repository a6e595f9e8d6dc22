//! When to try again.

use std::time::Duration;

/// A server's wish is honoured up to here: one wrong number must not silence a client for a day.
const WISH_MAX: Duration = Duration::from_secs(300);

/// How often, and how soon again. Waits double, each is drawn from the upper half of its step, and a server that says when
/// (`Retry-After`, `RetryInfo`) is not asked before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    attempts_max: Option<u32>,
    first: Duration,
    longest: Duration,
}

impl Default for Retry {
    /// Three attempts.
    fn default() -> Self {
        Self::attempts(3)
    }
}

impl Retry {
    /// So many attempts, the first included; at least one.
    pub fn attempts(attempts: u32) -> Self {
        let (first, longest) = (Duration::from_millis(500), Duration::from_secs(30));
        Self { attempts_max: Some(attempts.max(1)), first, longest }
    }

    /// Until it is delivered or refused.
    pub fn for_ever() -> Self {
        Self { attempts_max: None, ..Self::attempts(1) }
    }

    /// The step before the second attempt; 500 ms by default.
    pub fn first_wait(self, first: Duration) -> Self {
        Self { first, ..self }
    }

    /// The longest step; 30 s by default.
    pub fn longest_wait(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }

    /// A back-off that has not failed yet.
    pub fn backoff(&self) -> Backoff {
        Backoff { retry: self.clone(), failures: 0 }
    }

    pub(crate) fn endless(&self) -> Self {
        Self { attempts_max: None, ..self.clone() }
    }
}

/// Counts the failures of one batch.
#[derive(Debug, Clone)]
pub struct Backoff {
    retry: Retry,
    failures: u32,
}

impl Backoff {
    /// Counts a failure. Says how long to wait, at least as long as the server wished; nothing where that was the last attempt.
    pub fn failed(&mut self, wished: Option<Duration>) -> Option<Duration> {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        if self.retry.attempts_max.is_some_and(|max| self.failures >= max) {
            return None;
        }
        let step = self.retry.first.saturating_mul(doubled).min(self.retry.longest);
        let wait = step.mul_f64(0.5 + fastrand::f64() / 2.0);
        Some(wait.max(wished.unwrap_or_default().min(WISH_MAX)))
    }

    /// Attempts that failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits double within their steps up to the longest; as many attempts are made as configured, or no number is enough.
    #[test]
    fn waits_double_within_bounds() {
        let retry =
            Retry::for_ever().first_wait(Duration::from_millis(100)).longest_wait(Duration::from_secs(2));
        let mut different = 0;
        for _ in 0..50 {
            let mut backoff = retry.backoff();
            for step in [100, 200, 400, 800, 1600, 2000, 2000] {
                let wait = backoff.failed(None).unwrap();
                let bounds = Duration::from_millis(step / 2)..=Duration::from_millis(step);
                assert!(bounds.contains(&wait), "{wait:?} in the step of {step} ms");
                different += u32::from(wait != *bounds.end());
            }
            (0..100).for_each(|_| assert!(backoff.failed(None).unwrap() <= Duration::from_secs(2)));
        }
        assert!(different > 300, "there is jitter");
        let mut three = Retry::default().backoff();
        assert!(three.failed(None).is_some() && three.failed(None).is_some());
        assert_eq!((three.failed(None), three.failures()), (None, 3));
    }

    /// The server's wish is the least that is waited, and a mad one is bounded.
    #[test]
    fn a_wish_is_honoured_within_reason() {
        let mut backoff = Retry::for_ever().first_wait(Duration::from_millis(10)).backoff();
        assert_eq!(backoff.failed(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(backoff.failed(Some(Duration::MAX)), Some(WISH_MAX));
        assert!(backoff.failed(Some(Duration::ZERO)).unwrap() >= Duration::from_millis(20));
    }
}
