//! A model of a device and its file system: what of a recorded process may be there after the power went.
//!
//! # The model
//! - A change of a file is there for certain only when an `fsync` or `fdatasync` of that file, begun after the change
//!   returned, has returned. `sync_file_range` makes nothing certain.
//! - A name in a directory (made, moved or removed) is certain only after an `fsync` of that directory.
//! - Of everything else any part may be there, in any order: writes whole, torn at sectors, or as length without
//!   bytes; names without what they name. That is more than any file system in use would do at once.
//! - A device does not lie: what it said is synced stays.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Component, Path},
};

/// A file or directory, by the order of their making. The directory all lies in is the first.
type Node = usize;

const ROOT: Node = 0;

/// What a device writes at once. Old ones write 512 bytes, others 4 KiB.
const SECTORS: [usize; 2] = [512, 4096];

/// What one call changed.
#[derive(Debug, Clone)]
enum Change {
    Write { file: Node, offset: usize, bytes: Vec<u8> },
    Length { file: Node, bytes: usize },
    Name { directory: Node, name: String, node: Node },
    Unname { directory: Node, name: String },
    Move { from: (Node, String), to: (Node, String), node: Node },
}

/// A change, and the lines of the trace where its call began and ended.
#[derive(Debug)]
struct Step {
    change: Change,
    began: usize,
    ended: usize,
}

/// A sync of a file or directory.
#[derive(Debug)]
struct Sync {
    node: Node,
    began: usize,
    ended: usize,
}

/// Something the process said, and when it said so.
#[derive(Debug)]
pub struct Note {
    pub text: String,
    began: usize,
}

/// What a process did with the files below one directory.
#[derive(Debug, Default)]
pub struct Recording {
    steps: Vec<Step>,
    syncs: Vec<Sync>,
    notes: Vec<Note>,
    directories: Vec<bool>,
}

/// What survived of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survived {
    Nothing,
    Everything,
    /// Any part, in any order, by a seed.
    Some(u64),
    /// Names in the order in which they were made, up to some point, as file systems with a journal have them; and of
    /// the bytes any part, in any order.
    SomeInOrder(u64),
}

/// What is found after the power came back.
pub struct Image {
    contents: HashMap<Node, Vec<u8>>,
    names: HashMap<Node, BTreeMap<String, Node>>,
}

impl Recording {
    /// The moments at which the power may go: where a sync begins, where it has returned, and at each note.
    pub fn cuts(&self) -> Vec<usize> {
        let mut cuts: Vec<_> = self.syncs.iter().flat_map(|sync| [sync.began, sync.ended]).collect();
        cuts.extend(self.notes.iter().map(|note| note.began));
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// What the process had said when the power went.
    pub fn notes(&self, cut: usize) -> impl Iterator<Item = &str> {
        self.notes.iter().filter(move |note| note.began <= cut).map(|note| note.text.as_str())
    }

    /// Changes of files and directories, and their syncs.
    pub fn size(&self) -> (usize, usize) {
        (self.steps.len(), self.syncs.len())
    }

    /// What the device holds when the power goes at `cut`.
    pub fn image(&self, cut: usize, survived: Survived) -> Image {
        let mut image = Image { contents: HashMap::new(), names: HashMap::new() };
        let mut chance = Chance::new(survived);
        let is_certain: Vec<_> = self.steps.iter().map(|step| self.is_certain(step, cut)).collect();
        let names = |(index, step): (usize, &Step)| (!step.change.is_of_bytes()).then_some(index);
        let ordered: Vec<_> = self.steps.iter().enumerate().filter_map(names).collect();
        // A journal of names that has come to the last certain one has come to all before it.
        let at_least = ordered.iter().rposition(|index| is_certain[*index]).map_or(0, |last| last + 1);
        let there = ordered.iter().filter(|index| self.steps[**index].began <= cut).count().max(at_least);
        let upto = ordered.get(chance.between(at_least, there)).copied().unwrap_or(usize::MAX);
        for (index, step) in self.steps.iter().enumerate().filter(|(_, step)| step.began <= cut) {
            let in_order = matches!(survived, Survived::SomeInOrder(_)) && !step.change.is_of_bytes();
            if is_certain[index] || (in_order && index < upto) {
                image.apply(&step.change);
            } else if !in_order {
                chance.some_of(&step.change, &image).iter().for_each(|part| image.apply(part));
            }
        }
        image
    }

    fn is_certain(&self, step: &Step, cut: usize) -> bool {
        let is_synced = |node: Node| {
            let covers = |sync: &Sync| sync.node == node && sync.began >= step.ended && sync.ended <= cut;
            self.syncs.iter().any(covers)
        };
        match &step.change {
            Change::Write { file, .. } | Change::Length { file, .. } => is_synced(*file),
            Change::Name { directory, .. } | Change::Unname { directory, .. } => is_synced(*directory),
            Change::Move { from, to, .. } => is_synced(from.0) && is_synced(to.0),
        }
    }
}

impl Change {
    fn is_of_bytes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Length { .. })
    }
}

/// Decides what survives.
struct Chance {
    survived: Survived,
    random: fastrand::Rng,
    /// How much of this image's uncertain changes survives, of a hundred.
    percent: u8,
    sector: usize,
}

impl Chance {
    fn new(survived: Survived) -> Self {
        let seed = match survived {
            Survived::Nothing | Survived::Everything => 0,
            Survived::Some(seed) | Survived::SomeInOrder(seed) => seed,
        };
        let mut random = fastrand::Rng::with_seed(seed);
        let percent = *random.choice(&[5, 30, 60, 90, 98]).expect("there are some");
        let sector = *random.choice(&SECTORS).expect("there are some");
        Self { survived, random, percent, sector }
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        self.random.usize(least..=most)
    }

    fn hit(&mut self) -> bool {
        self.random.u8(..100) < self.percent
    }

    /// What is left of a change that nothing made certain.
    fn some_of(&mut self, change: &Change, image: &Image) -> Vec<Change> {
        match self.survived {
            Survived::Nothing => return Vec::new(),
            Survived::Everything => return vec![change.clone()],
            Survived::Some(_) | Survived::SomeInOrder(_) => {}
        }
        let Change::Write { file, offset, bytes } = change else {
            return if self.hit() { vec![change.clone()] } else { Vec::new() };
        };
        let end = offset + bytes.len();
        match self.random.u8(..4) {
            // The length came, the bytes did not.
            0 if image.length(*file) < end => vec![Change::Length { file: *file, bytes: end }],
            1 | 2 => {
                // Sectors are the device's, wherever the write begins.
                let mut parts = Vec::new();
                let mut at = 0;
                while at < bytes.len() {
                    let until = (((offset + at) / self.sector + 1) * self.sector - offset).min(bytes.len());
                    if self.hit() {
                        let bytes = bytes[at..until].to_vec();
                        parts.push(Change::Write { file: *file, offset: offset + at, bytes });
                    }
                    at = until;
                }
                parts
            }
            _ if self.hit() => vec![change.clone()],
            _ => Vec::new(),
        }
    }
}

impl Image {
    fn length(&self, file: Node) -> usize {
        self.contents.get(&file).map_or(0, Vec::len)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { file, offset, bytes } => {
                let content = self.contents.entry(*file).or_default();
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Change::Length { file, bytes } => self.contents.entry(*file).or_default().resize(*bytes, 0),
            Change::Name { directory, name, node } => {
                self.names.entry(*directory).or_default().insert(name.clone(), *node);
            }
            Change::Unname { directory, name } => {
                self.names.entry(*directory).or_default().remove(name);
            }
            Change::Move { from, to, node } => {
                self.names.entry(from.0).or_default().remove(&from.1);
                self.names.entry(to.0).or_default().insert(to.1.clone(), *node);
            }
        }
    }

    /// Puts it into a directory that is made for it.
    pub fn write(&self, recording: &Recording, path: &Path) {
        self.write_node(recording, ROOT, path);
    }

    fn write_node(&self, recording: &Recording, node: Node, path: &Path) {
        if !recording.directories[node] {
            return fs::write(path, self.contents.get(&node).map_or(&[][..], Vec::as_slice)).unwrap();
        }
        fs::create_dir(path).unwrap();
        for (name, node) in self.names.get(&node).into_iter().flatten() {
            self.write_node(recording, *node, &path.join(name));
        }
    }
}

/// What a descriptor stands for.
#[derive(Debug)]
struct Open {
    node: Node,
    offset: usize,
    at_end: bool,
    /// Its place may move by reading, which is not recorded.
    is_read: bool,
}

/// Reads the calls of a process and keeps what they changed.
struct Reader<'a> {
    root: &'a Path,
    notes: &'a Path,
    recording: Recording,
    names: HashMap<Node, BTreeMap<String, Node>>,
    lengths: HashMap<Node, usize>,
    descriptors: HashMap<i64, usize>,
    open: Vec<Open>,
}

/// The node of the file for notes, which is not on the device.
const NOTES: Node = usize::MAX;

impl Recording {
    /// Reads the calls of a process whose files lie below `root`, and whose notes are lines that it writes to `notes`.
    pub fn of(calls: &[super::trace::Call], root: &Path, notes: &Path) -> Self {
        let recording = Self { directories: vec![true], ..Self::default() };
        let (names, lengths, descriptors) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut reader = Reader { root, notes, recording, names, lengths, descriptors, open: Vec::new() };
        // A descriptor is looked up where its call began: at the end it may be another's. It is free again where
        // `close` began, for another thread may get it before that returns.
        let mut ends: Vec<_> =
            calls.iter().flat_map(|call| [(call.began, false, call), (call.ended, true, call)]).collect();
        ends.sort_by_key(|(at, is_end, _)| (*at, *is_end));
        let mut begun = HashMap::new();
        for (_, is_end, call) in ends {
            if is_end {
                let open = begun.remove(&call.began).flatten();
                if call.result >= 0 {
                    reader.ended(call, open);
                }
            } else {
                let open = call.number(0).and_then(|number| reader.descriptors.get(&number).copied());
                if call.name == "close"
                    && let Some(number) = call.number(0)
                {
                    reader.descriptors.remove(&number);
                }
                begun.insert(call.began, open);
            }
        }
        reader.recording
    }
}

impl Reader<'_> {
    fn ended(&mut self, call: &super::trace::Call, open: Option<usize>) {
        let result = call.result as usize;
        match (&*call.name, open) {
            ("openat", _) => self.opened(call),
            ("mkdirat", _) => self.made(call, self.at(call, 0, 1)),
            ("mkdir", _) => self.made(call, self.from_root(&call.path(0))),
            ("unlink" | "rmdir", _) => self.removed(call, self.from_root(&call.path(0))),
            ("unlinkat", _) => self.removed(call, self.at(call, 0, 1)),
            ("rename", _) => self.moved(call, self.from_root(&call.path(0)), self.from_root(&call.path(1))),
            ("renameat" | "renameat2", _) => self.moved(call, self.at(call, 0, 1), self.at(call, 2, 3)),
            ("fcntl", Some(open)) if call.has_flag(1, "F_DUPFD_CLOEXEC") || call.has_flag(1, "F_DUPFD") => {
                self.descriptors.insert(call.result, open);
            }
            ("dup" | "dup2" | "dup3", Some(open)) => {
                self.descriptors.insert(call.result, open);
            }
            ("lseek", Some(open)) => self.open[open].offset = result,
            ("write", Some(open)) => self.written(call, open, None, result),
            ("pwrite64", Some(open)) => {
                let offset = call.number(3).expect("pwrite64 has an offset") as usize;
                self.written(call, open, Some(offset), result);
            }
            ("ftruncate", Some(open)) => {
                let bytes = call.number(1).expect("ftruncate has a length") as usize;
                self.set_length(call, self.open[open].node, bytes);
            }
            ("fallocate", Some(open)) => {
                assert_eq!(call.number(1), Some(0), "only a fallocate that makes longer is understood");
                let end = (call.number(2).unwrap_or(0) + call.number(3).unwrap_or(0)) as usize;
                let node = self.open[open].node;
                if end > self.lengths.get(&node).copied().unwrap_or(0) {
                    self.set_length(call, node, end);
                }
            }
            ("fsync" | "fdatasync", Some(open)) => {
                let node = self.open[open].node;
                self.recording.syncs.push(Sync { node, began: call.began, ended: call.ended });
            }
            ("close" | "fcntl", _) => {}
            // What maps a file changes it unseen; what copies into one is not read.
            ("mmap", _) => self.mapped(call),
            ("copy_file_range" | "sendfile" | "splice", _) => {
                let into = call.number(if call.name == "sendfile" { 0 } else { 2 });
                let into = into.and_then(|number| self.descriptors.get(&number));
                assert!(into.is_none(), "{} into a file of the data is not understood", call.name);
            }
            ("sync" | "syncfs" | "io_uring_setup", _) => panic!("{} is not understood", call.name),
            (_, None) => {}
            (name, Some(_)) => panic!("{name} of a file of the data is not understood"),
        }
    }

    fn opened(&mut self, call: &super::trace::Call) {
        let path = call.path(1);
        let node = if path == self.notes {
            NOTES
        } else {
            let Some((directory, name)) = self.at(call, 0, 1) else { return };
            match self.names.get(&directory).and_then(|names| names.get(&name)).copied() {
                _ if name == "." => directory,
                Some(node) => {
                    if call.has_flag(2, "O_TRUNC") {
                        self.set_length(call, node, 0);
                    }
                    node
                }
                None if call.has_flag(2, "O_CREAT") => self.name(call, directory, name, false),
                None => panic!("{} was there before the recording", path.display()),
            }
        };
        let at_end = call.has_flag(2, "O_APPEND");
        let is_read = call.has_flag(2, "O_RDWR");
        self.open.push(Open { node, offset: 0, at_end, is_read });
        self.descriptors.insert(call.result, self.open.len() - 1);
    }

    fn written(&mut self, call: &super::trace::Call, open: usize, offset: Option<usize>, written: usize) {
        let mut bytes = call.bytes(1);
        bytes.truncate(written);
        let Open { node, at_end, is_read, offset: place } = self.open[open];
        if node == NOTES {
            let text = String::from_utf8(bytes).unwrap();
            let lines = text.lines().map(|line| Note { text: line.to_owned(), began: call.began });
            return self.recording.notes.extend(lines);
        }
        let length = self.lengths.get(&node).copied().unwrap_or(0);
        let offset = offset.unwrap_or_else(|| {
            assert!(!is_read || at_end, "where a file is read and written, only pwrite is understood");
            let offset = if at_end { length } else { place };
            self.open[open].offset = offset + written;
            offset
        });
        self.lengths.insert(node, length.max(offset + written));
        self.step(call, Change::Write { file: node, offset, bytes });
    }

    fn set_length(&mut self, call: &super::trace::Call, file: Node, bytes: usize) {
        self.lengths.insert(file, bytes);
        self.step(call, Change::Length { file, bytes });
    }

    fn made(&mut self, call: &super::trace::Call, at: Option<(Node, String)>) {
        if let Some((directory, name)) = at {
            self.name(call, directory, name, true);
        }
    }

    fn name(&mut self, call: &super::trace::Call, directory: Node, name: String, is_directory: bool) -> Node {
        let node = self.recording.directories.len();
        self.recording.directories.push(is_directory);
        self.names.entry(directory).or_default().insert(name.clone(), node);
        self.step(call, Change::Name { directory, name, node });
        node
    }

    fn removed(&mut self, call: &super::trace::Call, at: Option<(Node, String)>) {
        if let Some((directory, name)) = at {
            self.names.entry(directory).or_default().remove(&name);
            self.step(call, Change::Unname { directory, name });
        }
    }

    fn moved(&mut self, call: &super::trace::Call, from: Option<(Node, String)>, to: Option<(Node, String)>) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let node = self.names.entry(from.0).or_default().remove(&from.1).expect("what is moved is there");
        self.names.entry(to.0).or_default().insert(to.1.clone(), node);
        self.step(call, Change::Move { from, to, node });
    }

    fn mapped(&mut self, call: &super::trace::Call) {
        let open = call.number(4).and_then(|number| self.descriptors.get(&number)).copied();
        let Some(open) = open.filter(|_| call.has_flag(2, "PROT_WRITE") && call.has_flag(3, "MAP_SHARED"))
        else {
            return;
        };
        let node = self.open[open].node;
        let name = self.names.values().flatten().find_map(|(name, other)| (*other == node).then_some(name));
        // SQLite makes this one anew after a crash, whatever is in it.
        assert!(
            name.is_some_and(|name| name.ends_with("-shm")),
            "{name:?} is mapped, which is not understood"
        );
    }

    fn step(&mut self, call: &super::trace::Call, change: Change) {
        self.recording.steps.push(Step { change, began: call.began, ended: call.ended });
    }

    /// The directory and the name that two arguments stand for, where that lies below the root.
    fn at(&self, call: &super::trace::Call, directory: usize, path: usize) -> Option<(Node, String)> {
        let path = call.path(path);
        if path.is_absolute() {
            return self.from_root(&path);
        }
        let open = call.number(directory).and_then(|number| self.descriptors.get(&number))?;
        self.walk(self.open[*open].node, &path)
    }

    fn from_root(&self, path: &Path) -> Option<(Node, String)> {
        self.walk(ROOT, path.strip_prefix(self.root).ok()?)
    }

    fn walk(&self, from: Node, path: &Path) -> Option<(Node, String)> {
        let mut names = path.components().filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        let Some(last) = names.next_back() else { return Some((from, ".".to_owned())) };
        let mut at = from;
        for name in names {
            at = *self.names.get(&at)?.get(name)?;
        }
        Some((at, last.to_owned()))
    }
}
