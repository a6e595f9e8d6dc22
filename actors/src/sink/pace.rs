//! How many deliveries run at the same time, where that is for the destination to say: pure bookkeeping, no clock, no actor.
//!
//! Additive increase, multiplicative decrease, as TCP has it and as Vector's adaptive concurrency and Netflix' limits have
//! it for requests. Time goes in rounds: as many deliveries as there may be at once.
//!
//! - After a round in which every delivery that was allowed was needed, one more is allowed; until the first time that this
//!   was too many, twice as many.
//! - A round that took longer than [`SLOW`] times what the destination takes at its best is more than it can do at once:
//!   deliveries wait there, and wait better here. The limit is halved.
//! - An answer that asks for less (429, 503, no answer in time) halves it, too.
//! - Answers to what was on its way when the limit was lowered say nothing: they are of the limit before.
//!
//! What it takes at its best is the shortest round seen. An average of rounds would follow the queue that it is there to
//! find. Each round that was too long moves it a part of the way there ([`FORGET`]): a destination that has become slower
//! for good is got used to; where it was only a queue, the rounds after it are below the capacity, and show again how fast
//! the destination is.
//!
//! Rounds in which less was needed than is allowed say nothing, so an idle sink keeps what it has learned.

use std::time::Duration;

/// Above so many times the shortest round, deliveries wait for each other at the destination.
const SLOW: f64 = 1.5;

/// What a round may be longer without anything waiting: a destination that answers within a millisecond does so now and
/// then within three.
const NOISE_SECONDS: f64 = 0.005;

/// Far enough down from [`SLOW`] times the capacity to be below it.
const LESS: f64 = 0.5;

/// Of the distance to a round that was too long: a destination that is five times slower counts as slow for some 17 rounds.
const FORGET: f64 = 0.05;

/// Bounds of the deliveries at the same time; the same twice is a fixed number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// At least so many; not 0.
    pub min: usize,
    /// At most so many.
    pub max: usize,
}

/// The deliveries that are allowed now.
#[derive(Debug, Clone)]
pub struct Pace {
    bounds: Concurrency,
    limit: f64,
    /// Seconds of a round at its best.
    best: Option<f64>,
    /// Nobody has found it too many yet.
    is_starting: bool,
    round: Round,
    /// Answers still to come to what may have begun before the limit was lowered.
    passing: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Round {
    seconds: f64,
    deliveries: usize,
}

impl Concurrency {
    /// So many, always.
    pub const fn fixed(number: usize) -> Self {
        Self { min: number, max: number }
    }
}

impl Pace {
    /// Begins with as few as the bounds let it.
    pub fn new(bounds: Concurrency) -> Self {
        let (limit, round) = (bounds.min as f64, Round::default());
        Self { bounds, limit, best: None, is_starting: true, round, passing: 0 }
    }

    /// How many deliveries may run now.
    pub fn limit(&self) -> usize {
        (self.limit as usize).clamp(self.bounds.min, self.bounds.max)
    }

    /// A delivery was taken after so long. `was_needed` says that all deliveries that are allowed were running.
    pub fn delivered(&mut self, took: Duration, was_needed: bool) {
        if self.is_passing() || !was_needed {
            return;
        }
        self.round.seconds += took.as_secs_f64();
        self.round.deliveries += 1;
        if self.round.deliveries >= self.limit() {
            self.end_round();
        }
    }

    /// The destination asked for less, or did not answer in time.
    pub fn pushed_back(&mut self) {
        if !self.is_passing() {
            self.lower();
        }
    }

    /// Whether this answer is of the limit before.
    fn is_passing(&mut self) -> bool {
        let is_passing = self.passing > 0;
        self.passing = self.passing.saturating_sub(1);
        is_passing
    }

    fn end_round(&mut self) {
        let Round { seconds, deliveries } = std::mem::take(&mut self.round);
        let seconds = seconds / deliveries as f64;
        let best = self.best.map_or(seconds, |best| best.min(seconds));
        self.best = Some(best);
        if seconds > (best * SLOW).max(best + NOISE_SECONDS) {
            self.best = Some(best + (seconds - best) * FORGET);
            self.lower();
        } else {
            let more = if self.is_starting { self.limit } else { 1.0 };
            self.limit = (self.limit + more).min(self.bounds.max as f64);
        }
    }

    fn lower(&mut self) {
        // All but the one whose answer this is.
        self.passing = self.limit() - 1;
        self.limit = (self.limit * LESS).max(self.bounds.min as f64);
        self.is_starting = false;
        self.round = Round::default();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::{StreamExt as _, stream::FuturesUnordered};
    use proptest::prelude::*;
    use tokio::{sync::Semaphore, time::Instant};

    use super::*;

    const BOUNDS: Concurrency = Concurrency { min: 1, max: 64 };

    /// A destination that does so many at once in `base`, and has others wait.
    fn round_trip(base: f64, capacity: usize, running: usize) -> Duration {
        Duration::from_secs_f64(base * (running as f64 / capacity as f64).max(1.0))
    }

    /// One round of as many deliveries as there may be.
    fn round(pace: &mut Pace, base: f64, capacity: usize) {
        let running = pace.limit();
        (0..running).for_each(|_| pace.delivered(round_trip(base, capacity, running), true));
    }

    /// The limit of each of so many rounds.
    fn rounds(pace: &mut Pace, base: f64, capacity: usize, rounds: usize) -> Vec<usize> {
        (0..rounds)
            .map(|_| {
                round(pace, base, capacity);
                pace.limit()
            })
            .collect()
    }

    fn assert_around(limits: &[usize], capacity: usize) {
        let mean = limits.iter().sum::<usize>() as f64 / limits.len() as f64;
        let capacity = capacity as f64;
        assert!((0.7 * capacity..1.5 * capacity + 1.0).contains(&mean), "{mean} of {capacity}: {limits:?}");
        let most = limits.iter().max().copied().unwrap_or_default() as f64;
        // A round shows only in the next what its limit made of it.
        assert!(most <= 2.0 * capacity + 1.0, "{most} of {capacity}: {limits:?}");
    }

    /// Scenario: a destination of some capacity, which grows and shrinks while it is at work.
    /// Guarantee: the capacity is found within ten rounds at the start, and within forty where it changes fivefold later; the
    /// limit stays around it for hundreds of rounds, and does not follow its own queue.
    #[test]
    fn the_capacity_is_found_and_kept() {
        for capacity in [1, 3, 8, 20, 40] {
            let mut pace = Pace::new(BOUNDS);
            rounds(&mut pace, 0.02, capacity, 10);
            assert_around(&rounds(&mut pace, 0.02, capacity, 500), capacity);
        }
        let mut pace = Pace::new(BOUNDS);
        rounds(&mut pace, 0.02, 6, 50);
        rounds(&mut pace, 0.02, 30, 30);
        assert_around(&rounds(&mut pace, 0.02, 30, 200), 30);
        rounds(&mut pace, 0.02, 6, 40);
        assert_around(&rounds(&mut pace, 0.02, 6, 200), 6);
    }

    /// Without a queue at the destination there is nothing to find: the bound is reached, by doubling.
    #[test]
    fn a_destination_without_end_gets_the_most() {
        let mut pace = Pace::new(Concurrency { min: 1, max: 50 });
        assert_eq!(rounds(&mut pace, 0.1, 1_000, 7), [2, 4, 8, 16, 32, 50, 50]);
    }

    /// Answers that ask for less halve the limit once for all that was on its way, down to the least.
    #[test]
    fn push_back_halves_once_for_all_on_their_way() {
        let mut pace = Pace::new(Concurrency { min: 2, max: 32 });
        rounds(&mut pace, 0.1, 1_000, 10);
        (0..32).for_each(|_| pace.pushed_back());
        assert_eq!(pace.limit(), 16);
        round(&mut pace, 0.1, 1_000);
        assert_eq!(pace.limit(), 17, "one more, not twice as many");
        (0..17).for_each(|_| pace.pushed_back());
        assert_eq!(pace.limit(), 8);
        (0..8 + 4 + 2).for_each(|_| pace.pushed_back());
        assert_eq!(pace.limit(), 2);
    }

    /// A destination that has become five times slower for good is not held at the least for ever.
    #[test]
    fn a_slower_destination_is_got_used_to() {
        let mut pace = Pace::new(BOUNDS);
        rounds(&mut pace, 0.01, 10, 50);
        rounds(&mut pace, 0.05, 10, 60);
        assert_around(&rounds(&mut pace, 0.05, 10, 200), 10);
    }

    /// Who needs less than there may be learns nothing from it.
    #[test]
    fn an_idle_sink_keeps_what_it_knows() {
        let mut pace = Pace::new(BOUNDS);
        rounds(&mut pace, 0.02, 8, 50);
        let before = pace.limit();
        (0..1_000).for_each(|index| pace.delivered(Duration::from_millis(index), false));
        assert_eq!(pace.limit(), before);
    }

    /// A server that works on so many requests at once, each for as long, and lets others wait; from so many waiting on it
    /// answers 429.
    struct Server {
        permits: Semaphore,
        waiting: Cell<usize>,
        waiting_max: usize,
    }

    impl Server {
        async fn take(&self) -> Result<Duration, ()> {
            let began = Instant::now();
            if self.waiting.get() >= self.waiting_max {
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Err(());
            }
            self.waiting.set(self.waiting.get() + 1);
            let permit = self.permits.acquire().await;
            self.waiting.set(self.waiting.get() - 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(permit);
            Ok(began.elapsed())
        }

        /// So many deliveries, as many at once as the pace allows; the limits while they ran, and how many were refused.
        async fn load(&self, pace: &mut Pace, deliveries: usize) -> (Vec<usize>, usize) {
            let (mut running, mut limits, mut refused) = (FuturesUnordered::new(), Vec::new(), 0);
            for _ in 0..deliveries {
                while running.len() < pace.limit() {
                    running.push(self.take());
                }
                match running.next().await {
                    Some(Ok(took)) => pace.delivered(took, true),
                    _ => {
                        refused += 1;
                        pace.pushed_back();
                    }
                }
                limits.push(pace.limit());
            }
            (limits, refused)
        }
    }

    /// Scenario: a server of eight at a time, in paused time; it gets forty, then four.
    /// Guarantee: within so many deliveries the limit is around what it can do, each time, and stays there.
    #[tokio::test(start_paused = true)]
    async fn a_server_whose_capacity_changes_is_followed() {
        let server = Server { permits: Semaphore::new(8), waiting: Cell::new(0), waiting_max: usize::MAX };
        let mut pace = Pace::new(BOUNDS);
        server.load(&mut pace, 300).await;
        assert_around(&server.load(&mut pace, 1_000).await.0, 8);
        server.permits.add_permits(32);
        server.load(&mut pace, 1_500).await;
        assert_around(&server.load(&mut pace, 2_000).await.0, 40);
        server.permits.forget_permits(36);
        server.load(&mut pace, 500).await;
        assert_around(&server.load(&mut pace, 1_000).await.0, 4);
    }

    /// Scenario: a server of four at a time that lets one wait and refuses what comes beside it.
    /// Guarantee: few of its answers are refusals, and it has as much to do as it can.
    #[tokio::test(start_paused = true)]
    async fn refusals_are_rare_once_the_capacity_is_known() {
        let server = Server { permits: Semaphore::new(4), waiting: Cell::new(0), waiting_max: 1 };
        let mut pace = Pace::new(BOUNDS);
        let (limits, refused) = server.load(&mut pace, 1_000).await;
        assert!(refused <= 150, "{refused} refusals");
        let mean = limits.iter().sum::<usize>() as f64 / 1_000.0;
        assert!((2.5..6.0).contains(&mean), "{mean}");
    }

    proptest! {
        /// Whatever comes, the limit stays within its bounds; where both are the same, it is that.
        #[test]
        fn the_limit_stays_within_its_bounds(
            min in 1_usize..20,
            more in 0_usize..50,
            happens in proptest::collection::vec((0_u64..100_000, 0_u8..4), 0..500),
        ) {
            let bounds = Concurrency { min, max: min + more };
            let mut pace = Pace::new(bounds);
            for (millis, what) in happens {
                match what {
                    0 => pace.pushed_back(),
                    what => pace.delivered(Duration::from_millis(millis), what > 1),
                }
                prop_assert!((bounds.min..=bounds.max).contains(&pace.limit()));
            }
        }
    }
}
