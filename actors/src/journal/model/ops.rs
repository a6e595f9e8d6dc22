//! What may happen to a journal, and the device on which some of it does.

use std::{fs, path::PathBuf, process::Command};

use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Commits messages of these sizes.
    Commit(Vec<usize>),
    /// As before, from two threads at once, one commit for each.
    CommitTogether(Vec<usize>, Vec<usize>),
    /// Moves the cursor to so many hundredths of what there is, and saves it.
    Ack(usize),
    /// Removes what the cursor has passed.
    Remove,
    ReadFrom(usize),
    /// Fills the generation up, so that the next commit begins another.
    Roll,
    Reopen,
    /// Goes on with a copy of the files as they are, while the journal is open.
    Crash,
    /// Changes a bit of a closed journal: of so many hundredths of the generations one, there a file, there a place.
    Corrupt {
        generation: usize,
        file: Part,
        at: usize,
        bit: u8,
    },
    /// Takes all space of the device, where the test has one of its own.
    Fill,
    /// Gives it back.
    Free,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Log,
    Settings,
    Snapshot,
    Witness,
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1_usize..200, 1_000_usize..60_000, Just(400_000)], 1..6)
}

fn common_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => sizes().prop_map(Op::Commit),
        2 => (sizes(), sizes()).prop_map(|(one, other)| Op::CommitTogether(one, other)),
        2 => (0_usize..=100).prop_map(Op::Ack),
        1 => Just(Op::Remove),
        2 => (0_usize..100).prop_map(Op::ReadFrom),
        1 => Just(Op::Roll),
        1 => Just(Op::Reopen),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let part = prop_oneof![6 => Just(Part::Log), 1 => Just(Part::Settings), 1 => Just(Part::Snapshot), 1 => Just(Part::Witness)];
    let corrupt = (0_usize..100, part, any::<usize>(), 0_u8..8);
    prop_oneof![
        12 => common_op(),
        1 => Just(Op::Crash),
        1 => corrupt.prop_map(|(generation, file, at, bit)| Op::Corrupt { generation, file, at, bit }),
    ]
}

pub(super) fn op_on_a_device() -> impl Strategy<Value = Op> {
    prop_oneof![8 => common_op(), 1 => Just(Op::Fill), 1 => Just(Op::Free)]
}

/// A small device of its own, unmounted when it is dropped; `None` where that is not allowed.
pub(super) struct Device(pub(super) PathBuf);

impl Device {
    pub(super) fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "forebay-test"]).arg(&at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(at))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
