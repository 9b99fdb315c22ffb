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

use pixelgate_filter::{Context, EDITS_MAX, Edit, Event, Filter, Scalar, Verdict, export};
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
    /// It goes on without what says who it was, marked for Limited Data Use; dropped if that would take more edits than a
    /// filter may make.
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
            Otherwise::Limited => limit(event),
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

/// Limited Data Use (Meta's "Data Processing Options for US Users"), and nothing left that names the visitor or the click
/// that led here. Country and state 0 ask Meta to find the state from the IP address, so that stays, as does the user
/// agent, which Meta requires.
fn limit(event: &Event) -> Verdict {
    let stays = |key: &str| key == "client_ip_address" || key == "client_user_agent";
    let mut edits: Vec<Edit> =
        event.user_data.keys().filter(|key| !stays(key)).map(|key| Edit::remove(format!("user_data.{key}"))).collect();
    let urls = [("event_source_url", &event.event_source_url), ("referrer_url", &event.referrer_url)];
    edits.extend(urls.into_iter().filter_map(|(path, url)| without_click(path, url.as_deref()?)));
    edits.push(Edit::set("data_processing_options", Scalar::Json(r#"["LDU"]"#.to_owned())));
    edits.push(Edit::set("data_processing_options_country", 0.0));
    edits.push(Edit::set("data_processing_options_state", 0.0));
    let can_be_made = edits.len() <= EDITS_MAX && edits.iter().all(Edit::is_sound);
    if can_be_made { Verdict::modify(edits) } else { Verdict::drop("no consent") }
}

/// The edit that takes the click id out of a URL, if it has one.
fn without_click(path: &str, url: &str) -> Option<Edit> {
    let (head, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let (page, query) = head.split_once('?')?;
    let is_click = |pair: &str| pair.split('=').next() == Some("fbclid");
    if !query.split('&').any(is_click) {
        return None;
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_click(pair)).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    let edit = Edit::set(path, format!("{page}{mark}{}{fragment}", kept.join("&")));
    Some(if edit.is_sound() { edit } else { Edit::remove(path) })
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
            hashed: vec![
                Hashed { key: "em".to_owned(), digests: vec!["0".repeat(64)] },
                // Of what is not hashed only the key is shown.
                Hashed { key: "external_id".to_owned(), digests: vec![] },
            ],
            fbp: Some("fb.1.1.1".to_owned()),
            fbc: None,
            client_user_agent: Some("agent".to_owned()),
            client_ip_address: Some("192.0.2.1".to_owned()),
        };
        let event = Event { user_data, ..Event::default() };
        let Verdict::Modify(edits) = gate.filter(&Context::default(), &event).unwrap() else { unreachable!() };
        let removed: Vec<_> =
            edits.iter().filter_map(|edit| if let Edit::Remove(path) = edit { Some(path) } else { None }).collect();
        assert_eq!(removed, ["user_data.em", "user_data.external_id", "user_data.fbp"]);
        assert!(edits.contains(&Edit::set("data_processing_options", Scalar::Json(r#"["LDU"]"#.to_owned()))));
    }

    #[test]
    fn a_limited_event_says_nothing_of_the_click() {
        let without = |url: &str| without_click("event_source_url", url);
        let set = |url: &str| Some(Edit::set("event_source_url", url));
        assert_eq!(without("https://a.example/b?x=1&fbclid=AbC&y=2#top"), set("https://a.example/b?x=1&y=2#top"));
        assert_eq!(without("https://a.example/b?fbclid=AbC"), set("https://a.example/b"));
        assert_eq!(
            without(&format!("https://a.example/?fbclid=A&x={}", "x".repeat(5_000))),
            Some(Edit::remove("event_source_url"))
        );
        for same in ["https://a.example/?xfbclid=1#fbclid=2", "https://a.example/fbclid=1", ""] {
            assert_eq!(without(same), None);
        }
    }

    #[test]
    fn an_event_that_cannot_be_limited_is_dropped() {
        let hashed = (0..70).map(|n| Hashed { key: format!("k{n}"), digests: vec![] }).collect();
        let event = Event { user_data: UserData { hashed, ..UserData::default() }, ..Event::default() };
        let mut gate = gate(r#"{"require":"marketing","otherwise":"limited"}"#);
        assert_eq!(gate.filter(&Context::default(), &event).unwrap(), no_consent());
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
