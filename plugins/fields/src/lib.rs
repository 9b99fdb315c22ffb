//! Fields by rule: drops, renames and removes events and fields as the settings say, nothing else.
//!
//! ```toml
//! [[filters]]
//! name = "fields"
//! component = "../filters/fields.wasm"
//! [filters.settings]
//! drop_events = ["Test"]                          # or keep_events: only these go on
//! rename_events = { BuyNow = "Purchase" }
//! rename_custom_data = { total = "value" }
//! remove_custom_data = ["margin", "internal_*"]   # or keep_custom_data: only these stay
//! remove_user_data = ["client_ip_address"]
//! strip_query = true                              # of event_source_url and referrer_url
//! keep_query = ["utm_source", "utm_campaign"]     # but for these
//! ```
//!
//! Names are judged as they came, before anything is renamed. A `*` at the end of a name stands for any ending. An event
//! that would need more edits than a filter may make, or other ones, is dropped: no shop sends such, and as a fault it
//! would let a stranger fill the account's dead letters.

mod pattern;
mod url;

use std::collections::BTreeMap;

use pixelgate_filter::{Context, EDITS_MAX, Edit, Event, Filter, Verdict, export};
use serde::Deserialize;

use pattern::Patterns;

/// The settings.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    /// Events that are dropped, reason `event not wanted`.
    drop_events: Patterns,
    /// Events that go on; all others are dropped.
    keep_events: Option<Patterns>,
    /// Event names and what they become.
    rename_events: BTreeMap<String, String>,
    /// Keys of `custom_data` and what they become.
    rename_custom_data: BTreeMap<String, String>,
    /// Keys of `custom_data` that are taken away.
    remove_custom_data: Patterns,
    /// Keys of `custom_data` that stay; all others are taken away. Names as they came.
    keep_custom_data: Option<Patterns>,
    /// Keys of `user_data` that are taken away.
    remove_user_data: Patterns,
    /// Cut the query string and the fragment off both URLs.
    strip_query: bool,
    /// Parameters that stay when `strip_query` is on.
    keep_query: Patterns,
}

impl Filter for Fields {
    type Settings = Self;

    fn init(settings: Self) -> Result<Self, String> {
        if !settings.keep_query.is_empty() && !settings.strip_query {
            return Err("keep_query has a meaning only with strip_query = true".to_owned());
        }
        let empty = |names: &BTreeMap<String, String>| names.values().any(|name| name.trim().is_empty());
        if empty(&settings.rename_events) || empty(&settings.rename_custom_data) {
            return Err(
                "a name cannot become an empty one: to drop it use drop_events or remove_custom_data".to_owned()
            );
        }
        if let Some((name, to)) =
            settings.rename_custom_data.iter().find(|(_, to)| settings.rename_custom_data.contains_key(*to))
        {
            return Err(format!(
                "rename_custom_data: \"{name}\" becomes \"{to}\", which is renamed itself: two steps would lose one of them"
            ));
        }
        Ok(settings)
    }

    fn filter(&mut self, _context: &Context, event: &Event) -> Result<Verdict, String> {
        let kept = self.keep_events.as_ref().is_none_or(|keep| keep.matches(&event.event_name));
        if !kept || self.drop_events.matches(&event.event_name) {
            return Ok(Verdict::drop("event not wanted"));
        }
        let mut edits = Vec::new();
        if let Some(name) = self.rename_events.get(&event.event_name) {
            edits.push(Edit::set("event_name", name.as_str()));
        }
        self.edit_custom_data(event, &mut edits);
        let unwanted = event.user_data.keys().filter(|key| self.remove_user_data.matches(key));
        edits.extend(unwanted.map(|key| Edit::remove(format!("user_data.{key}"))));
        if self.strip_query {
            self.edit_url("event_source_url", event.event_source_url.as_deref(), &mut edits);
            self.edit_url("referrer_url", event.referrer_url.as_deref(), &mut edits);
        }
        if edits.len() > EDITS_MAX || !edits.iter().all(Edit::is_sound) {
            return Ok(Verdict::drop("cannot be edited"));
        }
        Ok(Verdict::modify(edits))
    }
}

export!(Fields);

impl Fields {
    /// Removals come first, so that a key that is taken away leaves its place to one that is renamed.
    fn edit_custom_data(&self, event: &Event, edits: &mut Vec<Edit>) {
        let names = || event.custom_data.iter().map(|field| field.name.as_str());
        let stays = |name: &str| {
            !self.remove_custom_data.matches(name)
                && self.keep_custom_data.as_ref().is_none_or(|keep| keep.matches(name))
        };
        edits.extend(names().filter(|name| !stays(name)).map(|name| Edit::remove(format!("custom_data.{name}"))));
        let renamed =
            names().filter(|name| stays(name)).filter_map(|name| Some((name, self.rename_custom_data.get(name)?)));
        edits
            .extend(renamed.map(|(name, to)| Edit::rename(format!("custom_data.{name}"), format!("custom_data.{to}"))));
    }

    fn edit_url(&self, path: &str, url: Option<&str>, edits: &mut Vec<Edit>) {
        let Some(url) = url else { return };
        let stripped = url::strip_query(url, |parameter| self.keep_query.matches(parameter));
        if stripped.is_empty() {
            edits.push(Edit::remove(path));
        } else if stripped != url {
            edits.push(Edit::set(path, stripped));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pixelgate_filter::{Hashed, UserData};

    fn verdict(settings: &str, event: &Event) -> Verdict {
        let mut filter = Fields::init(serde_json::from_str(settings).unwrap()).unwrap();
        filter.filter(&Context::default(), event).unwrap()
    }

    fn named(name: &str) -> Event {
        Event { event_name: name.to_owned(), ..Event::default() }
    }

    #[test]
    fn without_rules_all_passes() {
        assert_eq!(verdict("{}", &named("Purchase").with_custom("value", 3.0)), Verdict::Pass);
    }

    #[test]
    fn events_are_dropped_by_name() {
        let dropped = Verdict::drop("event not wanted");
        assert_eq!(verdict(r#"{"drop_events":["Test*"]}"#, &named("TestOrder")), dropped);
        assert_eq!(verdict(r#"{"drop_events":["Test"]}"#, &named("TestOrder")), Verdict::Pass);
        assert_eq!(verdict(r#"{"keep_events":["Purchase"]}"#, &named("Lead")), dropped);
        assert_eq!(verdict(r#"{"keep_events":["Purchase"]}"#, &named("Purchase")), Verdict::Pass);
        assert_eq!(verdict(r#"{"keep_events":[]}"#, &named("Purchase")), dropped);
    }

    #[test]
    fn events_and_keys_are_renamed() {
        let settings = r#"{"rename_events":{"BuyNow":"Purchase"},"rename_custom_data":{"total":"value"}}"#;
        let event = named("BuyNow").with_custom("total", 3.0).with_custom("currency", "EUR");
        let edits = vec![Edit::set("event_name", "Purchase"), Edit::rename("custom_data.total", "custom_data.value")];
        assert_eq!(verdict(settings, &event), Verdict::Modify(edits));
    }

    #[test]
    fn keys_are_removed_before_others_take_their_place() {
        let settings = r#"{"remove_custom_data":["value","internal_*"],"rename_custom_data":{"total":"value"}}"#;
        let event =
            named("Purchase").with_custom("total", 3.0).with_custom("value", 1.0).with_custom("internal_id", "x");
        let edits = vec![
            Edit::remove("custom_data.value"),
            Edit::remove("custom_data.internal_id"),
            Edit::rename("custom_data.total", "custom_data.value"),
        ];
        assert_eq!(verdict(settings, &event), Verdict::Modify(edits));
    }

    #[test]
    fn only_what_is_kept_stays() {
        let event = named("Purchase").with_custom("value", 3.0).with_custom("email_of_friend", "x");
        let edits = vec![Edit::remove("custom_data.email_of_friend")];
        assert_eq!(verdict(r#"{"keep_custom_data":["value"]}"#, &event), Verdict::Modify(edits));
    }

    #[test]
    fn user_data_is_removed_where_it_is() {
        let user_data = UserData { client_ip_address: Some("192.0.2.1".to_owned()), ..UserData::default() };
        let event = Event { user_data, ..Event::default() };
        let edits = vec![Edit::remove("user_data.client_ip_address")];
        assert_eq!(verdict(r#"{"remove_user_data":["client_ip_address","em"]}"#, &event), Verdict::Modify(edits));
        // Of what is not hashed only the key is shown.
        let hashed = vec![Hashed { key: "lead_id".to_owned(), digests: vec![] }];
        let event = Event { user_data: UserData { hashed, ..UserData::default() }, ..Event::default() };
        let edits = vec![Edit::remove("user_data.lead_id")];
        assert_eq!(verdict(r#"{"remove_user_data":["lead_id"]}"#, &event), Verdict::Modify(edits));
    }

    #[test]
    fn urls_lose_their_query() {
        let event = Event {
            event_source_url: Some("https://shop.example/a?email=x&utm_source=news#top".to_owned()),
            referrer_url: Some("?email=x".to_owned()),
            ..Event::default()
        };
        let source_url = Edit::set("event_source_url", "https://shop.example/a?utm_source=news");
        let edits = vec![source_url, Edit::remove("referrer_url")];
        assert_eq!(verdict(r#"{"strip_query":true,"keep_query":["utm_*"]}"#, &event), Verdict::Modify(edits));
    }

    #[test]
    fn what_cannot_be_edited_is_dropped() {
        let dropped = Verdict::drop("cannot be edited");
        let junk = (0..65).fold(Event::default(), |event, n| event.with_custom(&format!("junk_{n}"), 1.0));
        assert_eq!(verdict(r#"{"keep_custom_data":[]}"#, &junk), dropped);
        let url = Some(format!("https://shop.example/{}?a", "x".repeat(5_000)));
        assert_eq!(verdict(r#"{"strip_query":true}"#, &Event { event_source_url: url, ..Event::default() }), dropped);
        let unnamed = Event::default().with_custom("", 1.0);
        assert_eq!(verdict(r#"{"keep_custom_data":[]}"#, &unnamed), dropped);
    }

    #[test]
    fn wrong_settings_are_named() {
        let init = |settings: &str| match serde_json::from_str(settings) {
            Ok(settings) => Fields::init(settings).err().unwrap(),
            Err(error) => error.to_string(),
        };
        assert!(init(r#"{"dropp_events":[]}"#).contains("unknown field `dropp_events`"));
        assert!(init(r#"{"keep_query":["a"]}"#).contains("strip_query"));
        assert!(init(r#"{"rename_events":{"a":""}}"#).contains("empty"));
        assert!(init(r#"{"rename_custom_data":{"a":"b","b":"c"}}"#).contains("\"a\" becomes \"b\""));
        assert!(init(r#"{"drop_events":["a*b"]}"#).contains("a*b"));
    }
}
