// The crate's twin as a script: the same settings, the same misbehaviour.

/// <reference path="../js/types/pixelgate-filter.d.ts" />

/** @type {{ do: string, when?: string, rounds?: number }} */
let settings;
/** @type {unknown[]} */
const hoard = [];

/** @type {import("pixelgate-filter").Init<any>} */
exports.init = (given) => {
  settings = given;
  if (!(settings.do in behaviours)) throw new Error(`there is no behaviour "${settings.do}"`);
  if (settings.do === "init_error") throw new Error("told to refuse its settings");
  if (settings.do === "init_loop") spinForEver();
};

/** @type {import("pixelgate-filter").Filter} */
exports.filter = (context, event) => {
  if (settings.when === undefined || settings.when === event.event_name) return behaviours[settings.do]?.();
};

/** @type {Record<string, () => import("pixelgate-filter").Verdict>} */
const behaviours = {
  pass: () => {},
  drop: () => ({ drop: "told to" }),
  modify: () => ({ set: { "custom_data.touched": true } }),
  loop: () => spinForEver(),
  panic: () => {
    throw new Error("told to panic");
  },
  hoard: () => {
    hoard.push(new Uint8Array(100_000));
  },
  recurse: () => {
    /** @type {() => number} */
    const recurse = () => recurse() + 1;
    recurse();
  },
  error: () => {
    throw "told to fail";
  },
  log_flood: () => {
    for (let line = 0; line < 1_000; line += 1) console.warn("flood ".repeat(683));
  },
  many_edits: () => ({ set: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`custom_data.key_${n}`, true])) }),
  long_value: () => ({ set: { "custom_data.long": "x".repeat(5 * 1024) } }),
  forbidden_path: () => ({ set: /** @type {any} */ ({ event_id: "another" }) }),
  init_error: () => {},
  init_loop: () => {},
  spin: () => {
    for (let round = 0; round < (settings.rounds ?? 0); round += 1);
  },
};

function spinForEver() {
  for (;;);
}
