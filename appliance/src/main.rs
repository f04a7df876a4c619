//! `haflinger`: flags, and what each command does.

mod admin;
mod announce;
mod cli;
mod daemon;
mod demo;
mod fold;
mod logging;
mod manual;
mod reload;
mod seeing;
mod settings;
mod status;
mod supervisor;

/// The L7 path allocates per request: measured against glibc's allocator, mimalloc moves its
/// throughput by a third.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
