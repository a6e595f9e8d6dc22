//! Delivering beside a sink: what `replay` and `dead-letter replay` have in common.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use forebay_actors::{
    destination::{Destination, Verdict},
    record::{Batch, Position},
    runtime::{backoff::Backoff, clock::seed},
};

/// Deliveries of one batch before it is left: a person is waiting.
const ATTEMPTS_MAX: u32 = 5;

/// Waits between them.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events delivered.
    pub delivered: u64,
    /// Events that the destination refuses, with its words.
    pub refused: Vec<(Position, String)>,
    /// Events that it left out of what it took, without saying which (partial success).
    pub left_out: u64,
}

impl Outcome {
    /// Events that were not taken.
    pub fn not_delivered(&self) -> u64 {
        self.refused.len() as u64 + self.left_out
    }
}

/// Delivers the batch, halving it around events that the destination refuses.
///
/// # Errors
/// Where the destination keeps failing: its words, and nothing more is tried.
pub async fn redeliver(destination: &dyn Destination, batch: Batch) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    let mut todo = VecDeque::from([batch.replayed(seed())]);
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, seed());
    while let Some(batch) = todo.pop_front() {
        match destination.deliver(Arc::new(batch.clone())).await {
            Ok(receipt) => {
                let not_taken = receipt.refused + receipt.rejected.len() as u64;
                outcome.delivered += batch.count().saturating_sub(not_taken);
                outcome.left_out += receipt.refused;
                outcome.refused.extend(receipt.rejected.into_iter().map(|one| (one.position, one.error)));
                backoff.reset();
            }
            Err(error) if error.verdict == Verdict::Reject => match batch.halves() {
                Some((first, second)) => {
                    todo.push_front(second);
                    todo.push_front(first);
                }
                None => outcome.refused.push((batch.span().first, error.to_string())),
            },
            Err(error) => {
                let wait = backoff.failed();
                if backoff.failures() >= ATTEMPTS_MAX {
                    return Err(format!("position {}: {error}", batch.span().first));
                }
                let wished = match error.verdict {
                    Verdict::Retry { after } => after.unwrap_or_default(),
                    Verdict::Reject => Duration::ZERO,
                };
                tokio::time::sleep(wait.max(wished)).await;
                todo.push_front(batch);
            }
        }
    }
    Ok(outcome)
}
