//! The log: lines on standard error, where systemd's journal takes them.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `[log] level` is no filter.
    #[error(
        "[log] level {level:?}: {error}; write a level (error, warn, info, debug) or a list such as `pixelgate=debug,warn`"
    )]
    Level {
        /// What was written.
        level: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// This process has a log already.
    #[error("the log was started twice")]
    Twice(#[from] TryInitError),
}

/// Libraries that tell each failed handshake or lost client at a high level: counted by metrics, kept out of the log.
const QUIET: &str = "pingora=off,pingora_core=off,pingora_proxy=off,pingora_load_balancing=error,h2=error,hyper=warn";

/// Writes what `level` lets through from here on, for the whole process.
pub fn start_log(style: LogStyle, level: &str) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}"))
        .map_err(|error| LogError::Level { level: level.to_owned(), error })?;
    // A line that nobody can read is lost; saying so on standard error, which is what is closed, would panic.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match style {
        LogStyle::Text => lines.with_ansi(false).finish().try_init()?,
        LogStyle::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
