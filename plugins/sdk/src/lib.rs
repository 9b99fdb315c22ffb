//! Write a Pixelgate filter in Rust.
//!
//! A filter sees every event of an account after it was decoded and hashed, and answers with a [`Verdict`]: pass it,
//! drop it, or change some of its fields. This is a whole one:
//!
//! ```
//! use pixelgate_filter::{Context, Edit, Event, Filter, Verdict, export};
//! use serde::Deserialize;
//!
//! /// Events below `minimum` are dropped, the others lose their margin.
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Threshold {
//!     minimum: f64,
//! }
//!
//! impl Filter for Threshold {
//!     type Settings = Self;
//!
//!     fn init(settings: Self) -> Result<Self, String> {
//!         Ok(settings)
//!     }
//!
//!     fn filter(&mut self, _context: &Context, event: &Event) -> Result<Verdict, String> {
//!         match event.custom("value").and_then(|value| value.as_number()) {
//!             Some(value) if value < self.minimum => Ok(Verdict::drop("too small")),
//!             _ => Ok(Verdict::Modify(vec![Edit::remove("custom_data.margin")])),
//!         }
//!     }
//! }
//!
//! export!(Threshold);
//! # let mut filter = Threshold::init(Threshold { minimum: 5.0 }).unwrap();
//! # let event = Event::default().with_custom("value", 3.0);
//! # assert_eq!(filter.filter(&Context::default(), &event), Ok(Verdict::drop("too small")));
//! ```
//!
//! Its `Cargo.toml` has `crate-type = ["cdylib"]`; `pixelgate filter build` makes a component of it. Everything here also
//! builds natively, so that `cargo test` can try a filter's rules without Wasm: [`Context`] and [`Event`] have a
//! `Default` to start from, and [`log`] writes to the standard error there.
//!
//! What a filter may read, which paths it may edit and which limits it has: `docs/filters.md` of Pixelgate.

#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod export;
mod types;

use serde::de::DeserializeOwned;

pub use bindings::pixelgate::filter::host::Level;
pub use bindings::pixelgate::filter::types::{
    Assignment, Context, Edit, Event, Field, Hashed, Renaming, Scalar, UserData, Verdict,
};

/// Edits that one verdict may have; more are a fault.
pub const EDITS_MAX: usize = 64;

/// Bytes that the value of one edit may have; more are a fault.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Bytes that a path may have; longer ones are a fault.
pub const PATH_BYTES_MAX: usize = 256;

/// What a filter does. Make one known to the gateway with [`export!`].
pub trait Filter: Sized + 'static {
    /// What `[filters.settings]` holds. `Self` will do where the settings are all that the filter needs;
    /// `#[serde(deny_unknown_fields)]` turns a misspelt key into a problem that names it.
    type Settings: DeserializeOwned;

    /// Called once per instance. An error is a problem of the account's configuration: say what is wrong and what to do.
    fn init(settings: Self::Settings) -> Result<Self, String>;

    /// Called per event. An error is a fault, and the account's `on_fault` says what becomes of the event. What `self`
    /// keeps from one call to the next may vanish at any time: the gateway starts new instances as it likes.
    fn filter(&mut self, context: &Context, event: &Event) -> Result<Verdict, String>;
}

/// Writes a line to the gateway's log: at most 1 KiB of it, and at most 20 lines a call. Natively: to the standard error.
pub fn log(level: Level, message: impl AsRef<str>) {
    if cfg!(target_family = "wasm") {
        bindings::pixelgate::filter::host::log(level, message.as_ref());
    } else {
        eprintln!("{level:?} {}", message.as_ref());
    }
}
