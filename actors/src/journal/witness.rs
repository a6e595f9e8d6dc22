//! The witness of a generation: how far its log has come.
//!
//! sled takes a log with a damaged end for a shorter one, and then positions would be given twice; and it brings a part of what was
//! refused onto the device, which would be there after a restart. The witness stands beside the log and knows nothing of sled:
//! the position after the last event and a checksum of that, 8 and 4 bytes big-endian, the checksum inverted where the log
//! ends there for good.

use std::{fs, path::Path};

use crate::record::Position;

/// The name of its file. It is made last: a generation with neither it nor any record was never begun.
pub(super) const WITNESS: &str = "head";

/// What a witness says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// The log has been written so far, or further where a crash came before the witness.
    Head(Position),
    /// What is in the log from there on was refused.
    End(Position),
}

impl Witness {
    /// What the witness of a generation that begins at `first` says; `None` where there is none, or nothing that can be
    /// true: it is seldom synced, so after a power loss it may be anything.
    pub(super) fn read(generation: &Path, first: Position) -> Option<Self> {
        let bytes = fs::read(generation.join(WITNESS)).ok()?;
        let position = Position(u64::from_be_bytes(*bytes.first_chunk()?));
        let mut known = [Self::Head(position), Self::End(position)].into_iter();
        known.find(|witness| position >= first && bytes == witness.bytes())
    }

    pub(super) fn position(self) -> Position {
        let (Self::Head(position) | Self::End(position)) = self;
        position
    }

    pub(super) fn bytes(self) -> [u8; 12] {
        let position = self.position().0.to_be_bytes();
        let sum = crc32fast::hash(&position);
        let sum = if matches!(self, Self::Head(_)) { sum } else { !sum };
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&position);
        bytes[8..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}
