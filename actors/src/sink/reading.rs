//! Reading the journal for what the broadcast did not bring.

use std::fmt::Display;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::{Sink, Source, catch_up::LONG_SECONDS};
use crate::{
    journal::Piece,
    record::{Position, Span},
};

/// What a report begins with that says so.
const UNREADABLE: &str = "the journal could not be read";

impl Sink {
    /// Reads the journal while it is ahead of the broadcast.
    pub(super) fn read(&mut self, ctx: &mut Context<Self>) {
        // A cut that was planned under a larger limit is made where it was planned.
        let has_room = self.intake.has_room() || self.planned.is_some_and(|end| end > self.intake.expected());
        if !self.lagging || self.reading || !has_room {
            return;
        }
        self.reading = true;
        let (source, from, life) = (self.spec.source.clone(), self.intake.expected(), self.life);
        // Not at its end, and not where what waits expires.
        let has_time = !self.draining && self.spec.policy.max_age.is_none();
        let is_patient = self.long_behind && has_time;
        let read =
            self.spec.catch_up.read(is_patient, &source.clone(), from, move || source.read(from, life));
        let read = read.into_actor(self);
        ctx.spawn(read.map(move |read, sink, ctx| {
            sink.reading = false;
            match read {
                Ok(Ok(pieces)) => sink.take(from, pieces),
                Ok(Err(error)) => sink.could_not_read(&error),
                Err(_) => sink.could_not_read(&"reading panicked"),
            }
            sink.step(ctx);
        }));
    }

    fn take(&mut self, from: Position, pieces: Vec<Piece>) {
        self.pass_over_skipped();
        if let Some(span) = self.spec.source.log_span() {
            // The oldest generations may be gone: a sink that was not configured for a while begins at what is left.
            let begins = pieces.first().map_or(span.first, Piece::first);
            if begins > from {
                self.intake.push(Piece::Removed(Span { first: from, end: begins }));
            }
        }
        if matches!(self.spec.source, Source::Queue(_)) {
            // It may be long until there is a delivery that would show it.
            let is_over = |error: &mut String| error.starts_with(UNREADABLE);
            self.spec.probe.update(|report| drop(report.error.take_if(is_over)));
        }
        let newest = pieces.iter().rev().find_map(Piece::record).map(|record| record.written_at);
        pieces.into_iter().for_each(|piece| self.intake.push(piece));
        self.lagging = self.spec.source.is_ahead_of(self.intake.expected());
        let is_old = |written_at| self.waited_seconds(written_at) > LONG_SECONDS;
        self.long_behind = self.lagging && newest.is_some_and(is_old);
    }

    fn could_not_read(&mut self, error: &dyn Display) {
        // Said until the next delivery, which comes only if this passes.
        let text = format!("{UNREADABLE}: {error}");
        if self.spec.probe.report().error.as_deref() != Some(text.as_str()) {
            tracing::error!(sink = %self.spec.name, %error, "the journal could not be read; it is tried again");
        }
        self.spec.probe.update(|report| report.error = Some(text));
        // Not at once: the look after LOOK_INTERVAL sees the lag again.
        self.lagging = false;
    }
}
