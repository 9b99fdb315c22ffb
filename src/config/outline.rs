//! The outline of a text that is no TOML: where each key and each table header stands, and what is opened and never closed.
//! It is found without parsing, for after a mistake a parser takes the rest for something else.

use std::collections::HashMap;

/// Bytes of a key with all tables that it is in; longer ones are left out.
const PATH_BYTES_MAX: usize = 512;

/// Where things stand in a text, as far as it can be told.
pub(super) struct Outline {
    steps: Vec<Step>,
    /// The first thing that is opened and never closed.
    pub(super) unclosed: Option<Unclosed>,
}

/// One name of a key or a header, as `host` and `name` of `host.name = "x"`.
struct Step {
    at: usize,
    /// The key up to this name, with the tables that it is in, as in `pixels[0].id`.
    path: String,
    in_header: bool,
}

/// What is opened and never closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed {
    /// The byte where it begins.
    pub(super) at: usize,
    /// Whose value it is in.
    pub(super) key: String,
    pub(super) what: What,
}

/// What can be left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    List,
    Table,
    /// A text of one line, in a list or table.
    Text(char),
    /// A text of several lines.
    LongText(char),
}

/// A key that is written before already.
pub(super) struct Twice<'o> {
    /// The byte where it stands first.
    pub(super) first: usize,
    pub(super) key: &'o str,
    /// Whether it is a table's header.
    pub(super) is_header: bool,
}

/// A walk over a text.
struct Walk<'t> {
    text: &'t str,
    at: usize,
    steps: Vec<Step>,
    /// The table that keys are in now; `None` = its path is too long.
    table: Option<String>,
    /// How many tables each `[[list]]` has so far.
    lists: HashMap<String, usize>,
}

// === impl Outline ===

impl Outline {
    pub(super) fn of(text: &str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let mut walk = Walk { text, at, steps: Vec::new(), table: Some(String::new()), lists: HashMap::new() };
        let unclosed = walk.all().err();
        Self { steps: walk.steps, unclosed }
    }

    /// The key at a byte, if it is written before already.
    pub(super) fn twice(&self, at: usize) -> Option<Twice<'_>> {
        let step = self.steps.iter().find(|step| step.at == at)?;
        let is_same = |path: &str| {
            path.strip_prefix(&step.path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let first = self.steps.iter().take_while(|step| step.at < at).find(|step| is_same(&step.path))?;
        Some(Twice { first: first.at, key: &step.path, is_header: step.in_header })
    }
}

// === impl Walk ===

impl<'t> Walk<'t> {
    fn all(&mut self) -> Result<(), Unclosed> {
        loop {
            self.skip(|byte| byte.is_ascii_whitespace());
            match self.peek() {
                None => return Ok(()),
                Some(b'#') => self.skip_line(),
                Some(b'[') => self.header(),
                Some(_) => self.pair()?,
            }
        }
    }

    /// `[table]` or `[[list]]`
    fn header(&mut self) {
        let is_list = self.rest().starts_with("[[");
        self.at += if is_list { 2 } else { 1 };
        let path = self.key(Some(String::new()), true);
        self.table = path.map(|mut path| {
            if is_list {
                let tables = self.lists.entry(path.clone()).or_default();
                path.push_str(&format!("[{tables}]"));
                *tables += 1;
            }
            path
        });
        self.skip_line();
    }

    /// `key = value`
    fn pair(&mut self) -> Result<(), Unclosed> {
        let path = self.key(self.table.clone(), false);
        if self.peek() == Some(b'=') {
            return self.value(&path.unwrap_or_default());
        }
        self.skip_line();
        Ok(())
    }

    /// A dotted key below a table; where it leads.
    fn key(&mut self, mut path: Option<String>, in_header: bool) -> Option<String> {
        loop {
            self.skip(|byte| matches!(byte, b' ' | b'\t'));
            let (at, name) = (self.at, self.name());
            if name.is_empty() {
                return path;
            }
            path = path.filter(|path| path.len() + name.len() < PATH_BYTES_MAX).map(|mut path| {
                // What comes below a list is in its last table.
                if let Some(tables) = self.lists.get(&path).filter(|_| in_header) {
                    path.push_str(&format!("[{}]", tables - 1));
                }
                if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
            });
            self.steps.extend(path.clone().map(|path| Step { at, path, in_header }));
            self.skip(|byte| matches!(byte, b' ' | b'\t'));
            if self.peek() != Some(b'.') {
                return path;
            }
            self.at += 1;
        }
    }

    /// One name of a key, without its quotes.
    fn name(&mut self) -> &'t str {
        let begin = self.at;
        if let Some(quote @ (b'"' | b'\'')) = self.peek() {
            self.at += 1;
            self.skip(|byte| byte != quote && byte != b'\n');
            let name = self.text.get(begin + 1..self.at).unwrap_or_default();
            self.at += usize::from(self.peek() == Some(quote));
            return name;
        }
        self.skip(is_bare);
        self.text.get(begin..self.at).unwrap_or_default()
    }

    /// A value, to the end of the line that it ends on.
    fn value(&mut self, key: &str) -> Result<(), Unclosed> {
        let unclosed = |at, what| Unclosed { at, key: key.to_owned(), what };
        let mut open: Vec<(usize, What)> = Vec::new();
        while let Some(byte) = self.peek() {
            let at = self.at;
            self.at += 1;
            match byte {
                b'\n' => match (open.first(), open.last()) {
                    (Some((outer, what)), Some((_, inner))) if self.begins_something_else(*inner) => {
                        return Err(unclosed(*outer, *what));
                    }
                    (None, _) => return Ok(()),
                    _ => {}
                },
                b'#' => self.skip(|byte| byte != b'\n'),
                // The parser tells of one that only spoils its own line.
                b'"' | b'\'' => match self.text_from(at, byte) {
                    Err(What::Text(_)) if open.is_empty() => {}
                    Err(what) => return Err(unclosed(at, what)),
                    Ok(()) => {}
                },
                b'[' => open.push((at, What::List)),
                b'{' => open.push((at, What::Table)),
                b']' | b'}' => {
                    let closes = if byte == b']' { What::List } else { What::Table };
                    if let Some((at, what)) = open.pop().filter(|(_, what)| *what != closes) {
                        return Err(unclosed(at, what));
                    }
                }
                _ => {}
            }
        }
        open.first().map_or(Ok(()), |(at, what)| Err(unclosed(*at, *what)))
    }

    /// The rest of a text whose first quote was passed.
    fn text_from(&mut self, begin: usize, quote: u8) -> Result<(), What> {
        let bytes = self.text.as_bytes();
        let is_triple = |at: usize| bytes.get(at..at + 3) == Some(&[quote; 3]);
        let is_long = is_triple(begin);
        self.at = if is_long { begin + 3 } else { begin + 1 };
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' if !is_long => break,
                _ if byte == quote && !is_long => {
                    self.at += 1;
                    return Ok(());
                }
                _ if byte == quote && is_triple(self.at) => {
                    // Two quotes more may be the text's own.
                    let quotes = bytes.iter().skip(self.at).take(5).take_while(|byte| **byte == quote);
                    self.at += quotes.count();
                    return Ok(());
                }
                b'\\' if quote == b'"' => {
                    self.at += 1;
                    self.at += usize::from(self.peek().is_some_and(|byte| byte != b'\n'));
                }
                _ => self.at += 1,
            }
        }
        let quote = char::from(quote);
        Err(if is_long { What::LongText(quote) } else { What::Text(quote) })
    }

    /// Whether the line that begins here is a header, or a key in a list: no value goes on like this.
    fn begins_something_else(&self, inner: What) -> bool {
        let line = self.rest().split('\n').next().unwrap_or_default().trim();
        let is_key = |key: &str| {
            let first = key.bytes().next();
            first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
                && key.bytes().all(|byte| is_bare(byte) || byte == b'.')
        };
        let header = line.split('#').next().unwrap_or_default().trim();
        let inside = |open, close| header.strip_prefix(open)?.strip_suffix(close);
        let name = inside("[[", "]]").or_else(|| inside("[", "]")).map(str::trim);
        let is_header = name.is_some_and(|name| is_key(name) && !["true", "false", "inf", "nan"].contains(&name));
        let is_pair = line.split_once('=').is_some_and(|(key, _)| is_key(key.trim()));
        is_header || (is_pair && inner == What::List)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, over: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&over) {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        self.skip(|byte| byte != b'\n');
    }
}

/// Whether a key may have it without quotes.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn unclosed(text: &str) -> Option<(usize, What)> {
        Outline::of(text)
            .unclosed
            .map(|unclosed| (1 + text.get(..unclosed.at).unwrap().matches('\n').count(), unclosed.what))
    }

    #[test]
    fn what_is_whole_is_closed() {
        for text in [
            "a = [\n  1, # [ {\n  [2],\n  [true]\n]\n[t]\nb = 1\n",
            "a = [\n[1]\n]\nb = { c = 1,\n d = [2] }\n",
            "a = \"\"\"\n[x]\nb = \"\"\"\"\"\nb = '''it's'''\n",
            "a = \"\\\"[\"\nb = '\\'\n'[' = 1\n",
            "a = { \n b = 1 \n}\n",
        ] {
            assert_eq!(unclosed(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_closed_is_found_where_it_begins() {
        for (text, expected) in [
            ("x = 1\na = [\"b\",\n\"c\"\n[[pixels]]\nid = [1]\n", (2, What::List)),
            ("a = [\n\"c\"\nb = 1\nd = [1]\n", (1, What::List)),
            ("a = [1, 2", (1, What::List)),
            ("b = 1\na = { c = 1\n[t]\n", (2, What::Table)),
            ("a = { c = [1, 2 }\n", (1, What::List)),
            ("a = [\n\"b,\n\"c\"\n]\n", (2, What::Text('"'))),
            ("b = 1\na = '''x\ny\n", (2, What::LongText('\''))),
        ] {
            assert_eq!(unclosed(text), Some(expected), "{text}");
        }
        assert_eq!(unclosed("a = \"x\nb = 'y\n"), None, "each spoils its own line only");
    }

    #[test]
    fn keys_are_found_again_in_their_own_table_only() {
        let text = "id = 1\n[[p]]\nid = 1\nx.\"y z\" = 1\n[p.q]\nid = 1\n[[p]]\nid = 2\nid = 3\n[p.q]\n[p.q]\n[x]\n";
        let outline = Outline::of(text);
        let at = |line: usize| text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
        let twice = |byte: usize| outline.twice(byte).map(|twice| (twice.first, twice.key, twice.is_header));
        assert_eq!(twice(at(9)), Some((at(8), "p[1].id", false)));
        for line in [3, 6, 8] {
            assert_eq!(twice(at(line)), None, "line {line}");
        }
        assert_eq!(twice(at(11) + 3), Some((at(10) + 3, "p[1].q", true)));
    }
}
