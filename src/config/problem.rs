//! One thing wrong in the configuration, as `check`, `reload` and `status` show it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::account::AccountId;

/// One thing wrong: where, why, and what to do about it. A secret is never in it.
///
/// Problems are ordered by place. The names of the fields are what `--json` prints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file it is in.
    #[serde(serialize_with = "lossy")]
    pub file: PathBuf,
    /// The line of that file, from 1, where it is known.
    pub line: Option<usize>,
    /// The key, as in `pixels[0].access_token`; empty if it is about the whole file.
    pub key: String,
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// Whose file it is.
    pub account: Option<AccountId>,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused; what was in force before stays.
    Error,
    /// A condition that the file is taken up with.
    Warning,
}

// === impl Problem ===

impl Problem {
    /// A problem for which a file is refused.
    pub fn error(file: &Path, key: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error, file, key, reason.into(), remedy.into())
    }

    /// A problem that a file is taken up with.
    pub fn warning(file: &Path, key: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, file, key, reason.into(), remedy.into())
    }

    fn new(severity: Severity, file: &Path, key: &str, reason: String, remedy: String) -> Self {
        Self { severity, file: file.to_owned(), line: None, key: key.to_owned(), reason, remedy, account: None }
    }

    /// The same problem, as one of this account.
    #[must_use]
    pub fn of_account(mut self, account: &AccountId) -> Self {
        self.account = Some(account.clone());
        self
    }

    /// The same problem at a line.
    #[must_use]
    pub(super) fn at_line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    /// Whether the file is refused for it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}\n  → {}", self.reason, self.remedy)
    }
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A path that is no UTF-8 must not keep a whole report from being written.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn sample() -> Problem {
        Problem::error(Path::new("accounts/shoes.toml"), "pixels[0].id", "it is no number", "write digits")
            .of_account(&"shoes".parse().unwrap())
            .at_line(Some(12))
    }

    #[test]
    fn people_read_place_reason_and_remedy() {
        let expected = "error: accounts/shoes.toml:12: pixels[0].id: it is no number\n  → write digits";
        assert_eq!(sample().to_string(), expected);
        let whole_file = Problem::warning(Path::new("pixelgate.toml"), "", "it is old", "renew it");
        assert_eq!(whole_file.to_string(), "warning: pixelgate.toml: it is old\n  → renew it");
    }

    #[test]
    fn programs_read_stable_keys() {
        let json = serde_json::to_value(sample()).unwrap();
        let expected = serde_json::json!({
            "severity": "error", "file": "accounts/shoes.toml", "line": 12, "key": "pixels[0].id",
            "reason": "it is no number", "remedy": "write digits", "account": "shoes",
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), sample());
    }

    #[test]
    fn a_path_that_is_no_utf8_is_still_reported() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9.toml"));
        let json = serde_json::to_value(Problem::error(path, "", "r", "r")).unwrap();
        assert_eq!(json["file"], "caf\u{fffd}.toml");
    }
}
