//! Secrets: they never stand in a configuration, which only says where they are.

use std::fmt;
use std::path::PathBuf;

use crate::account::Secret;
use crate::config::disk::{FileError, Files, tidy};
use crate::config::file::{Table, Value};
use crate::config::resolve::Surroundings;

/// What to write where a secret is wanted.
pub(super) const REMEDY: &str =
    "write where it is: { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }, and keep it out of this file";

/// Where a secret is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A file that holds nothing else.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A credential that systemd passes.
    Credential(String),
}

/// Why a secret could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SecretError {
    /// Its file.
    #[error("{0}")]
    File(#[from] FileError),
    /// The variable is not there.
    #[error("is not set")]
    Unset,
    /// The process was given no credentials.
    #[error("was not passed: the gateway was not started by systemd with LoadCredential=")]
    NoCredentials,
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// Not a word of printable ASCII.
    #[error("holds spaces, line breaks or other characters that no secret has")]
    Unprintable,
}

// === impl Origin ===

impl Origin {
    /// Reads `{ file = "…" }` and its like. What is wrong with it is reported, without the value: it may be the secret.
    pub(super) fn read(value: Value<'_>) -> Option<Self> {
        if value.is_text() {
            value.place.error("a secret must not stand here", REMEDY);
            return None;
        }
        value.table(Self::from_table).flatten()
    }

    fn from_table(table: &mut Table<'_>) -> Option<Self> {
        let file = table.value("file").and_then(|value| file(&value)).map(Self::File);
        let environment = name(table, "env").map(Self::Environment);
        let credential = name(table, "credential").map(Self::Credential);
        let mut named = [file, environment, credential].into_iter().flatten();
        let origin = named.next();
        if named.next().is_some() || origin.is_none() {
            table.place.error("a secret comes from one place", REMEDY);
            return None;
        }
        origin
    }

    /// The secret itself.
    pub(super) fn fetch(&self, surroundings: &Surroundings, files: &mut Files<'_>) -> Result<Secret, SecretError> {
        match self {
            Self::File(path) => clean(&files.secret(path)?),
            Self::Environment(name) => clean(surroundings.environment.get(name).ok_or(SecretError::Unset)?.as_bytes()),
            Self::Credential(name) => {
                let folder = surroundings.credentials_dir.as_ref().ok_or(SecretError::NoCredentials)?;
                clean(&files.secret(&folder.join(name))?)
            }
        }
    }

    /// What to do if it cannot be had.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::File(_) => "put the secret into that file, readable for the gateway's user, and reload",
            Self::Environment(_) => "set it for the gateway and restart it; a running process keeps its environment",
            Self::Credential(_) => "pass it with LoadCredential= in the unit and restart the gateway",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", tidy(path).display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// The path of a secret's file. One long word is rather the secret itself, so it is not shown.
fn file(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.path()?;
    if value.text().is_some_and(|text| text.len() > 100 && !text.contains(['/', '.'])) {
        value.place.error("this looks like the secret itself", "write the path of a file that holds the secret");
        return None;
    }
    Some(path)
}

/// The name of a variable or credential. A text that cannot be one may be the secret itself, so it is not shown.
fn name(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let value = table.value(key)?;
    let text = value.text()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(allowed) {
        value.place.error("this is no name", "write a name of 1 to 64 letters, digits, _, - and .");
        return None;
    }
    Some(text.to_owned())
}

/// A secret as it is meant: one trailing newline is the editor's.
fn clean(bytes: &[u8]) -> Result<Secret, SecretError> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err(SecretError::Empty);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SecretError::Unprintable)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic()) { Ok(Secret::new(text)) } else { Err(SecretError::Unprintable) }
}
