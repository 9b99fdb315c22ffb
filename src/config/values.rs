//! The doors by which values come out of a table: each checks one kind of value, its range, and reports what it refuses.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::clock::span;
use crate::config::file::{Table, Value, nearest};
use crate::config::findings::{Place, shown};

/// Characters of what something is called.
const LABEL_CHARS_MAX: usize = 200;

// === impl Table ===

impl<'f> Table<'f> {
    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key).and_then(|value| value.flag()).unwrap_or(default)
    }

    /// A whole number within a range: bytes, or how many of something.
    pub(super) fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.value(key).and_then(|value| value.size(&range)).unwrap_or(default)
    }

    /// A whole number within a range, of what is kept in memory.
    pub(super) fn count(&mut self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let range = *range.start() as u64..=*range.end() as u64;
        usize::try_from(self.size(key, default as u64, range)).unwrap_or(default)
    }

    /// A time such as `10s` within a range.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.value(key).and_then(|value| value.duration(&range)).unwrap_or(default)
    }

    /// Reports a longest time that is shorter than the shortest one, at the key that is written: the other may have its
    /// default.
    pub(super) fn in_order(&self, (min_key, min): (&str, Duration), (max_key, max): (&str, Duration)) {
        let places = [self.place_of(max_key), self.place_of(min_key)];
        if min <= max || places.iter().any(Place::is_refused) {
            return;
        }
        let [at_max, at_min] = places;
        let place = if self.has(max_key) { at_max } else { at_min };
        place.error(
            format!("{max_key} ({}) is shorter than {min_key} ({})", span(max), span(min)),
            format!("make {max_key} at least as long as {min_key}"),
        );
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&'static str, T)]) -> T {
        self.value(key).and_then(|value| value.choice(words)).unwrap_or(default)
    }

    /// What something is called.
    pub(super) fn label(&mut self, key: &'static str) -> Option<String> {
        self.value(key)?.label()
    }

    /// A path; a relative one begins at the folder of the file it stands in.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.value(key)?.path()
    }

    /// The elements of a list.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Value<'f>> {
        self.value(key).and_then(Value::list).unwrap_or_default()
    }

    /// The elements of a list, each parsed; those that are refused are left out.
    pub(super) fn parsed_list<T: FromStr<Err: Display>>(&mut self, key: &'static str, remedy: &str) -> Vec<T> {
        self.list(key).iter().filter_map(|element| element.parsed(remedy)).collect()
    }
}

// === impl Value ===

impl Value<'_> {
    /// A text that is parsed.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, remedy: &str) -> Option<T> {
        let text = self.text()?;
        let parsed = text.parse();
        parsed.map_err(|error: T::Err| self.place.error(format!("{}: {error}", shown(text)), remedy)).ok()
    }

    /// What something is called: a line of text.
    pub(super) fn label(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() || text.chars().count() > LABEL_CHARS_MAX || text.chars().any(char::is_control) {
            let remedy = format!("write one line of 1 to {LABEL_CHARS_MAX} characters");
            self.place.error("this is no name", remedy);
            return None;
        }
        Some(text.to_owned())
    }

    /// A path; a relative one begins at the folder of the file it stands in.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            self.place.error("this is no path", "write a path, relative ones begin at the folder of this file");
            return None;
        }
        Some(self.place.file().parent().unwrap_or(Path::new("")).join(text))
    }

    fn size(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let number = self.number()?;
        let size = u64::try_from(number).ok().filter(|size| range.contains(size));
        if size.is_none() {
            let remedy = format!("write a number from {} to {}", range.start(), range.end());
            self.place.error(format!("{number} is out of range"), remedy);
        }
        size
    }

    /// A time such as `10s` within a range.
    pub(super) fn duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let remedy = || {
            let (from, to) = (span(*range.start()), span(*range.end()));
            format!("write a time from {from} to {to}, such as \"500ms\", \"10s\", \"5m\", \"12h\", \"7d\"")
        };
        if !self.is_text() {
            self.place.error("this is no time with its unit", remedy());
            return None;
        }
        let text = self.text()?;
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                self.place.error(format!("{} is out of range", shown(text)), remedy());
                None
            }
            Err(error) => {
                self.place.error(format!("{} is no time: {error}", shown(text)), remedy());
                None
            }
        }
    }

    fn choice<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let remedy = match nearest(text, &words) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("write one of \"{}\"", words.join("\", \"")),
            };
            self.place.error(format!("{} is none of the choices", shown(text)), remedy);
        }
        chosen
    }
}
