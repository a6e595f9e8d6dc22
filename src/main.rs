//! Arguments to command, nothing else.

use std::process::ExitCode;

use forebay::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

fn main() -> ExitCode {
    ALLOCATOR.give_back_early();
    forebay::command::main()
}
