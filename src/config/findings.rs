//! What is found wrong in one file while it is read, and at which key and line.

use std::cell::{Cell, RefCell};
use std::path::Path;

use crate::account::AccountId;
use crate::config::problem::Problem;

/// Errors that are told of one file; what comes after them is most likely one mistake many times.
pub(super) const ERRORS_MAX: usize = 100;

/// What was found in one file.
#[derive(Debug)]
pub(super) struct Findings<'f> {
    file: &'f Path,
    account: Option<&'f AccountId>,
    text: &'f str,
    problems: RefCell<Vec<Problem>>,
    errors: Cell<usize>,
    /// Every key that was asked for, `[]` for any element of a list: what the documentation must name.
    #[cfg(test)]
    asked: RefCell<std::collections::BTreeSet<String>>,
}

/// A key of a file, to report problems at.
#[derive(Clone, Debug)]
pub(super) struct Place<'f> {
    findings: &'f Findings<'f>,
    key: String,
    /// The byte where it stands; `None` for what is not written.
    at: Option<usize>,
}

// === impl Findings ===

impl<'f> Findings<'f> {
    /// Nothing was found yet.
    pub(super) fn new(file: &'f Path, account: Option<&'f AccountId>, text: &'f str) -> Self {
        Self {
            file,
            account,
            text,
            problems: RefCell::default(),
            errors: Cell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    /// What was found.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// The place of something, the whole file if `key` is empty; `at` is the byte where it stands.
    pub(super) fn place(&'f self, key: &str, at: Option<usize>) -> Place<'f> {
        Place { findings: self, key: key.to_owned(), at }
    }

    /// The line that a byte is in, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        line_at(self.text, at)
    }

    #[cfg(test)]
    pub(super) fn into_asked(self) -> std::collections::BTreeSet<String> {
        self.asked.into_inner()
    }

    fn push(&self, problem: Problem) {
        let mut problem = problem;
        if problem.is_error() {
            self.errors.set(self.errors.get() + 1);
            if self.errors.get() > ERRORS_MAX + 1 {
                return;
            }
            if self.errors.get() > ERRORS_MAX {
                let reason = format!("there are more than {ERRORS_MAX} errors in this file");
                problem = Problem::error(self.file, "", reason, "mend those above first");
            }
        }
        let problem = match self.account {
            Some(account) => problem.of_account(account),
            None => problem,
        };
        self.problems.borrow_mut().push(problem);
    }
}

// === impl Place ===

impl<'f> Place<'f> {
    /// The key, as problems name it.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The byte where it stands.
    pub(super) fn at(&self) -> Option<usize> {
        self.at
    }

    /// Whether something was refused at this key or below it: what only follows from that need not be told.
    pub(super) fn is_refused(&self) -> bool {
        let is_here =
            |key: &str| key.strip_prefix(&self.key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']));
        self.findings.problems.borrow().iter().any(|problem| problem.is_error() && is_here(&problem.key))
    }

    /// The file.
    pub(super) fn file(&self) -> &'f Path {
        self.findings.file
    }

    /// The whole text of the file.
    pub(super) fn text(&self) -> &'f str {
        self.findings.text
    }

    /// Reports what the file is refused for.
    pub(super) fn error(&self, reason: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Problem::error(self.file(), &self.key, reason, remedy).at_line(self.line()));
    }

    /// Reports a condition that the file is taken up with.
    pub(super) fn warning(&self, reason: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Problem::warning(self.file(), &self.key, reason, remedy).at_line(self.line()));
    }

    /// The place of a key below this one.
    pub(super) fn below(&self, key: &str, at: Option<usize>) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Self { findings: self.findings, key, at }
    }

    /// The place of an element of this list.
    pub(super) fn element(&self, index: usize, at: usize) -> Self {
        Self { findings: self.findings, key: format!("{}[{index}]", self.key), at: Some(at) }
    }

    /// Notes that this key is known to whoever reads the file.
    #[cfg(test)]
    pub(super) fn asked(&self) {
        let key = self.key.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.findings.asked.borrow_mut().insert(key);
    }

    fn line(&self) -> Option<usize> {
        self.at.map(|at| self.findings.line(at))
    }
}

/// The line of a text that a byte is in, from 1.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// A text from a file as messages show it: quoted, and not at any length.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
