//! What this process knows of the bucket: pure bookkeeping, no server.
//!
//! The server's revisions say what is newer. What is known here may be older than what is there, never newer: so whoever
//! changes an entry says which revision of it he knows, and is refused where there is another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use forebay_actors::{
    holding::HeldKey,
    record::{Position, SinkName, Span},
    state::{HeldTotals, Note, Stage, Sums},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Of which batch an entry is. Sorted: those of one owner and one holder in the order of their positions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) owner: SinkName,
    pub(super) holder: SinkName,
    first: Position,
    end: Position,
    number: u64,
}

/// What an entry says, as it stands in the bucket: JSON, for whoever looks with another client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) stage: Stage,
    #[serde(flatten)]
    pub(super) note: Note,
    /// Where the holder has it.
    pub(super) place: Arc<str>,
    /// Which stream its positions are of.
    pub(super) stream: Arc<str>,
    /// The process that has it at hand.
    pub(super) by: Option<u64>,
    /// Changed by that one as long as it lives.
    pub(super) beat: u64,
}

/// The same, and how it came here.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) entry: Entry,
    pub(super) revision: u64,
    seen_at: Instant,
    /// It was there when the bucket was last read from its beginning.
    is_confirmed: bool,
}

/// Memory of an entry: itself, and what a tree of them has unused.
pub(super) const ENTRY_BYTES: usize = 3 * size_of::<(Id, Known)>() / 2;

/// All entries of one stream.
#[derive(Debug)]
pub(super) struct Mirror {
    /// Entries of any other stream are not taken in: their positions would be taken for those of other events.
    stream: Arc<str>,
    /// An entry that its process has not renewed for so long is nobody's.
    stale_after: Duration,
    entries: BTreeMap<Id, Known>,
    sums: BTreeMap<(SinkName, SinkName), Sums>,
    /// Those that are leaving: few among very many that are held.
    leaving: BTreeSet<Id>,
    places: BTreeSet<Arc<str>>,
}

// === impl Id ===

impl Id {
    pub(super) fn new(holder: &SinkName, key: &HeldKey) -> Self {
        Self {
            owner: key.owner.clone(),
            holder: holder.clone(),
            first: key.span.first,
            end: key.span.end,
            number: key.number,
        }
    }

    pub(super) fn key(&self) -> HeldKey {
        let span = Span { first: self.first, end: self.end };
        HeldKey { owner: self.owner.clone(), span, number: self.number }
    }

    /// The key in the bucket. Names of sinks have no dots.
    pub(super) fn name(&self) -> String {
        format!("{}.{}.{}", self.owner, self.holder, self.key().name())
    }

    /// What [`Id::name`] has made.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut names = name.split('.');
        let (owner, holder, rest) = (names.next()?, names.next()?, names.next()?);
        let mut numbers = rest.split('-');
        let (first, end, number) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let is_whole = names.next().is_none() && numbers.next().is_none();
        let position = |text: &str| text.parse().map(Position).ok();
        let id = Self {
            owner: owner.into(),
            holder: holder.into(),
            first: position(first)?,
            end: position(end)?,
            number: u64::from_str_radix(number, 16).ok()?,
        };
        is_whole.then_some(id)
    }

    /// Where the entries of an owner and a holder begin whose batches begin here or behind.
    fn from(owner: &SinkName, holder: &SinkName, first: Position) -> Self {
        Self { owner: owner.clone(), holder: holder.clone(), first, end: Position(0), number: 0 }
    }
}

// === impl Mirror ===

impl Mirror {
    pub(super) fn new(stream: Arc<str>, stale_after: Duration) -> Self {
        let (entries, sums) = (BTreeMap::new(), BTreeMap::new());
        Self { stream, stale_after, entries, sums, leaving: BTreeSet::new(), places: BTreeSet::new() }
    }

    /// Those of an owner and a holder that are leaving from this place.
    pub(super) fn leaving<'a>(
        &'a self,
        owner: &'a SinkName,
        holder: &'a SinkName,
        place: &'a str,
    ) -> impl Iterator<Item = &'a Id> {
        let from = Id::from(owner, holder, Position::default());
        let of = move |id: &&Id| id.owner == *owner && id.holder == *holder;
        let is_there = move |id: &&Id| self.entries.get(id).is_some_and(|known| *known.entry.place == *place);
        self.leaving.range(from..).take_while(of).filter(is_there)
    }

    pub(super) fn is_stale(&self, known: &Known, now: Instant) -> bool {
        now.saturating_duration_since(known.seen_at) >= self.stale_after
    }

    pub(super) fn get(&self, id: &Id) -> Option<&Known> {
        self.entries.get(id)
    }

    /// There is this under that revision; passed over where something newer is known. `false` where it is of another stream.
    pub(super) fn put(&mut self, id: Id, mut entry: Entry, revision: u64, now: Instant) -> bool {
        if entry.stream != self.stream {
            return false;
        }
        if self.entries.get(&id).is_some_and(|known| known.revision > revision) {
            return true;
        }
        // One text for all.
        let names = self.sums.get_key_value(&(id.owner.clone(), id.holder.clone()));
        let id = match names {
            Some(((owner, holder), _)) => Id { owner: owner.clone(), holder: holder.clone(), ..id },
            None => id,
        };
        entry.stream = self.stream.clone();
        entry.place = match self.places.get(&entry.place) {
            Some(place) => place.clone(),
            None => {
                self.places.insert(entry.place.clone());
                entry.place
            }
        };
        self.count_out(&id);
        self.sums_of(&id).add(entry.stage, entry.note);
        if entry.stage == Stage::Leaving {
            self.leaving.insert(id.clone());
        }
        self.entries.insert(id, Known { entry, revision, seen_at: now, is_confirmed: true });
        true
    }

    /// It is there no more since that revision.
    pub(super) fn remove(&mut self, id: &Id, revision: u64) {
        if self.entries.get(id).is_some_and(|known| known.revision <= revision) {
            self.count_out(id);
            self.entries.remove(id);
        }
    }

    /// The bucket is read from its beginning: what is not met until [`Mirror::was_read`] is there no more. Who could not be
    /// heard meanwhile is not taken for dead.
    pub(super) fn is_read(&mut self, now: Instant) {
        for known in self.entries.values_mut() {
            (known.is_confirmed, known.seen_at) = (false, now);
        }
    }

    /// It was, to its end. What is `kept` stays known: whoever changes it is told what became of it.
    pub(super) fn was_read(&mut self, kept: &BTreeSet<Id>) {
        let is_gone = |(id, known): &(&Id, &Known)| !known.is_confirmed && !kept.contains(id);
        let gone: Vec<Id> = self.entries.iter().filter(is_gone).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.remove(id, u64::MAX));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Id, &Known)> {
        self.entries.iter()
    }

    /// Those of an owner and a holder, in the order of their positions.
    pub(super) fn of<'a>(
        &'a self,
        owner: &'a SinkName,
        holder: &'a SinkName,
        first: Position,
    ) -> impl Iterator<Item = (&'a Id, &'a Known)> {
        let from = Id::from(owner, holder, first);
        self.entries.range(from..).take_while(move |(id, _)| id.owner == *owner && id.holder == *holder)
    }

    /// The parts of a span that are held for an owner, in order; the span's message begins at `message`.
    pub(super) fn held_within(&self, owner: &SinkName, message: Position, span: Span) -> Vec<Span> {
        let holders = self.sums.keys().filter(|(of, _)| of == owner).map(|(_, holder)| holder);
        let entries = holders
            .flat_map(|holder| self.of(owner, holder, message).take_while(|(id, _)| id.first < span.end));
        let mut held: Vec<Span> = entries
            .filter(|(id, known)| known.entry.stage == Stage::Held && id.end > span.first)
            .map(|(id, _)| id.key().span)
            .collect();
        held.sort_unstable_by_key(|span| span.first);
        held
    }

    pub(super) fn sums(&self, owner: &SinkName, holder: &SinkName) -> Sums {
        self.sums.get(&(owner.clone(), holder.clone())).copied().unwrap_or_default()
    }

    pub(super) fn totals(&self) -> Vec<(SinkName, SinkName, HeldTotals)> {
        let held = |((owner, holder), sums): (&(SinkName, SinkName), &Sums)| {
            (owner.clone(), holder.clone(), sums.held)
        };
        self.sums.iter().map(held).filter(|(_, _, totals)| totals.batches > 0).collect()
    }

    /// Batches of an owner, in whatever stage and wherever.
    pub(super) fn batches(&self, owner: &SinkName) -> u64 {
        self.sums.iter().filter(|((of, _), _)| of == owner).map(|(_, sums)| sums.batches()).sum()
    }

    fn count_out(&mut self, id: &Id) {
        if let Some(Entry { stage, note, .. }) = self.entries.get(id).map(|known| known.entry.clone()) {
            self.sums_of(id).remove(stage, note);
            self.leaving.remove(id);
        }
    }

    fn sums_of(&mut self, id: &Id) -> &mut Sums {
        self.sums.entry((id.owner.clone(), id.holder.clone())).or_default()
    }
}

#[cfg(test)]
mod tests {
    use forebay_actors::event::Timestamp;

    use super::*;

    const ME: u64 = 1;
    const OTHER: u64 = 2;

    fn id(first: u64, end: u64) -> Id {
        let span = Span { first: Position(first), end: Position(end) };
        Id::new(&"overflow".into(), &HeldKey { owner: "up".into(), span, number: 7 })
    }

    fn entry(stage: Stage, by: Option<u64>) -> Entry {
        let note = Note { events: 10, bytes: 100, at: Timestamp::from_nanos(5) };
        Entry { stage, note, place: "s3://overflow/".into(), stream: "ours".into(), by, beat: 0 }
    }

    const STALE_AFTER: Duration = Duration::from_secs(30);

    fn mirror() -> Mirror {
        Mirror::new("ours".into(), STALE_AFTER)
    }

    /// The name of an entry and what it says come back as they were; nothing else is taken for an entry.
    #[test]
    fn entries_are_read_as_they_were_written() {
        let id = id(5, 17);
        assert_eq!(id.name(), "up.overflow.00000000000000000005-00000000000000000017-0000000000000007");
        assert_eq!(Id::parse(&id.name()), Some(id));
        for other in
            ["up.overflow", "up.overflow.5-17", "up.overflow.5-17-7.x", "up.overflow.5-17-7-1", "a.b.c-d-e"]
        {
            assert_eq!(Id::parse(other), None, "{other}");
        }
        let entry = entry(Stage::Held, Some(ME));
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        assert!(text.contains(r#""stage":"held""#), "{text}");
    }

    /// Scenario: what the server tells comes behind what this process has already written or removed.
    /// Guarantee: the newer counts, and the sums are those of what is there.
    #[test]
    fn what_is_newer_counts() {
        let (mut mirror, now) = (mirror(), Instant::now());
        mirror.put(id(0, 10), entry(Stage::Intended, Some(ME)), 1, now);
        mirror.put(id(0, 10), entry(Stage::Held, None), 3, now);
        mirror.put(id(0, 10), entry(Stage::Intended, Some(ME)), 2, now);
        mirror.remove(&id(0, 10), 2);
        let sums = mirror.sums(&"up".into(), &"overflow".into());
        assert_eq!(sums.held, HeldTotals { batches: 1, events: 10, bytes: 100 });
        assert_eq!((sums.intended, sums.leaving), (0, 0));
        mirror.remove(&id(0, 10), 4);
        assert_eq!(mirror.sums(&"up".into(), &"overflow".into()), Sums::default());
        assert!(mirror.totals().is_empty());
    }

    /// Scenario: the bucket is read once more, after the connection was lost, and something went from it meanwhile.
    /// Guarantee: that is gone here, too; what this process adds while it is read stays.
    #[test]
    fn what_is_not_met_again_is_gone() {
        let (mut mirror, now) = (mirror(), Instant::now());
        mirror.put(id(0, 10), entry(Stage::Held, None), 1, now);
        mirror.put(id(10, 20), entry(Stage::Held, None), 2, now);
        mirror.is_read(now);
        mirror.put(id(10, 20), entry(Stage::Held, None), 2, now);
        mirror.put(id(20, 30), entry(Stage::Intended, Some(ME)), 9, now);
        mirror.was_read(&BTreeSet::new());
        let left: Vec<_> = mirror.iter().map(|(id, _)| id.key().span.first.0).collect();
        assert_eq!(left, [10, 20]);
        assert_eq!(mirror.batches(&"up".into()), 2);
    }

    /// Scenario: another process has a batch at hand, and is not heard of any more; the server was away for a while.
    /// Guarantee: the batch is free when the other has missed its renewals, counted from when it could be heard again.
    #[test]
    fn what_a_dead_process_had_at_hand_is_free() {
        let (mut mirror, now) = (mirror(), Instant::now());
        mirror.put(id(0, 10), entry(Stage::Held, Some(OTHER)), 1, now);
        let is_stale = |mirror: &Mirror, at| mirror.is_stale(mirror.get(&id(0, 10)).unwrap(), at);
        assert!(!is_stale(&mirror, now + STALE_AFTER / 2));
        assert!(is_stale(&mirror, now + STALE_AFTER));
        mirror.is_read(now + STALE_AFTER);
        assert!(!is_stale(&mirror, now + STALE_AFTER));
        mirror.put(id(0, 10), entry(Stage::Held, Some(OTHER)), 2, now + 2 * STALE_AFTER);
        assert!(!is_stale(&mirror, now + 2 * STALE_AFTER + STALE_AFTER / 2));
    }

    /// Scenario: parts of a message are held, and it comes again.
    /// Guarantee: its parts that are held are told, in order, those of other messages are not, and what was only intended is not.
    #[test]
    fn what_is_held_of_a_message_is_told() {
        let (mut mirror, now) = (mirror(), Instant::now());
        for (first, end, stage) in [
            (60, 70, Stage::Held),
            (100, 105, Stage::Held),
            (105, 110, Stage::Intended),
            (110, 120, Stage::Held),
            (120, 125, Stage::Leaving),
            (200, 210, Stage::Held),
        ] {
            mirror.put(id(first, end), entry(stage, None), 1, now);
        }
        let within = |first, end| {
            let span = Span { first: Position(first), end: Position(end) };
            let held = mirror.held_within(&"up".into(), Position(100), span);
            held.iter().map(|span| (span.first.0, span.end.0)).collect::<Vec<_>>()
        };
        assert_eq!(within(100, 130), [(100, 105), (110, 120)]);
        assert_eq!(within(106, 112), [(110, 120)]);
        assert_eq!(within(120, 130), []);
    }

    /// Scenario: a batch among others is not needed any more; it lies where this process keeps things, another elsewhere.
    /// Guarantee: it is found, and that one alone, until it is gone.
    #[test]
    fn what_is_leaving_is_found() {
        let (mut mirror, now) = (mirror(), Instant::now());
        mirror.put(id(0, 10), entry(Stage::Held, None), 1, now);
        mirror.put(id(10, 20), entry(Stage::Leaving, None), 2, now);
        mirror.put(id(20, 30), Entry { place: "elsewhere".into(), ..entry(Stage::Leaving, None) }, 3, now);
        let leaving = |mirror: &Mirror| {
            let (owner, holder) = ("up".into(), "overflow".into());
            mirror.leaving(&owner, &holder, "s3://overflow/").cloned().collect::<Vec<_>>()
        };
        assert_eq!(leaving(&mirror), [id(10, 20)]);
        mirror.remove(&id(10, 20), 4);
        assert_eq!(leaving(&mirror), []);
    }

    /// Scenario: the stream was removed and made anew; the bucket still has what was held before.
    /// Guarantee: that is not taken for what has the same positions now.
    #[test]
    fn entries_of_another_stream_are_not_ours() {
        let mut mirror = mirror();
        let other = Entry { stream: "before".into(), ..entry(Stage::Held, None) };
        assert!(!mirror.put(id(0, 10), other, 1, Instant::now()));
        assert!(mirror.totals().is_empty());
    }
}
