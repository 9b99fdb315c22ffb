//! `pixelgate filter build`: core module → component; a crate → core module → component.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cli::{Ended, say, tell};

/// The target that a filter is built for: it has no files, no clock, no network.
const TARGET: &str = "wasm32-unknown-unknown";
/// The compiler and the standard library's sources of Debian's packages `rustc-web` and `rust-web-src`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";

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
    tell(format_args!("{}: cargo builds it for {TARGET}", folder.display()));
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    if !has_std(&printed(&["--print", "target-libdir", "--target", TARGET])?) {
        build_std_too(&mut cargo)?;
    }
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

/// What rustc says of itself, in one line.
fn printed(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("rustc").args(args).output();
    let output = output.context("rustc is not there: install Rust from https://rustup.rs")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a folder of libraries has the standard one. Rustup makes the folder for targets that it has nothing for.
fn has_std(libdir: &str) -> bool {
    let files = std::fs::read_dir(libdir).into_iter().flatten().flatten();
    files.map(|file| file.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// Lets Debian's compiler make the standard library from Debian's sources, with the linker of the author's toolchain:
/// for machines that cannot download a target. Its output has a folder of its own, since its version is another.
fn build_std_too(cargo: &mut Command) -> anyhow::Result<()> {
    if !Path::new(DEBIAN_RUSTC).exists() || !Path::new(DEBIAN_STD).exists() {
        bail!(
            "Rust's library for {TARGET} is not installed: run `rustup target add {TARGET}`, or on Debian \
             `apt-get install rustc-web rust-web-src`"
        );
    }
    tell(format_args!(
        "Rust's library for {TARGET} is not installed: it is built first, from Debian's sources, which takes a minute or two \
         once; `rustup target add {TARGET}` spares that"
    ));
    let about = printed(&["-vV"])?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let linker = Path::new(&printed(&["--print", "sysroot"])?).join("lib/rustlib").join(host).join("bin/rust-lld");
    cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    cargo.args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features=", "--target-dir", "target/build-std"]);
    Ok(())
}
