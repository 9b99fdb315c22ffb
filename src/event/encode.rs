//! The one place where an event becomes bytes.

use super::Event;

// === impl Event ===

impl Event {
    /// Appends the event as the Graph API's JSON: keys in the order of the struct, unset ones absent.
    ///
    /// It is called once per event: what is appended here is stored, and sent, byte for byte.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // A `Vec` takes every write and all keys are text, so there is nothing that could fail.
        let _ = serde_json::to_writer(out, self);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Map, json};

    use crate::event::{DataProcessing, Event, UserData, UserKey};

    fn encoded(event: &Event) -> String {
        let mut out = Vec::new();
        event.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn bare() -> Event {
        Event {
            name: "PageView".into(),
            id: "id-1".into(),
            time: 1_700_000_000,
            action_source: "website".into(),
            source_url: None,
            referrer_url: None,
            user_data: UserData::default(),
            custom_data: Map::new(),
            data_processing: None,
            opt_out: None,
            app_data: Map::new(),
            extra: Map::new(),
            beside: Vec::new(),
        }
    }

    #[test]
    fn unset_keys_are_absent() {
        let expected = r#"{"event_name":"PageView","event_id":"id-1","event_time":1700000000,"action_source":"website","user_data":{}}"#;
        assert_eq!(encoded(&bare()), expected);
    }

    #[test]
    fn everything_set_is_written_in_its_order() {
        let mut event = bare();
        event.source_url = Some("https://shop.example/\"p\"".into());
        event.referrer_url = Some("https://search.example/".into());
        event.user_data.add_text(UserKey::Country, "CH");
        event.user_data.add_text(UserKey::ExternalId, "U1");
        event.user_data.fbp = Some("fb.1.1677024568192.220088425".into());
        event.custom_data = json!({"value": 10.5, "currency": "CHF"}).as_object().unwrap().clone();
        event.data_processing = Some(DataProcessing { options: vec!["LDU".into()], country: Some(1), state: None });
        event.opt_out = Some(true);
        event.app_data = json!({"extinfo": ["a2"]}).as_object().unwrap().clone();
        event.extra = json!({"messaging_channel": "whatsapp"}).as_object().unwrap().clone();
        let expected = concat!(
            r#"{"event_name":"PageView","event_id":"id-1","event_time":1700000000,"action_source":"website","#,
            r#""event_source_url":"https://shop.example/\"p\"","referrer_url":"https://search.example/","#,
            r#""user_data":{"country":["343677762813eaeb65704cc8d9e96f7a444ba0cca92ff861af7f68648b3e6ef1"],"#,
            r#""external_id":["U1"],"fbp":"fb.1.1677024568192.220088425"},"#,
            r#""custom_data":{"currency":"CHF","value":10.5},"#,
            r#""data_processing_options":["LDU"],"data_processing_options_country":1,"#,
            r#""opt_out":true,"app_data":{"extinfo":["a2"]},"messaging_channel":"whatsapp"}"#,
        );
        assert_eq!(encoded(&event), expected);
    }
}
