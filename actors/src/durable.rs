//! What sled leaves to the file system's mercy, made durable: it syncs neither its settings (`conf`) nor the directory
//! that its files have their names in. After a power loss a log that was synced could then be nowhere, or be taken for
//! one of another kind.

use std::{fs::File, io, path::Path};

/// Makes what is in the files of a sled database that was just opened durable.
pub(crate) fn sync_files(dir: &Path) -> io::Result<()> {
    sync(&dir.join("conf"))?;
    sync(&dir.join("db"))
}

/// Makes a file, or the names in a directory, durable.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
