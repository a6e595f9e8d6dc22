//! Events that are sent together.

use crate::{Event, Failure, Outcome, queued::Queued, transport::Rejection};

/// A batch, with an id that its events determine: the same events have the same id, after a retry, and after a restart with
/// a spool.
pub(crate) struct Batch {
    pub id: String,
    events: Vec<Queued>,
}

impl Batch {
    pub fn new(events: Vec<Queued>) -> Self {
        let id = id(events.iter().map(Queued::event));
        Self { id, events }
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn events(&self) -> Vec<&Event> {
        self.events.iter().map(Queued::event).collect()
    }

    /// The server has it, but for the events it refuses.
    pub fn delivered(self, rejections: Vec<Rejection>) {
        let mut events: Vec<_> = self.events.into_iter().map(Some).collect();
        for Rejection { index, error } in rejections {
            // An index beyond the batch names nothing; its counts were compared before.
            if let Some(event) = events.get_mut(index).and_then(Option::take) {
                event.failed(Failure::Rejected(error));
            }
        }
        events.into_iter().flatten().for_each(|event| event.done(Outcome::Delivered));
    }

    /// It is in the spool now.
    pub fn spooled(self) {
        self.events.into_iter().for_each(|event| event.done(Outcome::Spooled));
    }

    /// It is in the spool still.
    pub fn stays(self) {
        self.events.into_iter().for_each(Queued::stays);
    }

    /// None of it is delivered.
    pub fn failed(self, failure: &Failure) {
        self.events.into_iter().for_each(|event| event.failed(failure.clone()));
    }

    /// The first and the second half; nothing where it is one event.
    pub fn halves(mut self) -> Result<(Self, Self), Self> {
        if self.events.len() < 2 {
            return Err(self);
        }
        let second = self.events.split_off(self.events.len() / 2);
        Ok((Self::new(self.events), Self::new(second)))
    }
}

/// 128 bits of FNV-1a over the events' ids: they differ already, so nothing stronger is needed to tell batches apart.
fn id<'a>(events: impl Iterator<Item = &'a Event>) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let step = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    let hash = events.fold(OFFSET, |hash, event| {
        // The line break keeps "a", "bc" and "ab", "c" apart.
        event.id().unwrap_or_default().bytes().chain([b'\n']).fold(hash, step)
    });
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[&str]) -> String {
        let events: Vec<_> = ids.iter().map(|id| Event::new("s", "m").with_id(*id)).collect();
        id(events.iter())
    }

    /// The same events have the same id, others another, and nothing but the ids counts.
    #[test]
    fn ids_follow_the_events() {
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        let all = [
            of(&["a", "b"]),
            of(&["b", "a"]),
            of(&["ab"]),
            of(&["a"]),
            of(&["a", "b", "c"]),
            of(&["", "ab"]),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(all.iter().all(|id| id.len() == 32));
    }
}
