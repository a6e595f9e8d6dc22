//! The integration tests, in one binary.

mod promises;
mod regression;
mod support;

/// The binary's: what memory comes to depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
