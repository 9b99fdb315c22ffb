//! What [`export!`](crate::export!) expands to: between the component's functions and a [`Filter`].

use std::cell::RefCell;

use crate::{Context, Event, Filter, Level, Verdict, log};

/// Makes a type that implements [`Filter`](crate::Filter) the filter of this component.
#[macro_export]
macro_rules! export {
    ($filter:ty) => {
        const _: () = {
            ::std::thread_local! {
                static FILTER: ::std::cell::RefCell<::std::option::Option<$filter>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            struct Component;

            impl $crate::bindings::exports::pixelgate::filter::handler::Guest for Component {
                fn init(config: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    FILTER.with(|slot| $crate::export::init(slot, &config))
                }

                fn filter(
                    context: $crate::Context,
                    event: $crate::Event,
                ) -> ::std::result::Result<$crate::Verdict, ::std::string::String> {
                    FILTER.with(|slot| $crate::export::filter(slot, &context, &event))
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
            // Natively nobody calls it: this keeps the compiler from saying so.
            #[cfg(not(target_family = "wasm"))]
            const _: fn(::std::string::String) -> ::std::result::Result<(), ::std::string::String> =
                <Component as $crate::bindings::exports::pixelgate::filter::handler::Guest>::init;
        };
    };
}

/// Reads the settings and makes the filter. A panic ends the instance without a word, so a hook logs it first. The
/// settings are read in two steps, as an error then names the key and not a column of the JSON that nobody wrote.
pub fn init<F: Filter>(slot: &RefCell<Option<F>>, config: &str) -> Result<(), String> {
    std::panic::set_hook(Box::new(|info| log(Level::Error, info.to_string())));
    let settings = serde_json::from_str(config).and_then(serde_json::from_value::<F::Settings>);
    let settings = settings.map_err(|error| format!("settings: {error}"))?;
    *slot.borrow_mut() = Some(F::init(settings)?);
    Ok(())
}

/// Hands an event to the filter.
pub fn filter<F: Filter>(slot: &RefCell<Option<F>>, context: &Context, event: &Event) -> Result<Verdict, String> {
    match slot.borrow_mut().as_mut() {
        Some(filter) => filter.filter(context, event),
        None => Err("filter was called before init".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Counter {
        limit: u32,
    }

    impl Filter for Counter {
        type Settings = Self;

        fn init(settings: Self) -> Result<Self, String> {
            if settings.limit == 0 { Err("limit is 0".to_owned()) } else { Ok(settings) }
        }

        fn filter(&mut self, _context: &Context, _event: &Event) -> Result<Verdict, String> {
            self.limit = self.limit.checked_sub(1).ok_or("no more")?;
            Ok(Verdict::Pass)
        }
    }

    #[test]
    fn a_filter_is_made_once_and_kept() {
        let slot = RefCell::new(None::<Counter>);
        assert_eq!(init(&slot, r#"{"limit":1}"#), Ok(()));
        let call = || filter(&slot, &Context::default(), &Event::default());
        assert_eq!(call(), Ok(Verdict::Pass));
        assert_eq!(call(), Err("no more".to_owned()));
    }

    #[test]
    fn wrong_settings_are_named() {
        let refusal = |config| init(&RefCell::new(None::<Counter>), config).err().unwrap_or_default();
        assert_eq!(refusal("{}"), "settings: missing field `limit`");
        assert_eq!(refusal(r#"{"limt":1}"#), "settings: unknown field `limt`, expected `limit`");
        assert_eq!(refusal(r#"{"limit":0}"#), "limit is 0");
        assert!(refusal("{").starts_with("settings: EOF"));
    }

    #[test]
    fn a_call_before_init_is_an_error() {
        let slot = RefCell::new(None::<Counter>);
        assert!(filter(&slot, &Context::default(), &Event::default()).is_err());
    }
}
