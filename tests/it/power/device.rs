//! A model of a device and its file system: what of a recorded process may be there after the power went.
//!
//! # The model
//! - A change of a file is there for certain only when an `fsync` or `fdatasync` of that file, begun after the change
//!   returned, has returned. `sync_file_range` makes nothing certain.
//! - A name in a directory (made, moved or removed) is certain only after an `fsync` of that directory.
//! - Of everything else any part may be there, in any order: writes whole, torn at sectors, or as length without
//!   bytes; names without what they name. That is more than any file system in use would do at once.
//! - A device does not lie: what it said is synced stays.

mod reader;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
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
