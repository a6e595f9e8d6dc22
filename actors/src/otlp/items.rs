//! The items of a request, one by one, and requests of some of them.

use std::ops::Range;

use super::{
    Signal,
    json::any_value,
    schema::ANY_VALUE,
    wire::{Fields, Value, put_bytes},
};

/// A log record, a span or a data point, and what stands around it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Item<'a> {
    /// The bytes of its `Resource`; empty where there is none.
    pub resource: &'a [u8],
    /// The URL of the resource's schema.
    pub resource_schema: &'a [u8],
    /// The bytes of its `InstrumentationScope`; empty where there is none.
    pub scope: &'a [u8],
    /// The URL of the scope's schema.
    pub scope_schema: &'a [u8],
    /// The bytes of the groups that it stands in, by resource and by scope, with all their items and their schema URLs.
    pub groups: [&'a [u8]; 2],
    /// Of a data point, the bytes of its `Metric`, with all its points.
    pub metric: &'a [u8],
    /// Of a data point, the number of the field that says of which kind the metric is.
    pub metric_kind: u32,
    /// Its own bytes.
    pub bytes: &'a [u8],
}

/// Walks over the items of a request that was checked. Where the bytes are damaged, it ends.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    levels: &'static [&'static [u32]],
    /// The messages that are being walked over, from the request down.
    path: Vec<Fields<'a>>,
    around: Item<'a>,
}

impl<'a> Items<'a> {
    /// Over the items of this request.
    pub fn of(request: &'a [u8], signal: Signal) -> Self {
        let mut path = Vec::with_capacity(signal.levels().len());
        path.push(Fields::of(request));
        Self { levels: signal.levels(), path, around: Item::default() }
    }

    fn enter(&mut self, number: u32, bytes: &'a [u8]) {
        match self.path.len() {
            1 => {
                self.around.groups[0] = bytes;
                [self.around.resource, self.around.resource_schema] = members(bytes, [1, 3]);
            }
            2 => {
                self.around.groups[1] = bytes;
                [self.around.scope, self.around.scope_schema] = members(bytes, [1, 3]);
            }
            3 => self.around.metric = bytes,
            _ => self.around.metric_kind = number,
        }
        self.path.push(Fields::of(bytes));
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            let depth = self.path.len();
            let Some(entry) = self.path.last_mut()?.next() else {
                self.path.pop();
                continue;
            };
            let entry = entry.ok()?;
            match entry.value {
                Value::Bytes(bytes) if self.levels[depth - 1].contains(&entry.number) => {
                    if depth == self.levels.len() {
                        return Some(Item { bytes, ..self.around });
                    }
                    self.enter(entry.number, bytes);
                }
                _ => {}
            }
        }
    }
}

/// The bytes of a message's member; the last one counts, as protobuf wants it.
pub(super) fn member(message: &[u8], number: u32) -> &[u8] {
    let [found] = members(message, [number]);
    found
}

/// The bytes of several members, in one walk.
fn members<const N: usize>(message: &[u8], numbers: [u32; N]) -> [&[u8]; N] {
    let mut found: [&[u8]; N] = [&[]; N];
    for entry in Fields::of(message).map_while(Result::ok) {
        if let (Some(index), Value::Bytes(bytes)) =
            (numbers.iter().position(|number| *number == entry.number), entry.value)
        {
            found[index] = bytes;
        }
    }
    found
}

/// The value of an attribute of a `Resource` as a text: a string as it is, anything else as JSON. `None` where it is not there
/// or empty; of several, the last one counts.
pub fn attribute(resource: &[u8], key: &str) -> Option<String> {
    let pairs = Fields::of(resource).map_while(Result::ok).filter(|entry| entry.number == 1);
    let found = pairs.filter_map(|entry| match entry.value {
        Value::Bytes(pair) if member(pair, 1) == key.as_bytes() => Some(member(pair, 2)),
        _ => None,
    });
    let value = found.last()?;
    let text = match ANY_VALUE.chosen(value)? {
        1 => member(value, 1).to_vec(),
        _ => {
            let mut json = Vec::new();
            any_value(value, &mut json);
            json
        }
    };
    Some(String::from_utf8_lossy(&text).into_owned()).filter(|text| !text.is_empty())
}

/// A request of those items of another whose index is wanted, with everything that stands around them. Groups that lose
/// all their items are left out.
pub fn select(request: &[u8], signal: Signal, mut wanted: impl FnMut(u32) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(request.len());
    frame(request, signal.levels(), &mut 0, &mut wanted, &mut out);
    out
}

/// Requests of runs of consecutive items, in order, each what [`select`] makes of its items; `None` where they would come to more
/// than so many bytes, since what stands around the items is in each of them.
///
/// The request is halved again and again, so it is not gone through once for each run.
pub fn select_runs(
    request: &[u8],
    signal: Signal,
    runs: &[Range<u32>],
    bytes_max: usize,
) -> Option<Vec<Vec<u8>>> {
    let mut selected = Selected { signal, left: bytes_max, requests: Vec::with_capacity(runs.len()) };
    selected.add(request, 0, runs)?;
    Some(selected.requests)
}

struct Selected {
    signal: Signal,
    /// Bytes that there may still be.
    left: usize,
    requests: Vec<Vec<u8>>,
}

impl Selected {
    /// Adds the runs, all of which are in the request, whose first item is that with the index `first`.
    fn add(&mut self, request: &[u8], first: u32, runs: &[Range<u32>]) -> Option<()> {
        let (lower, upper) = match runs {
            [] => return Some(()),
            [run] => {
                let mut found = select(request, self.signal, |index| run.contains(&(first + index)));
                found.shrink_to_fit();
                self.left = self.left.checked_sub(found.len())?;
                self.requests.push(found);
                return Some(());
            }
            _ => runs.split_at(runs.len() / 2),
        };
        let middle = upper[0].start;
        self.add(&select(request, self.signal, |index| first + index < middle), first, lower)?;
        self.add(&select(request, self.signal, |index| first + index >= middle), middle, upper)
    }
}

/// Appends what is wanted of a message; returns whether an item was among it.
fn frame(
    message: &[u8],
    levels: &[&[u32]],
    index: &mut u32,
    wanted: &mut impl FnMut(u32) -> bool,
    out: &mut Vec<u8>,
) -> bool {
    let Some((here, deeper)) = levels.split_first() else { return false };
    let mut any = false;
    for entry in Fields::of(message).map_while(Result::ok) {
        match entry.value {
            Value::Bytes(inner) if here.contains(&entry.number) => {
                if deeper.is_empty() {
                    let take = wanted(*index);
                    *index += 1;
                    if take {
                        out.extend_from_slice(entry.raw);
                        any = true;
                    }
                } else {
                    let mut group = Vec::with_capacity(inner.len());
                    if frame(inner, deeper, index, wanted, &mut group) {
                        put_bytes(out, entry.number, &group);
                        any = true;
                    }
                }
            }
            _ => out.extend_from_slice(entry.raw),
        }
    }
    any
}
