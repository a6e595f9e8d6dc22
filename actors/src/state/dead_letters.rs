//! Events that could not be delivered, kept with the reason until somebody replays or drops them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _};

use super::{StateDb, StateError, VALUE_BYTES_MAX};
use crate::{
    event::Timestamp,
    record::{Batch, Position, Record, SinkName, Span},
};

/// One event, or a range of positions whose bytes are gone, that a sink gave up on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The sink that could not deliver it.
    pub sink: SinkName,
    /// Its place in the journal; more than one position only where `event` is absent.
    pub span: Span,
    /// Why.
    pub reason: Reason,
    /// What the destination said, or what happened.
    pub error: String,
    /// The status it answered with.
    pub status: Option<u16>,
    /// Deliveries tried.
    pub attempts: u32,
    /// When it was given up on.
    pub at: Timestamp,
    /// The event as a block of one; absent where its bytes are gone.
    pub event: Option<Bytes>,
}

/// Why an event became a dead letter; the label `reason` of `forebay_sink_dead_letters_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The destination refuses it for what it is.
    Rejected,
    /// The sink panicked on it, again and again.
    Panicked,
    /// It was retried for as long as `retry.max_age` allows.
    Expired,
    /// The journal was full and the sink's policy is `drop_oldest`.
    DroppedOldest,
    /// Its bytes in the journal are damaged.
    Damaged,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Rejected, Self::Panicked, Self::Expired, Self::DroppedOldest, Self::Damaged];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Panicked => "panicked",
            Self::Expired => "expired",
            Self::DroppedOldest => "dropped_oldest",
            Self::Damaged => "damaged",
        }
    }
}

/// What the dead letters of a sink come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Dead letters.
    pub letters: u64,
    /// Bytes they take up, as stored.
    pub bytes: u64,
}

/// The dead letters of all sinks. Everything here blocks.
#[derive(Debug)]
pub struct DeadLetters {
    state: Arc<StateDb>,
    bytes_max: u64,
}

/// Key: sink name, 0, id u64, chunk u16.
const LETTERS: &str = "dead_letters";

/// Key: sink name.
const TOTALS: &str = "dead_letter_totals";

/// Key: sink name, 0, position u64, checksum of the event u32. A sink that dies between its letter and its cursor brings
/// the letter again. With the checksum, because a crash in `memory` mode can give a position to another event.
const EVENTS: &str = "dead_letter_events";

impl DeadLetter {
    /// A dead letter of one event, which is a payload of its own.
    pub fn of_event(
        sink: &SinkName,
        position: Position,
        event: Bytes,
        reason: Reason,
        at: Timestamp,
    ) -> Self {
        let span = Span { first: position, end: position.plus(1) };
        let event = Some(event);
        Self { sink: sink.clone(), span, reason, error: String::new(), status: None, attempts: 0, at, event }
    }

    /// A dead letter of positions without bytes.
    pub fn of_span(sink: &SinkName, span: Span, reason: Reason, at: Timestamp) -> Self {
        let error = format!("{} positions", span.count());
        Self { sink: sink.clone(), span, reason, error, status: None, attempts: 0, at, event: None }
    }

    /// What tells its event from every other of the sink; `None` where its bytes are gone.
    fn event_key(&self) -> Option<Vec<u8>> {
        let checksum = crc32fast::hash(self.event.as_deref()?).to_be_bytes();
        Some([self.sink.as_str().as_bytes(), &[0], &self.span.first.0.to_be_bytes(), &checksum].concat())
    }

    /// The event as a batch that can be delivered; `None` where its bytes are gone.
    pub fn batch(&self) -> Option<Batch> {
        let payload = self.event.clone()?;
        let record = Record { first: self.span.first, count: 1, written_at: self.at, payload };
        Some(Batch::new(self.span, vec![Arc::new(record)]))
    }
}

impl DeadLetters {
    /// Opens them; a sink whose letter would grow them over `bytes_max` has to wait.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn open(state: Arc<StateDb>, bytes_max: u64) -> Result<Self, StateError> {
        let letters = Self { state, bytes_max };
        letters.all_totals()?;
        Ok(letters)
    }

    /// Keeps the letters, all or none, durably; of an event that has one already, no second.
    ///
    /// # Errors
    /// [`StateError::DeadLettersFull`], or where the database refuses.
    pub fn add(&self, letters: &[DeadLetter]) -> Result<(), StateError> {
        let encoded: Vec<_> = letters
            .iter()
            .map(|letter| (&letter.sink, rmp_serde::to_vec(letter).expect("a Vec takes every letter")))
            .collect();
        let new: u64 = encoded.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        // A range is the account of what is gone already: it is never refused.
        let has_events = letters.iter().any(|letter| letter.event.is_some());
        if has_events && self.all_totals()?.iter().map(|(_, t)| t.bytes).sum::<u64>() + new > self.bytes_max {
            return Err(StateError::DeadLettersFull { bytes_max: self.bytes_max });
        }
        let ids: Vec<u64> = self.state.with(|open| {
            let ids = encoded.iter().map(|_| open.db.generate_id()).collect::<Result<_, _>>();
            ids.map_err(|e| self.state.failed(e))
        })?;
        self.transact(|tree, totals, events| {
            for (letter, ((sink, bytes), id)) in letters.iter().zip(encoded.iter().zip(&ids)) {
                if let Some(event) = letter.event_key()
                    && events.insert(event, &id.to_be_bytes())?.is_some()
                {
                    continue;
                }
                for (chunk, part) in bytes.chunks(VALUE_BYTES_MAX).enumerate() {
                    tree.insert(key(sink, *id, chunk as u16), part)?;
                }
                change_totals(totals, sink, |t| {
                    t.letters += 1;
                    t.bytes += bytes.len() as u64;
                })?;
            }
            Ok(())
        })
    }

    /// The letters of one sink in order, beginning behind the id `after`, at most `limit`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn list(
        &self,
        sink: &SinkName,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, StateError> {
        let lower = key(sink, after.map_or(0, |id| id + 1), 0);
        let upper = key(sink, u64::MAX, u16::MAX);
        let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
        self.state.with(|open| {
            for item in self.state.tree(open, LETTERS)?.range(lower..=upper) {
                let (key, part) = item.map_err(|e| self.state.failed(e))?;
                let id = key[key.len() - 10..key.len() - 2].try_into().map(u64::from_be_bytes);
                let id = id.map_err(|e| self.state.failed(e))?;
                if let Some((_, bytes)) = found.last_mut().filter(|(last, _)| *last == id) {
                    bytes.extend_from_slice(&part);
                } else if found.len() == limit {
                    break;
                } else {
                    found.push((id, part.to_vec()));
                }
            }
            Ok(())
        })?;
        let decode = |(id, bytes): (u64, Vec<u8>)| Ok((id, rmp_serde::from_slice(&bytes)?));
        let decoded: Result<_, rmp_serde::decode::Error> = found.into_iter().map(decode).collect();
        decoded.map_err(|e| self.state.failed(e))
    }

    /// Removes a letter; `false` where there is none.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn remove(&self, sink: &SinkName, id: u64) -> Result<bool, StateError> {
        let range = key(sink, id, 0)..=key(sink, id, u16::MAX);
        let parts = self.state.with(|open| {
            let parts = self.state.tree(open, LETTERS)?.range(range).collect::<Result<Vec<_>, _>>();
            parts.map_err(|e| self.state.failed(e))
        })?;
        if parts.is_empty() {
            return Ok(false);
        }
        let whole: Vec<u8> = parts.iter().flat_map(|(_, part)| part.to_vec()).collect();
        let bytes = whole.len() as u64;
        // One that cannot be read has to go all the same.
        let event = rmp_serde::from_slice(&whole).ok().and_then(|letter: DeadLetter| letter.event_key());
        self.transact(|tree, totals, events| {
            for (key, _) in &parts {
                tree.remove(key)?;
            }
            if let Some(event) = &event {
                events.remove(event.as_slice())?;
            }
            change_totals(totals, sink, |t| {
                t.letters = t.letters.saturating_sub(1);
                t.bytes = t.bytes.saturating_sub(bytes);
            })
        })?;
        Ok(true)
    }

    /// What there is, by sink.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn all_totals(&self) -> Result<Vec<(SinkName, Totals)>, StateError> {
        let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (name, value) = item.map_err(|e| self.state.failed(e))?;
            let name = std::str::from_utf8(&name).map_err(|e| self.state.failed(e))?;
            let totals = rmp_serde::from_slice(&value).map_err(|e| self.state.failed(e))?;
            Ok((SinkName::from(name), totals))
        };
        self.state.with(|open| self.state.tree(open, TOTALS)?.iter().map(read).collect())
    }

    fn transact(
        &self,
        change: impl Fn(
            &sled::transaction::TransactionalTree,
            &sled::transaction::TransactionalTree,
            &sled::transaction::TransactionalTree,
        ) -> Result<(), ConflictableTransactionError<String>>,
    ) -> Result<(), StateError> {
        self.state.with(|open| {
            let tree = |name| self.state.tree(open, name);
            let (letters, totals, events) = (tree(LETTERS)?, tree(TOTALS)?, tree(EVENTS)?);
            let done: Result<(), TransactionError<String>> = (&letters, &totals, &events)
                .transaction(|(letters, totals, events)| change(letters, totals, events));
            done.map_err(|e| self.state.failed(format!("{e:?}")))?;
            self.state.sync(open)
        })
    }
}

fn key(sink: &SinkName, id: u64, chunk: u16) -> Vec<u8> {
    [sink.as_str().as_bytes(), &[0], &id.to_be_bytes(), &chunk.to_be_bytes()].concat()
}

fn change_totals(
    tree: &sled::transaction::TransactionalTree,
    sink: &SinkName,
    change: impl Fn(&mut Totals),
) -> Result<(), ConflictableTransactionError<String>> {
    let abort = |e: rmp_serde::decode::Error| ConflictableTransactionError::Abort(e.to_string());
    let found = tree.get(sink.as_str())?;
    let mut totals =
        found.map(|value| rmp_serde::from_slice(&value)).transpose().map_err(abort)?.unwrap_or_default();
    change(&mut totals);
    tree.insert(sink.as_str(), rmp_serde::to_vec(&totals).expect("a Vec takes every total"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::event::{BlockBuilder, Draft, EventId, Stamp};

    fn letter(sink: &str, message: &str) -> DeadLetter {
        let at = Timestamp::from_nanos(5);
        let mut builder = BlockBuilder::default();
        let metadata = Some("{\"k\":[1]}");
        builder.push(&Draft {
            event_id: Some("id-1"),
            timestamp: Some(at),
            service: "api",
            message,
            metadata,
        });
        let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: at };
        let event = builder.finish().remove(0).stamped(stamp).bytes().clone();
        DeadLetter::of_event(&SinkName::from(sink), Position(7), event, Reason::Rejected, at)
    }

    /// A letter comes back whole, also one far larger than a value, after the database was reopened.
    #[test]
    fn letters_survive_reopening_and_can_be_replayed() {
        let dir = TempDir::new().unwrap();
        let long = "x".repeat(100_000);
        {
            let letters = DeadLetters::open(Arc::new(StateDb::open(dir.path()).unwrap()), 1 << 30).unwrap();
            letters.add(&[letter("a", "short"), letter("b", "other"), letter("a", &long)]).unwrap();
        }
        let letters = DeadLetters::open(Arc::new(StateDb::open(dir.path()).unwrap()), 1 << 30).unwrap();
        let sink = SinkName::from("a");
        let found = letters.list(&sink, None, 10).unwrap();
        assert_eq!(found.len(), 2);
        let batch = found[1].1.batch().unwrap();
        let mut events = batch.events();
        let event = events.next_event().unwrap().unwrap();
        assert_eq!((event.message, event.event_id), (&long[..], EventId::Given("id-1")));
        assert_eq!(letters.list(&sink, Some(found[0].0), 10).unwrap().len(), 1);
        assert!(letters.remove(&sink, found[0].0).unwrap());
        assert!(!letters.remove(&sink, found[0].0).unwrap());
        let totals = letters.all_totals().unwrap();
        assert_eq!(
            totals.iter().map(|(s, t)| (s.as_str(), t.letters)).collect::<Vec<_>>(),
            [("a", 1), ("b", 1)]
        );
    }

    /// Scenario: a letter is written, and its sink dies before the cursor has moved: it comes again, also after a restart of
    /// the process; and another event comes under the same position, as after a crash in `memory` mode.
    /// Guarantee: each event has one letter, and the totals count it once; when it was removed, it may come again.
    #[test]
    fn r0317_an_event_had_two_dead_letters() {
        let dir = TempDir::new().unwrap();
        let sink = SinkName::from("a");
        for _ in 0..2 {
            let letters = DeadLetters::open(Arc::new(StateDb::open(dir.path()).unwrap()), 1 << 30).unwrap();
            letters.add(&[letter("a", "this"), letter("a", "other"), letter("b", "this")]).unwrap();
            letters.add(&[letter("a", "this")]).unwrap();
            assert_eq!(letters.list(&sink, None, 10).unwrap().len(), 2);
            assert_eq!(letters.all_totals().unwrap()[0].1.letters, 2);
        }
        let letters = DeadLetters::open(Arc::new(StateDb::open(dir.path()).unwrap()), 1 << 30).unwrap();
        let first = letters.list(&sink, None, 1).unwrap()[0].0;
        assert!(letters.remove(&sink, first).unwrap());
        letters.add(&[letter("a", "this")]).unwrap();
        assert_eq!(letters.list(&sink, None, 10).unwrap().len(), 2);
    }

    /// At the cap the sink is told to wait; an account of what is gone already is still taken.
    #[test]
    fn a_full_box_refuses_events_but_not_ranges() {
        let dir = TempDir::new().unwrap();
        let letters = DeadLetters::open(Arc::new(StateDb::open(dir.path()).unwrap()), 500).unwrap();
        letters.add(&[letter("a", "fits")]).unwrap();
        assert!(matches!(
            letters.add(&[letter("a", &"y".repeat(500))]),
            Err(StateError::DeadLettersFull { .. })
        ));
        let span = Span { first: Position(1), end: Position(9) };
        let range =
            DeadLetter::of_span(&SinkName::from("a"), span, Reason::DroppedOldest, Timestamp::default());
        letters.add(&[range]).unwrap();
    }
}
