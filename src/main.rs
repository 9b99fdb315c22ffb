//! The `pixelgate` command.

use std::process::ExitCode;

/// Memory that many connections took is given back with jemalloc, and kept by glibc's allocator (pingora issue 372).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pixelgate::cli::run(std::env::args_os())
}
