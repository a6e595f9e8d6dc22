//! `Retention`: what has served its time goes.
//!
//! - Owns: the schedule.
//! - Receives: nothing; it works by the clock.
//! - Sends: [`Trim`] to `Buffer`.
//! - On failure: logged; the next time comes anyway. Nothing else waits for it.
//! - Limits: one bounded slice of rows at a time, so that the store's writer is never held up long.

use std::{sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Supervised, WrapFuture as _};
use futures::future::BoxFuture;

use crate::{
    buffer::Buffer,
    event::Timestamp,
    message::Trim,
    runtime::{clock::Clock, mailbox::Mailbox, metrics::Probe},
};

/// How often generations that every sink has passed are removed.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// The longest sleep: a clock that was set is noticed within this.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Messages that may wait; it is sent none.
pub const MAILBOX_MESSAGES: usize = 1;

/// What a `Retention` is built from.
#[derive(Clone)]
pub struct RetentionSpec {
    /// Who removes generations.
    pub buffer: Mailbox<Buffer>,
    /// How long a generation is kept for replay after its last write.
    pub journal_keep: Duration,
    /// How long rows of the event store are kept.
    pub rows_keep: Duration,
    /// The first time of the schedule after the given one; `None` where there is none.
    pub schedule: Arc<dyn Fn(Timestamp) -> Option<Timestamp> + Send + Sync>,
    /// Deletes one slice of rows older than the given time and says how many went. Absent without a store.
    pub purge: Option<Purge>,
    /// Tells the time.
    pub clock: Clock,
}

/// Deletes one slice of rows.
pub type Purge = Arc<dyn Fn(Timestamp) -> BoxFuture<'static, Result<u64, String>> + Send + Sync>;

/// The actor.
pub struct Retention {
    spec: RetentionSpec,
    probe: Probe,
    due: Option<Timestamp>,
    purging: bool,
}

impl Retention {
    /// A retention as its specification says.
    pub fn new(spec: RetentionSpec, probe: Probe) -> Self {
        let due = (spec.schedule)(spec.clock.now());
        Self { spec, probe, due, purging: false }
    }

    fn trim(&mut self, _: &mut Context<Self>) {
        // Where Buffer has no room, the next second is early enough.
        let _ = self.spec.buffer.offer(Trim { keep: self.spec.journal_keep });
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = self.spec.clock.now();
        if self.due.is_some_and(|due| due <= now) {
            self.due = (self.spec.schedule)(now);
            self.purge(ctx);
        }
        let wait =
            self.due.map_or(SLEEP_MAX, |due| Duration::from_secs_f64(due.seconds_since(now)).min(SLEEP_MAX));
        ctx.run_later(wait.max(Duration::from_millis(10)), Self::look);
    }

    fn purge(&mut self, ctx: &mut Context<Self>) {
        let Some(purge) = self.spec.purge.clone().filter(|_| !self.purging) else { return };
        self.purging = true;
        let cutoff = self.spec.clock.now().minus(self.spec.rows_keep);
        let all = async move {
            let mut rows = 0;
            loop {
                match purge(cutoff).await {
                    Ok(0) => return Ok(rows),
                    Ok(slice) => rows += slice,
                    Err(error) => return Err((rows, error)),
                }
                // Between two slices the store's writer gets its turn.
                tokio::task::yield_now().await;
            }
        };
        ctx.spawn(all.into_actor(self).map(move |done, retention, _| {
            retention.purging = false;
            match done {
                Ok(rows) => tracing::info!(rows, older_than = %cutoff, "retention deleted events from the store"),
                Err((rows, error)) => {
                    tracing::error!(rows, older_than = %cutoff, error, "retention failed; the next run goes on");
                }
            }
        }));
    }
}

impl Actor for Retention {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        tracing::debug!(waiting = self.probe.waiting(), "retention runs");
        ctx.run_interval(TRIM_INTERVAL, Self::trim);
        self.look(ctx);
    }
}

impl Supervised for Retention {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self::new(self.spec.clone(), self.probe.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use tokio::{sync::mpsc, time::Instant};

    use super::*;
    use crate::runtime::{
        metrics::ActorMetrics,
        supervisor::{Child, RestartPolicy, supervise},
    };

    const MINUTE: i64 = 60_000_000_000;
    const KEPT_MINUTES: i64 = 60 * 24;

    /// What a store answers when it is asked to delete a slice.
    type Answer = fn() -> Result<u64, String>;

    /// A retention that runs every minute of the paused clock. For each slice that it asks for it is heard in which minute
    /// that was.
    fn start(answers: &'static [Answer]) -> (Child, mpsc::UnboundedReceiver<i64>) {
        let (heard, listen) = mpsc::unbounded_channel();
        let (began, slices) = (Instant::now(), AtomicUsize::new(0));
        let nanos_of = |duration: Duration| i64::try_from(duration.as_nanos()).expect("a test is short");
        let purge: Purge = Arc::new(move |cutoff: Timestamp| {
            heard.send(cutoff.nanos() / MINUTE + KEPT_MINUTES).expect("the test listens");
            let answer = answers[slices.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
            async move { answer() }.boxed()
        });
        let spec = RetentionSpec {
            buffer: Mailbox::of_nobody(),
            journal_keep: Duration::ZERO,
            rows_keep: Duration::from_secs(60 * KEPT_MINUTES as u64),
            schedule: Arc::new(|now: Timestamp| {
                Some(Timestamp::from_nanos((now.nanos() / MINUTE + 1) * MINUTE))
            }),
            purge: Some(purge),
            clock: Clock::from_fn(move || {
                Timestamp::from_nanos(2 * KEPT_MINUTES * MINUTE + nanos_of(began.elapsed()))
            }),
        };
        let policy = RestartPolicy {
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            restarts_max: 5,
            window: Duration::from_secs(60),
            seed: 1,
        };
        let metrics = ActorMetrics::new(&prometheus::Registry::new());
        let build = |probe| Retention::new(spec, probe);
        let (_, child) =
            supervise(&actix::Arbiter::current(), "retention", MAILBOX_MESSAGES, policy, &metrics, build);
        (child, listen)
    }

    /// The minutes, from the start on, in which so many slices were asked for.
    async fn minutes(listen: &mut mpsc::UnboundedReceiver<i64>, slices: usize) -> Vec<i64> {
        let mut minutes = Vec::new();
        for _ in 0..slices {
            minutes.push(listen.recv().await.expect("retention runs") - 2 * KEPT_MINUTES);
        }
        minutes
    }

    /// Scenario: the store fails at a slice, in the middle of a run, and panics at another.
    /// Guarantee: neither ends the schedule: the next run comes at its time and deletes what is there, slice after slice.
    #[test]
    fn a_store_that_fails_or_panics_does_not_end_the_schedule() {
        const ANSWERS: &[Answer] = &[
            || Err("the disk is full".to_owned()),
            || Ok(10),
            || Err("the disk is full again".to_owned()),
            || panic!("the store panics"),
            || Ok(10),
            || Ok(3),
            || Ok(0),
        ];
        actix::System::new().block_on(async {
            tokio::time::pause();
            let (child, mut listen) = start(ANSWERS);
            assert_eq!(minutes(&mut listen, 8).await, [1, 2, 2, 3, 4, 4, 4, 5]);
            assert_eq!(child.restarts(), 1, "the panic");
        });
    }
}
