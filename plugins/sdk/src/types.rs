//! What makes the types of `filter.wit` pleasant to read and to write.

use crate::{
    Assignment, Context, Edit, Event, Field, PATH_BYTES_MAX, Renaming, Scalar, UserData, VALUE_BYTES_MAX, Verdict,
};

/// Keys of `user_data` that reach a filter as plain text.
const PLAIN_USER_KEYS: [&str; 4] = ["fbp", "fbc", "client_user_agent", "client_ip_address"];

// === impl Context ===

impl Context {
    /// The cookie or key of this name, if the account's `[privacy] consent_sources` names it and the request had it.
    pub fn signal(&self, name: &str) -> Option<&Scalar> {
        find(&self.signals, name)
    }

    /// The same context with one more signal: for tests.
    pub fn with_signal(mut self, name: &str, value: impl Into<Scalar>) -> Self {
        self.signals.push(Field { name: name.to_owned(), value: value.into() });
        self
    }
}

impl Default for Context {
    /// A context with empty texts and no signals: a start for tests.
    fn default() -> Self {
        Self { account: String::new(), pixel_id: String::new(), host: String::new(), signals: Vec::new() }
    }
}

// === impl Event ===

impl Event {
    /// The value at `custom_data.<key>`.
    pub fn custom(&self, key: &str) -> Option<&Scalar> {
        find(&self.custom_data, key)
    }

    /// The same event with one more key in `custom_data`: for tests.
    pub fn with_custom(mut self, key: &str, value: impl Into<Scalar>) -> Self {
        self.custom_data.push(Field { name: key.to_owned(), value: value.into() });
        self
    }
}

impl Default for Event {
    /// A `PageView` of a website at time 0 that says nothing else: a start for tests.
    fn default() -> Self {
        Self {
            event_name: "PageView".to_owned(),
            event_id: None,
            event_time: 0.0,
            event_source_url: None,
            referrer_url: None,
            action_source: "website".to_owned(),
            user_data: UserData::default(),
            custom_data: Vec::new(),
            data_processing_options: Vec::new(),
            opt_out: None,
            app_data: Vec::new(),
            extra: Vec::new(),
        }
    }
}

// === impl UserData ===

impl UserData {
    /// Meta's names of all keys that are there, as in `em`, `fbp` or `client_ip_address`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let plain = [&self.fbp, &self.fbc, &self.client_user_agent, &self.client_ip_address];
        let plain = PLAIN_USER_KEYS.into_iter().zip(plain).filter_map(|(key, value)| value.as_ref().map(|_| key));
        self.hashed.iter().map(|hashed| hashed.key.as_str()).chain(plain)
    }

    /// Whether the key of this name is there.
    pub fn has(&self, key: &str) -> bool {
        self.keys().any(|present| present == key)
    }
}

impl Default for UserData {
    /// Nobody.
    fn default() -> Self {
        Self { hashed: Vec::new(), fbp: None, fbc: None, client_user_agent: None, client_ip_address: None }
    }
}

// === impl Scalar ===

impl Scalar {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(boolean) => Some(*boolean),
            _ => None,
        }
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Scalar {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Scalar {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Scalar {
    fn from(boolean: bool) -> Self {
        Self::Boolean(boolean)
    }
}

// === impl Verdict, Edit ===

impl Verdict {
    /// Drops the event; the reason is a word or two that becomes a metric's label.
    pub fn drop(reason: impl Into<String>) -> Self {
        Self::Drop(reason.into())
    }

    /// Makes these edits, or passes the event if there are none.
    pub fn modify(edits: Vec<Edit>) -> Self {
        if edits.is_empty() { Self::Pass } else { Self::Modify(edits) }
    }
}

impl Edit {
    /// Sets the value at a path, as in `custom_data.margin`.
    pub fn set(path: impl Into<String>, value: impl Into<Scalar>) -> Self {
        Self::Set(Assignment { path: path.into(), value: value.into() })
    }

    /// Takes away what is at a path, as in `user_data.em`.
    pub fn remove(path: impl Into<String>) -> Self {
        Self::Remove(path.into())
    }

    /// Moves `custom_data.<key>` to another key: both are paths.
    pub fn rename(path: impl Into<String>, to: impl Into<String>) -> Self {
        Self::Rename(Renaming { path: path.into(), to: to.into() })
    }

    /// Whether its paths and its value are short enough and in order. Paths that contain a sender's keys and values that
    /// contain a sender's text may not be: check them and drop the event, or a stranger can make faults.
    pub fn is_sound(&self) -> bool {
        let path_is_sound = |path: &str| {
            path.len() <= PATH_BYTES_MAX && !path.ends_with('.') && !path.is_empty() && !path.contains(char::is_control)
        };
        let (path, other) = match self {
            Self::Set(Assignment { path, value: Scalar::Text(text) | Scalar::Json(text) }) => {
                (path, text.len() <= VALUE_BYTES_MAX && (!text.is_empty() || path.starts_with("custom_data.")))
            }
            Self::Set(Assignment { path, value: Scalar::Number(number) }) => (path, number.is_finite()),
            Self::Set(Assignment { path, value: Scalar::Boolean(_) }) | Self::Remove(path) => (path, true),
            Self::Rename(Renaming { path, to }) => (path, path_is_sound(to)),
        };
        path_is_sound(path) && other
    }
}

fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Scalar> {
    fields.iter().find(|field| field.name == name).map(|field| &field.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hashed;

    #[test]
    fn fields_are_found_by_name() {
        let event = Event::default().with_custom("value", 3.0).with_custom("currency", "EUR").with_custom("new", true);
        assert_eq!(event.custom("value").and_then(Scalar::as_number), Some(3.0));
        assert_eq!(event.custom("currency").and_then(Scalar::as_text), Some("EUR"));
        assert_eq!(event.custom("new").and_then(Scalar::as_boolean), Some(true));
        assert_eq!(event.custom("value").and_then(Scalar::as_text), None);
        assert_eq!(event.custom("absent"), None);
        assert_eq!(Context::default().with_signal("country", "DE").signal("country"), Some(&"DE".into()));
    }

    #[test]
    fn user_data_names_what_is_there() {
        let em = Hashed { key: "em".to_owned(), digests: vec!["0".repeat(64)] };
        let user_data = UserData { hashed: vec![em], fbc: Some("fb.1.1.x".to_owned()), ..UserData::default() };
        assert_eq!(user_data.keys().collect::<Vec<_>>(), ["em", "fbc"]);
        assert!(user_data.has("em") && user_data.has("fbc") && !user_data.has("fbp"));
    }

    #[test]
    fn edits_of_a_strangers_making_can_be_told_apart() {
        assert!(Edit::remove("custom_data.a.b").is_sound());
        assert!(Edit::set("event_source_url", "x".repeat(VALUE_BYTES_MAX)).is_sound());
        assert!(!Edit::set("event_source_url", "x".repeat(VALUE_BYTES_MAX + 1)).is_sound());
        assert!(!Edit::set("event_source_url", "").is_sound() && Edit::set("custom_data.a", "").is_sound());
        assert!(!Edit::set("custom_data.a", f64::NAN).is_sound());
        assert!(!Edit::remove("custom_data.").is_sound());
        assert!(!Edit::remove("custom_data.a\0").is_sound());
        assert!(!Edit::remove(format!("custom_data.{}", "x".repeat(PATH_BYTES_MAX))).is_sound());
        assert!(!Edit::rename("custom_data.a", "custom_data.").is_sound());
    }

    #[test]
    fn no_edits_are_a_pass() {
        assert_eq!(Verdict::modify(Vec::new()), Verdict::Pass);
        assert_eq!(Verdict::modify(vec![Edit::remove("opt_out")]), Verdict::Modify(vec![Edit::remove("opt_out")]));
    }
}
