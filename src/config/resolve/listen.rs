//! `[listen]` of `pixelgate.toml`.

use std::collections::HashMap;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::config::file::{Table, Value};
use crate::config::model::ListenConfig;
use crate::config::resolve::address::Network;

pub(super) fn listen(table: &mut Table<'_>) -> ListenConfig {
    let mut taken = HashMap::new();
    let https = addresses(table, "https", &["0.0.0.0:443", "[::]:443"], &mut taken);
    let http = addresses(table, "http", &["0.0.0.0:80", "[::]:80"], &mut taken);
    let ops = match table.value("ops") {
        Some(value) => address(&value, &mut taken),
        None => default_address(table, "ops", "127.0.0.1:9090", &mut taken),
    };
    let place = table.place_of("https");
    if https.is_empty() && !place.is_refused() {
        place.error("there is no address to take events at", "name at least one, such as \"0.0.0.0:443\"");
    }
    ListenConfig {
        https,
        http,
        ops: ops.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9090))),
        trusted_proxies: networks(table, "trusted_proxies"),
        proxy_protocol: networks(table, "proxy_protocol"),
    }
}

/// Listen addresses. A port may be asked for once; port 0 is any that is free.
fn addresses(
    table: &mut Table<'_>,
    key: &'static str,
    default: &[&str],
    taken: &mut HashMap<SocketAddr, String>,
) -> Vec<SocketAddr> {
    match table.value(key) {
        Some(value) => value.list().into_iter().flatten().filter_map(|value| address(&value, taken)).collect(),
        None => default.iter().filter_map(|address| default_address(table, key, address, taken)).collect(),
    }
}

fn address(value: &Value<'_>, taken: &mut HashMap<SocketAddr, String>) -> Option<SocketAddr> {
    let address: SocketAddr = value.parsed("write address and port, such as \"0.0.0.0:443\" or \"[::]:443\"")?;
    if address.port() != 0
        && let Some(first) = taken.insert(address, value.place.key().to_owned())
    {
        value.place.error(format!("{first} is the same address"), "remove one of the two");
    }
    Some(address)
}

/// An address of a key that is not written; another key may have it.
fn default_address(
    table: &Table<'_>,
    key: &'static str,
    address: &str,
    taken: &mut HashMap<SocketAddr, String>,
) -> Option<SocketAddr> {
    let address = address.parse().ok()?;
    let place = table.place.below(key, table.place.at());
    if let Some(first) = taken.insert(address, format!("the default of {}", place.key())) {
        place.error(format!("{first} is {address}, which is this key's default"), "write both keys");
    }
    Some(address)
}

fn networks(table: &mut Table<'_>, key: &'static str) -> Vec<IpNet> {
    let remedy = "write it as \"10.0.0.0/8\", \"2001:db8::/32\" or one address";
    table.parsed_list(key, remedy).into_iter().map(|Network(network)| network).collect()
}
