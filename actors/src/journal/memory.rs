//! The journal in memory: `durability: memory`, and the tests.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Journal, JournalError, Piece, RECORD_BYTES, Removed, Usage, records};
use crate::{
    event::{Stamped, Timestamp},
    record::{Position, Record, Span},
    runtime::clock::Clock,
};

/// Keeps records until every sink has them. Bounded by whoever admits: `Buffer` asks for [`Usage`].
pub struct MemoryJournal {
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    records: VecDeque<Arc<Record>>,
    head: Position,
    bytes: u64,
}

impl MemoryJournal {
    /// An empty journal whose first event gets the position `head`.
    pub fn new(clock: Clock, head: Position) -> Self {
        Self { clock, state: Mutex::new(State { records: VecDeque::new(), head, bytes: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    fn commit(&self, blocks: &[Stamped]) -> Result<Vec<Arc<Record>>, JournalError> {
        let mut state = self.state();
        let written: Vec<_> = records(blocks, state.head, self.clock.now(), RECORD_BYTES)
            .into_iter()
            .map(|drafted| Arc::new(drafted.record()))
            .collect();
        for record in &written {
            state.head = record.end();
            state.bytes += record.payload.len() as u64;
            state.records.push_back(record.clone());
        }
        Ok(written)
    }

    fn sync(&self) -> Result<(), JournalError> {
        Ok(())
    }

    fn read(&self, from: Position, bytes_max: usize) -> Result<Vec<Piece>, JournalError> {
        let state = self.state();
        let start = state.records.partition_point(|record| record.end() <= from);
        let mut bytes = 0;
        let wanted = state.records.range(start..).take_while(|record| {
            let before = bytes;
            bytes += record.payload.len();
            before < bytes_max
        });
        Ok(wanted.cloned().map(Piece::Record).collect())
    }

    fn span(&self) -> Span {
        let state = self.state();
        Span { first: state.records.front().map_or(state.head, |record| record.first), end: state.head }
    }

    fn remove(&self, upto: Position, written_before: Timestamp) -> Result<Removed, JournalError> {
        let mut state = self.state();
        let mut removed = Removed::default();
        while let Some(record) =
            state.records.pop_front_if(|r| r.end() <= upto && r.written_at < written_before)
        {
            let bytes = record.payload.len() as u64;
            state.bytes -= bytes;
            removed = removed.plus(Removed { parts: 1, bytes });
        }
        Ok(removed)
    }

    fn oldest_end(&self) -> Option<Position> {
        let state = self.state();
        (state.records.len() > 1).then(|| state.records.front().map(|record| record.end())).flatten()
    }

    fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            disk_bytes: state.bytes,
            stored_bytes: state.bytes,
            generations: state.records.len(),
            damaged: 0,
            backlog: None,
        }
    }

    fn may_forget(&self) -> bool {
        true
    }
}
