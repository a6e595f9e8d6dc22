//! Which batches one sink holds for another, and how far each has come on its way there and back.
//!
//! ```text
//! key = owner 0 holder 0 stage u8 first u64 end u64 number u64        (numbers big-endian)
//! ```
//! - `Intended`: the batch may be at the holder. What a crash leaves in this stage never had its outcome there: its events
//!   come again from the journal, and what the holder has of it is let go.
//! - `Held`: it is at the holder, which is its outcome for now; the cursor may pass it.
//! - `Leaving`: it is not needed any more, and the holder may still have it.
//!
//! Each step is on disk before it counts. A step is only taken from the stage before it: what an earlier life of a sink has
//! left on a blocking thread comes too late and changes nothing.
//!
//! Where a holder keeps what it holds is noted as well: what lies in one place is not to be looked for in another.
//!
//! Limit: [`HELD_BATCHES_MAX`] entries an owner, of about a hundred bytes, on disk; in memory only their sums.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sled::transaction::TransactionError;

use super::{StateDb, StateError};
use crate::{
    event::Timestamp,
    holding::HeldKey,
    record::{Position, SinkName, Span},
    runtime::clock::seed,
};

/// Batches that may be held for one sink: more than a day of one batch a second. Those behind them wait in the journal.
pub const HELD_BATCHES_MAX: u64 = 100_000;

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

/// What one sink holds for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldTotals {
    /// Batches.
    pub batches: u64,
    /// Their events.
    pub events: u64,
    /// Bytes, as the holder counted them.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    held: HeldTotals,
    intended: u64,
    leaving: u64,
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Intended = 1,
    Held = 2,
    Leaving = 3,
}

/// What is noted of a batch.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Note {
    events: u64,
    bytes: u64,
    at: Timestamp,
}

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

    /// Where the holder keeps what it holds, if it is known to hold something.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn place(&self, holder: &SinkName) -> Result<Option<String>, StateError> {
        if !self.totals().iter().any(|(_, by, _)| by == holder) {
            return Ok(None);
        }
        let place = self.state.with(|open| {
            let place = self.state.tree(open, PLACES)?.get(holder.as_str());
            place.map_err(|e| self.state.failed(e))
        })?;
        Ok(place.map(|place| String::from_utf8_lossy(&place).into_owned()))
    }

    /// Notes where the holder keeps what it will hold; does nothing while it holds something.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn put_place(&self, holder: &SinkName, place: &str) -> Result<(), StateError> {
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

    /// What is held, by owner and holder.
    pub fn totals(&self) -> Vec<(SinkName, SinkName, HeldTotals)> {
        let held = |(pair, sums): (&Pair, &Sums)| (pair.0.clone(), pair.1.clone(), sums.held);
        self.sums().iter().map(held).filter(|(_, _, totals)| totals.batches > 0).collect()
    }

    /// What `holder` holds for `owner`.
    pub fn total(&self, owner: &SinkName, holder: &SinkName) -> HeldTotals {
        self.sums_of(owner, holder).held
    }

    /// Whether there is something for `holder` to let go of.
    pub fn has_leaving(&self, owner: &SinkName, holder: &SinkName) -> bool {
        self.sums_of(owner, holder).leaving > 0
    }

    /// Whether no further batch of `owner` can be held.
    pub fn is_full(&self, owner: &SinkName) -> bool {
        let sums = self.sums();
        let of_owner = sums.iter().filter(|((name, _), _)| name == owner);
        of_owner.map(|(_, s)| s.held.batches + s.intended + s.leaving).sum::<u64>() >= HELD_BATCHES_MAX
    }

    /// A life of the owner begins: whatever was only intended is let go of. Returns the spans that are held, by whomever, and
    /// that its cursor has not passed, in order.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn begin(
        &self,
        owner: &SinkName,
        holder: &SinkName,
        from: Position,
    ) -> Result<Vec<Span>, StateError> {
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

    /// The batch of this span is about to be given to the holder.
    ///
    /// # Errors
    /// Where there are too many, or the database refuses.
    pub fn intend(&self, owner: &SinkName, holder: &SinkName, span: Span) -> Result<HeldKey, StateError> {
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

    /// The holder has it, so many events in so many bytes; `false` where that is not intended any more.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn held(
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

    /// The oldest batch that `holder` holds for `owner`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn oldest(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        self.first(owner, holder, Stage::Held)
    }

    /// Its owner does not need it any more: it was read back and has its outcome. Returns its events.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn read_back(&self, holder: &SinkName, key: &HeldKey) -> Result<u64, StateError> {
        let turned = self.turn(holder, key, Stage::Held, Some((Stage::Leaving, None)))?;
        Ok(turned.map_or(0, |note| note.events))
    }

    /// It was read in vain and has its outcome; what the holder may have under its key is left there.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn lost(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.turn(holder, key, Stage::Held, None).map(drop)
    }

    /// It was intended, and found its outcome elsewhere.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn let_go(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.turn(holder, key, Stage::Intended, Some((Stage::Leaving, None))).map(drop)
    }

    /// Something that `holder` should let go of.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn leaving(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError> {
        self.first(owner, holder, Stage::Leaving)
    }

    /// The holder has let go of it.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn released(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError> {
        self.turn(holder, key, Stage::Leaving, None).map(drop)
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

// === impl Sums ===

impl Sums {
    fn add(&mut self, stage: Stage, note: Note) {
        match stage {
            Stage::Intended => self.intended += 1,
            Stage::Leaving => self.leaving += 1,
            Stage::Held => {
                self.held.batches += 1;
                self.held.events += note.events;
                self.held.bytes += note.bytes;
            }
        }
    }

    fn remove(&mut self, stage: Stage, note: Note) {
        let less = |sum: &mut u64, by: u64| *sum = sum.saturating_sub(by);
        match stage {
            Stage::Intended => less(&mut self.intended, 1),
            Stage::Leaving => less(&mut self.leaving, 1),
            Stage::Held => {
                less(&mut self.held.batches, 1);
                less(&mut self.held.events, note.events);
                less(&mut self.held.bytes, note.bytes);
            }
        }
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
