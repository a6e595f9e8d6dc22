//! Rotated files: their names, and what becomes of them.
//!
//! `events.ndjson` is rotated to `events-20260131T080000Z-0.ndjson`: the UTC time of the rotation, and a count
//! within the second. Names only ever grow, also when the clock is set back, so that sorted by name they are
//! sorted by age. What is to be done is read from the directory each time, so a crash at any point leaves
//! nothing that the next round does not see.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use flate2::write::GzEncoder;
use forebay_actors::event::Timestamp;

use super::{suffixed, sync_directory};
use crate::config::Compression;

/// Bytes compressed at a time, between two looks at whether to stop.
const CHUNK_BYTES: usize = 128 * 1024;

const GZIP_SUFFIX: &str = ".gz";
const UNFINISHED_SUFFIX: &str = ".gz.tmp";

/// The rotated files of one path.
pub(super) struct Rotated {
    directory: PathBuf,
    /// What their names begin with: `events-`.
    prefix: String,
    /// What their names end in, before any `.gz`: `.ndjson`, or nothing.
    extension: String,
}

/// Time of rotation, as text that sorts, and the count within its second.
type Key = (String, u64);

/// The forms in which one rotated file is there. Two at once are left by a crash while compressing.
#[derive(Default)]
struct Forms {
    plain: Option<PathBuf>,
    gzip: Option<PathBuf>,
    unfinished: Option<PathBuf>,
}

// === impl Rotated ===

impl Rotated {
    /// Those of `path`; `None` where it does not name a file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let stem = path.file_stem()?.to_str()?;
        let extension = match path.extension() {
            Some(extension) => format!(".{}", extension.to_str()?),
            None => String::new(),
        };
        let parent = path.parent()?;
        let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        Some(Self { directory: directory.to_owned(), prefix: format!("{stem}-"), extension })
    }

    /// Where they lie: beside the file itself.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name for the next one. There is no file of that name, and all others sort before it.
    pub(super) fn next(&self, now: Timestamp) -> io::Result<PathBuf> {
        let now = now.to_chrono().format("%Y%m%dT%H%M%SZ").to_string();
        let (time, count) = match self.list()?.pop_last() {
            Some(((time, count), _)) if time >= now => (time, count + 1),
            _ => (now, 0),
        };
        Ok(self.directory.join(format!("{}{time}-{count}{}", self.prefix, self.extension)))
    }

    /// Removes what an earlier round left unfinished and the oldest beyond `keep_files`, then compresses what
    /// is not yet, until `stop`.
    pub(super) fn tidy(
        &self,
        keep_files: Option<usize>,
        compression: Compression,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let mut rotated = self.list()?;
        rotated.values().filter_map(|forms| forms.unfinished.as_ref()).try_for_each(fs::remove_file)?;
        rotated.retain(|_, forms| forms.plain.is_some() || forms.gzip.is_some());
        let surplus = rotated.len().saturating_sub(keep_files.unwrap_or(usize::MAX));
        for (index, forms) in rotated.into_values().enumerate() {
            match forms {
                _ if stop.load(Ordering::Relaxed) => break,
                Forms { plain, gzip, .. } if index < surplus => {
                    plain.iter().chain(&gzip).try_for_each(fs::remove_file)?;
                }
                // The compressed form gets its name only when it is whole.
                Forms { plain: Some(plain), gzip: Some(_), .. } => fs::remove_file(plain)?,
                Forms { plain: Some(plain), .. } if compression == Compression::Gzip => {
                    self.compress(&plain, stop)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn list(&self) -> io::Result<BTreeMap<Key, Forms>> {
        let mut rotated: BTreeMap<Key, Forms> = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((key, suffix)) = name.to_str().and_then(|name| self.parse(name)) else { continue };
            let forms = rotated.entry(key).or_default();
            let form = match suffix {
                "" => &mut forms.plain,
                GZIP_SUFFIX => &mut forms.gzip,
                _ => &mut forms.unfinished,
            };
            *form = Some(entry.path());
        }
        Ok(rotated)
    }

    /// Key and suffix of a rotated file's name; `None` for every other file.
    fn parse<'a>(&self, name: &'a str) -> Option<(Key, &'a str)> {
        let rest = name.strip_prefix(&self.prefix)?;
        let (time, rest) = rest.split_once('-')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, rest) = rest.split_at(digits);
        let suffix = rest.strip_prefix(&self.extension)?;
        let is_time = time.len() == 16
            && time.bytes().enumerate().all(|(i, b)| match i {
                8 => b == b'T',
                15 => b == b'Z',
                _ => b.is_ascii_digit(),
            });
        let is_form = matches!(suffix, "" | GZIP_SUFFIX | UNFINISHED_SUFFIX);
        (is_time && is_form).then_some(())?;
        Some(((time.to_owned(), count.parse().ok()?), suffix))
    }

    /// Replaces a file by its compressed form, which bears its own name only once it is whole and synced.
    fn compress(&self, plain: &Path, stop: &AtomicBool) -> io::Result<()> {
        let unfinished = suffixed(plain, UNFINISHED_SUFFIX);
        let finished = gzip_file(plain, &unfinished, stop).inspect_err(|_| {
            // On a full disk the half file must not stay.
            let _ = fs::remove_file(&unfinished);
        })?;
        if !finished {
            return fs::remove_file(&unfinished);
        }
        fs::rename(&unfinished, suffixed(plain, GZIP_SUFFIX))?;
        sync_directory(&self.directory)?;
        fs::remove_file(plain)
    }
}

/// Whether all of it was compressed, rather than stopped.
fn gzip_file(from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let mut reader = File::open(from)?;
    let mut gzip = GzEncoder::new(File::create(to)?, flate2::Compression::fast());
    let mut chunk = vec![0; CHUNK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match reader.read(&mut chunk)? {
            0 => {
                gzip.finish()?.sync_all()?;
                return Ok(true);
            }
            read => gzip.write_all(&chunk[..read])?,
        }
    }
    Ok(false)
}
