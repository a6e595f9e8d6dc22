//! How far every sink has come.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{StateDb, StateError};
use crate::record::{Position, SinkName};

/// A sink's place in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Every event before this has its outcome.
    pub next: Position,
    /// Where a batch ends that was cut by time, not by size. A sink that restarts cuts at the same place, so that
    /// the batch has the same id the second time; cuts by size need no note, they follow from the data.
    pub planned: Option<Position>,
    /// Where the furthest batch ends that may have gone out, noted before it goes. Only for a journal that may forget what
    /// it showed: no other event must get a position that a destination knows.
    #[serde(default)]
    pub reached: Position,
}

impl Cursor {
    /// A cursor at `next`, with nothing on its way.
    pub fn at(next: Position) -> Self {
        Self { next, ..Self::default() }
    }
}

/// What is done for a sink when the journal has reached its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Producers are refused until the sink has caught up.
    #[default]
    Block,
    /// The sink skips its oldest events; they are counted and dead-lettered by range.
    DropOldest,
}

/// All cursors: in memory for everyone to look at, on disk when saved.
#[derive(Debug)]
pub struct Cursors {
    state: Arc<StateDb>,
    table: Mutex<BTreeMap<SinkName, Entry>>,
    /// Held over a whole save, so that none writes what another has overtaken.
    saving: Mutex<()>,
}

const TREE: &str = "cursors";

#[derive(Debug)]
struct Entry {
    cursor: Cursor,
    saved: Option<Cursor>,
    /// The policy of a sink that is configured now; `None` for one that once was.
    active: Option<WhenFull>,
}

impl Cursors {
    /// Reads the cursors of all sinks there ever were.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn open(state: Arc<StateDb>) -> Result<Self, StateError> {
        let table = state.with(|open| {
            let mut table = BTreeMap::new();
            for item in &state.tree(open, TREE)? {
                let (name, value) = item.map_err(|e| state.failed(e))?;
                let name = std::str::from_utf8(&name).map_err(|e| state.failed(e))?;
                let cursor = rmp_serde::from_slice(&value).map_err(|e| state.failed(e))?;
                table.insert(SinkName::from(name), Entry { cursor, saved: Some(cursor), active: None });
            }
            Ok(table)
        })?;
        Ok(Self { state, table: Mutex::new(table), saving: Mutex::new(()) })
    }

    /// Whether no sink was ever seen.
    pub fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    /// Counts the sink in. A sink that was never seen begins at `start`.
    pub fn activate(&self, name: &SinkName, when_full: WhenFull, start: Position) -> Cursor {
        let mut table = self.table();
        let new = || Entry { cursor: Cursor::at(start), saved: None, active: None };
        let entry = table.entry(name.clone()).or_insert_with(new);
        entry.active = Some(when_full);
        entry.cursor
    }

    /// Counts the sink out: the journal waits for it no longer. Its cursor is kept.
    pub fn deactivate(&self, name: &SinkName) {
        if let Some(entry) = self.table().get_mut(name) {
            entry.active = None;
        }
    }

    /// The sink's cursor; the beginning where there is no such sink.
    pub fn get(&self, name: &SinkName) -> Cursor {
        self.table().get(name).map(|entry| entry.cursor).unwrap_or_default()
    }

    /// Moves the sink's cursor, never back. A sink that was made to skip and has not seen it yet is behind, and yet what it says
    /// of batches that go out counts: their positions must not be given again.
    pub fn advance(&self, name: &SinkName, cursor: Cursor) {
        if let Some(Entry { cursor: kept, .. }) = self.table().get_mut(name) {
            let next = cursor.next.max(kept.next);
            let planned = cursor.planned.filter(|end| *end > next);
            *kept = Cursor { next, planned, reached: cursor.reached.max(kept.reached) };
        }
    }

    /// The position that every active sink has passed; `None` without any.
    pub fn lowest(&self) -> Option<Position> {
        let table = self.table();
        table.values().filter(|entry| entry.active.is_some()).map(|entry| entry.cursor.next).min()
    }

    /// The furthest position that any cursor speaks of.
    pub fn furthest(&self) -> Position {
        let table = self.table();
        let furthest = |Entry { cursor, .. }: &Entry| {
            cursor.planned.unwrap_or_default().max(cursor.next).max(cursor.reached)
        };
        table.values().map(furthest).max().unwrap_or_default()
    }

    /// The active sinks that have not passed `end`, with their policies.
    pub fn behind(&self, end: Position) -> Vec<(SinkName, Cursor, WhenFull)> {
        let table = self.table();
        let behind = table.iter().filter(|(_, entry)| entry.cursor.next < end);
        behind.filter_map(|(name, entry)| Some((name.clone(), entry.cursor, entry.active?))).collect()
    }

    /// Makes all cursors durable. Blocks.
    ///
    /// # Errors
    /// Where the database refuses; the next call tries again.
    pub fn save(&self) -> Result<(), StateError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let changed: Vec<_> = {
            let table = self.table();
            let changed = table.iter().filter(|(_, entry)| entry.saved != Some(entry.cursor));
            changed.map(|(name, entry)| (name.clone(), entry.cursor)).collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        self.state.with(|open| {
            let tree = self.state.tree(open, TREE)?;
            for (name, cursor) in &changed {
                let value = rmp_serde::to_vec(cursor).expect("a Vec takes every cursor");
                tree.insert(name.as_str(), value).map_err(|e| self.state.failed(e))?;
            }
            self.state.sync(open)
        })?;
        let mut table = self.table();
        for (name, cursor) in changed {
            if let Some(entry) = table.get_mut(&name) {
                entry.saved = Some(cursor);
            }
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<SinkName, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::state::StateError;

    /// Scenario: one operation on the database fails, as all do while the device is full.
    /// Guarantee: the next works again: sled repeats its first I/O error to every later call, so cursors were never saved
    /// again until a restart.
    #[test]
    fn r0204_after_one_failure_cursors_were_never_saved_again() {
        let dir = TempDir::new().unwrap();
        let state = Arc::new(StateDb::open(dir.path()).unwrap());
        let cursors = Cursors::open(state.clone()).unwrap();
        let name = SinkName::from("a");
        cursors.activate(&name, WhenFull::Block, Position(3));
        cursors.save().unwrap();
        let failed: Result<(), StateError> = state.with(|_| Err(state.failed("no space left on device")));
        assert!(failed.is_err());
        cursors.advance(&name, Cursor::at(Position(9)));
        cursors.save().unwrap();
        drop((cursors, state));
        let again = Cursors::open(Arc::new(StateDb::open(dir.path()).unwrap())).unwrap();
        assert_eq!(again.get(&name).next, Position(9));
    }

    /// Scenario: the database is opened again while a thread of the one before has not let go of its lock yet.
    /// Guarantee: that is waited for. Cursors and dead letters failed for that alone, now and then.
    #[test]
    fn r0304_the_state_was_still_locked_by_itself() {
        let dir = TempDir::new().unwrap();
        drop(StateDb::open(dir.path()).unwrap());
        let held = std::fs::File::open(dir.path().join("db")).unwrap();
        held.lock().unwrap();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| StateDb::open(dir.path()).map(drop));
            // The first look at the lock comes long before; if not, the test has only not tried anything.
            std::thread::park_timeout(std::time::Duration::from_millis(30));
            drop(held);
            opening.join().unwrap().unwrap();
        });
    }

    /// Scenario: a sink is made to skip while it delivers; before it sees that, it notes how far its next batch goes.
    /// Guarantee: that is noted. The note was dropped whole, because its cursor was behind, and after a crash a journal that may
    /// forget gave these positions to other events.
    #[test]
    fn r0583_what_a_sink_that_was_made_to_skip_had_sent_was_not_noted() {
        let dir = TempDir::new().unwrap();
        let state = Arc::new(StateDb::open(dir.path()).unwrap());
        let cursors = Cursors::open(state.clone()).unwrap();
        let name = SinkName::from("a");
        cursors.activate(&name, WhenFull::DropOldest, Position(0));
        cursors.advance(&name, Cursor::at(Position(50)));
        let (planned, reached) = (Some(Position(80)), Position(90));
        cursors.advance(&name, Cursor { next: Position(10), planned, reached });
        assert_eq!(cursors.get(&name), Cursor { next: Position(50), planned, reached });
        // A plan that has been skipped is none.
        let planned = Some(Position(50));
        cursors.advance(&name, Cursor { next: Position(20), planned, reached: Position(60) });
        assert_eq!(cursors.get(&name), Cursor { reached, ..Cursor::at(Position(50)) });
        cursors.save().unwrap();
        drop((cursors, state));
        let again = Cursors::open(Arc::new(StateDb::open(dir.path()).unwrap())).unwrap();
        assert_eq!(again.furthest(), reached);
    }

    /// A cursor that was saved before there was `reached` is read.
    #[test]
    fn an_old_cursor_is_read() {
        let old = rmp_serde::to_vec(&(Position(3), Some(Position(8)))).unwrap();
        let cursor: Cursor = rmp_serde::from_slice(&old).unwrap();
        assert_eq!(cursor, Cursor { planned: Some(Position(8)), ..Cursor::at(Position(3)) });
    }
}
