import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { contextView, eventView } from "../runner/event.js";
import { describe, load, makeConsole } from "../runner/script.js";
import { toVerdict } from "../runner/verdict.js";

const text = (val) => ({ tag: "text", val });
const number = (val) => ({ tag: "number", val });
const sample = (name) => readFileSync(new URL(`../examples/${name}`, import.meta.url), "utf8");

/** An event as the gateway hands it over. */
function event(changes = {}) {
  return {
    eventName: "Purchase",
    eventId: "e-1",
    eventTime: 1763900000,
    eventSourceUrl: "https://shop.example/cart?a=1",
    referrerUrl: null,
    actionSource: "website",
    userData: { hashed: [{ key: "em", digests: ["ab".repeat(32)] }], fbp: null, fbc: null, clientUserAgent: "agent", clientIpAddress: "192.0.2.7" },
    customData: [{ name: "value", value: number(40) }, { name: "content_category", value: text("shoes") }],
    dataProcessingOptions: [],
    optOut: null,
    appData: [],
    extra: [],
    ...changes,
  };
}

test("a script sees Meta's names and plain values", () => {
  const view = eventView(event({ customData: [{ name: "contents", value: { tag: "json", val: '[{"id":"a"}]' } }] }));
  assert.equal(view.event_name, "Purchase");
  assert.equal(view.custom_data.contents[0].id, "a");
  assert.deepEqual({ ...view.user_data }, { em: ["ab".repeat(32)], client_user_agent: "agent", client_ip_address: "192.0.2.7" });
  const context = contextView({ account: "shoes", pixelId: "1", host: "h", signals: [{ name: "country", value: text("DE") }] });
  assert.equal(context.pixel_id, "1");
  assert.equal(context.signals.country, "DE");
});

test("keys of senders cannot reach a prototype", () => {
  const customData = ["__proto__", "constructor", "toString"].map((name) => ({ name, value: text(name) }));
  const view = eventView(event({ customData })).custom_data;
  assert.equal(view.constructor, "constructor");
  assert.equal(view.__proto__, "__proto__");
  assert.equal(Object.getPrototypeOf(view), null);
  assert.equal({}.polluted, undefined);
  assert.equal("hasOwnProperty" in view, false);
});

test("an assignment throws instead of being lost", () => {
  const view = eventView(event({ customData: [{ name: "contents", value: { tag: "json", val: '[{"id":"a"}]' } }] }));
  assert.throws(() => { view.event_name = "Lead"; }, TypeError);
  assert.throws(() => { view.custom_data.margin = 1; }, TypeError);
  assert.throws(() => { view.custom_data.contents[0].id = "b"; }, TypeError);
  assert.throws(() => { view.user_data.em.push("x"); }, TypeError);
});

test("answers become verdicts", () => {
  for (const pass of [undefined, true, {}, { set: {}, remove: [] }]) assert.deepEqual(toVerdict(pass), { tag: "pass" });
  assert.deepEqual(toVerdict(false), { tag: "drop", val: "script" });
  assert.deepEqual(toVerdict({ drop: "bot" }), { tag: "drop", val: "bot" });
});

test("edits are in one order, with values of their kinds", () => {
  const answer = {
    set: { event_name: "Lead", "custom_data.n": 1.5, "custom_data.ok": true, "custom_data.ids": ["a"], "custom_data.big": 2n ** 60n },
    remove: ["user_data.em"],
    rename: { "custom_data.a": "custom_data.b" },
  };
  assert.deepEqual(toVerdict(answer).val, [
    { tag: "rename", val: { path: "custom_data.a", to: "custom_data.b" } },
    { tag: "remove", val: "user_data.em" },
    { tag: "set", val: { path: "event_name", value: text("Lead") } },
    { tag: "set", val: { path: "custom_data.n", value: number(1.5) } },
    { tag: "set", val: { path: "custom_data.ok", value: { tag: "boolean", val: true } } },
    { tag: "set", val: { path: "custom_data.ids", value: { tag: "json", val: '["a"]' } } },
    { tag: "set", val: { path: "custom_data.big", value: { tag: "json", val: "1152921504606846976" } } },
  ]);
});

test("what no verdict can be made of is named", () => {
  const cases = [
    [null, /returned null/],
    [3, /returned a number/],
    [[], /returned a list/],
    [Promise.resolve(), /Promise/],
    [{ pass: true }, /the key "pass"/],
    [{ drop: true }, /drop is a boolean/],
    [{ drop: "a", remove: [] }, /one or the other/],
    [{ remove: "user_data.em" }, /remove is a string/],
    [{ remove: [1] }, /remove has a number/],
    [{ set: ["a"] }, /set is a list/],
    [{ rename: { a: 1 } }, /rename of "a"/],
    [{ set: { "custom_data.x": undefined } }, /"custom_data.x" is undefined: .* remove/],
    [{ set: { "custom_data.x": null } }, /"custom_data.x" is null/],
    [{ set: { "custom_data.x": 0 / 0 } }, /NaN/],
  ];
  for (const [answer, message] of cases) assert.throws(() => toVerdict(answer), { message });
});

test("both ways to export work, and none is named", () => {
  assert.equal(load("exports.filter = () => false;", {})(), false);
  assert.equal(load("module.exports = { filter: () => true }; // the end", {})(), true);
  assert.throws(() => load("exports.filtr = () => {};", {}), /no function `filter`/);
  assert.throws(() => load("exports.init = 3; exports.filter = () => {};", {}), /init is no function/);
  assert.throws(() => load("export const filter = () => {};", {}), /write exports\.filter/);
});

test("the settings reach init, and what init throws comes out", () => {
  const script = "let s; exports.init = (given) => { if (!given.ok) throw new Error('not ok'); s = given; }; exports.filter = () => s.ok;";
  assert.equal(load(script, { ok: true })(), true);
  assert.throws(() => load(script, {}), /not ok/);
});

test("an error names its place in the author's lines", () => {
  const error = new RangeError("too far");
  error.stack = "    at deep (<input>:3:12)\n    at filter (main.js:9:1)\n";
  assert.equal(describe(error), "RangeError: too far (line 3, column 12)");
  error.stack = "    at <input>:1:60\n";
  assert.match(describe(error), /\(line 1, column \d\d?\)$/);
  assert.equal(describe("plain"), "plain");
  assert.equal(describe(undefined), "undefined");
});

test("console writes lines to the log", () => {
  const lines = [];
  const console = makeConsole((level, line) => lines.push(`${level} ${line}`));
  console.log("value", 3, { a: [1] }, undefined);
  console.error(new Error("bad"));
  assert.deepEqual(lines, ['info value 3 {"a":[1]} undefined', "error Error: bad"]);
});

test("sample margin.js turns turnover into profit", () => {
  const filter = load(sample("margin.js"), { rates: { shoes: 0.35 }, otherwise: 0.25 });
  const value = (changes) => toVerdict(filter({}, eventView(event(changes)))).val?.[0].val.value.val;
  assert.equal(value(), 14);
  assert.equal(value({ customData: [{ name: "value", value: number(40) }] }), 10);
  assert.equal(value({ eventName: "Lead" }), undefined);
  const absurd = eventView(event({ customData: [{ name: "value", value: number(1e308) }] }));
  assert.deepEqual(filter({}, absurd), { drop: "absurd value" });
  assert.throws(() => load(sample("margin.js"), {}), /settings need otherwise/);
});

test("sample internal-traffic.js drops a company's own visits", () => {
  const settings = { hosts: ["staging.shop.example"], addresses: ["198.51.100."], marker: "internal" };
  const filter = load(sample("internal-traffic.js"), settings);
  const reason = (changes) => toVerdict(filter({}, eventView(event(changes)))).val;
  assert.equal(reason(), undefined);
  assert.equal(reason({ eventSourceUrl: "https://eu.staging.shop.example:8443/a" }), "internal host");
  assert.equal(reason({ eventSourceUrl: "https://notstaging.shop.example/" }), undefined);
  assert.equal(reason({ eventSourceUrl: "https://shop.example/?b=2&internal=1#x" }), "internal marker");
  assert.equal(reason({ eventSourceUrl: null }), undefined);
  assert.equal(reason({ userData: { ...event().userData, clientIpAddress: "198.51.100.9" } }), "internal address");
});
