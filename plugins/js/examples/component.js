// A component of one's own in JavaScript: for those who want to ship a .wasm file, or to bundle libraries.
//
//   npx componentize-qjs --wit ../../wit -n filter --js component.js --sync --stub-wasi -o filter.wasm
//
// It drops events without a value. A script (see margin.js) does the same in fewer words and needs no build.

/// <reference path="../types/pixelgate-component.d.ts" />

import { log } from "pixelgate:filter/host@0.1.0";

/** @type {string[]} */
let events = [];

export const handler = {
  init(/** @type {string} */ config) {
    events = JSON.parse(config).events ?? [];
    log("debug", `looks at ${events.length} events`);
  },

  /**
   * @param {import("pixelgate:filter/types@0.1.0").Context} context
   * @param {import("pixelgate:filter/types@0.1.0").Event} event
   * @returns {import("pixelgate:filter/types@0.1.0").Verdict}
   */
  filter(context, event) {
    const hasValue = event.customData.some((field) => field.name === "value");
    if (hasValue || !events.includes(event.eventName)) return { tag: "pass" };
    return { tag: "drop", val: "no value" };
  },
};
