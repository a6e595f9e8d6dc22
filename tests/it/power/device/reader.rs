//! From the calls of a process to what they changed.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path},
};

use super::{super::trace::Call, Change, Node, Note, ROOT, Recording, Step, Sync};

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
    pub fn of(calls: &[Call], root: &Path, notes: &Path) -> Self {
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
    fn ended(&mut self, call: &Call, open: Option<usize>) {
        let result = call.result as usize;
        match (&*call.name, open) {
            ("openat", _) => self.opened(call),
            ("mkdirat", _) => self.made(call, self.at(call, 0, 1)),
            ("mkdir", _) => self.made(call, self.below_root(&call.path(0))),
            ("unlink" | "rmdir", _) => self.removed(call, self.below_root(&call.path(0))),
            ("unlinkat", _) => self.removed(call, self.at(call, 0, 1)),
            ("rename", _) => self.moved(call, self.below_root(&call.path(0)), self.below_root(&call.path(1))),
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

    fn opened(&mut self, call: &Call) {
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

    fn written(&mut self, call: &Call, open: usize, offset: Option<usize>, written: usize) {
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

    fn set_length(&mut self, call: &Call, file: Node, bytes: usize) {
        self.lengths.insert(file, bytes);
        self.step(call, Change::Length { file, bytes });
    }

    fn made(&mut self, call: &Call, at: Option<(Node, String)>) {
        if let Some((directory, name)) = at {
            self.name(call, directory, name, true);
        }
    }

    fn name(&mut self, call: &Call, directory: Node, name: String, is_directory: bool) -> Node {
        let node = self.recording.directories.len();
        self.recording.directories.push(is_directory);
        self.names.entry(directory).or_default().insert(name.clone(), node);
        self.step(call, Change::Name { directory, name, node });
        node
    }

    fn removed(&mut self, call: &Call, at: Option<(Node, String)>) {
        if let Some((directory, name)) = at {
            self.names.entry(directory).or_default().remove(&name);
            self.step(call, Change::Unname { directory, name });
        }
    }

    fn moved(&mut self, call: &Call, from: Option<(Node, String)>, to: Option<(Node, String)>) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let node = self.names.entry(from.0).or_default().remove(&from.1).expect("what is moved is there");
        self.names.entry(to.0).or_default().insert(to.1.clone(), node);
        self.step(call, Change::Move { from, to, node });
    }

    fn mapped(&mut self, call: &Call) {
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

    fn step(&mut self, call: &Call, change: Change) {
        self.recording.steps.push(Step { change, began: call.began, ended: call.ended });
    }

    /// The directory and the name that two arguments stand for, where that lies below the root.
    fn at(&self, call: &Call, directory: usize, path: usize) -> Option<(Node, String)> {
        let path = call.path(path);
        if path.is_absolute() {
            return self.below_root(&path);
        }
        let open = call.number(directory).and_then(|number| self.descriptors.get(&number))?;
        self.walk(self.open[*open].node, &path)
    }

    fn below_root(&self, path: &Path) -> Option<(Node, String)> {
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
