//! A journal whose files were cut, overwritten and lost: it opens, it reads on to its end, and what it reads is what was
//! written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use forebay_actors::{
    event::{BlockBuilder, Draft, Events, Stamp, Stamped, Timestamp},
    journal::{Durability, Journal, Piece, SledJournal},
    record::Position,
    runtime::clock::Clock,
};
use tempfile::TempDir;
use uuid::Uuid;

/// Three generations with few records each: everything that reading passes over, in little room, because sled takes a
/// millisecond or more to open one.
const GENERATION_BYTES: u64 = 40_000;

/// Bytes of the messages of each commit: many small records, large ones, and one that is stored in two chunks.
const COMMITS: [&[usize]; 14] = [
    &[20, 300, 20],
    &[9_000, 12_000],
    &[30_000],
    &[40],
    &[150_000, 10],
    &[5_000; 5],
    &[60],
    &[61, 0],
    &[1_000; 3],
    &[62],
    &[63],
    &[64],
    &[65],
    &[66; 9],
];

/// Damage is done that often at most.
const DAMAGES_MAX: usize = 16;

/// A reading that takes more turns than this is one without an end.
const READS_MAX: usize = 10_000;

/// The input is a list of damages: a kind, a file, a place in it, and what else the kind needs.
///
/// # Panics
/// Where the journal does not open, gives another event for one that was written, gives a position twice, or loses what
/// was not damaged.
pub fn journal(damages: &[u8]) {
    let image = image();
    let mut files = image.files.clone();
    let touched = damage(&mut files, damages);
    let dir = directory();
    for (path, bytes) in &files {
        write(&dir.path().join(path), bytes);
    }

    let journal = open(dir.path());
    let found = read_all(&journal);
    for (&position, text) in &found {
        let written = image.messages.get(position as usize);
        assert!(Some(text) == written, "position {position} has another event than the one written there");
    }
    for (generation, span) in &image.generations {
        if !touched.iter().any(|path| path.starts_with(generation)) {
            assert!(
                span.clone().all(|at| found.contains_key(&at)),
                "{generation:?} was whole, and is not read"
            );
        }
    }

    let records = journal.commit(&blocks(&["new"])).expect("a damaged past does not stop what is new");
    let at = records[0].first;
    let (newest, _) = image.generations.last().expect("there are generations");
    let log_or_its_witness_is_whole = {
        let of_newest: Vec<_> = touched.iter().filter(|path| path.starts_with(newest)).collect();
        let witness = of_newest.iter().any(|path| path.ends_with("head"));
        of_newest.len() <= usize::from(witness) || !witness
    };
    if log_or_its_witness_is_whole {
        assert!(at.0 >= image.messages.len() as u64, "position {at} was given before");
    }
    drop(journal);

    let journal = open(dir.path());
    let again = read_all(&journal);
    for (position, text) in &found {
        assert!(
            again.get(position) == Some(text),
            "position {position} was read once, and not a second time"
        );
    }
    assert_eq!(again.get(&at.0).map(String::as_str), Some("new"));
}

/// A journal as it lies on the disk after a kill, and what was written to it.
struct Image {
    files: BTreeMap<PathBuf, Contents>,
    /// By the name of the directory: the positions in it. Oldest first.
    generations: Vec<(PathBuf, Range<u64>)>,
    messages: Vec<String>,
}

/// A file. sled makes its files longer than what it has written, so most of them are a hole at the end.
#[derive(Clone)]
struct Contents {
    used: Vec<u8>,
    len: usize,
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = directory();
        let journal = open(dir.path());
        let mut messages = Vec::new();
        for sizes in COMMITS {
            let texts: Vec<String> = sizes.iter().zip(messages.len()..).map(|(n, at)| text(at, *n)).collect();
            journal.commit(&blocks(&texts)).expect("there is room for a journal");
            messages.extend(texts);
        }
        // While it is open: as after a kill, not as after an orderly end.
        let mut files = BTreeMap::new();
        collect(dir.path(), Path::new(""), &mut files);
        let names: BTreeSet<PathBuf> =
            files.keys().filter_map(|path| path.iter().next().map(PathBuf::from)).collect();
        let first = |name: &PathBuf| name.to_str()?.parse().ok();
        let firsts = names.iter().map(|name| first(name).expect("a generation is named by its position"));
        let firsts: Vec<u64> = firsts.chain([messages.len() as u64]).collect();
        let spans = firsts.windows(2).map(|pair| pair[0]..pair[1]);
        let generations: Vec<_> = names.into_iter().zip(spans).collect();
        assert_eq!(generations.len(), 3, "{generations:?}");
        Image { files, generations, messages }
    })
}

/// In memory where there is such a place: what is damaged thousands of times need not be synced to a real disk before.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    dir.expect("there is room for a directory")
}

fn collect(root: &Path, below: &Path, files: &mut BTreeMap<PathBuf, Contents>) {
    for entry in fs::read_dir(root.join(below)).expect("it was just made") {
        let entry = entry.expect("it was just made");
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            collect(root, &path, files);
        } else {
            let mut used = fs::read(entry.path()).expect("it was just made");
            let len = used.len();
            used.truncate(used.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            files.insert(path, Contents { used, len });
        }
    }
}

fn write(path: &Path, contents: &Contents) {
    fs::create_dir_all(path.parent().expect("it is below a directory")).expect("there is room");
    fs::write(path, &contents.used).expect("there is room");
    let file = fs::File::options().write(true).open(path).expect("it was just made");
    file.set_len(contents.len as u64).expect("there is room");
}

/// Damages the files as the input says; which they were.
fn damage(files: &mut BTreeMap<PathBuf, Contents>, input: &[u8]) -> BTreeSet<PathBuf> {
    let names: Vec<PathBuf> = files.keys().cloned().collect();
    let (mut input, mut touched) = (Input(input), BTreeSet::new());
    for _ in 0..DAMAGES_MAX {
        if input.0.is_empty() {
            break;
        }
        let (kind, name) = (input.byte(), &names[usize::from(input.byte()) % names.len()]);
        let (place, more) = (input.place(), input.byte());
        let Some(file) = files.get_mut(name) else { continue };
        let at = place % (file.used.len() + 1);
        let behind = (at + usize::from(more)).min(file.used.len());
        touched.insert(name.clone());
        match kind % 8 {
            0 => {
                if let Some(byte) = file.used.get_mut(at) {
                    *byte ^= 1 << (more % 8);
                }
            }
            1 => file.used[at..behind].fill(0),
            2 => file.cut(at),
            3 => drop(files.remove(name)),
            4 => {
                for byte in &mut file.used[at..behind] {
                    *byte = input.byte();
                }
            }
            5 => {
                let bytes: Vec<u8> = (0..more).map(|_| input.byte()).collect();
                file.used.extend_from_slice(&bytes);
                file.len = file.len.max(file.used.len());
            }
            6 => {
                let block = file.used[at..behind].repeat(16);
                let to = input.place() % (file.used.len() + 1);
                let room = (file.used.len() - to).min(block.len());
                file.used[to..to + room].copy_from_slice(&block[..room]);
            }
            _ => file.cut(0),
        }
    }
    touched
}

impl Contents {
    fn cut(&mut self, len: usize) {
        self.used.truncate(len);
        self.len = len;
    }
}

/// The input, byte by byte; zeros where it has ended.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        byte
    }

    fn place(&mut self) -> usize {
        (0..3).fold(0, |place, _| place << 8 | usize::from(self.byte()))
    }
}

fn open(dir: &Path) -> SledJournal {
    let clock = Clock::from_fn(|| Timestamp::from_nanos(1_700_000_000_000_000_000));
    SledJournal::with_generation_bytes(dir, Durability::Fsync, Position(0), clock, GENERATION_BYTES)
        .unwrap_or_else(|error| panic!("damage is put aside, and the journal opens: {error}"))
}

/// Every event that can be read, by its position.
fn read_all(journal: &dyn Journal) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let mut from = journal.span().first;
    for _ in 0..READS_MAX {
        let pieces = match journal.read(from, 100_000) {
            Ok(pieces) => pieces,
            Err(error) => panic!("damage is an item of the answer: {error}"),
        };
        if pieces.is_empty() {
            assert_eq!(from, journal.span().end, "reading ends at the head");
            return found;
        }
        for piece in pieces {
            let first = match &piece {
                Piece::Record(record) => {
                    let (mut reader, mut events) = (Events::new(&record.payload), Vec::new());
                    while let Some(event) = reader.next_event() {
                        events.push(event.expect("a whole record is whole").message.to_owned());
                    }
                    assert_eq!(events.len(), record.count as usize);
                    found.extend((record.first.0..).zip(events));
                    record.first
                }
                Piece::Damaged(span) | Piece::Removed(span) => span.first,
            };
            assert!(first <= from && piece.end() > from, "{piece:?} does not follow {from}");
            from = piece.end();
        }
    }
    panic!("no end of the journal after {READS_MAX} readings, at {from}");
}

fn blocks<T: AsRef<str>>(messages: &[T]) -> Vec<Stamped> {
    let mut builder = BlockBuilder::default();
    for message in messages {
        let message = message.as_ref();
        builder.push(&Draft { event_id: None, timestamp: None, service: "s", message, metadata: None });
    }
    let stamp = Stamp { first_id: Uuid::from_u128(1), ingested_at: Timestamp::from_nanos(1) };
    builder.finish().into_iter().map(|block| block.stamped(stamp)).collect()
}

/// A text of its own for each position. Large ones and every second small one do not compress.
fn text(at: usize, bytes: usize) -> String {
    let mut text = format!("{at} ");
    let mut state = at as u64 + 1;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&if at.is_multiple_of(2) || bytes > 8_000 {
            format!("{state:016x}")
        } else {
            "the same ".to_owned()
        });
    }
    text
}
