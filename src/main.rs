//! Arguments to command, nothing else.

use std::{ffi::c_long, process::ExitCode};

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// glibc's allocator keeps what caches have freed: with it the process stays as large as it ever was.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in version 3 of mimalloc's header; the binding has no name for it.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds for which freed memory stays with the process. At full load the peak is 127 to 144 MB with 3 (and was 50 MB more
/// with mimalloc's 10), 118 to 126 MB with none, and 2 % fewer events pass, which is less than the noise (benches/README.md).
const PURGE_DELAY_MS: c_long = 0;

fn main() -> ExitCode {
    give_memory_back_early();
    forebay::command::main()
}

/// `MIMALLOC_PURGE_DELAY` in the environment has the last word.
#[expect(unsafe_code, reason = "options of mimalloc can only be set through its C interface")]
fn give_memory_back_early() {
    // SAFETY: the call stores a number in a table of the allocator; it takes no pointer and may be made at any time.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) }
}
