// The script runner: a filter whose code arrives as text. One component serves all accounts; each has instances of its
// own, so nothing here is ever shared between two accounts.

import { log } from "pixelgate:filter/host@0.1.0";
import { contextView, eventView } from "./event.js";
import { describe, hideClockAndChance, load, makeConsole } from "./script.js";
import { toVerdict } from "./verdict.js";

globalThis.console = makeConsole(log);
hideClockAndChance();

let filter;

export const scriptHandler = {
  init(script, config) {
    try {
      filter = load(script, JSON.parse(config));
    } catch (error) {
      throw describe(error);
    }
  },

  filter(context, event) {
    try {
      return toVerdict(filter(contextView(context), eventView(event)));
    } catch (error) {
      throw describe(error);
    }
  },
};
