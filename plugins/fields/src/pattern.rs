//! Names, and beginnings of names.

use serde::Deserialize;

/// A list of names; one that ends in `*` stands for all that begin like it.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub(crate) struct Patterns(Vec<Pattern>);

#[derive(Debug)]
enum Pattern {
    Is(String),
    Begins(String),
}

// === impl Patterns ===

impl Patterns {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Is(whole) => name == whole,
            Pattern::Begins(beginning) => name.starts_with(beginning.as_str()),
        })
    }
}

impl TryFrom<Vec<String>> for Patterns {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let pattern = |name: String| match name.split_once('*') {
            None => Ok(Pattern::Is(name)),
            Some((beginning, "")) => Ok(Pattern::Begins(beginning.to_owned())),
            Some(_) => Err(format!("\"{name}\" has a * that is not at its end")),
        };
        names.into_iter().map(pattern).collect::<Result<_, _>>().map(Self)
    }
}
