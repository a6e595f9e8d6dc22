//! A batch on its way through the stages, as every process that has the books sees it.

use std::collections::BTreeSet;

use super::{
    Owner, SharedBooks,
    bucket::{Change, Step},
    mirror::{Entry, Id, Known},
};
use crate::shared_journal::{place, sequence_of};
use forebay_actors::{
    event::Timestamp,
    holding::HeldKey,
    record::{Position, SinkName, Span},
    runtime::clock::seed,
    state::{Books, HELD_BATCHES_MAX, HeldTotals, Note, Stage, StateError},
};

/// Batches that are asked for at a time, where others take them first.
const TAKE_TRIES: usize = 8;

// === impl Books ===

impl Books for SharedBooks {
    fn are_shared(&self) -> bool {
        true
    }

    fn open(&self, held: bool) -> Result<(), StateError> {
        self.ask(async move |books| books.store(held).await.map(drop))
    }

    fn places(&self, holder: &SinkName) -> Result<Vec<String>, StateError> {
        let state = self.state();
        let held = |(id, known): &(&Id, &Known)| id.holder == *holder && known.entry.stage == Stage::Held;
        let places: BTreeSet<_> =
            state.mirror.iter().filter(held).map(|(_, known)| &known.entry.place).collect();
        Ok(places.iter().map(|place| place.to_string()).collect())
    }

    fn put_place(&self, holder: &SinkName, place: &str) -> Result<(), StateError> {
        self.state().places.insert(holder.clone(), place.into());
        Ok(())
    }

    fn totals(&self) -> Vec<(SinkName, SinkName, HeldTotals)> {
        self.state().mirror.totals()
    }

    fn total(&self, owner: &SinkName, holder: &SinkName) -> HeldTotals {
        self.state().mirror.sums(owner, holder).held
    }

    fn has_leaving(&self, owner: &SinkName, holder: &SinkName) -> bool {
        let place = self.own_place(holder);
        self.state().mirror.leaving(owner, holder, &place).next().is_some()
    }

    fn is_full(&self, owner: &SinkName) -> bool {
        self.state().mirror.batches(owner) >= HELD_BATCHES_MAX
    }

    fn held_within(&self, owner: &SinkName, span: Span) -> Vec<Span> {
        let message = place(sequence_of(span.first));
        self.state().mirror.held_within(owner, message, span)
    }

    fn begin(&self, owner: &SinkName, holder: &SinkName, _: Position) -> Result<Vec<Span>, StateError> {
        let (owner, holder) = (owner.clone(), holder.clone());
        self.ask(async move |books| {
            books.store(true).await?;
            {
                let mut state = books.state();
                state.lives += 1;
                let owned = Owner { fallback: holder, life: state.lives };
                state.owners.insert(owner.clone(), owned);
            }
            books.put_down(&[owner]).await;
            Ok(())
        })?;
        // There is no cursor: see `held_within`.
        Ok(Vec::new())
    }

    fn end(&self, owners: &[SinkName]) {
        let ended: Vec<_> = {
            let mut state = self.state();
            let ended = owners.iter().filter(|owner| state.owners.remove(*owner).is_some());
            ended.cloned().collect()
        };
        if ended.is_empty() {
            return;
        }
        let put_down = self.ask(async move |books| {
            books.put_down(&ended).await;
            Ok(())
        });
        put_down.unwrap_or_else(|error| tracing::warn!(%error, "what is held could not be put down"));
    }

    fn intend(&self, owner: &SinkName, holder: &SinkName, span: Span) -> Result<HeldKey, StateError> {
        if self.is_full(owner) {
            return Err(StateError::HeldFull { batches_max: HELD_BATCHES_MAX });
        }
        let key = HeldKey { owner: owner.clone(), span, number: seed() };
        let (id, life) = (Id::new(holder, &key), self.state().life(owner));
        let entry = Entry {
            stage: Stage::Intended,
            note: Note::default(),
            place: self.own_place(holder),
            stream: self.stream.clone(),
            by: Some(self.me),
            beat: 0,
        };
        self.ask(async move |books| {
            let store = books.store(true).await?.ok_or_else(|| books.failed("it is not there"))?;
            match books.change(&store, &id, Some(entry), 0).await? {
                Change::Made => {
                    books.state().take_up(id, life);
                    Ok(())
                }
                Change::Refused => Err(books.failed("the same number was drawn twice")),
            }
        })?;
        Ok(key)
    }

    fn held(
        &self,
        holder: &SinkName,
        key: &HeldKey,
        (events, bytes): (u64, u64),
        at: Timestamp,
    ) -> Result<bool, StateError> {
        let (me, id, note) = (self.me, Id::new(holder, key), Note { events, bytes, at });
        let step = self.take_step(
            id.clone(),
            move |known| known.entry.is_of(Stage::Intended, me),
            move |known| Some(known.entry.turned(Stage::Held, note)),
        )?;
        let is_held = step.is_some() || self.is_held(holder, key)?.is_some();
        self.state().at_hand.remove(&id);
        Ok(is_held)
    }

    fn is_held(&self, holder: &SinkName, key: &HeldKey) -> Result<Option<u64>, StateError> {
        let id = Id::new(holder, key);
        let entry = self.asked(&id)?;
        // Also where it was read back meanwhile: only what was held has events.
        let was_held = |entry: &Entry| entry.stage != Stage::Intended && entry.note.events > 0;
        let entry = entry.filter(was_held);
        // Unless it is here to be read back by now.
        if entry.as_ref().is_some_and(|entry| entry.by != Some(self.me)) {
            self.state().at_hand.remove(&id);
        }
        Ok(entry.map(|entry| entry.note.bytes))
    }

    fn oldest(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        let (me, life) = (self.me, self.state().life(owner));
        for (id, known) in self.free(owner, holder, TAKE_TRIES) {
            // What an earlier life of the sink had at hand is the first to go on with.
            let is_mine = known.entry.by == Some(me);
            let taken = is_mine || {
                let (of, revision) = (id.clone(), known.revision);
                let step = self.ask(async move |books| {
                    let may = |known: &Known| known.revision == revision;
                    let take = |known: &Known| Some(Entry { by: Some(me), ..known.entry.clone() });
                    books.step(&of, may, take).await
                });
                // One that others are taking is theirs.
                matches!(step?, Step::Taken(_))
            };
            if taken {
                let key = id.key();
                self.state().take_up(id, life);
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    fn is_at_hand(&self, holder: &SinkName, key: &HeldKey) -> Result<bool, StateError> {
        let entry = self.asked(&Id::new(holder, key))?;
        Ok(entry.is_some_and(|entry| entry.is_of(Stage::Held, self.me)))
    }

    fn lay_down(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.finish(holder, key, Stage::Held, Some(Stage::Held)).map(drop)
    }

    fn read_back(&self, holder: &SinkName, key: &HeldKey) -> Result<u64, StateError> {
        let note = self.finish(holder, key, Stage::Held, Some(Stage::Leaving))?;
        Ok(note.map_or(0, |note| note.events))
    }

    fn lost(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.finish(holder, key, Stage::Held, None).map(drop)
    }

    fn let_go(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        // First, since nobody tries it again: not renewed, it goes by itself. What is held in spite of a lost answer stays held, and is
        // read back: its events may come once more, but whoever got its message meanwhile has counted on it.
        self.state().at_hand.remove(&Id::new(holder, key));
        self.finish(holder, key, Stage::Intended, Some(Stage::Leaving)).map(drop)
    }

    fn leaving(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        let place = self.own_place(holder);
        let state = self.state();
        Ok(state.mirror.leaving(owner, holder, &place).next().map(Id::key))
    }

    fn released(&self, holder: &SinkName, key: &HeldKey) -> Result<bool, StateError> {
        let may = |known: &Known| known.entry.stage == Stage::Leaving;
        Ok(self.take_step(Id::new(holder, key), may, |_| None)?.is_some())
    }
}
