//! The judgement at the end of a run: what each sink has is asked, and what is missing is explained or lost.

use std::collections::BTreeMap;

use forebay_actors::event::Timestamp;
use serde_json::Value;

use super::Attack;
use crate::{
    chaos::{
        ChaosError,
        ledger::SERVICE,
        place::dead_letters,
        report::{Explained, Happened, Percentiles, Proof, Report, SinkOutcome},
        schedule::Injection,
    },
    config::{Config, SinkKind},
};

/// Events of a page of the store.
const PAGE_EVENTS: usize = 1000;

impl Attack<'_> {
    /// Ends the process and says what it has kept of its promises. Dead letters of before `since` are not this run's.
    pub(super) async fn judge(
        mut self,
        config: &Config,
        since: Timestamp,
        timeline: Vec<Injection>,
    ) -> Result<Report, ChaosError> {
        self.watch.look(&self.process).await;
        let stores = |name: &&String| matches!(config.sinks[*name].kind, SinkKind::Store(_));
        let store = self.sinks.iter().find(stores).cloned();
        if let Some(store) = &store {
            self.ask_store(store).await.map_err(ChaosError::Store)?;
        }
        // What was delivered is judged by what is on disk and at the destinations: it may as well die now.
        self.process.kill().await;
        let ledger = self.ledger.borrow();
        let mut sinks = BTreeMap::new();
        for name in &self.sinks {
            let tally = ledger.tally(name);
            let proof = match (&self.sandbox, &store) {
                (Some(_), _) => Proof::Received,
                (None, Some(store)) if store == name => Proof::Stored,
                _ => Proof::Cursor,
            };
            // Without a word of it everything may still be to come.
            let lag_events = self.watch.lag_events(name).unwrap_or(u64::MAX);
            let explained = match tally.missing.is_empty() {
                true => Explained::default(),
                false => dead_letters(config, name, since, &ledger)?,
            };
            let in_order = proof == Proof::Received && config.sinks[name].concurrency.max == 1;
            let outcome = match proof {
                Proof::Cursor => SinkOutcome::by_cursor(tally.acknowledged, &explained, lag_events),
                _ => SinkOutcome::judge(proof, tally, &explained, lag_events, in_order, &ledger),
            };
            sinks.insert(name.clone(), outcome);
        }
        if ledger.acknowledged() == 0 {
            self.problems.push("nothing was acknowledged, so nothing is proven".to_owned());
        }
        let recovered = self.watch.recovered();
        let happened = |(number, injection)| {
            let recovery_ms = recovered.get(&number).map(|time| time.as_millis() as u64);
            Happened { injection, recovery_ms }
        };
        Ok(Report {
            seed: self.plan.seed,
            faults: self.faults,
            restarts: self.watch.restarts(),
            sinks,
            recovery_ms: Percentiles::of(recovered.values().copied().collect()),
            process_restarts: self.process.lives().saturating_sub(1),
            unrecovered: self.watch.open() as u64,
            posted: ledger.posted(),
            longest_stall_ms: ledger.longest_stall(),
            duration_ms: self.plan.duration,
            rate: self.plan.rate,
            sandbox: self.plan.sandbox,
            problems: self.problems,
            notes: self.notes,
            timeline: timeline.into_iter().enumerate().map(happened).collect(),
        })
    }

    /// Everything that the event store has of this run came to it.
    async fn ask_store(&self, sink: &str) -> Result<(), String> {
        let mut cursor = String::new();
        loop {
            let question = format!("/events?service={SERVICE}&order=oldest&limit={PAGE_EVENTS}{cursor}");
            let page: Value = self.process.get(&question).await?;
            let events = page["events"].as_array().ok_or_else(|| page.to_string())?;
            let ids = events.iter().filter_map(|event| event["event_id"].as_str());
            ids.for_each(|id| self.ledger.borrow_mut().arrived(sink, id.as_bytes()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(()),
            }
        }
    }
}
