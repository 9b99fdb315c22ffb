//! Where an event came in, as filters see it; kept beside a held event, so that a replay is filtered as the event was.

use serde::{Deserialize, Serialize};

use crate::account::{AccountId, PixelId};
use crate::event::{Event, Scalar};

/// Where an event came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Whose event it is.
    pub account: AccountId,
    /// Where it goes.
    pub pixel: PixelId,
    /// The name that the request was sent to.
    pub host: String,
    /// What the request said: the cookies that the account names as consent sources, and the visitor's `country` where
    /// it is known.
    pub signals: Vec<(String, Scalar)>,
    /// The consent sources themselves: a key of this name that an event carries is a signal of that event, if the
    /// request has none of the name. Not written, a replay takes those of its time.
    pub sources: Vec<String>,
}

/// [`Context`] as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    account: AccountId,
    pixel: PixelId,
    host: String,
    signals: Vec<(String, WrittenScalar)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenScalar {
    Text(String),
    Number(f64),
    Boolean(bool),
    Json(String),
}

// === impl Context ===

impl Context {
    /// The context of one event, to be kept with it: what was said beside the event is not kept in it.
    #[must_use]
    pub fn with_beside(&self, event: &Event) -> Self {
        let mut context = self.clone();
        let is_signal = |name: &String| {
            let carried = event.custom_data.contains_key(name) || event.extra.contains_key(name);
            self.sources.contains(name) && !carried && self.signals.iter().all(|(other, _)| other != name)
        };
        context.signals.extend(event.beside.iter().filter(|(name, _)| is_signal(name)).cloned());
        context
    }

    /// The context as JSON.
    pub fn to_json(&self) -> String {
        let signals = self.signals.iter().map(|(name, value)| (name.clone(), WrittenScalar::from(value)));
        let written = Written {
            account: self.account.clone(),
            pixel: self.pixel,
            host: self.host.clone(),
            signals: signals.collect(),
        };
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Reads what [`Context::to_json`] wrote.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let Written { account, pixel, host, signals } = serde_json::from_str(text)?;
        let signals = signals.into_iter().map(|(name, value)| (name, value.into())).collect();
        Ok(Self { account, pixel, host, signals, sources: Vec::new() })
    }
}

// === impl WrittenScalar ===

impl From<&Scalar> for WrittenScalar {
    fn from(scalar: &Scalar) -> Self {
        match scalar {
            Scalar::Text(text) => Self::Text(text.clone()),
            Scalar::Number(number) => Self::Number(*number),
            Scalar::Boolean(boolean) => Self::Boolean(*boolean),
            Scalar::Json(text) => Self::Json(text.clone()),
        }
    }
}

impl From<WrittenScalar> for Scalar {
    fn from(written: WrittenScalar) -> Self {
        match written {
            WrittenScalar::Text(text) => Self::Text(text),
            WrittenScalar::Number(number) => Self::Number(number),
            WrittenScalar::Boolean(boolean) => Self::Boolean(boolean),
            WrittenScalar::Json(text) => Self::Json(text),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_context_comes_back_as_it_was() {
        let context = Context {
            account: "shop".parse().unwrap(),
            pixel: "1234567890".parse().unwrap(),
            host: "events.shop.example".to_owned(),
            signals: vec![
                ("consent".to_owned(), Scalar::Text("marketing=\"1\"".to_owned())),
                ("n".to_owned(), Scalar::Number(2.5)),
                ("gpc".to_owned(), Scalar::Boolean(true)),
                ("tcf".to_owned(), Scalar::Json("[1]".to_owned())),
            ],
            sources: Vec::new(),
        };
        assert_eq!(Context::from_json(&context.to_json()).unwrap(), context);
        assert!(Context::from_json("{}").is_err());
    }
}
