//! The command line: what a person types, and the exit code they get.
//!
//! `run` is the gateway itself. `check` and `filter` work on files. The other commands talk to the running gateway over
//! its control socket.

mod accounts;
mod cert;
mod check;
mod client;
mod dead_letters;
mod filter;
mod reload;
mod serve;
mod status;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// A gateway from the Meta Pixel to the Conversions API, for many accounts.
#[derive(Parser)]
#[command(name = "pixelgate", version, arg_required_else_help = true)]
struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(subcommand)]
    command: Command,
}

/// Which gateway is meant.
#[derive(clap::Args)]
struct GatewayArgs {
    /// The folder of pixelgate.toml and accounts/
    #[arg(long, global = true, value_name = "DIR", env = "PIXELGATE_CONFIG", default_value = "/etc/pixelgate")]
    config: PathBuf,
    /// The control socket of the running gateway, if it is not where the configuration says
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway in the foreground
    Run(serve::Args),
    /// Print every problem of the configuration, as a reload would find it
    Check(JsonArgs),
    /// Make the running gateway take up the configuration
    Reload(JsonArgs),
    /// Show what the running gateway does
    Status(JsonArgs),
    /// Show accounts, hold back and release their events
    #[command(subcommand)]
    Accounts(accounts::Command),
    /// Certificates of the names: what state they are in, what is wrong, put others in place, order one
    #[command(subcommand)]
    Cert(cert::Command),
    /// Show, send again and drop events that could not be delivered
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Build and try filters
    #[command(subcommand)]
    Filter(filter::Command),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Compile a component from standard input to machine code on standard output (the gateway calls this itself)
    #[command(hide = true)]
    CompileFilter,
}

#[derive(clap::Args)]
struct JsonArgs {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Exit code 0.
    Fine,
    /// Exit code 1: the thing asked about is bad; it was said what.
    Bad,
    /// Exit code 3: no gateway answers at the control socket; it was said where.
    Unreachable,
}

/// Does what the arguments say; its exit code is 0 fine, 1 the thing asked about is bad, 2 usage, 3 not reachable.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match parse(arguments) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(args) {
        Ok(Ended::Fine) => ExitCode::SUCCESS,
        Ok(Ended::Bad) => ExitCode::from(1),
        Ok(Ended::Unreachable) => ExitCode::from(3),
        // Somebody closed the pipe we print to: there is nobody to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("pixelgate: {}", each_once(&error)));
            ExitCode::from(1)
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Args, clap::Error> {
    let mut command = Args::command();
    command.build();
    let mut command = with_usage(command);
    let matches = command.try_get_matches_from_mut(arguments)?;
    Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Each command with the usage that its help shows. In errors clap makes up another one, in which everything that was given
/// looks as if it had to be: `--config`, also where the environment gave it.
fn with_usage(mut command: clap::Command) -> clap::Command {
    for below in command.get_subcommands_mut() {
        *below = with_usage(std::mem::take(below));
    }
    let usage = command.render_usage().to_string();
    command.override_usage(usage.trim_start_matches("Usage: ").to_owned())
}

fn dispatch(args: Args) -> anyhow::Result<Ended> {
    let gateway = args.gateway;
    match args.command {
        Command::Run(args) => serve::run(&gateway, args),
        Command::Check(output) => check::run(&gateway, output.json),
        Command::Reload(output) => reload::run(&gateway, output.json),
        Command::Status(output) => status::run(&gateway, output.json),
        Command::Accounts(command) => accounts::run(&gateway, command),
        Command::Cert(command) => cert::run(&gateway, command),
        Command::DeadLetters(command) => dead_letters::run(&gateway, command),
        Command::Filter(command) => filter::run(&gateway, command),
        Command::Completions { shell } => {
            // Into memory first: clap panics where a pipe is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "pixelgate", &mut script);
            std::io::stdout().lock().write_all(&script)?;
            Ok(Ended::Fine)
        }
        Command::CompileFilter => {
            crate::filter::compile_in_child(&mut std::io::stdin().lock(), &mut std::io::stdout().lock())?;
            Ok(Ended::Fine)
        }
    }
}

/// Tells a person what is not the output, on standard error. `eprintln` would panic where nobody reads that any more.
fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// An error and its causes, each in its words once: some errors say those of their cause themselves.
fn each_once(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// Prints a line on standard output. `println` would panic where nobody reads that any more.
fn say(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// So many of something whose plural ends in `s`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as a person reads them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

/// Prints a value as JSON on standard output.
fn say_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string_pretty(value)?)?)
}

/// Whether what we print to is closed. A connection to the gateway that broke is the cause of an error, and another thing.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!([0, 1023, 1024, 268_435_456].map(size), ["0 bytes", "1023 bytes", "1.0 KiB", "256.0 MiB"]);
        assert_eq!(size(3 << 50), "3072.0 TiB");
    }

    #[test]
    fn what_an_error_says_of_its_cause_is_not_said_again() {
        let cause = std::io::Error::other("no room");
        let error = anyhow::Error::new(cause).context("file: no room").context("it broke off");
        assert_eq!(each_once(&error), "it broke off: file: no room");
    }

    #[test]
    fn a_gateway_that_breaks_off_is_told() {
        let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&broken().into()));
        #[derive(Debug, thiserror::Error)]
        #[error("the connection broke")]
        struct Broken(#[source] std::io::Error);
        let error = anyhow::Error::new(Broken(broken())).context("the gateway closed the connection");
        assert!(!is_broken_pipe(&error));
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "error")), ["0 errors", "1 error", "2 errors"]);
    }

    #[test]
    fn the_arguments_are_sound() {
        Args::command().debug_assert();
    }
}
