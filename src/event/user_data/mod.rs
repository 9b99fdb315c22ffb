//! Who did it: the `user_data` of an event, in the only form that leaves the decoder.

mod identifier;
mod key;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use self::identifier::Identifier;
pub use self::key::UserKey;
use super::decode::json;
use super::hash::Digest;
use super::{click_id, normalise, plain};

/// Values kept of one key; Meta matches on few, and more would be somebody's list.
const VALUES_PER_KEY_MAX: usize = 32;

/// Keys that are passed on as they came; Meta defines eleven of these.
const PLAIN_KEYS_MAX: usize = 32;

/// Bytes of such a key's name.
const PLAIN_NAME_MAX: usize = 128;

/// The `user_data` of an event: digests, and what Meta never wants hashed.
#[derive(Clone, Debug, Default)]
pub struct UserData {
    /// `fbc`: the click that led here, well-formed ([`click_id::parse`]).
    pub fbc: Option<String>,
    /// `fbp`: the browser, well-formed.
    pub fbp: Option<String>,
    /// `client_ip_address`: never a private one.
    pub client_ip_address: Option<String>,
    /// `client_user_agent`
    pub client_user_agent: Option<String>,
    /// Sorted by key, in the order of arrival within one, no value twice.
    identifiers: Vec<(UserKey, Identifier)>,
    /// Keys that are passed on as they came.
    plain: Map<String, Value>,
    dropped: u32,
}

/// What becomes of keys that Meta does not define.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// They are passed on, if neither their name nor their value says that they identify a person.
    Keep,
    /// They are experiments of the pixel.
    LeaveOut,
}

// === impl UserData ===

impl UserData {
    /// How many values were dropped because they could not be normalised, or could not be sent safely.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// All keys but the four with fields of their own, each with its digests. One that has none holds values that are
    /// not hashed: that it is there can be seen, so that it can be removed, but not what it holds.
    pub fn digests(&self) -> impl Iterator<Item = (&str, Vec<Digest>)> {
        let digests = |group: &[(UserKey, Identifier)]| group.iter().filter_map(|(_, value)| value.digest()).collect();
        let identifiers = self.groups().map(move |(key, group)| (key.name(), digests(group)));
        identifiers.chain(self.plain.keys().map(|name| (name.as_str(), Vec::new())))
    }

    /// Normalises, hashes and adds one value as a person or a page wrote it; one that is hashed already is kept as it
    /// is. What can't be normalised is dropped and counted.
    pub fn add_text(&mut self, key: UserKey, raw: &str) {
        let raw = normalise::trim(raw);
        if raw.is_empty() {
            return;
        }
        match Identifier::of(key, raw) {
            Some(identifier) => self.insert(key, identifier),
            None => self.count_dropped(),
        }
    }

    /// Puts one digest in the place of all values of a key.
    pub fn set_digest(&mut self, key: UserKey, digest: Digest) {
        self.identifiers.retain(|(other, _)| *other != key);
        self.insert(key, Identifier::Digest(digest));
    }

    /// Removes a key by its name on the wire, whichever kind it is.
    pub fn remove(&mut self, name: &str) {
        match name {
            "fbc" => self.fbc = None,
            "fbp" => self.fbp = None,
            "client_ip_address" => self.client_ip_address = None,
            "client_user_agent" => self.client_user_agent = None,
            _ => {
                self.identifiers.retain(|(key, _)| key.name() != name);
                self.plain.remove(name);
            }
        }
    }

    /// Adds what a sender gave under a key: one value, or an array of them.
    pub(super) fn add(&mut self, name: &str, value: Value, unknown: Unknown) {
        if value.is_null() {
            return;
        }
        if let Some(key) = UserKey::from_name(name) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| self.add_value(key, item)),
                value => self.add_value(key, &value),
            }
            return;
        }
        let known = plain::is_never_hashed(name);
        if !known && unknown == Unknown::LeaveOut {
            return;
        }
        // A filter can name, and so remove, all that is there.
        let has_room = self.plain.len() < PLAIN_KEYS_MAX && name.len() <= PLAIN_NAME_MAX;
        let may_pass = plain::may_pass(name, &value, !known) && (known || !key::is_personal(name, &value));
        if has_room && may_pass {
            self.plain.insert(name.to_owned(), value);
        } else {
            self.count_dropped();
        }
    }

    /// Takes from `lower` the keys that are absent here.
    pub(super) fn fill_from(&mut self, lower: UserData) {
        let present: Vec<UserKey> = self.groups().map(|(key, _)| key).collect();
        for (key, identifier) in lower.identifiers {
            if !present.contains(&key) {
                self.insert(key, identifier);
            }
        }
        for (name, value) in lower.plain {
            self.plain.entry(name).or_insert(value);
        }
        self.dropped = self.dropped.saturating_add(lower.dropped);
    }

    /// Sets `fbp`; one that is not well-formed is dropped and counted.
    pub(super) fn set_fbp(&mut self, fbp: String) {
        self.fbp = self.counted(fbp, |fbp| click_id::parse(fbp).is_some());
    }

    /// Sets the address; a private one and what is none is dropped and counted.
    pub(super) fn set_address(&mut self, address: String) {
        let public = plain::public_address(&address).map(str::to_owned);
        self.client_ip_address = self.counted(public.unwrap_or_default(), |public| !public.is_empty());
    }

    /// Sets the user agent; one that can't be sent safely is dropped and counted.
    pub(super) fn set_user_agent(&mut self, user_agent: String) {
        self.client_user_agent = self.counted(user_agent, plain::is_sendable);
    }

    /// Counts a value that was dropped.
    pub(super) fn count_dropped(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    fn counted(&mut self, text: String, is_good: impl FnOnce(&str) -> bool) -> Option<String> {
        let good = is_good(&text);
        if !good {
            self.count_dropped();
        }
        good.then_some(text)
    }

    fn add_value(&mut self, key: UserKey, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => self.add_text(key, text),
            // A float that is whole is the same number as without its ".0".
            Value::Number(number) => match json::as_whole(value) {
                Some(whole) => self.add_text(key, &whole.to_string()),
                None => self.add_text(key, &number.to_string()),
            },
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => self.count_dropped(),
        }
    }

    fn insert(&mut self, key: UserKey, identifier: Identifier) {
        let end = self.identifiers.partition_point(|(other, _)| *other <= key);
        let same_key = self.identifiers.iter().take(end).rev().take_while(|(other, _)| *other == key);
        let (mut count, mut is_there) = (0, false);
        for (_, other) in same_key {
            count += 1;
            is_there |= *other == identifier;
        }
        let max = if key.is_single() { 1 } else { VALUES_PER_KEY_MAX };
        match (is_there, count < max) {
            (true, _) => {}
            (false, true) => self.identifiers.insert(end, (key, identifier)),
            (false, false) => self.count_dropped(),
        }
    }

    fn groups(&self) -> impl Iterator<Item = (UserKey, &[(UserKey, Identifier)])> {
        let groups = self.identifiers.chunk_by(|(a, _), (b, _)| a == b);
        groups.filter_map(|group| group.first().map(|(key, _)| (*key, group)))
    }
}

/// What was dropped on the way is no part of what an event says.
impl PartialEq for UserData {
    fn eq(&self, other: &Self) -> bool {
        let Self { fbc, fbp, client_ip_address, client_user_agent, identifiers, plain, dropped: _ } = self;
        (fbc, fbp, client_ip_address) == (&other.fbc, &other.fbp, &other.client_ip_address)
            && (client_user_agent, identifiers, plain) == (&other.client_user_agent, &other.identifiers, &other.plain)
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct List<'a>(&'a [(UserKey, Identifier)]);
        impl Serialize for List<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.iter().map(|(_, identifier)| identifier))
            }
        }
        let mut map = serializer.serialize_map(None)?;
        for (key, group) in self.groups() {
            match group {
                [(_, only)] if key.is_single() => map.serialize_entry(key.name(), only)?,
                group => map.serialize_entry(key.name(), &List(group))?,
            }
        }
        let texts = [
            ("fbc", &self.fbc),
            ("fbp", &self.fbp),
            ("client_ip_address", &self.client_ip_address),
            ("client_user_agent", &self.client_user_agent),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                map.serialize_entry(name, text)?;
            }
        }
        for (name, value) in &self.plain {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const HASH: &str = "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f";

    fn user_data(given: Value) -> UserData {
        let mut user_data = UserData::default();
        for (key, value) in given.as_object().unwrap().clone() {
            user_data.add(&key, value, Unknown::Keep);
        }
        user_data
    }

    fn written(given: Value) -> Value {
        serde_json::to_value(user_data(given)).unwrap()
    }

    #[test]
    fn what_is_hashed_already_is_not_hashed_again() {
        for key in ["em", "ph", "fn", "external_id"] {
            assert_eq!(written(json!({key: format!(" {} ", HASH.to_uppercase())})), json!({key: [HASH]}));
            for appendix in ["AQQCAQIB", "Bg"] {
                let marked = format!("{HASH}.{appendix}");
                assert_eq!(written(json!({key: marked})), json!({key: [marked]}));
            }
        }
        assert_eq!(written(json!({"em": format!("{HASH}.unknown-mark")})), json!({}));
    }

    #[test]
    fn an_md5_is_dropped_but_for_an_id_of_the_senders_own() {
        let md5 = "5d41402abc4b2a76b9719d911017c592";
        let given = user_data(json!({"em": md5, "fn": md5, "external_id": md5}));
        assert_eq!(serde_json::to_value(&given).unwrap(), json!({"external_id": [md5]}));
        assert_eq!(given.dropped(), 2);
    }

    #[test]
    fn lists_keep_their_order_without_doubles() {
        let hash = |email: &str| Digest::of(email).to_string();
        let given = json!({"em": ["b@x.co", "A@x.co", " B@X.CO", null, "", "nobody"]});
        let given = user_data(given);
        assert_eq!(serde_json::to_value(&given).unwrap(), json!({"em": [hash("b@x.co"), hash("a@x.co")]}));
        assert_eq!(given.dropped(), 1);
    }

    #[test]
    fn an_id_of_the_senders_own_stays_plain_unless_it_names_a_person() {
        let hash = |text: &str| Digest::of(text).to_string();
        let given = json!({"external_id": ["U1", "u1", "U1", "Jane@Shop.example", "+1 650 555 1212"]});
        let expected = json!({"external_id": ["U1", "u1", hash("jane@shop.example"), hash("+16505551212")]});
        assert_eq!(written(given), expected);
    }

    fn seen(user_data: &UserData) -> Vec<(&str, usize)> {
        user_data.digests().map(|(key, digests)| (key, digests.len())).collect()
    }

    #[test]
    fn of_what_is_not_hashed_only_the_key_is_shown() {
        let given = user_data(json!({"external_id": ["U1"], "em": [HASH, "a@x.co"], "lead_id": 7, "new": "x"}));
        assert_eq!(seen(&given), [("em", 2), ("external_id", 0), ("lead_id", 0), ("new", 0)]);
    }

    #[test]
    fn a_float_that_is_whole_is_that_number() {
        for key in ["ph", "zp", "external_id"] {
            assert_eq!(written(json!({key: 16_505_551_212.0})), written(json!({key: "16505551212"})), "{key}");
        }
    }

    #[test]
    fn a_known_key_is_hashed_however_it_is_written() {
        let given = written(json!({"FN": "Mary", "lastName": "Poppins", "Zip_Code": "94035"}));
        let expected = written(json!({"fn": "Mary", "ln": "Poppins", "zp": "94035"}));
        assert_eq!(given, expected);
    }

    #[test]
    fn keys_that_meta_does_not_hash_pass_as_they_came() {
        let given =
            json!({"lead_id": 1_234_567_890_123_u64, "page_id": "16505551212", "ig_sid": "x", "new_key": ["a", 1]});
        assert_eq!(written(given.clone()), given);
        let given =
            user_data(json!({"new_key": "0650 123 45 67", "lead_id": "jane@shop.example", "other": {"a": "b@c"}}));
        assert_eq!(given, UserData::default());
        assert_eq!(given.dropped(), 3);
    }

    #[test]
    fn names_and_addresses_do_not_pass_in_plain_under_other_keys() {
        let given =
            json!({"first_names": ["Mary"], "surname": "Poppins", "cities": ["London"], "birthday": "1910-05-04"});
        let expected = json!({"fn": "Mary", "ln": "Poppins", "ct": "London", "db": "1910-05-04"});
        assert_eq!(written(given), written(expected));
        let given = user_data(json!({"full_name": "Mary Poppins", "street": "Cherry Tree Lane 17",
            "person": {"first_name": "Mary"}, "page_id": "1", "segment": "new"}));
        assert_eq!(serde_json::to_value(&given).unwrap(), json!({"page_id": "1", "segment": "new"}));
        assert_eq!(given.dropped(), 3);
    }

    #[test]
    fn the_long_names_of_a_key_are_hashed_too() {
        let given = json!({"email": "a@x.co", "em": "b@x.co", "first_name": "Mary", "zip_code": 94035});
        let given = user_data(given);
        let keys = seen(&given);
        assert_eq!(keys, [("em", 2), ("fn", 1), ("zp", 1)]);
    }

    #[test]
    fn keys_of_the_former_offline_api_have_one_value() {
        let given = user_data(json!({"fi": ["Mary", "Jane"]}));
        assert_eq!(serde_json::to_value(&given).unwrap(), json!({"fi": Digest::of("m").to_string()}));
        assert_eq!(given.dropped(), 1);
    }

    #[test]
    fn plain_keys_have_their_limits() {
        let many = (0..PLAIN_KEYS_MAX + 5).map(|n| (format!("new_{n}"), json!("x"))).collect();
        assert_eq!(user_data(Value::Object(many)).dropped(), 5);
        assert_eq!(user_data(json!({"x".repeat(PLAIN_NAME_MAX + 1): "x"})).dropped(), 1);
    }

    #[test]
    fn a_list_has_its_limit() {
        let many: Vec<_> = (0..VALUES_PER_KEY_MAX + 5).map(|n| json!(format!("{n}@x.co"))).collect();
        assert_eq!(user_data(json!({"em": many})).dropped(), 5);
    }

    #[test]
    fn a_key_is_set_and_removed_by_its_name() {
        let mut given = user_data(json!({"em": ["a@x.co", "b@x.co"], "lead_id": 7, "external_id": "U1"}));
        given.fbp = Some("fb.1.1.2".into());
        given.set_digest(UserKey::Email, Digest::of("x"));
        assert_eq!(seen(&given), [("em", 1), ("external_id", 0), ("lead_id", 0)]);
        for name in ["em", "lead_id", "external_id", "fbp", "absent"] {
            given.remove(name);
        }
        assert_eq!(given, UserData::default());
    }

    #[test]
    fn less_trusted_values_fill_gaps_only() {
        let mut given = user_data(json!({"em": "a@x.co"}));
        given.fill_from(user_data(json!({"em": "b@x.co", "fn": ["Mary", "Jane"], "lead_id": 7})));
        given.fill_from(user_data(json!({"lead_id": 8})));
        assert_eq!(seen(&given), [("em", 1), ("fn", 2), ("lead_id", 0)]);
        assert_eq!(given.plain.get("lead_id"), Some(&json!(7)));
    }

    #[test]
    fn what_was_dropped_does_not_make_a_difference() {
        assert_eq!(user_data(json!({"em": "nobody"})), UserData::default());
        assert_ne!(user_data(json!({"em": "a@x.co"})), UserData::default());
    }
}
