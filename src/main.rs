//! Arguments to command, nothing else.

use std::{ffi::c_long, process::ExitCode};

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// glibc's allocator keeps what caches have freed: with it the process stays as large as it ever was.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in version 3 of mimalloc's header; the binding has no name for it.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds for which freed memory stays with the process. With mimalloc's 10 the peak at full load is 172 MB, with
/// 3 it is 120 MB, and as many events pass.
const PURGE_DELAY_MS: c_long = 3;

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
