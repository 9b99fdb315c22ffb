//! What wit-bindgen makes of `filter.wit`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::restriction)]

wit_bindgen::generate!({
    path: "../wit",
    world: "filter",
    additional_derives: [PartialEq],
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "pixelgate_filter::bindings",
});
