//! Batches held for other sinks: a file each, `<path>.held/<data directory>/<sink>/<positions>.batch`.
//!
//! A file has its name only when all of it is on the disk, and so is the name. What a crash leaves half-written is removed
//! with the batch that it was to be.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use forebay_actors::{
    destination::{Delivery, DeliveryError, Receipt},
    holding::{Fetched, HeldKey, Holding, Released, pack},
    record::Batch,
};
use futures::FutureExt as _;

use super::{
    super::{blocking, io_failure, unreadable},
    suffixed, sync_directory,
};

const EXTENSION: &str = "batch";
const UNFINISHED: &str = "unfinished";

/// The files of one path.
pub(super) struct HeldFiles {
    root: PathBuf,
}

impl HeldFiles {
    /// Those beside `path`, of batches of one data directory.
    pub(super) fn beside(path: &Path, stream: &str) -> Self {
        Self { root: suffixed(path, ".held").join(stream) }
    }

    fn file(&self, key: &HeldKey, extension: &str) -> PathBuf {
        self.root.join(key.owner.as_str()).join(key.name()).with_extension(extension)
    }
}

impl Holding for HeldFiles {
    fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Delivery {
        let (path, unfinished) = (self.file(key, EXTENSION), self.file(key, UNFINISHED));
        blocking(move || {
            let packed = pack(&batch).map_err(|e| unreadable(&batch, &e.to_string()))?;
            write(&path, &unfinished, &packed).map_err(|e| io_failure(&path, "hold a batch", &e))?;
            Ok(Receipt::of(packed.len() as u64))
        })
        .boxed_local()
    }

    fn fetch(&self, key: &HeldKey) -> Fetched {
        let path = self.file(key, EXTENSION);
        blocking(move || {
            // Where the directory is missing, it is not the batch that is gone: a device may not be mounted.
            let directory = path.parent().unwrap_or(Path::new("."));
            match fs::read(&path) {
                Ok(packed) => Ok(Some(Bytes::from(packed))),
                Err(e) if e.kind() == io::ErrorKind::NotFound && directory.is_dir() => Ok(None),
                Err(e) => Err(io_failure(&path, "read a held batch", &e)),
            }
        })
        .boxed_local()
    }

    fn release(&self, key: &HeldKey) -> Released {
        let files = [self.file(key, EXTENSION), self.file(key, UNFINISHED)];
        blocking(move || files.iter().try_for_each(|path| remove(path))).boxed_local()
    }
}

fn write(path: &Path, unfinished: &Path, packed: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    if !directory.is_dir() {
        fs::create_dir_all(directory)?;
        // Of the directories themselves: of these up to where the file of the sink lies.
        directory.ancestors().skip(1).take(3).try_for_each(sync_directory)?;
    }
    let mut file = File::create(unfinished)?;
    file.write_all(packed)?;
    file.sync_data()?;
    fs::rename(unfinished, path)?;
    sync_directory(directory)
}

fn remove(path: &Path) -> Result<(), DeliveryError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_failure(path, "remove a held batch", &e)),
        _ => Ok(()),
    }
}
