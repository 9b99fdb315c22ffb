//! `pixelgate filter build`: core module → component; a crate → core module → component.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cli::{Ended, say};

/// The target that a filter is built for: it has no files, no clock, no network.
const TARGET: &str = "wasm32-unknown-unknown";

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// The folder of a Rust crate, or a core module (.wasm) built for wasm32-unknown-unknown
    source: PathBuf,
    /// Where to write the component; without it beside the source, named after it
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<Ended> {
    let (core, named) = if args.source.is_dir() {
        let core = build_crate(&args.source)?;
        let named = args.source.join(core.file_name().unwrap_or_default());
        (core, named)
    } else {
        (args.source.clone(), args.source.with_extension("component.wasm"))
    };
    let out = args.out.unwrap_or(named);
    let bytes = std::fs::read(&core).with_context(|| core.display().to_string())?;
    let component = crate::filter::component_of(&bytes).with_context(|| core.display().to_string())?;
    std::fs::write(&out, &component).with_context(|| out.display().to_string())?;
    say(format_args!("{}: {} bytes", out.display(), component.len()))?;
    Ok(Ended::Fine)
}

/// Builds a crate with the author's own cargo, and finds the core module that came of it.
fn build_crate(folder: &Path) -> anyhow::Result<PathBuf> {
    let libdir = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let libdir = libdir.context("rustc is not there: install Rust from https://rustup.rs")?;
    let libdir = PathBuf::from(String::from_utf8_lossy(&libdir.stdout).trim());
    if !libdir.is_dir() {
        bail!("Rust's library for {TARGET} is not installed: run `rustup target add {TARGET}`");
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let output = cargo.current_dir(folder).stderr(std::process::Stdio::inherit()).output().context("cargo")?;
    if !output.status.success() {
        bail!("{}: cargo could not build it", folder.display());
    }
    let built = String::from_utf8_lossy(&output.stdout).into_owned();
    let artifact = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let files = message.get("filenames")?.as_array()?;
        files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    };
    built.lines().rev().find_map(artifact).context("cargo built no .wasm: the crate needs crate-type = [\"cdylib\"]")
}
