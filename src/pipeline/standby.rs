//! Sinks that stand by for others: how they are wired, and what must stay as it is while they hold something.

use std::sync::Arc;

use forebay_actors::{
    destination::{Cause, DeliveryError, DestinationFactory},
    record::SinkName,
    sink::{SinkProbe, StandbyRole, StandbySpec},
    state::{Books, HeldTotals, StateError},
};

use super::{Pipeline, spec::sink_policy};
use crate::config::{Config, SinkConfig};

/// Batches that would not be read back with a configuration, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sinks.{key}: {} events of {owner:?} are held by {holder:?}, and {why}", .held.events)]
pub struct Misplaced {
    /// The key at fault, below `sinks`.
    pub key: String,
    /// Whose events they are.
    pub owner: String,
    /// Who holds them.
    pub holder: String,
    /// How much it is.
    pub held: HeldTotals,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Batches that are held and would not be read back with this configuration.
///
/// # Errors
/// Where the books cannot be read.
pub fn misplaced(books: &dyn Books, config: &Config) -> Result<Vec<Misplaced>, StateError> {
    let mut found = Vec::new();
    for (owner, holder, held) in books.totals() {
        let places = books.places(&holder)?;
        let (owner, holder) = (owner.as_str().to_owned(), holder.as_str().to_owned());
        let is_now = config.sinks.get(&holder).and_then(|sink| sink.kind.holds_at());
        let (key, why) = match config.sinks.get(&owner) {
            // Another process may have it.
            None if books.are_shared() => continue,
            None => {
                (owner.clone(), "there is no such sink to read them back; keep it until they are".to_owned())
            }
            Some(sink) if sink.fallback.as_deref() != Some(holder.as_str()) => (
                format!("{owner}.fallback"),
                format!("it is another or none; name {holder:?} until they are read back"),
            ),
            // Other processes may name the same place in other words, and read back what they had held there.
            Some(_) if !places.is_empty() && is_now.is_none_or(|is_now| !places.contains(&is_now)) => (
                holder.clone(),
                format!(
                    "lie at {}; change where it keeps them when they are read back, or add a sink of another name",
                    places.join(", ").trim_end()
                ),
            ),
            Some(_) => continue,
        };
        found.push(Misplaced { key, owner, holder, held, why });
    }
    Ok(found)
}

impl Pipeline {
    /// Batches that are held now and would not be read back with this configuration. Where it is `to_come`, what it needs to hold
    /// batches is made.
    ///
    /// # Errors
    /// Where the books cannot be read, or could not be kept.
    pub async fn misplaced(&self, new: &Config, to_come: bool) -> Result<Vec<Misplaced>, StateError> {
        let (held, new) = (self.parts.held.clone(), new.clone());
        let looking = tokio::task::spawn_blocking(move || {
            // A receiver has nothing to do with what is held, and may not be allowed to see it.
            let has_fallback = new.sinks.values().any(|sink| sink.fallback.is_some());
            let opened = match new.sinks.is_empty() {
                true => Ok(()),
                false => held.open(to_come && has_fallback),
            };
            match opened {
                Err(error) if to_come && !has_fallback => {
                    tracing::warn!(%error, "whether something is held that is not read back cannot be told");
                }
                opened => opened?,
            }
            misplaced(&*held, &new)
        });
        looking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Says what other processes have had held in places that this one does not look at.
    pub(super) fn tell_of_other_places(&self) {
        for (owner, holder, held) in self.parts.held.totals() {
            let is_now = self.config.sinks.get(holder.as_str()).and_then(|sink| sink.kind.holds_at());
            let places = self.parts.held.places(&holder).unwrap_or_default();
            let others: Vec<_> = places.iter().filter(|place| Some(*place) != is_now.as_ref()).collect();
            // Where all of it lies elsewhere, `misplaced` says so.
            if self.config.sinks.contains_key(owner.as_str()) && (1..places.len()).contains(&others.len()) {
                tracing::warn!(
                    sink = %owner, %holder, events = held.events, ?others,
                    "some of what is held lies where another process has put it, and is read back by one that names the place as that did"
                );
            }
        }
    }

    /// Says what is held for sinks that go.
    pub(super) fn tell_of_left(&self, removed: &[String]) {
        let totals = self.parts.held.totals();
        for (owner, holder, held) in
            totals.iter().filter(|(owner, ..)| removed.iter().any(|name| name == owner.as_str()))
        {
            tracing::warn!(
                sink = %owner, %holder, events = held.events,
                "the sink is removed here while events of it are held; only a process that has it reads them back"
            );
        }
    }

    /// What a sink is given for the time when its breaker is open.
    pub(super) fn standby_spec(&self, owner: &SinkName, config: &SinkConfig) -> Option<StandbySpec> {
        let (key, to) = config.standbys().next()?;
        let (name, standby) = (SinkName::from(to), self.config.sinks.get(to)?);
        let role = if key == "fallback" { StandbyRole::Fallback } else { StandbyRole::OnFailure };
        let policy = sink_policy(standby, &self.config.batch);
        let factory = (self.parts.destinations)(&name, standby);
        Some(StandbySpec {
            factory: match role {
                StandbyRole::Fallback => self.in_place(&name, standby, factory),
                StandbyRole::OnFailure => factory,
            },
            held: self.parts.held.clone(),
            backoff: (policy.backoff_min, policy.backoff_max),
            breaker: policy.breaker,
            probe: self.parts.sink_metrics.standby(owner, role, self.probes.get(&name)?.clone()),
            name,
            role,
        })
    }

    /// The factory of a holder, which makes nothing where the holder would look for what it holds in another place.
    fn in_place(
        &self,
        holder: &SinkName,
        config: &SinkConfig,
        factory: DestinationFactory,
    ) -> DestinationFactory {
        let Some(is_now) = config.kind.holds_at() else { return factory };
        let (books, holder) = (self.parts.held.clone(), holder.clone());
        if books.are_shared() {
            // They say of each batch where it lies, so that nothing is looked for in another place; from the start, since what is to
            // be let go of waits for nothing.
            return match books.put_place(&holder, &is_now) {
                Ok(()) => factory,
                Err(error) => {
                    let message = error.to_string();
                    Arc::new(move || Err(DeliveryError::transient(Cause::Io, message.clone())))
                }
            };
        }
        Arc::new(move || {
            let failed = |e: StateError| DeliveryError::transient(Cause::Io, e.to_string());
            books.put_place(&holder, &is_now).map_err(failed)?;
            let places = books.places(&holder).map_err(failed)?;
            match places.into_iter().find(|place| *place != is_now) {
                Some(place) => {
                    let message = format!(
                        "what it holds lies at {}, and it is configured for another place",
                        place.trim_end()
                    );
                    Err(DeliveryError::transient(Cause::Build, message))
                }
                None => factory(),
            }
        })
    }

    /// Shows a sink that has no actor of its own.
    pub(super) fn stand_by(&self, name: &str, probe: &SinkProbe) {
        probe.stand_by();
        self.parts.watched.add_standby(name, probe.clone());
    }

    /// Forgets what is shown of standbys that are none any more.
    pub(super) fn forget_standbys(&self, new: &Config) {
        for (name, sink) in &self.config.sinks {
            let now = new.sinks.get(name);
            if let Some((_, to)) = sink.standbys().next()
                && now.is_none_or(|now| now.standbys().ne(sink.standbys()))
            {
                self.parts.sink_metrics.forget_standby(&name.as_str().into(), &to.into());
            }
            if sink.only_as_fallback && !now.is_some_and(|now| now.only_as_fallback) {
                self.parts.watched.remove_standby(name);
            }
        }
    }
}
