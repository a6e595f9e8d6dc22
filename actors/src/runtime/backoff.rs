//! Exponential back-off with jitter.

use std::time::Duration;

/// Doubles from `min` to `max`; each wait is drawn from the upper half of its step, so that many that failed at
/// the same moment do not come back at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// A back-off that has not failed yet.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max: max.max(min), failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Counts a failure, and says how long to wait.
    pub fn failed(&mut self) -> Duration {
        let step =
            self.min.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + self.random.f64() / 2.0)
    }

    /// The longest wait there is.
    pub fn slowest(&self) -> Duration {
        self.max
    }

    /// Begins again at `min`.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits double, stay within their step and never pass the cap, however often it fails.
    #[test]
    fn waits_double_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 3);
        for step in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.failed().as_millis();
            assert!((step / 2..=step).contains(&wait), "{wait} ms in the step of {step} ms");
        }
        (0..100).for_each(|_| assert!(backoff.failed() <= Duration::from_secs(2)));
        backoff.reset();
        assert!(backoff.failed() <= Duration::from_millis(100));
    }
}
