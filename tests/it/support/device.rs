//! Small devices of their own, which fill up and fail without harm to others. Mounting takes root.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::skipped;

/// A device, unmounted when it is dropped.
pub struct Device {
    pub path: PathBuf,
}

impl Device {
    /// A file system in memory of so many MiB, in a directory that is made if need be; `None`, loudly, where that is not
    /// allowed.
    pub fn tmpfs(at: PathBuf, mib: u64, test: &str) -> Option<Self> {
        let size = format!("size={mib}m");
        Self::mount(at, &["-t", "tmpfs", "-o", &size, "forebay-test"], test)
    }

    /// An ext4 file system in the file `image`, made there with so many MiB if there is none.
    pub fn ext4(at: PathBuf, image: &Path, mib: u64, test: &str) -> Option<Self> {
        if !image.exists() {
            File::create(image).unwrap().set_len(mib << 20).unwrap();
            let made = Command::new("mkfs.ext4").arg("-q").arg(image).status();
            if !made.is_ok_and(|status| status.success()) {
                assert!(std::env::var_os("CI").is_none(), "{test}: mkfs.ext4 is not there, or fails");
                skipped(test, "mkfs.ext4 is not there");
                return None;
            }
        }
        Self::mount(at, &["-o", "loop", image.to_str().unwrap()], test)
    }

    fn mount(at: PathBuf, options: &[&str], test: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(options).arg(&at).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self { path: at });
        }
        // A right that a machine does not give, and no tool that somebody forgot: also in CI.
        skipped(test, "a device cannot be mounted here; that takes root");
        None
    }

    /// Mounts it again with these options: whether that was done.
    pub fn remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        let mounted = Command::new("mount").args(["-o", &options]).arg(&self.path).output();
        mounted.is_ok_and(|mounted| mounted.status.success())
    }

    /// Takes all space there is.
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("ballast");
        let mut file = File::create(&path).unwrap();
        let mut block = vec![0; 1 << 20];
        while !block.is_empty() {
            // Smaller and smaller pieces, down to the last byte.
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
        path
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
