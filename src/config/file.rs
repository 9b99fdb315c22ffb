//! TOML as it is written: a reader that tells every problem of a file at once, each with its key and line.
//!
//! [`read`] hands the root table to a function that asks it for keys. A key is declared by asking for it: what nobody
//! asked for is unknown, and reported with what it was probably meant to be. A key that is absent or wrong gives `None`,
//! so that reading goes on with a default; whoever reads looks at the problems before believing the result.

use std::path::Path;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::account::AccountId;
use crate::config::findings::{Findings, Place, line_at, shown};
use crate::config::problem::Problem;
use crate::config::syntax::{self, Mistake};

/// Bytes of a file; far more than any account needs.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Levels that tables and lists may nest, as in the JSON that events come in.
const DEPTH_MAX: usize = 32;

/// A table that is being read.
pub(super) struct Table<'f> {
    /// Where it stands.
    pub(super) place: Place<'f>,
    entries: DeTable<'f>,
    /// The keys that were asked for, and where those stand that are written.
    known: Vec<(&'static str, Option<usize>)>,
}

/// A value as it is written.
pub(super) struct Value<'f> {
    /// Where it stands.
    pub(super) place: Place<'f>,
    value: DeValue<'f>,
}

/// Reads a file's bytes. The result is `None` if they are no TOML at all; it means something only if no problem is an
/// error.
pub(super) fn read<T>(
    file: &Path,
    account: Option<&AccountId>,
    bytes: &[u8],
    resolve: impl FnOnce(&mut Table<'_>) -> T,
) -> (Option<T>, Vec<Problem>) {
    let (text, obstacle) = match as_text(bytes) {
        Ok(text) => (text, None),
        Err((readable, reason)) => (readable, Some(reason)),
    };
    let findings = Findings::new(file, account, text);
    let result = match obstacle {
        // What could be read ends where the obstacle stands.
        Some(reason) => {
            let at = (!text.is_empty()).then_some(text.len());
            findings.place("", at).error(reason, "write the file again as text in UTF-8");
            None
        }
        None => parse(&findings, text).map(|entries| Table::new(findings.place("", None), entries).read(resolve)),
    };
    (result, findings.into_problems())
}

/// Reads what can be read of a file that may be no TOML at all, and tells no problems.
pub(super) fn read_in_part<T>(file: &Path, bytes: &[u8], resolve: impl FnOnce(&mut Table<'_>) -> T) -> T {
    let text = as_text(bytes).unwrap_or_else(|(readable, _)| readable);
    let findings = Findings::new(file, None, text);
    let (root, _) = DeTable::parse_recoverable(text);
    let root = DeValue::Table(root.into_inner());
    let entries = match root {
        DeValue::Table(entries) if !entries.values().any(|value| is_deeper(value.get_ref(), DEPTH_MAX)) => entries,
        deep => {
            dismantle(deep);
            DeTable::new()
        }
    };
    Table::new(findings.place("", None), entries).read(resolve)
}

/// The keys that are asked of a file.
#[cfg(test)]
pub(super) fn keys_asked<T>(
    text: &str,
    resolve: impl FnOnce(&mut Table<'_>) -> T,
) -> std::collections::BTreeSet<String> {
    let findings = Findings::new(Path::new("test.toml"), None, text);
    if let Some(entries) = parse(&findings, text) {
        Table::new(findings.place("", None), entries).read(resolve);
    }
    findings.into_asked()
}

/// What a file holds if it can be TOML at all; else what comes before the obstacle, and what that is.
fn as_text(bytes: &[u8]) -> Result<&str, (&str, &'static str)> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(("", "the file is larger than 1 MiB"));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(("", "the file is empty"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let readable = bytes.get(..error.valid_up_to()).unwrap_or_default();
        (std::str::from_utf8(readable).unwrap_or_default(), "the file is not UTF-8")
    })?;
    match text.split_once('\0') {
        Some((readable, _)) => Err((readable, "the file holds a NUL byte, so it is no text")),
        None => Ok(text),
    }
}

/// The line of a key or of an element of a list, such as `pixels[0].id` or `domains[2]`, in a text that was read before.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let (root, _) = DeTable::parse_recoverable(text);
    let root = DeValue::Table(root.into_inner());
    let (mut value, mut at) = (&root, None);
    for step in key.split('.') {
        let (name, index) = match step.strip_suffix(']').and_then(|step| step.split_once('[')) {
            Some((name, index)) => (name, Some(index.parse::<usize>().ok()?)),
            None => (step, None),
        };
        let DeValue::Table(table) = value else { return None };
        let (written, below) = table.get_key_value(name)?;
        (value, at) = (below.get_ref(), Some(written.span().start));
        if let (Some(index), DeValue::Array(array)) = (index, value) {
            let element = array.get(index)?;
            (value, at) = (element.get_ref(), Some(element.span().start));
        }
    }
    at.map(|at| line_at(text, at))
}

/// The root table. If this is no TOML that is reported, and nothing else: what would be found in the rest is most likely a
/// consequence.
fn parse<'f>(findings: &'f Findings<'f>, text: &'f str) -> Option<DeTable<'f>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mistake = |error: &toml::de::Error| Mistake {
        at: error.span().map(|span| span.start),
        written: error.span().and_then(|span| text.get(span)).unwrap_or_default(),
        message: error.message().replace('\n', " "),
    };
    if !errors.is_empty() {
        syntax::tell(findings, text, errors.iter().map(mistake).collect());
    }
    let root = DeValue::Table(root.into_inner());
    if is_deeper(&root, DEPTH_MAX) {
        let reason = format!("tables and lists nest deeper than {DEPTH_MAX} levels");
        findings.place("", None).error(reason, "write it flatter");
        dismantle(root);
        return None;
    }
    match root {
        DeValue::Table(root) if errors.is_empty() => Some(root),
        _ => None,
    }
}

fn is_deeper(value: &DeValue<'_>, levels: usize) -> bool {
    let below =
        |value: &Spanned<DeValue<'_>>| levels.checked_sub(1).is_none_or(|levels| is_deeper(value.get_ref(), levels));
    match value {
        DeValue::Table(table) => table.values().any(below),
        DeValue::Array(array) => array.iter().any(below),
        _ => false,
    }
}

/// Drops a value level by level: a few kilobytes of dotted keys nest it so deeply that dropping it whole would overflow
/// the stack.
fn dismantle(value: DeValue<'_>) {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        match value {
            DeValue::Table(table) => waiting.extend(table.into_iter().map(|(_, value)| value.into_inner())),
            DeValue::Array(array) => waiting.extend(array.into_iter().map(Spanned::into_inner)),
            _ => {}
        }
    }
}

// === impl Table ===

impl<'f> Table<'f> {
    fn new(place: Place<'f>, entries: DeTable<'f>) -> Self {
        Self { place, entries, known: Vec::new() }
    }

    /// Has the table read, and reports the keys that were not asked for.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let result = read(&mut self);
        for key in self.entries.keys() {
            let place = self.place.below(&quoted(key.get_ref()), Some(key.span().start));
            let known: Vec<_> = self.known.iter().map(|(key, _)| *key).collect();
            place.error("there is no such key", unknown_key_remedy(key.get_ref(), &known));
        }
        result
    }

    /// The value of a key, if it is written.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'f>> {
        let (place, value) = self.entry(key);
        Some(Value { place, value: value? })
    }

    /// The value of a key that must be written.
    pub(super) fn required(&mut self, key: &'static str, remedy: &str) -> Option<Value<'f>> {
        let (place, value) = self.entry(key);
        if value.is_none() {
            place.error("the key is missing", remedy);
        }
        Some(Value { place, value: value? })
    }

    /// Has the table of a key read; one that is absent is read as an empty one.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let (place, value) = self.entry(key);
        let entries = value.and_then(|value| Value { place: place.clone(), value }.entries());
        Table::new(place, entries.unwrap_or_default()).read(read)
    }

    /// Has each table of a list (`[[key]]`) read.
    pub(super) fn tables<T>(&mut self, key: &'static str, mut read: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let elements = self.value(key).and_then(Value::list).unwrap_or_default();
        elements.into_iter().filter_map(|element| element.table(&mut read)).collect()
    }

    /// Whether a key that was asked for is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.written_at(key).is_some()
    }

    /// The place of a key that was asked for: where it is written, else that of the table.
    pub(super) fn place_of(&self, key: &str) -> Place<'f> {
        self.place.below(key, self.written_at(key).or(self.place.at()))
    }

    fn written_at(&self, key: &str) -> Option<usize> {
        self.known.iter().find(|(known, _)| *known == key)?.1
    }

    fn entry(&mut self, key: &'static str) -> (Place<'f>, Option<DeValue<'f>>) {
        let entry = self.entries.remove_entry(key);
        self.known.push((key, entry.as_ref().map(|(key, _)| key.span().start)));
        let place = self.place_of(key);
        #[cfg(test)]
        place.asked();
        (place, entry.map(|(_, value)| value.into_inner()))
    }
}

/// A key as TOML would have it written.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.len() <= 80 && key.chars().all(bare) { key.to_owned() } else { shown(key) }
}

fn unknown_key_remedy(written: &str, known: &[&str]) -> String {
    match nearest(written, known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("remove it; the keys here are {}", known.join(", ")),
    }
}

/// The word that `written` was probably meant to be.
pub(super) fn nearest<'w>(written: &str, words: &[&'w str]) -> Option<&'w str> {
    // A long text is no misspelt word, and comparing it takes time.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase();
    let near = words.iter().map(|word| (strsim::damerau_levenshtein(&written, word), *word));
    near.filter(|(distance, word)| *distance <= (word.len() / 3).max(1)).min().map(|(_, word)| word)
}

// === impl Value ===

impl<'f> Value<'f> {
    /// A text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            DeValue::String(text) => Some(text),
            _ => self.mistyped("a text in \"quotes\""),
        }
    }

    /// A whole number.
    pub(super) fn number(&self) -> Option<i128> {
        let DeValue::Integer(number) = &self.value else {
            return self.mistyped("a whole number");
        };
        let number = to_number(number);
        if number.is_none() {
            self.place.error("the number has more than 128 bits", "write a smaller one");
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(flag) => Some(flag),
            _ => self.mistyped("true or false, without quotes"),
        }
    }

    /// The elements of a list.
    pub(super) fn list(self) -> Option<Vec<Self>> {
        let Self { place, value } = self;
        let DeValue::Array(array) = value else {
            return Self { place, value }.mistyped("a list in [brackets]");
        };
        let element = |(index, element): (usize, Spanned<DeValue<'f>>)| Self {
            place: place.element(index, element.span().start),
            value: element.into_inner(),
        };
        Some(array.into_iter().enumerate().map(element).collect())
    }

    /// Has the table read that this is.
    pub(super) fn table<T>(self, read: impl FnOnce(&mut Table<'f>) -> T) -> Option<T> {
        let place = self.place.clone();
        self.entries().map(|entries| Table::new(place, entries).read(read))
    }

    /// Whether it is a text; reports nothing.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// The value as JSON, dates and times as text.
    pub(super) fn json(&self) -> Option<Json> {
        let json = to_json(&self.value);
        if json.is_none() {
            self.place.error("JSON has no such number", "write numbers that are finite and have at most 64 bits");
        }
        json
    }

    fn entries(self) -> Option<DeTable<'f>> {
        match self.value {
            DeValue::Table(entries) => Some(entries),
            _ => self.mistyped("a table"),
        }
    }

    /// Reports the wrong type, but not the value: it may be a secret in the wrong place.
    fn mistyped<T>(&self, wanted: &str) -> Option<T> {
        let is = match &self.value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.place.error(format!("this is {is}"), format!("write {wanted}"));
        None
    }
}

fn to_number(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Recursion is bounded: what nests too deeply was refused when the file was parsed.
fn to_json(value: &DeValue<'_>) -> Option<Json> {
    Some(match value {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Integer(number) => {
            let number = to_number(number)?;
            i64::try_from(number).map(Json::from).or_else(|_| u64::try_from(number).map(Json::from)).ok()?
        }
        DeValue::Float(number) => Json::Number(serde_json::Number::from_f64(number.as_str().parse().ok()?)?),
        DeValue::Boolean(flag) => Json::from(*flag),
        DeValue::Datetime(time) => Json::from(time.to_string()),
        DeValue::Array(array) => array.iter().map(|value| to_json(value.get_ref())).collect::<Option<_>>()?,
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| Some((key.get_ref().to_string(), to_json(value.get_ref())?)));
            Json::Object(entries.collect::<Option<_>>()?)
        }
    })
}
