//! The process' own peak of resident memory, as the kernel counts it, against the sum that it printed at its start.

use std::fs;

use super::{binary::Forebay, until};

pub const MIB: u64 = 1 << 20;

/// The most memory the process ever had, in bytes.
fn peak(forebay: &Forebay) -> u64 {
    status(forebay, "VmHWM:")
}

/// The memory that the process has now, in bytes, but for pages of files.
pub fn anonymous(forebay: &Forebay) -> u64 {
    status(forebay, "RssAnon:")
}

fn status(forebay: &Forebay, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", forebay.id())).expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What the process said it takes at most.
fn printed_sum(forebay: &Forebay) -> u64 {
    until("the sum is printed", || forebay.output().contains("curl"));
    let output = forebay.output();
    let line = output.lines().find_map(|line| line.trim().strip_prefix("sum ")).expect(&output);
    line.trim().trim_end_matches(" MiB").parse::<u64>().unwrap() * MIB
}

/// The peak stays under the sum, and both are said.
pub fn assert_peak(forebay: &Forebay, tried: &str) {
    let (peak, sum) = (peak(forebay), printed_sum(forebay));
    eprintln!("{tried}: a peak of {} MiB, of {} MiB printed", peak / MIB, sum / MIB);
    assert!(peak < sum, "{tried}: {peak} of {sum} bytes\n{}", forebay.output());
}
