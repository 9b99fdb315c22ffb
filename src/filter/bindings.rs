//! The interface of filters as Rust types, made from the WIT, and the way of our types into them and back.

use serde_json::{Map, Value};

use super::Context;
use crate::event::{self, Event, Scalar};

/// The largest whole number up to which every one is an `f64`: what a script calls `Number.MAX_SAFE_INTEGER`.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// A filter of an account.
#[allow(missing_docs)]
mod filter {
    wasmtime::component::bindgen!({
        path: "plugins/wit",
        world: "filter",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The runner of scripts: the same types, and an `init` that takes the script.
#[allow(missing_docs)]
mod script {
    wasmtime::component::bindgen!({
        path: "plugins/wit",
        world: "script-runner",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "pixelgate:filter/types@0.1.0": super::filter::pixelgate::filter::types,
            "pixelgate:filter/host@0.1.0": super::filter::pixelgate::filter::host,
        },
    });
}

pub(super) use filter::exports::pixelgate::filter::handler::Guest as Handler;
pub(super) use filter::pixelgate::filter::{host, types};
pub(super) use filter::{Filter, FilterPre};
pub(super) use script::ScriptRunnerPre;
pub(super) use script::exports::pixelgate::filter::script_handler::Guest as ScriptHandler;

/// An event and its context, with all that a guest's values borrow from beside them.
pub(super) struct Call<'a> {
    context: &'a Context,
    pixel: String,
    signals: Vec<Named<'a>>,
    event: &'a Event,
    hashed: Vec<(&'a str, Vec<String>)>,
    custom_data: Vec<Named<'a>>,
    app_data: Vec<Named<'a>>,
    extra: Vec<Named<'a>>,
}

type Named<'a> = (&'a str, Held<'a>);

/// A value as a guest gets it, before it is borrowed.
enum Held<'a> {
    Text(&'a str),
    Number(f64),
    Boolean(bool),
    Json(String),
}

// === impl Call ===

impl<'a> Call<'a> {
    pub(super) fn new(context: &'a Context, event: &'a Event) -> Self {
        let processing = event.data_processing.as_ref();
        let numbers = [
            ("data_processing_options_country", processing.and_then(|options| options.country)),
            ("data_processing_options_state", processing.and_then(|options| options.state)),
        ];
        let mut extra = members(&event.extra);
        extra.extend(numbers.into_iter().filter_map(|(name, number)| Some((name, Held::of_integer(number?)))));
        Self {
            context,
            pixel: context.pixel.to_string(),
            signals: signals(context, event),
            event,
            hashed: event
                .user_data
                .digests()
                .map(|(key, digests)| (key, digests.iter().map(ToString::to_string).collect()))
                .collect(),
            custom_data: members(&event.custom_data),
            app_data: members(&event.app_data),
            extra,
        }
    }

    /// Gives the values to `take`, which passes them to a guest.
    pub(super) fn lend<R>(&self, take: impl FnOnce(types::Context<'_>, types::Event<'_>) -> R) -> R {
        let (context, event, user) = (self.context, self.event, &self.event.user_data);
        let digests: Vec<Vec<&str>> =
            self.hashed.iter().map(|(_, digests)| digests.iter().map(String::as_str).collect()).collect();
        let hashed: Vec<types::Hashed<'_>> =
            std::iter::zip(&self.hashed, &digests).map(|((key, _), digests)| types::Hashed { key, digests }).collect();
        let options: Vec<&str> =
            event.data_processing.iter().flat_map(|options| &options.options).map(String::as_str).collect();
        take(
            types::Context {
                account: context.account.as_str(),
                pixel_id: &self.pixel,
                host: &context.host,
                signals: &fields(&self.signals),
            },
            types::Event {
                event_name: &event.name,
                event_id: Some(&event.id),
                event_time: event.time as f64,
                event_source_url: event.source_url.as_deref(),
                referrer_url: event.referrer_url.as_deref(),
                action_source: &event.action_source,
                user_data: types::UserData {
                    hashed: &hashed,
                    fbp: user.fbp.as_deref(),
                    fbc: user.fbc.as_deref(),
                    client_user_agent: user.client_user_agent.as_deref(),
                    client_ip_address: user.client_ip_address.as_deref(),
                },
                custom_data: &fields(&self.custom_data),
                data_processing_options: &options,
                opt_out: event.opt_out,
                app_data: &fields(&self.app_data),
                extra: &fields(&self.extra),
            },
        )
    }
}

/// What the request said, then what the event itself carries under the names of consent sources, in it or beside it: a
/// server has no cookies.
fn signals<'a>(context: &'a Context, event: &'a Event) -> Vec<Named<'a>> {
    let mut signals: Vec<Named<'a>> =
        context.signals.iter().map(|(name, value)| (name.as_str(), Held::of_scalar(value))).collect();
    for source in &context.sources {
        if signals.iter().any(|(name, _)| name == source) {
            continue;
        }
        let carried = event.custom_data.get(source).or_else(|| event.extra.get(source)).map(Held::of_value);
        let beside = || event.beside.iter().find(|(name, _)| name == source).map(|(_, value)| Held::of_scalar(value));
        signals.extend(carried.or_else(beside).map(|value| (source.as_str(), value)));
    }
    signals
}

fn members(map: &Map<String, Value>) -> Vec<Named<'_>> {
    map.iter().map(|(name, value)| (name.as_str(), Held::of_value(value))).collect()
}

fn fields<'a>(values: &'a [Named<'a>]) -> Vec<types::Field<'a>> {
    values.iter().map(|(name, value)| types::Field { name, value: value.lend() }).collect()
}

// === impl Held ===

impl<'a> Held<'a> {
    fn of_value(value: &'a Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Bool(boolean) => Self::Boolean(*boolean),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Self::of_integer(integer),
                (None, Some(float)) if number.is_f64() => Self::Number(float),
                _ => Self::Json(number.to_string()),
            },
            Value::Null | Value::Array(_) | Value::Object(_) => Self::Json(value.to_string()),
        }
    }

    fn of_integer(integer: i64) -> Self {
        if integer.unsigned_abs() <= SAFE_INTEGER_MAX {
            Self::Number(integer as f64)
        } else {
            Self::Json(integer.to_string())
        }
    }

    fn of_scalar(scalar: &'a Scalar) -> Self {
        match scalar {
            Scalar::Text(text) => Self::Text(text),
            Scalar::Number(number) => Self::Number(*number),
            Scalar::Boolean(boolean) => Self::Boolean(*boolean),
            Scalar::Json(text) => Self::Json(text.clone()),
        }
    }

    fn lend(&self) -> types::ScalarParam<'_> {
        match self {
            Self::Text(text) => types::ScalarParam::Text(text),
            Self::Number(number) => types::ScalarParam::Number(*number),
            Self::Boolean(boolean) => types::ScalarParam::Boolean(*boolean),
            Self::Json(text) => types::ScalarParam::Json(text),
        }
    }
}

// === impl Edit ===

impl From<types::Edit> for event::Edit {
    fn from(edit: types::Edit) -> Self {
        match edit {
            types::Edit::Set(types::Assignment { path, value }) => Self::Set { path, value: value.into() },
            types::Edit::Remove(path) => Self::Remove(path),
            types::Edit::Rename(types::Renaming { path, to }) => Self::Rename { path, to },
        }
    }
}

impl From<types::ScalarResult> for Scalar {
    fn from(scalar: types::ScalarResult) -> Self {
        match scalar {
            types::ScalarResult::Text(text) => Self::Text(text),
            types::ScalarResult::Number(number) => Self::Number(number),
            types::ScalarResult::Boolean(boolean) => Self::Boolean(boolean),
            types::ScalarResult::Json(text) => Self::Json(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_past_2_to_53_travel_as_json() {
        let text = |value: Value| match Held::of_value(&value) {
            Held::Number(number) => format!("number {number}"),
            Held::Json(text) => format!("json {text}"),
            Held::Text(text) => format!("text {text}"),
            Held::Boolean(boolean) => format!("boolean {boolean}"),
        };
        assert_eq!(text(json!(9_007_199_254_740_991u64)), "number 9007199254740991");
        assert_eq!(text(json!(9_007_199_254_740_993u64)), "json 9007199254740993");
        assert_eq!(text(json!(-9_007_199_254_740_993i64)), "json -9007199254740993");
        assert_eq!(text(json!(u64::MAX)), "json 18446744073709551615");
        assert_eq!(text(json!(12.5)), "number 12.5");
        assert_eq!(text(json!([{"id": 1}])), r#"json [{"id":1}]"#);
        assert_eq!(text(json!(null)), "json null");
        assert_eq!(text(json!(true)), "boolean true");
    }
}
