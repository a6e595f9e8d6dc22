//! Power loss, simulated: the file operations of a process are recorded and cut at every sync, and what may be on the
//! device then is opened again.
//!
//! The recorded process is this test binary with one test: there [`recorded_place`] says where to work. It writes a note
//! for each promise it was given, so that the trace has promises and file operations in their order.

mod device;
mod state;
mod state_and_journal;
mod store;
mod trace;

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use self::device::Survived;
use crate::support::{skipped, thorough};

/// What the recorded process does follows from it.
const SEED: &str = "FOREBAY_TEST_POWER_SEED";

const NOISE_BYTES: usize = 1 << 20;

/// Where a recorded process works; `None` in the test itself.
fn recorded_place() -> Option<PathBuf> {
    std::env::var_os(trace::PLACE).map(PathBuf::from)
}

/// The seed of a recorded process.
fn seed() -> u64 {
    std::env::var(SEED).unwrap().parse().unwrap()
}

/// What a recorded process says, a line each, in one write.
struct Notes(File);

impl Notes {
    fn open(place: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(place.join("notes")).unwrap())
    }

    fn say(&self, note: String) {
        (&self.0).write_all(format!("{note}\n").as_bytes()).unwrap();
    }
}

/// Text that no compression makes shorter, up to half of [`NOISE_BYTES`]; made once, because making it takes longer than
/// writing it.
fn noise(random: &mut fastrand::Rng, bytes: usize) -> &'static str {
    static NOISE: OnceLock<String> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(7);
        (0..NOISE_BYTES).map(|_| random.alphanumeric()).collect()
    });
    let from = random.usize(..NOISE_BYTES / 2);
    &noise[from..from + bytes]
}

/// Records a test and lets the power go at some of its syncs and notes; `compare` gets what is on the device then, and what
/// had been said. Where `FOREBAY_THOROUGH` is set at many, and twice.
fn attack(
    test: &str,
    cuts_in_plain: usize,
    recordings: u64,
    compare: impl Fn(&Path, &mut dyn Iterator<Item = &str>),
) {
    if !trace::can_record() {
        let is_there = Command::new("strace").arg("--version").output().is_ok();
        assert!(is_there || std::env::var_os("CI").is_none(), "strace is missing");
        // Tracing may be forbidden where it is there.
        return skipped(test, "strace is missing, or may not trace a child of its own");
    }
    let (mut changes, mut syncs, mut images) = (0, 0, 0);
    for seed in 1..=recordings {
        let place = TempDir::with_prefix("forebay-power-").unwrap();
        fs::create_dir(place.path().join("data")).unwrap();
        let recording = trace::record(test, place.path(), &[(SEED, seed.to_string())]);
        changes += recording.size().0;
        syncs += recording.size().1;
        let mut cuts = recording.cuts();
        let mut random = fastrand::Rng::with_seed(seed);
        random.shuffle(&mut cuts);
        cuts.truncate(thorough(cuts_in_plain, 100));
        for (index, cut) in cuts.iter().enumerate() {
            let chance = random.u64(..);
            let all = [
                Survived::Some(chance),
                Survived::Nothing,
                Survived::SomeInOrder(chance),
                Survived::Everything,
            ];
            for number in index..index + thorough(1, 2) {
                let survived = all[number % all.len()];
                let at = place.path().join("image");
                recording.image(*cut, survived).write(&recording, &at);
                let mut notes = recording.notes(*cut);
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| compare(&at, &mut notes))) {
                    eprintln!("recording {seed}, cut at line {cut}, survived: {survived:?}");
                    eprintln!("kept: {}", place.keep().display());
                    resume_unwind(panic);
                }
                fs::remove_dir_all(&at).unwrap();
                images += 1;
            }
        }
    }
    println!("{changes} changes and {syncs} syncs, {images} times the power went: nothing lost");
}

/// The name by which the test harness finds a test of this binary.
macro_rules! test_name {
    ($name:ident) => {{
        let _: fn() = $name;
        let path = concat!(module_path!(), "::", stringify!($name));
        path.split_once("::").map_or(path, |(_, name)| name)
    }};
}
use test_name;
