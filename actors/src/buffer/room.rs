//! How much the buffer takes: admission, the cap of the journal, and what is told of both.

use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use tokio::task::spawn_blocking;

use super::{Buffer, blocking, gauge_value};
use crate::{event::Timestamp, journal::Piece, message::Refusal};

/// How long a failed commit is told of: whether the next would succeed only the next shows.
const FAILURE_SHOWN: Duration = Duration::from_secs(5);

impl Buffer {
    /// Whether a request of this size can be taken now.
    pub(super) fn admit(
        &mut self,
        events: u64,
        bytes: usize,
        ctx: &mut Context<Self>,
    ) -> Result<(), Refusal> {
        let limits = self.spec.limits;
        let waiting_events = self.waiting_events + self.committing_events;
        let waiting_bytes = self.waiting_bytes + self.committing_bytes;
        let idle = waiting_events == 0;
        // A request is taken whole while the bounds are not reached, not only where it fits below them: a large one would
        // hardly ever find so little waiting, and be refused again and again while small ones are taken.
        if waiting_events >= limits.waiting_events_max || waiting_bytes >= limits.waiting_bytes_max {
            return Err(Refusal::Overloaded);
        }
        if let Some(failure) = self.failure.filter(|_| !idle) {
            return Err(failure);
        }
        if !self.has_room_for(events, bytes) {
            self.make_room(ctx);
            self.refused = Some((events, bytes));
            self.show_full(ctx);
            return Err(Refusal::JournalFull);
        }
        self.refused = None;
        Ok(())
    }

    /// Whether the journal has room for a request of this size.
    fn has_room_for(&self, events: u64, bytes: usize) -> bool {
        let limits = self.spec.limits;
        let waiting_events = self.waiting_events + self.committing_events;
        let waiting_bytes = self.waiting_bytes + self.committing_bytes;
        let too_many =
            limits.journal_events_max.is_some_and(|max| self.holds_too_many(max, events, waiting_events));
        !too_many && self.usage.disk_bytes + (waiting_bytes + bytes) as u64 <= limits.journal_bytes_max
    }

    /// Whether a journal in memory has no room for so many events more.
    fn holds_too_many(&self, max: u64, events: u64, waiting_events: u64) -> bool {
        let journal = &self.spec.journal;
        let held = || journal.span().count() + waiting_events;
        // One request is let into an empty journal, whatever its size: else it never could be.
        let too_many = |held| held > 0 && held + events > max;
        if !too_many(held()) {
            return false;
        }
        // What every sink has is no reason to refuse. In memory this takes no time worth a thread.
        let passed = self.spec.cursors.lowest().unwrap_or(journal.span().end);
        if let Err(error) = journal.remove(passed, Timestamp::from_nanos(i64::MAX)) {
            tracing::error!(%error, "no room could be made in the journal");
        }
        too_many(held())
    }

    /// At the cap: lets sinks whose policy it is skip the oldest generation, and removes it. Elsewhere removal
    /// waits for `Retention`, and for what is to be kept for replay; here it cannot: events come before replays.
    pub(super) fn make_room(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.making_room, true) {
            return;
        }
        let (spec, keep) = (self.spec.clone(), self.keep);
        let job = spawn_blocking(move || blocking::make_room(&spec, keep)).into_actor(self);
        ctx.spawn(job.map(|done, buffer, ctx| {
            buffer.making_room = false;
            buffer.cursors_changed = true;
            match done {
                Ok(Ok((usage, removal))) => {
                    buffer.usage = usage;
                    buffer.tell_removed(removal);
                }
                Ok(Err(error)) => tracing::error!(%error, "no room could be made in the journal"),
                Err(_) => tracing::error!("making room in the journal panicked"),
            }
            buffer.show(ctx);
        }));
    }

    /// Looks up when the oldest event was written that a sink still needs.
    pub(super) fn look_for_oldest(&mut self, ctx: &mut Context<Self>) {
        let journal = self.spec.journal.clone();
        let lowest = self.spec.cursors.lowest().filter(|lowest| *lowest < journal.span().end);
        if lowest == self.oldest.map(|(position, _)| position) {
            return;
        }
        self.oldest = None;
        let Some(lowest) = lowest.filter(|_| !self.looking) else { return };
        self.looking = true;
        let look = spawn_blocking(move || journal.read(lowest, 1)).into_actor(self);
        ctx.spawn(look.map(move |read, buffer, _| {
            buffer.looking = false;
            // Where its bytes are damaged or cannot be read now, the sinks say so.
            if let Ok(Ok([Piece::Record(record), ..])) = read.as_ref().map(|read| read.as_deref()) {
                buffer.oldest = Some((lowest, record.written_at));
            }
        }));
    }

    /// Whoever is told that nothing is taken sends nothing, so no request would come to find the room there is: it is
    /// looked for.
    fn show_full(&mut self, ctx: &mut Context<Self>) {
        if let Some((events, bytes)) = self.refused
            && self.has_room_for(events, bytes)
        {
            self.refused = None;
        }
        let failed =
            self.failed_at.filter(|(at, _)| at.elapsed() < FAILURE_SHOWN).map(|(_, failure)| failure);
        let full = match (failed, self.refused.is_some()) {
            (Some(Refusal::DiskFull), _) => 2,
            (Some(Refusal::JournalFull), _) => 1,
            (Some(_), _) => 3,
            (None, true) => 1,
            (None, false) => 0,
        };
        if self.refused.is_some() {
            self.make_room(ctx);
        }
        let before = self.spec.metrics.full.get();
        self.spec.metrics.full.set(full);
        match (before, full) {
            (0, 1) => {
                let behind = self.spec.cursors.behind(self.spec.journal.span().end);
                let sinks: Vec<_> =
                    behind.iter().map(|(sink, cursor, _)| format!("{sink} at {}", cursor.next)).collect();
                let sinks = sinks.join(", ");
                tracing::warn!(
                    sinks,
                    "the journal is full (buffer.max_bytes): events are refused until these sinks catch up"
                );
            }
            (0, 2) => {
                tracing::error!("no space is left on the journal's device: events are refused until there is")
            }
            (1.., 0) => tracing::info!("there is room again: events are taken"),
            _ => {}
        }
    }

    pub(super) fn show(&mut self, ctx: &mut Context<Self>) {
        self.show_full(ctx);
        let metrics = &self.spec.metrics;
        let span = self.spec.journal.span();
        let lowest = self.spec.cursors.lowest().unwrap_or(span.end);
        let age =
            self.oldest.filter(|_| lowest < span.end).map(|(_, at)| self.spec.clock.now().seconds_since(at));
        let (events, age) = match self.usage.backlog {
            Some(backlog) => {
                (backlog.events, backlog.oldest.map(|at| self.spec.clock.now().seconds_since(at)))
            }
            None => (blocking::events_waiting(&self.spec), age),
        };
        metrics.oldest_age_seconds.set(age.unwrap_or(0.0));
        metrics.events.set(gauge_value(events));
        metrics.bytes.set(gauge_value(self.usage.stored_bytes));
        metrics.disk_bytes.set(gauge_value(self.usage.disk_bytes));
        metrics.damaged.set(gauge_value(self.usage.damaged));
        metrics.waiting_events.set(gauge_value(self.waiting_events + self.committing_events));
    }
}
