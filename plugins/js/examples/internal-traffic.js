// Keeps a company's own visits out of its figures: drops events from its test systems and offices.
//
// [filters.settings]
// hosts = ["staging.shop.example", "localhost"]     # pages there, and below
// addresses = ["192.0.2.", "2001:db8:1:"]           # beginnings of the visitor's IP address
// marker = "internal"                               # pages opened with ?internal=1 or #internal=1

/// <reference path="../types/pixelgate-filter.d.ts" />

/** @type {string[]} */
let hosts;
/** @type {string[]} */
let addresses;
/** @type {string | undefined} */
let marker;

/** @type {import("pixelgate-filter").Init<any>} */
exports.init = (settings) => {
  hosts = (settings.hosts ?? []).map((/** @type {string} */ host) => host.toLowerCase());
  addresses = settings.addresses ?? [];
  marker = settings.marker;
};

/** @type {import("pixelgate-filter").Filter} */
exports.filter = (context, event) => {
  const address = event.user_data.client_ip_address ?? "";
  if (addresses.some((beginning) => address.startsWith(beginning))) return { drop: "internal address" };

  const [, host = "", rest = ""] = /^https?:\/\/([^/?#:]*)[^?#]*(.*)$/i.exec(event.event_source_url ?? "") ?? [];
  const name = host.toLowerCase();
  if (hosts.some((own) => name === own || name.endsWith(`.${own}`))) return { drop: "internal host" };
  if (marker !== undefined && rest.split(/[?#&]/).includes(`${marker}=1`)) return { drop: "internal marker" };
};
