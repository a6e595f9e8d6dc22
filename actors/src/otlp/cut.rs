//! A large request as several, in one pass.

use std::ops::Range;

use super::{
    Signal,
    wire::{Fields, Value, put_bytes},
};

/// How large a request is, by its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Log records, spans or data points.
    pub items: u64,
    /// What they take of the request, with their tags and lengths.
    pub own_bytes: usize,
    /// What they would come to where each has all that stands around it (resource, scope, metric).
    pub expanded_bytes: u64,
}

impl Extent {
    /// Of a request that was checked. Every item is stepped over once.
    pub fn of(request: &[u8], signal: Signal) -> Self {
        Self::within(request, signal.levels())
    }

    fn within(message: &[u8], levels: &[&[u32]]) -> Self {
        let Some((here, deeper)) = levels.split_first() else { return Self::default() };
        let (mut all, mut around) = (Self::default(), 0_u64);
        for entry in Fields::of(message).map_while(Result::ok) {
            let bytes = entry.raw.len();
            match entry.value {
                Value::Bytes(inner) if here.contains(&entry.number) => {
                    all.add(match deeper {
                        [] => Self { items: 1, own_bytes: bytes, expanded_bytes: bytes as u64 },
                        _ => Self::within(inner, deeper),
                    });
                }
                _ => around += bytes as u64,
            }
        }
        let repeated = all.items.saturating_mul(around);
        Self { expanded_bytes: all.expanded_bytes.saturating_add(repeated), ..all }
    }

    fn add(&mut self, other: Self) {
        self.items += other.items;
        self.own_bytes += other.own_bytes;
        self.expanded_bytes = self.expanded_bytes.saturating_add(other.expanded_bytes);
    }
}

/// Cuts a request that was checked into requests of consecutive items, which take at most so many bytes of it each, or as many
/// as stand around all of its items; an item that is larger stands alone. What stands around the items (resource, scope, metric) is
/// in every request that has some of them: each is what [`select`](super::select) would make of its items, and all together
/// are not much more than three times what they were cut from.
///
/// Every byte is looked at twice and copied a few times, however many requests there are.
pub fn cut(request: &[u8], signal: Signal, bytes_max: usize) -> Cuts<'_> {
    let bytes_max = bytes_max.max(request.len() - Extent::of(request, signal).own_bytes);
    let frames = vec![Frame::open(0, 0, request, signal.levels()[0])];
    Cuts { levels: signal.levels(), bytes_max, frames, bytes: 0, count: 0 }
}

/// The requests of a [`cut`], each with the number of its items.
#[derive(Debug)]
pub struct Cuts<'a> {
    levels: &'static [&'static [u32]],
    bytes_max: usize,
    /// The messages that are being walked over, from the request down.
    frames: Vec<Frame<'a>>,
    /// What the items that are in the frames take, and how many they are.
    bytes: usize,
    count: u32,
}

/// A message on the way to the items, and what the next request has of it so far.
#[derive(Debug)]
struct Frame<'a> {
    /// Its field in the message around it, and where it stands there.
    number: u32,
    at: usize,
    message: &'a [u8],
    fields: Fields<'a>,
    /// What stands beside the items and the groups of items: it goes into every request.
    around: Vec<Range<usize>>,
    within: Vec<Within>,
}

#[derive(Debug)]
enum Within {
    /// Items that stand one after the other.
    Items(Range<usize>),
    /// A group of items, made anew.
    Group { at: usize, number: u32, bytes: Vec<u8> },
}

impl Within {
    fn at(&self) -> usize {
        match self {
            Self::Items(range) => range.start,
            Self::Group { at, .. } => *at,
        }
    }
}

// === impl Frame ===

impl<'a> Frame<'a> {
    fn open(number: u32, at: usize, message: &'a [u8], deeper: &[u32]) -> Self {
        let mut around = Vec::new();
        for entry in Fields::of(message).map_while(Result::ok) {
            if !(matches!(entry.value, Value::Bytes(_)) && deeper.contains(&entry.number)) {
                extend(&mut around, entry.end - entry.raw.len()..entry.end);
            }
        }
        Self { number, at, message, fields: Fields::of(message), around, within: Vec::new() }
    }

    fn push_item(&mut self, range: Range<usize>) {
        match self.within.last_mut() {
            Some(Within::Items(last)) if last.end == range.start => last.end = range.end,
            _ => self.within.push(Within::Items(range)),
        }
    }

    /// The message with what there is of it, everything in the order in which it stood; `None` where no item is in it. It
    /// begins anew then.
    fn take(&mut self) -> Option<Vec<u8>> {
        if self.within.is_empty() {
            return None;
        }
        // Tag and length of a group on top.
        let within = self.within.iter().map(|within| match within {
            Within::Items(range) => range.len(),
            Within::Group { bytes, .. } => bytes.len() + 16,
        });
        let capacity = within.sum::<usize>() + self.around.iter().map(Range::len).sum::<usize>();
        let mut out = Vec::with_capacity(capacity);
        let mut around = self.around.iter().cloned().peekable();
        for within in self.within.drain(..) {
            while let Some(range) = around.next_if(|range| range.start < within.at()) {
                out.extend_from_slice(&self.message[range]);
            }
            match within {
                Within::Items(range) => out.extend_from_slice(&self.message[range]),
                Within::Group { number, bytes, .. } => put_bytes(&mut out, number, &bytes),
            }
        }
        around.for_each(|range| out.extend_from_slice(&self.message[range]));
        Some(out)
    }
}

/// Appends a range, to the last one where it goes on there.
fn extend(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

// === impl Cuts ===

impl Cuts<'_> {
    /// A request of all items that are in the frames; the frames stay open for what comes.
    fn take(&mut self) -> (Vec<u8>, u32) {
        let mut request = Vec::new();
        for index in (0..self.frames.len()).rev() {
            let Some(bytes) = self.frames[index].take() else { continue };
            let Frame { number, at, .. } = self.frames[index];
            match index.checked_sub(1) {
                Some(around) => self.frames[around].within.push(Within::Group { at, number, bytes }),
                None => request = bytes,
            }
        }
        self.bytes = 0;
        (request, std::mem::take(&mut self.count))
    }

    /// Ends the innermost message: what there is of it goes into the one around it.
    fn close(&mut self) {
        let Some(mut frame) = self.frames.pop() else { return };
        if let (Some(bytes), Some(around)) = (frame.take(), self.frames.last_mut()) {
            around.within.push(Within::Group { at: frame.at, number: frame.number, bytes });
        }
    }
}

impl Iterator for Cuts<'_> {
    type Item = (Vec<u8>, u32);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let depth = self.frames.len();
            let Some(entry) = self.frames.last_mut()?.fields.next().and_then(Result::ok) else {
                if depth > 1 {
                    self.close();
                    continue;
                }
                let last = (self.count > 0).then(|| self.take());
                self.frames.clear();
                return last;
            };
            let Value::Bytes(inner) = entry.value else { continue };
            if !self.levels[depth - 1].contains(&entry.number) {
                continue;
            }
            let at = entry.end - entry.raw.len();
            if let Some(deeper) = self.levels.get(depth) {
                self.frames.push(Frame::open(entry.number, at, inner, deeper));
                continue;
            }
            let is_full = self.count > 0 && self.bytes + entry.raw.len() > self.bytes_max;
            let full = is_full.then(|| self.take());
            self.frames[depth - 1].push_item(at..entry.end);
            self.bytes += entry.raw.len();
            self.count += 1;
            if full.is_some() {
                return full;
            }
        }
    }
}
