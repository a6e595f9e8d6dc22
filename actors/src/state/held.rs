//! The books of what is held, in the database of this process.
//!
//! ```text
//! key = owner 0 holder 0 stage u8 first u64 end u64 number u64        (numbers big-endian)
//! ```
//! Where a holder keeps what it holds is noted as well: what lies in one place is not to be looked for in another.
//!
//! Limit: [`HELD_BATCHES_MAX`] entries an owner, of about a hundred bytes, on disk; in memory only their sums.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sled::transaction::TransactionError;

use super::{Books, HELD_BATCHES_MAX, HeldTotals, Note, Stage, StateDb, StateError, Sums};
use crate::{
    event::Timestamp,
    holding::HeldKey,
    record::{Position, SinkName, Span},
    runtime::clock::seed,
};

const TREE: &str = "held";

/// Key: holder. Value: where it keeps what it holds.
const PLACES: &str = "held_places";

/// Bytes of a key behind its names.
const TAIL_BYTES: usize = 1 + 3 * 8;

/// The books of all sinks. Everything here blocks, but for the sums.
#[derive(Debug)]
pub struct HeldBatches {
    state: Arc<StateDb>,
    sums: Mutex<BTreeMap<Pair, Sums>>,
}

/// Owner and holder.
type Pair = (SinkName, SinkName);

impl HeldBatches {
    /// Reads what there is.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn open(state: Arc<StateDb>) -> Result<Self, StateError> {
        let held = Self { state, sums: Mutex::default() };
        let mut sums = BTreeMap::<Pair, Sums>::new();
        held.each(&[], |pair, stage, _, note| {
            sums.entry(pair).or_default().add(stage, note);
            true
        })?;
        *held.sums() = sums;
        Ok(held)
    }

    fn first(
        &self,
        owner: &SinkName,
        holder: &SinkName,
        stage: Stage,
    ) -> Result<Option<HeldKey>, StateError> {
        let mut first = None;
        let prefix = [&prefix(owner, Some(holder))[..], &[stage as u8]].concat();
        self.each(&prefix, |_, _, key, _| {
            first = Some(key);
            false
        })?;
        Ok(first)
    }

    /// Moves an entry to another stage, or out. Returns what was noted of it; `None` where it is not in the stage it should be
    /// in, and nothing was done.
    fn turn(
        &self,
        holder: &SinkName,
        key: &HeldKey,
        from: Stage,
        to: Option<(Stage, Option<Note>)>,
    ) -> Result<Option<Note>, StateError> {
        let before = stored_key(holder, key, from);
        let moved = self.state.with(|open| {
            let tree = self.state.tree(open, TREE)?;
            let moved: Result<_, TransactionError<()>> = tree.transaction(|tree| {
                let Some(was) = tree.remove(&*before)? else { return Ok(None) };
                if let Some((stage, note)) = to {
                    let note = note.map_or_else(|| was.to_vec(), |note| encoded(&note));
                    tree.insert(stored_key(holder, key, stage), note)?;
                }
                Ok(Some(was))
            });
            let moved = moved.map_err(|e| self.state.failed(format!("{e:?}")))?;
            if moved.is_some() {
                self.state.sync(open)?;
            }
            Ok(moved)
        })?;
        let Some(was) = moved else { return Ok(None) };
        let was = rmp_serde::from_slice::<Note>(&was).unwrap_or_default();
        self.count(holder, key, |sums| {
            sums.remove(from, was);
            if let Some((stage, note)) = to {
                sums.add(stage, note.unwrap_or(was));
            }
        });
        Ok(Some(was))
    }

    /// Everything whose key begins so, in order, until `see` says that it is enough.
    fn each(
        &self,
        prefix: &[u8],
        mut see: impl FnMut(Pair, Stage, HeldKey, Note) -> bool,
    ) -> Result<(), StateError> {
        self.state.with(|open| {
            for item in self.state.tree(open, TREE)?.scan_prefix(prefix) {
                let (key, note) = item.map_err(|e| self.state.failed(e))?;
                let entry = parse(&key).zip(rmp_serde::from_slice(&note).ok());
                // Nothing that was written looks otherwise: damaged bytes end in sled's own checks.
                let Some(((pair, stage, key), note)) = entry else { continue };
                if !see(pair, stage, key, note) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn sums_of(&self, owner: &SinkName, holder: &SinkName) -> Sums {
        self.sums().get(&(owner.clone(), holder.clone())).copied().unwrap_or_default()
    }

    fn count(&self, holder: &SinkName, key: &HeldKey, change: impl FnOnce(&mut Sums)) {
        change(self.sums().entry((key.owner.clone(), holder.clone())).or_default());
    }

    fn sums(&self) -> MutexGuard<'_, BTreeMap<Pair, Sums>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Books ===

impl Books for HeldBatches {
    fn are_shared(&self) -> bool {
        false
    }

    fn open(&self, _: bool) -> Result<(), StateError> {
        Ok(())
    }

    fn places(&self, holder: &SinkName) -> Result<Vec<String>, StateError> {
        if !self.totals().iter().any(|(_, by, _)| by == holder) {
            return Ok(Vec::new());
        }
        let place = self.state.with(|open| {
            let place = self.state.tree(open, PLACES)?.get(holder.as_str());
            place.map_err(|e| self.state.failed(e))
        })?;
        Ok(place.iter().map(|place| String::from_utf8_lossy(place).into_owned()).collect())
    }

    fn put_place(&self, holder: &SinkName, place: &str) -> Result<(), StateError> {
        if self.totals().iter().any(|(_, by, _)| by == holder) {
            return Ok(());
        }
        self.state.with(|open| {
            let before = self.state.tree(open, PLACES)?.insert(holder.as_str(), place);
            if before.map_err(|e| self.state.failed(e))?.is_none_or(|before| before != place.as_bytes()) {
                self.state.sync(open)?;
            }
            Ok(())
        })
    }

    fn totals(&self) -> Vec<(SinkName, SinkName, HeldTotals)> {
        let held = |(pair, sums): (&Pair, &Sums)| (pair.0.clone(), pair.1.clone(), sums.held);
        self.sums().iter().map(held).filter(|(_, _, totals)| totals.batches > 0).collect()
    }

    fn total(&self, owner: &SinkName, holder: &SinkName) -> HeldTotals {
        self.sums_of(owner, holder).held
    }

    fn has_leaving(&self, owner: &SinkName, holder: &SinkName) -> bool {
        self.sums_of(owner, holder).leaving > 0
    }

    fn is_full(&self, owner: &SinkName) -> bool {
        let sums = self.sums();
        let of_owner = sums.iter().filter(|((name, _), _)| name == owner);
        of_owner.map(|(_, sums)| sums.batches()).sum::<u64>() >= HELD_BATCHES_MAX
    }

    fn begin(&self, owner: &SinkName, holder: &SinkName, from: Position) -> Result<Vec<Span>, StateError> {
        let (mut ahead, mut intended, mut orphans) = (Vec::new(), Vec::new(), Vec::new());
        self.each(&prefix(owner, None), |(_, by), stage, key, _| {
            match stage {
                Stage::Held if key.span.end > from => ahead.push(key.span),
                Stage::Intended if by == *holder => intended.push(key),
                // Whoever might have it is not asked any more.
                Stage::Intended | Stage::Leaving if by != *holder => orphans.push((by, stage, key)),
                _ => {}
            }
            true
        })?;
        for key in &intended {
            self.turn(holder, key, Stage::Intended, Some((Stage::Leaving, None)))?;
        }
        for (by, stage, key) in &orphans {
            self.turn(by, key, *stage, None)?;
        }
        ahead.sort_unstable_by_key(|span| span.first);
        Ok(ahead)
    }

    fn intend(&self, owner: &SinkName, holder: &SinkName, span: Span) -> Result<HeldKey, StateError> {
        if self.is_full(owner) {
            return Err(StateError::HeldFull { batches_max: HELD_BATCHES_MAX });
        }
        let key = self.state.with(|open| {
            // Drawn, not counted: a count would begin again where this database is lost, and the holder kept what it has.
            let key = HeldKey { owner: owner.clone(), span, number: seed() };
            let tree = self.state.tree(open, TREE)?;
            tree.insert(stored_key(holder, &key, Stage::Intended), encoded(&Note::default()))
                .map_err(|e| self.state.failed(e))?;
            self.state.sync(open)?;
            Ok(key)
        })?;
        self.count(holder, &key, |sums| sums.intended += 1);
        Ok(key)
    }

    fn held(
        &self,
        holder: &SinkName,
        key: &HeldKey,
        (events, bytes): (u64, u64),
        at: Timestamp,
    ) -> Result<bool, StateError> {
        let note = Note { events, bytes, at };
        let turned = self.turn(holder, key, Stage::Intended, Some((Stage::Held, Some(note))))?;
        Ok(turned.is_some())
    }

    fn oldest(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        self.first(owner, holder, Stage::Held)
    }

    fn read_back(&self, holder: &SinkName, key: &HeldKey) -> Result<u64, StateError> {
        let turned = self.turn(holder, key, Stage::Held, Some((Stage::Leaving, None)))?;
        Ok(turned.map_or(0, |note| note.events))
    }

    fn lost(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.turn(holder, key, Stage::Held, None).map(drop)
    }

    fn let_go(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.turn(holder, key, Stage::Intended, Some((Stage::Leaving, None))).map(drop)
    }

    fn leaving(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        self.first(owner, holder, Stage::Leaving)
    }

    fn released(&self, holder: &SinkName, key: &HeldKey) -> Result<bool, StateError> {
        Ok(self.turn(holder, key, Stage::Leaving, None)?.is_some())
    }

    fn held_within(&self, _: &SinkName, _: Span) -> Vec<Span> {
        Vec::new()
    }

    fn end(&self, _: &[SinkName]) {}

    fn is_held(&self, holder: &SinkName, key: &HeldKey) -> Result<Option<u64>, StateError> {
        let note = self.state.with(|open| {
            let note = self.state.tree(open, TREE)?.get(stored_key(holder, key, Stage::Held));
            note.map_err(|e| self.state.failed(e))
        })?;
        Ok(note.map(|note| rmp_serde::from_slice::<Note>(&note).unwrap_or_default().bytes))
    }

    fn lay_down(&self, _: &SinkName, _: &HeldKey) -> Result<(), StateError> {
        Ok(())
    }

    fn is_at_hand(&self, _: &SinkName, _: &HeldKey) -> Result<bool, StateError> {
        Ok(true)
    }
}

// === Keys ===

fn prefix(owner: &SinkName, holder: Option<&SinkName>) -> Vec<u8> {
    let mut key = [owner.as_str().as_bytes(), &[0]].concat();
    if let Some(holder) = holder {
        key.extend_from_slice(holder.as_str().as_bytes());
        key.push(0);
    }
    key
}

fn stored_key(holder: &SinkName, key: &HeldKey, stage: Stage) -> Vec<u8> {
    let mut stored = prefix(&key.owner, Some(holder));
    stored.push(stage as u8);
    for number in [key.span.first.0, key.span.end.0, key.number] {
        stored.extend_from_slice(&number.to_be_bytes());
    }
    stored
}

fn parse(stored: &[u8]) -> Option<(Pair, Stage, HeldKey)> {
    let (names, tail) = stored.split_at_checked(stored.len().checked_sub(TAIL_BYTES)?)?;
    let mut names = std::str::from_utf8(names).ok()?.split('\0');
    let (owner, holder) = (SinkName::from(names.next()?), SinkName::from(names.next()?));
    let (stage, numbers) = tail.split_first()?;
    let stage = [Stage::Intended, Stage::Held, Stage::Leaving].into_iter().find(|s| *s as u8 == *stage)?;
    let number = |at: usize| Some(u64::from_be_bytes(*numbers.get(at..)?.first_chunk()?));
    let span = Span { first: Position(number(0)?), end: Position(number(8)?) };
    let key = HeldKey { owner: owner.clone(), span, number: number(16)? };
    Some(((owner, holder), stage, key))
}

fn encoded(note: &Note) -> Vec<u8> {
    rmp_serde::to_vec(note).expect("a Vec takes every note")
}

#[cfg(test)]
mod tests;
