// Bids on profit instead of turnover: `value` becomes the margin, worked out from the rate of each product's category.
//
// [filters.settings]
// rates = { shoes = 0.35, socks = 0.6 }   # by content_category
// otherwise = 0.25                        # rate of all others
// events = ["Purchase"]                   # which events; this is the default

/// <reference path="../types/pixelgate-filter.d.ts" />

/** @type {Map<string, number>} */
let rates;
/** @type {number} */
let otherwise;
/** @type {Set<string>} */
let events;

/** @type {import("pixelgate-filter").Init<any>} */
exports.init = (settings) => {
  rates = new Map(Object.entries(settings.rates ?? {}));
  otherwise = settings.otherwise;
  events = new Set(settings.events ?? ["Purchase"]);
  for (const rate of [otherwise, ...rates.values()]) {
    if (typeof rate !== "number" || !(rate >= 0 && rate <= 1)) {
      throw new Error("settings need otherwise, and rates if any, as numbers from 0 to 1");
    }
  }
};

/** @type {import("pixelgate-filter").Filter} */
exports.filter = (context, event) => {
  const { value, content_category: category } = event.custom_data;
  if (!events.has(event.event_name) || typeof value !== "number") return;
  const rate = rates.get(String(category)) ?? otherwise;
  const margin = Math.round(value * rate * 100) / 100;
  return Number.isFinite(margin) ? { set: { "custom_data.value": margin } } : { drop: "absurd value" };
};
