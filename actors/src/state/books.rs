//! What the books of held batches say, wherever they are kept.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::StateError;
use crate::{
    event::Timestamp,
    holding::HeldKey,
    record::{Position, SinkName, Span},
};

/// Batches that may be held for one sink: more than a day of one batch a second. Those behind them wait in the journal.
pub const HELD_BATCHES_MAX: u64 = 100_000;

/// Which batches are held, by whom and for whom. Everything here blocks, but for what is said to be from memory.
///
/// ```text
/// intended ──held──► held ──read_back──► leaving ──released──► (forgotten)
///     └──────────────let_go─────────────────▲
/// ```
/// Each step is kept before it counts, and is only taken from the stage before it: what an earlier life of a sink has left on a
/// blocking thread comes too late and changes nothing. Where several processes share the books, a batch that one of them has
/// at hand no other is given, as long as that one lives.
pub trait Books: Debug + Send + Sync + 'static {
    /// Whether other processes have them, too: then what no sink of this one reads back another may.
    fn are_shared(&self) -> bool;

    /// Makes sure that they are known, and that they can be kept if something is to be `held`.
    ///
    /// # Errors
    /// Why not.
    fn open(&self, held: bool) -> Result<(), StateError>;

    /// Where the holder keeps what it is known to hold: one place, unless several processes have it hold and name it differently.
    ///
    /// # Errors
    /// Where the books cannot be read.
    fn places(&self, holder: &SinkName) -> Result<Vec<String>, StateError>;

    /// Notes where the holder keeps what it will hold; where that is one place for all of it, does nothing while it holds something.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn put_place(&self, holder: &SinkName, place: &str) -> Result<(), StateError>;

    /// What is held, by owner and holder. From memory.
    fn totals(&self) -> Vec<(SinkName, SinkName, HeldTotals)>;

    /// What `holder` holds for `owner`. From memory.
    fn total(&self, owner: &SinkName, holder: &SinkName) -> HeldTotals;

    /// Whether there is something for `holder` to let go of. From memory.
    fn has_leaving(&self, owner: &SinkName, holder: &SinkName) -> bool;

    /// Whether no further batch of `owner` can be held. From memory.
    fn is_full(&self, owner: &SinkName) -> bool;

    /// The parts of a span that are held for `owner`, in order, by books that know it from memory; none by others, which
    /// [`Books::begin`] says it of.
    fn held_within(&self, owner: &SinkName, span: Span) -> Vec<Span>;

    /// A life of the owner begins: whatever was only intended is let go of. Returns the spans that are held, by whomever, and
    /// that its cursor has not passed, in order, where there is a cursor.
    ///
    /// # Errors
    /// Where the books cannot be read or kept.
    fn begin(&self, owner: &SinkName, holder: &SinkName, from: Position) -> Result<Vec<Span>, StateError>;

    /// These owners have ended in this process: others take over what they had at hand.
    fn end(&self, owners: &[SinkName]);

    /// The batch of this span is about to be given to the holder.
    ///
    /// # Errors
    /// Where there are too many, or the books cannot be kept.
    fn intend(&self, owner: &SinkName, holder: &SinkName, span: Span) -> Result<HeldKey, StateError>;

    /// The holder has it, so many events in so many bytes; `false` where that is not intended any more.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn held(
        &self,
        holder: &SinkName,
        key: &HeldKey,
        size: (u64, u64),
        at: Timestamp,
    ) -> Result<bool, StateError>;

    /// Whether what was intended is known to be held, and in how many bytes: who was told that it could not be noted asks.
    ///
    /// # Errors
    /// Where the books cannot be read.
    fn is_held(&self, holder: &SinkName, key: &HeldKey) -> Result<Option<u64>, StateError>;

    /// The oldest batch that `holder` holds for `owner` and that nobody else has at hand. It is at hand here from now on.
    ///
    /// # Errors
    /// Where the books cannot be read or kept.
    fn oldest(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError>;

    /// Whether what [`Books::oldest`] gave is still held and at hand here.
    ///
    /// # Errors
    /// Where the books cannot be read.
    fn is_at_hand(&self, holder: &SinkName, key: &HeldKey) -> Result<bool, StateError>;

    /// What [`Books::oldest`] gave is left to whoever can deliver it sooner.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn lay_down(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError>;

    /// Its owner does not need it any more: it was read back and has its outcome. Returns its events.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn read_back(&self, holder: &SinkName, key: &HeldKey) -> Result<u64, StateError>;

    /// It was read in vain and has its outcome; what the holder may have under its key is left there.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn lost(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError>;

    /// It was intended, and found its outcome elsewhere.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn let_go(&self, holder: &SinkName, key: &HeldKey) -> Result<(), StateError>;

    /// Something that `holder` should let go of.
    ///
    /// # Errors
    /// Where the books cannot be read.
    fn leaving(&self, owner: &SinkName, holder: &SinkName) -> Result<Option<HeldKey>, StateError>;

    /// The holder has let go of it; `false` where that is known already, or cannot be noted now.
    ///
    /// # Errors
    /// Where the books cannot be kept.
    fn released(&self, holder: &SinkName, key: &HeldKey) -> Result<bool, StateError>;
}

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

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Stage {
    /// It may be at the holder. What a crash leaves in this stage never had its outcome there: its events come again from the
    /// journal, and what the holder has of it is let go.
    Intended = 1,
    /// It is at the holder, which is its outcome for now; the cursor may pass it.
    Held = 2,
    /// It is not needed any more, and the holder may still have it.
    Leaving = 3,
}

/// What is noted of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Note {
    /// Events in it.
    pub events: u64,
    /// Bytes, as the holder counted them.
    pub bytes: u64,
    /// When it was held.
    pub at: Timestamp,
}

/// What one holder has of one owner, by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// What is held.
    pub held: HeldTotals,
    /// Batches that are intended.
    pub intended: u64,
    /// Batches that are leaving.
    pub leaving: u64,
}

// === impl Sums ===

impl Sums {
    /// Counts a batch in.
    pub fn add(&mut self, stage: Stage, note: Note) {
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

    /// Counts a batch out.
    pub fn remove(&mut self, stage: Stage, note: Note) {
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

    /// Batches there are, in whatever stage.
    pub fn batches(&self) -> u64 {
        self.held.batches + self.intended + self.leaving
    }
}
