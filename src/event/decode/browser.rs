//! What both browser formats have in common: what the request itself says, and the visitor's first-party ids.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Decoded, RenewedCookies, clean, commerce};
use crate::account::PixelId;
use crate::event::{Arrival, DataProcessing, Event, Scalar, UserData, UserKey, click_id, plain};

/// Options of data processing that are kept; Meta defines one.
const OPTIONS_MAX: usize = 16;

/// The longest name that an account may give to a consent source.
const BESIDE_NAME_MAX: usize = 128;

/// The parts of an event that a browser's request names.
pub(super) struct BrowserEvent {
    pub(super) pixel: PixelId,
    pub(super) name: String,
    pub(super) id: String,
    /// Unix seconds.
    pub(super) time: i64,
    pub(super) page: Option<String>,
    pub(super) referrer: Option<String>,
    pub(super) user_data: UserData,
    pub(super) custom_data: Map<String, Value>,
    pub(super) data_processing: Option<DataProcessing>,
    /// What else it says.
    pub(super) beside: Beside,
    /// The `_fbp` cookie as the script read it.
    pub(super) fbp: Option<String>,
    /// The `_fbc` cookie as the script read it, or a bare `fbclid`.
    pub(super) click: Option<String>,
}

/// What a request says under names that nobody reads here: any of them may be where a site says what its visitor consents
/// to: there may be any number, as many as fit into the request. Nothing that identifies a person is among it.
#[derive(Default)]
pub(super) struct Beside(BTreeMap<String, Scalar>);

// === impl Beside ===

impl Beside {
    /// Adds a text, a number or a flag. Of two with one name the first counts.
    pub(super) fn add(&mut self, name: &str, value: Value) {
        let identifies = UserKey::from_name(name).is_some() || !plain::may_pass(name, &value, true);
        if identifies || name.len() > BESIDE_NAME_MAX || self.0.contains_key(name) {
            return;
        }
        let scalar = match value {
            Value::String(text) => Scalar::Text(text),
            Value::Bool(flag) => Scalar::Boolean(flag),
            Value::Number(number) => match number.as_f64() {
                Some(number) => Scalar::Number(number),
                None => return,
            },
            Value::Null | Value::Array(_) | Value::Object(_) => return,
        };
        self.0.insert(name.to_owned(), scalar);
    }
}

// === impl BrowserEvent ===

impl BrowserEvent {
    /// Adds what the request itself says.
    pub(super) fn arrived(mut self, arrival: &Arrival) -> Decoded {
        let fbc = self.fbc(arrival);
        let mut user_data = self.user_data;
        user_data.fbc = fbc;
        let given = [self.fbp.as_ref(), arrival.fbp.as_ref()];
        user_data.fbp = given.into_iter().flatten().find(|fbp| click_id::parse(fbp).is_some()).cloned();
        user_data.client_ip_address =
            arrival.client_ip.filter(|ip| plain::is_public(*ip)).map(|ip| ip.to_canonical().to_string());
        if let Some(user_agent) = &arrival.user_agent {
            user_data.set_user_agent(user_agent.clone());
        }
        if let Some(processing) = &mut self.data_processing {
            processing.options.truncate(OPTIONS_MAX);
        }
        commerce::settle_value(&self.name, &mut self.custom_data);
        (0..clean::drop_surplus(&mut self.custom_data)).for_each(|_| user_data.count_dropped());
        let cookies = RenewedCookies { fbp: user_data.fbp.clone(), fbc: user_data.fbc.clone() };
        let mut event = Event {
            name: self.name,
            id: self.id,
            time: self.time,
            action_source: "website".to_owned(),
            source_url: self.page,
            referrer_url: self.referrer,
            user_data,
            custom_data: self.custom_data,
            data_processing: self.data_processing,
            opt_out: None,
            app_data: Map::new(),
            extra: Map::new(),
            beside: self.beside.0.into_iter().collect(),
        };
        clean::drop_identifiers(&mut event);
        Decoded { pixel: self.pixel, event, cookies }
    }

    /// The click that led here: what the script found, else the click id in the page's URL, else in the referrer's,
    /// else the cookie.
    fn fbc(&self, arrival: &Arrival) -> Option<String> {
        let cookie = arrival.fbc.as_deref();
        let in_url = |url: &Option<String>| url.as_deref().and_then(click_id::of_url).map(Cow::into_owned);
        let found = |click: Option<String>| click_id::renew(&click?, cookie, arrival.now_ms);
        found(self.click.clone())
            .or_else(|| found(in_url(&self.page)))
            .or_else(|| found(in_url(&self.referrer)))
            .or_else(|| cookie.filter(|cookie| click_id::parse(cookie).is_some()).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn event() -> BrowserEvent {
        BrowserEvent {
            pixel: "1".parse().unwrap(),
            name: "PageView".into(),
            id: "1".into(),
            time: 1,
            page: None,
            referrer: None,
            user_data: UserData::default(),
            custom_data: Map::new(),
            data_processing: None,
            beside: Beside::default(),
            fbp: None,
            click: None,
        }
    }

    fn fbc(event: BrowserEvent, cookie: Option<&str>) -> Option<String> {
        let arrival = Arrival { now_ms: NOW, fbc: cookie.map(str::to_owned), ..Arrival::default() };
        let decoded = event.arrived(&arrival);
        assert_eq!(decoded.cookies.fbc, decoded.event.user_data.fbc);
        decoded.event.user_data.fbc
    }

    fn url(click: &str) -> Option<String> {
        Some(format!("https://shop.example/?fbclid={click}"))
    }

    #[test]
    fn the_click_is_looked_for_in_its_order() {
        let cookie = Some("fb.1.1.kept");
        assert_eq!(fbc(event(), cookie).as_deref(), cookie);
        assert_eq!(fbc(event(), Some("garbage")), None);
        assert_eq!(fbc(BrowserEvent { referrer: url("r"), ..event() }, cookie).unwrap(), format!("fb.1.{NOW}.r"));
        let both = || BrowserEvent { page: url("p"), referrer: url("r"), ..event() };
        assert_eq!(fbc(both(), cookie).unwrap(), format!("fb.1.{NOW}.p"));
        let bare = BrowserEvent { click: Some("c".into()), ..both() };
        assert_eq!(fbc(bare, cookie).unwrap(), format!("fb.1.{NOW}.c"));
        let unusable = BrowserEvent { click: Some("a b".into()), ..both() };
        assert_eq!(fbc(unusable, cookie).unwrap(), format!("fb.1.{NOW}.p"));
        assert_eq!(fbc(BrowserEvent { page: url("kept"), ..event() }, cookie).as_deref(), cookie);
    }

    #[test]
    fn a_cookie_stands_in_for_an_fbp_that_is_missing_or_broken() {
        let arrival = Arrival { fbp: Some("fb.1.1.2".into()), ..Arrival::default() };
        for fbp in [None, Some("broken".to_owned())] {
            let decoded = BrowserEvent { fbp, ..event() }.arrived(&arrival);
            assert_eq!(decoded.event.user_data.fbp.as_deref(), Some("fb.1.1.2"));
            assert_eq!(decoded.cookies.fbp.as_deref(), Some("fb.1.1.2"));
        }
    }

    #[test]
    fn what_is_said_beside_names_nobody_and_hides_nothing() {
        let mut beside = Beside::default();
        for (name, value) in [
            ("consent", Value::from("marketing")),
            ("consent", "none".into()),
            ("gpc", true.into()),
            ("level", 2.into()),
            ("email", "x".into()),
            ("who", "jane@shop.example".into()),
            ("list", Value::Array(Vec::new())),
        ] {
            beside.add(name, value);
        }
        let said = |name: &str, scalar| (name.to_owned(), scalar);
        let expected = BTreeMap::from([
            said("consent", Scalar::Text("marketing".into())),
            said("gpc", Scalar::Boolean(true)),
            said("level", Scalar::Number(2.0)),
        ]);
        assert_eq!(beside.0, expected);
        beside.add(&"x".repeat(BESIDE_NAME_MAX + 1), true.into());
        assert_eq!(beside.0, expected);
        (0..1_000).for_each(|n| beside.add(&format!("key{n}"), true.into()));
        beside.add("optin", "no".into());
        assert_eq!(beside.0.get("optin"), Some(&Scalar::Text("no".into())));
    }

    #[test]
    fn an_address_is_kept_if_it_is_public() {
        let address = |ip: &str| {
            let arrival = Arrival { client_ip: Some(ip.parse().unwrap()), ..Arrival::default() };
            event().arrived(&arrival).event.user_data.client_ip_address
        };
        assert_eq!(address("2001:db8::1").as_deref(), Some("2001:db8::1"));
        assert_eq!(address("::ffff:203.0.113.9").as_deref(), Some("203.0.113.9"));
        assert_eq!(address("10.1.2.3"), None);
    }
}
