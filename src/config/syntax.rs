//! What is told of a file that is no TOML: where that begins which is not closed, which key is there twice and where it
//! stands first, and of all else the parser's own words. What merely follows from a mistake is left out.

use crate::config::findings::{ERRORS_MAX, Findings, Place, shown};
use crate::config::outline::{Outline, Twice, Unclosed, What};

/// What to say to somebody whose file is no TOML.
const REMEDY: &str = "mend this line or the one before it (the rules: https://toml.io)";
/// The parser's words for a key that is there twice.
const DUPLICATE: &str = "duplicate key";

/// What the parser found.
pub(super) struct Mistake<'t> {
    /// The byte where it is.
    pub(super) at: Option<usize>,
    /// What stands there.
    pub(super) written: &'t str,
    /// The parser's words.
    pub(super) message: String,
}

/// Tells what is wrong, one problem a line.
pub(super) fn tell<'f>(findings: &'f Findings<'f>, text: &str, mut mistakes: Vec<Mistake<'_>>) {
    mistakes.sort_by_key(|mistake| mistake.at);
    let outline = Outline::of(text);
    let line_begin = |at: usize| text.get(..at).and_then(|before| before.rfind('\n'));
    if let Some(unclosed) = &outline.unclosed {
        // The parser took the rest for a part of it.
        let before = line_begin(unclosed.at);
        mistakes.retain(|mistake| mistake.at.is_none_or(|at| before.is_some_and(|end| at <= end)));
    }
    mistakes.dedup_by_key(|mistake| mistake.at.map(line_begin));
    let mut tables: Vec<&str> = Vec::new();
    for mistake in mistakes.iter().take(ERRORS_MAX + 1) {
        let twice = mistake.at.filter(|_| mistake.message == DUPLICATE).map(|at| outline.twice(at));
        match twice {
            // Its keys are there twice because it is.
            Some(Some(twice)) if tables.iter().any(|table| is_below(twice.key, table)) => {}
            Some(Some(twice)) => {
                tell_twice(&findings.place(twice.key, mistake.at), &twice, findings.line(twice.first));
                tables.extend(twice.is_header.then_some(twice.key));
            }
            Some(None) => {
                let reason = format!("this is no TOML: the key {} is there twice", shown(mistake.written));
                findings.place("", mistake.at).error(reason, "remove one of the two");
            }
            None => findings.place("", mistake.at).error(format!("this is no TOML: {}", mistake.message), REMEDY),
        }
    }
    if let Some(Unclosed { at, key, what }) = &outline.unclosed {
        tell_unclosed(&findings.place(key, Some(*at)), *what);
    }
}

fn tell_twice(place: &Place<'_>, twice: &Twice<'_>, first: usize) {
    let remedy = if twice.is_header {
        format!("write all its keys below line {first}, and remove this one")
    } else {
        "remove one of the two".to_owned()
    };
    place.error(format!("this is no TOML: the same stands in line {first} already"), remedy);
}

fn tell_unclosed(place: &Place<'_>, what: What) {
    let (reason, missing) = match what {
        What::List => ("the list that begins here is not closed", "]".to_owned()),
        What::Table => ("the table that begins here is not closed", "}".to_owned()),
        What::Text(quote) => ("a text of this line is not closed", quote.to_string()),
        What::LongText(quote) => ("the text that begins here is not closed", quote.to_string().repeat(3)),
    };
    place.error(format!("this is no TOML: {reason}"), format!("add the {missing} that is missing"));
}

fn is_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}
