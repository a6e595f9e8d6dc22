//! How the sled databases of this crate are opened, what sled leaves to the file system's mercy made durable, and what it leaves in
//! memory freed.
//!
//! sled syncs neither its settings (`conf`) nor the directory that its files have their names in. After a power loss a
//! log that was synced could then be nowhere, or be taken for one of another kind.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

/// The file in which sled keeps what it was opened with.
const SETTINGS: &str = "conf";

/// What the names of its snapshots begin with, and end with while they are written.
const SNAPSHOT: &str = "snap.";
const UNFINISHED: &str = ".generating";

/// A database that was closed a moment ago may still be locked: a thread of sled's lets go of it a little later, on a
/// machine that has much else to do after more than a second.
const LOCKED_TRIES_MAX: usize = 10_000;

/// Opens a database, also where one of this process has just been closed there, and where what stands beside its log is
/// damaged: everything is in the log.
pub(crate) fn open(config: &sled::Config, dir: &Path) -> sled::Result<sled::Db> {
    if dir.exists() {
        remove_half_written(dir)?;
    }
    let opened = open_as_it_is(config);
    match &opened {
        Ok(_) | Err(sled::Error::Io(_)) => opened,
        // A snapshot only spares sled the reading of its log. If it was not that, the first error says more.
        Err(error) => match remove_files(dir, |name| name.starts_with(SNAPSHOT))? {
            0 => opened,
            _ => {
                tracing::error!(dir = %dir.display(), %error, "a database did not open; it is tried without its snapshot");
                open_as_it_is(config).or(opened)
            }
        },
    }
}

fn open_as_it_is(config: &sled::Config) -> sled::Result<sled::Db> {
    // sled answers some damage with an assertion instead of an error.
    let open = || {
        catch_unwind(AssertUnwindSafe(|| config.open()))
            .unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".into())))
    };
    let mut db = open();
    for _ in 0..LOCKED_TRIES_MAX {
        if !db.as_ref().is_err_and(is_locked) {
            break;
        }
        pause();
        db = open();
    }
    db
}

/// Removes what a crash or a full device left: a snapshot that was being written, which sled would take for a whole one;
/// and settings that are not what sled wrote, which it would believe, and writes anew where there are none.
fn remove_half_written(dir: &Path) -> io::Result<()> {
    remove_files(dir, |name| name.starts_with(SNAPSHOT) && name.ends_with(UNFINISHED))?;
    match fs::read(dir.join(SETTINGS)) {
        Ok(settings) if !is_whole(&settings) => fs::remove_file(dir.join(SETTINGS)),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Whether settings end with their checksum.
fn is_whole(settings: &[u8]) -> bool {
    settings
        .split_last_chunk()
        .is_some_and(|(settings, sum)| crc32fast::hash(settings) == u32::from_le_bytes(*sum))
}

/// Removes the files with such names; how many there were.
fn remove_files(dir: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for file in fs::read_dir(dir)? {
        let file = file?;
        if file.file_name().to_str().is_some_and(&is_meant) {
            fs::remove_file(file.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_locked(error: &sled::Error) -> bool {
    // sled has no kind for it, only words.
    matches!(error, sled::Error::Io(source) if source.to_string().contains("could not acquire lock"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "opening runs on a blocking thread, and sled has nothing to wait for"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Makes the settings of a database that was just opened durable, and the names of its files.
pub(crate) fn sync_names(dir: &Path) -> io::Result<()> {
    sync(&dir.join(SETTINGS))?;
    sync(dir)
}

/// Makes a file, or the names in a directory, durable.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Frees what this thread has had sled replace, as far as no other thread may still look at it.
///
/// sled leaves that to the collector of crossbeam-epoch, to which a thread hands it over in bags of sixty-four pieces. A piece is small, but
/// may be the last that holds the buffer of a segment, in the journal of 2 MiB.
pub(crate) fn collect_garbage() {
    // What is run here may be another's, and whoever calls has done what it promised.
    if catch_unwind(|| sled::pin().flush()).is_err() {
        tracing::error!("sled panicked while what it had replaced was freed");
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Scenario: a snapshot was being written when the device was full or the process was killed, or a bit has flipped in one, or
    /// in the settings.
    /// Guarantee: the database opens with everything in it. It answered "read corrupted data" for ever: the process did not
    /// start any more, or put a whole generation of the journal aside.
    #[test]
    fn r0305_what_stands_beside_the_log_stopped_every_start() {
        // A file, and the byte that changes in it, or the bytes that are left.
        let spoiled = [
            ("snap.generating", None, 0),
            ("snap", Some(3), 0),
            ("snap", None, 5),
            ("conf", Some(7), 0),
            ("conf", None, 20),
        ];
        for (number, (what, changed, left)) in spoiled.into_iter().enumerate() {
            let home = TempDir::new().unwrap();
            let dir = home.path().join("db");
            let config = sled::Config::new().path(&dir).flush_every_ms(None);
            for key in 0..20_u8 {
                open(&config, &dir).unwrap().insert([key], vec![key; 300]).unwrap();
            }
            let named = |prefix: &str| {
                let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
                let mut found =
                    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix));
                found.next().unwrap()
            };
            if what == "snap.generating" {
                fs::write(dir.join("snap.0000000000007777.generating"), [0; 7]).unwrap();
            } else {
                let mut bytes = fs::read(named(what)).unwrap();
                match changed {
                    Some(at) => bytes[at] ^= 64,
                    None => bytes.truncate(left),
                }
                fs::write(named(what), bytes).unwrap();
            }
            let db = open(&config, &dir).unwrap_or_else(|error| panic!("{number}: {error}"));
            let keys: Vec<_> = db.iter().keys().map(|key| key.unwrap()[0]).collect();
            assert_eq!(keys, (0..20).collect::<Vec<_>>(), "{number}");
        }
    }
}
