//! `GET` and `POST /tr`: the format of the pixel's own endpoint, as its script and hand-written image tags send it.
//!
//! Keys are `id`, `ev`, `cd[value]`, `ud[em]` and the like. Objects in `cd` are JSON text. What the script measures about
//! itself is read past, and events it makes of clicks and page metadata are not taken: no page asked for them.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::browser::{Beside, BrowserEvent};
use super::form::{Field, urlencoded};
use super::{DecodeError, Decoded, Form, commerce, event_id, is_event_name};
use crate::event::user_data::Unknown;
use crate::event::{Arrival, DataProcessing, UserData};

/// Events in one request: the script sends at most ten.
const EVENTS_MAX: usize = 100;

/// What the script makes by itself.
const AUTOMATIC: &[&str] = &["Microdata", "SubscribedButtonClick"];

/// Where an identifier came from, the most trusted first: given and mended by the script, read from a form on the page,
/// then both as they were before.
const PEOPLE: [&str; 4] = ["ud", "udff", "aud", "audff"];

/// Age beyond which a browser's clock is not believed, in milliseconds: Meta takes nothing older than 7 days.
const AGE_MAX_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// The parameters of one event that are read.
#[derive(Default)]
struct Parameters<'a> {
    id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    event_id: Option<Cow<'a, str>>,
    client_ms: Option<Cow<'a, str>>,
    page: Option<Cow<'a, str>>,
    referrer: Option<Cow<'a, str>>,
    fbp: Option<Cow<'a, str>>,
    fbc: Option<Cow<'a, str>>,
    options: Option<Cow<'a, str>>,
    country: Option<Cow<'a, str>>,
    state: Option<Cow<'a, str>>,
    /// `1`: the address is one of Apple's relay, replaced by the same hash for everybody.
    relay: Option<Cow<'a, str>>,
    /// Set for what a rule in Meta's event setup tool made, not the page.
    setup_tool: Option<Cow<'a, str>>,
    custom_data: Map<String, Value>,
    beside: Beside,
    people: [Vec<Field<'a>>; 4],
}

/// Decodes the event, or the events of a batch; empty if all of them are of the kind that is not taken. Of a batch, what
/// can't be read is left out; if nothing can be, its first error is returned.
pub fn decode(form: Form<'_>, arrival: &Arrival, events_max: usize) -> Result<Vec<Decoded>, DecodeError> {
    let fields = form.fields()?;
    if !fields.iter().any(|(name, _)| name.starts_with("events[")) {
        return Ok(Parameters::read(fields).event(arrival)?.into_iter().collect());
    }
    let batch = fields.iter().filter(|(name, _)| name.starts_with("events["));
    let max = events_max.min(EVENTS_MAX);
    if batch.clone().count() > max {
        return Err(DecodeError::TooMany { what: "events", max });
    }
    let mut events = Vec::new();
    let mut first_error = None;
    for (_, query) in batch {
        match urlencoded(query.as_bytes()).and_then(|fields| Parameters::read(fields).event(arrival)) {
            Ok(event) => events.extend(event),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    match first_error {
        Some(error) if events.is_empty() => Err(error),
        _ => Ok(events),
    }
}

// === impl Parameters ===

impl<'a> Parameters<'a> {
    fn read(fields: Vec<Field<'a>>) -> Self {
        let mut parameters = Self::default();
        for (name, value) in fields {
            parameters.set(&name, value);
        }
        parameters
    }

    /// Of a repeated parameter the first counts; repeated custom data is a list.
    fn set(&mut self, name: &str, value: Cow<'a, str>) {
        let slot = match name {
            "id" => &mut self.id,
            "ev" => &mut self.name,
            "eid" | "eid[]" => &mut self.event_id,
            "ts" => &mut self.client_ms,
            "dl" => &mut self.page,
            "rl" => &mut self.referrer,
            "fbp" => &mut self.fbp,
            "fbc" => &mut self.fbc,
            // One of Meta's own examples has the second spelling.
            "dpo" | "vdpo" => &mut self.options,
            "dpoco" => &mut self.country,
            "dpost" => &mut self.state,
            "ped" => &mut self.relay,
            "cs_est" => &mut self.setup_tool,
            _ => return self.set_inner(name, value),
        };
        slot.get_or_insert(value);
    }

    fn set_inner(&mut self, name: &str, value: Cow<'a, str>) {
        let Some((group, key)) = name.split_once('[') else {
            return self.beside.add(name, Value::String(value.into_owned()));
        };
        let key = key.split(']').next().unwrap_or_default();
        if group != "cd" {
            let people = PEOPLE.iter().position(|people| *people == group);
            if let Some(people) = people.and_then(|at| self.people.get_mut(at)) {
                people.push((Cow::Owned(key.to_owned()), value));
            }
            return;
        }
        let mut value = Value::String(value.into_owned());
        match self.custom_data.get_mut(key) {
            None => {
                commerce::unfold(&mut value);
                self.custom_data.insert(key.to_owned(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(single) => *single = Value::Array(vec![single.take(), value]),
        }
    }

    fn event(mut self, arrival: &Arrival) -> Result<Option<Decoded>, DecodeError> {
        let pixel = self.id.take().and_then(|id| id.parse().ok()).ok_or(DecodeError::PixelMissing)?;
        let name = self.name.take().filter(|name| is_event_name(name)).ok_or(DecodeError::EventNameMissing)?;
        let is_automatic = self.setup_tool.as_deref().is_some_and(|setup_tool| matches!(setup_tool, "1" | "true"));
        if is_automatic || AUTOMATIC.contains(&&*name) {
            return Ok(None);
        }
        commerce::mend(&mut self.custom_data);
        let text = |field: Option<Cow<'_, str>>| field.map(Cow::into_owned).filter(|text| !text.is_empty());
        let event = BrowserEvent {
            pixel,
            name: name.into_owned(),
            id: event_id(text(self.event_id.take()).map(Value::String)),
            time: self.time(arrival.now_ms),
            page: text(self.page.take()).or_else(|| arrival.referer.clone()),
            referrer: text(self.referrer.take()),
            user_data: self.user_data(),
            data_processing: self.data_processing(),
            fbp: text(self.fbp.take()),
            click: text(self.fbc.take()),
            custom_data: self.custom_data,
            beside: self.beside,
        };
        Ok(Some(event.arrived(arrival)))
    }

    /// When the page sent it, if its clock may be right, else when it arrived; Unix seconds.
    fn time(&self, now_ms: i64) -> i64 {
        let client_ms = self.client_ms.as_deref().and_then(|ms| ms.trim().parse::<i64>().ok());
        let believed = client_ms.filter(|ms| (now_ms.saturating_sub(AGE_MAX_MS).max(0)..=now_ms).contains(ms));
        believed.unwrap_or(now_ms).div_euclid(1_000)
    }

    fn user_data(&mut self) -> UserData {
        let mut user_data = UserData::default();
        for people in std::mem::take(&mut self.people) {
            let mut source = UserData::default();
            for (key, value) in people {
                source.add(&key, Value::String(value.into_owned()), Unknown::LeaveOut);
            }
            user_data.fill_from(source);
        }
        if self.relay.as_deref() == Some("1") {
            user_data.remove("em");
        }
        user_data
    }

    fn data_processing(&self) -> Option<DataProcessing> {
        let options = self.options.as_deref()?.split(',').map(str::trim).filter(|option| !option.is_empty());
        let number = |field: &Option<Cow<'_, str>>| field.as_deref().and_then(|text| text.trim().parse().ok());
        Some(DataProcessing {
            options: options.map(str::to_owned).collect(),
            country: number(&self.country),
            state: number(&self.state),
        })
    }
}
