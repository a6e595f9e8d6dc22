//! The recording layer: a process runs under `strace`, and what it did with files is read from what that wrote.
//!
//! `strace` needs no rights for a child of its own. A thread stands still at the beginning and at the end of each system
//! call until `strace` has written it down. So a call that is written as begun behind the end of another really began
//! after that one had returned, and that is all the model of the device relies on.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::device::Recording;

/// Everything that may change a file or a directory, or what a descriptor stands for. What is listed here and not
/// understood by [`Recording`] ends the test, should it ever meet a file of the data directory.
const CALLS: &str = "trace=open,openat,creat,close,dup,dup2,dup3,fcntl,lseek,write,writev,pwrite64,pwritev,pwritev2,\
    truncate,ftruncate,fallocate,fsync,fdatasync,syncfs,sync,rename,renameat,renameat2,link,linkat,symlink,\
    symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile,splice,mmap,io_uring_setup";

/// Bytes of a write that are written down; larger than any.
const BYTES_MAX: &str = "16777216";

/// Where the child finds its data directory, and beside it the file for its notes.
pub const PLACE: &str = "FOREBAY_TEST_POWER_PLACE";

/// One system call that has ended.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<String>,
    pub result: i64,
    /// Lines of the trace, in which both ends stand.
    pub began: usize,
    pub ended: usize,
}

impl Call {
    /// An argument that is a number.
    pub fn number(&self, index: usize) -> Option<i64> {
        let text = self.arguments.get(index)?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| i64::from_str_radix(hex, 16).ok())
    }

    /// An argument that is a string of bytes.
    pub fn bytes(&self, index: usize) -> Vec<u8> {
        let text = &self.arguments[index];
        let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let hex = quoted.unwrap_or_else(|| panic!("a whole string, not {text:.40}, in {}", self.name));
        let digits = hex.as_bytes().chunks(4).map(|byte| std::str::from_utf8(&byte[2..]).unwrap());
        digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
    }

    pub fn path(&self, index: usize) -> PathBuf {
        PathBuf::from(String::from_utf8(self.bytes(index)).unwrap())
    }

    pub fn has_flag(&self, index: usize, flag: &str) -> bool {
        self.arguments.get(index).is_some_and(|flags| flags.split('|').any(|one| one == flag))
    }
}

/// Whether `strace` is there and may do its work.
pub fn can_record() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Runs a test of this binary again, alone and recorded. It works in the directory `data` of the place, and its notes go
/// to the file `notes`.
pub fn record(test: &str, place: &Path, variables: &[(&str, String)]) -> Recording {
    let output = place.join("trace");
    let finished = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-qq", "-xx", "-s", BYTES_MAX, "-e", CALLS, "-e", "signal=none", "-o"])
        .arg(&output)
        .arg(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(PLACE, place)
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .output()
        .expect("strace was there a moment ago");
    let said = String::from_utf8_lossy(&finished.stdout);
    let all = format!("{said}\n{}", String::from_utf8_lossy(&finished.stderr));
    assert!(finished.status.success() && said.contains("1 passed"), "the recorded process failed: {all}");
    Recording::of(&parse(&fs::read_to_string(output).unwrap()), &place.join("data"), &place.join("notes"))
}

/// All calls that ended, by their ends.
fn parse(trace: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, (at, head));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, tail) = resumed.split_once(" resumed>").expect("a call is resumed by name");
            let (began, head) = begun.remove(thread).expect("what is resumed was begun");
            calls.extend(call(&format!("{head}{tail}"), began, at));
        } else {
            calls.extend(call(rest, at, at));
        }
    }
    calls
}

/// A call with its result; `None` where the line is none, or has none because the process ended.
fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let result = result.split(' ').next()?;
    let result = match result.strip_prefix("0x") {
        // An address may be larger than an i64.
        Some(hex) => u64::from_str_radix(hex, 16).ok()? as i64,
        None => result.parse().ok()?,
    };
    // Bytes are written in hexadecimal, so they hold no comma.
    let arguments = arguments.split(", ").map(str::to_owned).collect();
    Some(Call { name: name.to_owned(), arguments, result, began, ended })
}

/// A trace is read as it is meant: calls that overlap, bytes, numbers and failures.
#[test]
fn a_trace_is_read() {
    let calls = parse(concat!(
        "7 openat(AT_FDCWD, \"\\x2f\\x61\", O_RDWR|O_CREAT, 0666) = 5\n",
        "7 pwrite64(5, \"\\x00\\xff\", 2, 512 <unfinished ...>\n",
        "8 fsync(5)                = 0\n",
        "7 <... pwrite64 resumed>) = 2\n",
        "8 close(9) = -1 EBADF (Bad file descriptor)\n",
        "8 exit_group(0) = ?\n",
        "8 +++ exited with 0 +++\n",
    ));
    let seen: Vec<_> = calls.iter().map(|c| (&*c.name, c.result, c.began, c.ended)).collect();
    assert_eq!(seen, [("openat", 5, 0, 0), ("fsync", 0, 2, 2), ("pwrite64", 2, 1, 3), ("close", -1, 4, 4)]);
    assert_eq!(calls[0].path(1), Path::new("/a"));
    assert!(calls[0].has_flag(2, "O_CREAT") && !calls[0].has_flag(2, "O_TRUNC"));
    assert_eq!((calls[2].bytes(1), calls[2].number(3)), (vec![0, 255], Some(512)));
}
