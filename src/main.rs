//! Arguments to command, nothing else.

use std::process::ExitCode;

/// glibc's allocator keeps what caches have freed: with it the process stays as large as it ever was.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    forebay::command::main()
}
