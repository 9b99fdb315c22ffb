//! Consent gate: an event goes on only if the visitor agreed to its purpose.
//!
//! The answer is read from the cookies or keys that the account's `[privacy] consent_sources` names; the first source of
//! the settings that the request has decides. No source in the request means no consent, unless `missing` says otherwise.
//!
//! ```toml
//! [privacy]
//! consent_sources = ["OptanonConsent"]
//!
//! [[filters]]
//! name = "consent"
//! component = "../filters/consent.wasm"
//! [filters.settings]
//! require = "marketing"
//! sources = [{ signal = "OptanonConsent", format = "onetrust" }]
//! otherwise = "drop"               # or "limited"
//! missing = "denied"               # or "granted"
//! countries = ["DE", "FR"]         # ask for consent only there; an unknown country counts as one of them
//! ```

mod source;

use pixelgate_filter::{Context, Edit, Event, Filter, Scalar, Verdict, export};
use serde::Deserialize;

use source::{Purpose, Source};

/// The settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The purpose that the visitor must have agreed to.
    require: Purpose,
    /// Where the answer may be, in this order.
    #[serde(default = "Source::usual")]
    sources: Vec<Source>,
    /// What happens to an event without consent.
    #[serde(default)]
    otherwise: Otherwise,
    /// What it means that the request has none of the sources.
    #[serde(default)]
    missing: Answer,
    /// Two-letter codes of the countries where consent is needed; empty = everywhere.
    #[serde(default)]
    countries: Vec<String>,
}

/// What happens to an event without consent.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    /// It is dropped, reason `no consent`.
    #[default]
    Drop,
    /// It goes on without what says who it was, marked for Limited Data Use.
    Limited,
}

/// What a visitor said, or is taken to have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Yes.
    Granted,
    /// No.
    #[default]
    Denied,
}

struct Consent(Settings);

impl Filter for Consent {
    type Settings = Settings;

    fn init(mut settings: Settings) -> Result<Self, String> {
        if settings.sources.is_empty() {
            return Err(
                "sources is empty: name at least one, or leave it out for OneTrust's and Cookiebot's".to_owned()
            );
        }
        for source in &settings.sources {
            source.check()?;
        }
        for country in &mut settings.countries {
            if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_alphabetic()) {
                return Err(format!("countries: \"{country}\" is no two-letter code such as DE"));
            }
            country.make_ascii_uppercase();
        }
        Ok(Self(settings))
    }

    fn filter(&mut self, context: &Context, event: &Event) -> Result<Verdict, String> {
        if !self.needed(context) || self.answer(context) == Answer::Granted {
            return Ok(Verdict::Pass);
        }
        Ok(match self.0.otherwise {
            Otherwise::Drop => Verdict::drop("no consent"),
            Otherwise::Limited => Verdict::modify(limit(event)),
        })
    }
}

export!(Consent);

impl Consent {
    /// Whether consent is needed where the visitor is.
    fn needed(&self, context: &Context) -> bool {
        let here = context.signal("country").and_then(Scalar::as_text);
        let listed = |code: &str| self.0.countries.iter().any(|country| country.eq_ignore_ascii_case(code));
        self.0.countries.is_empty() || here.is_none_or(listed)
    }

    fn answer(&self, context: &Context) -> Answer {
        let present = |source: &Source| Some(source.read(context.signal(&source.signal)?, self.0.require));
        self.0.sources.iter().find_map(present).unwrap_or(self.0.missing)
    }
}

/// Limited Data Use (Meta's "Data Processing Options for US Users"), and nothing left that names the visitor. Country and
/// state 0 ask Meta to find the state from the IP address, so that stays, as does the user agent, which Meta requires.
fn limit(event: &Event) -> Vec<Edit> {
    let stays = |key: &str| key == "client_ip_address" || key == "client_user_agent";
    let mut edits: Vec<Edit> =
        event.user_data.keys().filter(|key| !stays(key)).map(|key| Edit::remove(format!("user_data.{key}"))).collect();
    edits.push(Edit::set("data_processing_options", Scalar::Json(r#"["LDU"]"#.to_owned())));
    edits.push(Edit::set("data_processing_options_country", 0.0));
    edits.push(Edit::set("data_processing_options_state", 0.0));
    edits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pixelgate_filter::{Hashed, UserData};

    fn gate(settings: &str) -> Consent {
        Consent::init(serde_json::from_str(settings).unwrap()).unwrap()
    }

    fn verdict(gate: &mut Consent, signals: &[(&str, &str)]) -> Verdict {
        let context =
            signals.iter().fold(Context::default(), |context, (name, value)| context.with_signal(name, *value));
        gate.filter(&context, &Event::default()).unwrap()
    }

    fn no_consent() -> Verdict {
        Verdict::drop("no consent")
    }

    #[test]
    fn without_an_answer_nothing_goes_on() {
        assert_eq!(verdict(&mut gate(r#"{"require":"marketing"}"#), &[]), no_consent());
        assert_eq!(verdict(&mut gate(r#"{"require":"marketing","missing":"granted"}"#), &[]), Verdict::Pass);
    }

    #[test]
    fn the_first_source_that_is_there_decides() {
        let mut gate = gate(
            r#"{"require":"marketing","sources":[{"signal":"first","format":"flag"},{"signal":"second","format":"flag"}]}"#,
        );
        assert_eq!(verdict(&mut gate, &[("second", "yes")]), Verdict::Pass);
        assert_eq!(verdict(&mut gate, &[("second", "yes"), ("first", "no")]), no_consent());
    }

    #[test]
    fn consent_is_asked_for_only_in_the_countries_named() {
        let mut gate = gate(r#"{"require":"marketing","countries":["de"]}"#);
        assert_eq!(verdict(&mut gate, &[("country", "US")]), Verdict::Pass);
        assert_eq!(verdict(&mut gate, &[("country", "DE")]), no_consent());
        assert_eq!(verdict(&mut gate, &[]), no_consent(), "an unknown country");
    }

    #[test]
    fn a_limited_event_keeps_only_address_and_browser() {
        let mut gate = gate(r#"{"require":"marketing","otherwise":"limited"}"#);
        let user_data = UserData {
            hashed: vec![Hashed { key: "em".to_owned(), digests: vec!["0".repeat(64)] }],
            fbp: Some("fb.1.1.1".to_owned()),
            fbc: None,
            client_user_agent: Some("agent".to_owned()),
            client_ip_address: Some("192.0.2.1".to_owned()),
        };
        let event = Event { user_data, ..Event::default() };
        let Verdict::Modify(edits) = gate.filter(&Context::default(), &event).unwrap() else { unreachable!() };
        let removed: Vec<_> =
            edits.iter().filter_map(|edit| if let Edit::Remove(path) = edit { Some(path) } else { None }).collect();
        assert_eq!(removed, ["user_data.em", "user_data.fbp"]);
        assert!(edits.contains(&Edit::set("data_processing_options", Scalar::Json(r#"["LDU"]"#.to_owned()))));
    }

    #[test]
    fn wrong_settings_are_named() {
        let init = |settings: &str| match serde_json::from_str(settings) {
            Ok(settings) => Consent::init(settings).err().unwrap(),
            Err(error) => error.to_string(),
        };
        assert!(init(r#"{"require":"ads"}"#).contains("unknown variant `ads`"));
        assert!(init(r#"{"require":"marketing","sorces":[]}"#).contains("unknown field `sorces`"));
        assert!(init(r#"{"require":"marketing","sources":[]}"#).contains("sources is empty"));
        assert!(init(r#"{"require":"marketing","countries":["Germany"]}"#).contains("Germany"));
        assert!(
            init(r#"{"require":"marketing","sources":[{"signal":"a","format":"flag","group":"C0004"}]}"#)
                .contains("group")
        );
    }
}
