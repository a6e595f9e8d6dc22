//! Which generations there are, and which of them are open.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    journal::{
        OPEN_GENERATIONS_MAX, Piece, UNSYNCED_GENERATIONS_MAX, closed::Closed, generation::Generation,
        inspect::Entry,
    },
    record::Position,
    spare::SparePool,
};

/// All generations, oldest first, and those of them that are open for reading.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) entries: VecDeque<Entry>,
    /// The one that was used last stands last.
    pub(super) open: VecDeque<(Position, Readable)>,
}

/// A generation that is open.
#[derive(Clone)]
pub(super) enum Readable {
    /// As it is written: its log may not have everything yet. So is the newest, and what could not be synced.
    Written(Arc<Generation>),
    Closed(Arc<Closed>),
}

impl Readable {
    /// Reads pieces from `from` on, up to `end`, until `bytes_max` of payload are there. `end` is where the next generation
    /// begins, or the head: what a failed commit left behind it does not count.
    pub(super) fn read(
        &self,
        from: Position,
        end: Position,
        bytes_max: usize,
        spare: &SparePool,
    ) -> Vec<Piece> {
        match self {
            Self::Written(generation) => generation.read(from, end, bytes_max),
            Self::Closed(generation) => generation.read(from, end, bytes_max, spare),
        }
    }
}

// === impl Shelf ===

impl Shelf {
    /// Where the generation begins that is written.
    pub(super) fn newest(&self) -> Option<Position> {
        self.entries.back().map(|entry| entry.first)
    }

    /// Those whose logs may not have everything yet, oldest first.
    pub(super) fn written(&self) -> Vec<(Position, Arc<Generation>)> {
        let written = |(first, readable): &(Position, Readable)| match readable {
            Readable::Written(generation) => Some((*first, generation.clone())),
            Readable::Closed(_) => None,
        };
        let mut all: Vec<_> = self.open.iter().filter_map(written).collect();
        all.sort_by_key(|(first, _)| *first);
        all
    }

    /// Whether this very generation is here and not closed.
    pub(super) fn is_written(&self, generation: &Arc<Generation>) -> bool {
        self.written().iter().any(|(_, written)| Arc::ptr_eq(written, generation))
    }

    /// Returns those for which there is no room any more: closing them may take long, and is not for who holds the shelf.
    #[must_use]
    pub(super) fn keep_open(&mut self, first: Position, generation: Readable) -> Vec<Readable> {
        self.open.push_back((first, generation));
        let is_closed = |(_, readable): &(Position, Readable)| matches!(readable, Readable::Closed(_));
        let mut closed = Vec::new();
        while self.open.iter().filter(|open| is_closed(open)).count() > OPEN_GENERATIONS_MAX {
            let Some(index) = self.open.iter().position(is_closed) else { break };
            closed.extend(self.open.remove(index).map(|(_, readable)| readable));
        }
        closed
    }

    /// Takes out the oldest of those that could not be synced, where there are too many.
    pub(super) fn give_up_unsynced(&mut self) -> Option<(Position, Arc<Generation>)> {
        let mut written = self.written();
        let too_many = written.len() > UNSYNCED_GENERATIONS_MAX + 1;
        let oldest = too_many.then(|| written.swap_remove(0))?;
        self.close(oldest.0);
        Some(oldest)
    }

    /// Whoever reads it then opens it again.
    pub(super) fn close(&mut self, first: Position) {
        self.open.retain(|(open, _)| *open != first);
    }

    /// The same, where its log has everything.
    pub(super) fn close_newest(&mut self) {
        if let Some(newest) = self.newest() {
            self.close(newest);
        }
    }

    /// There is no such generation any more.
    pub(super) fn forget(&mut self, first: Position) {
        self.entries.retain(|entry| entry.first != first);
        self.close(first);
    }
}
