//! The `pixelgate` command.

use std::process::ExitCode;

/// What many connections took of Rust's memory is given back with jemalloc, and kept by glibc's allocator (pingora issue
/// 372). BoringSSL's and SQLite's is still glibc's: C calls `malloc`, which jemalloc leaves alone unless it is built for that
/// (`unprefixed_malloc_on_supported_platforms`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pixelgate::cli::run(std::env::args_os())
}
