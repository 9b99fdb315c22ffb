// An account's script: evaluating it, and telling its author where it went wrong.

// On one line with the script's first, so that line numbers are the author's; PREFIX is taken off the first line's columns.
const PREFIX = '(function (exports, module) { "use strict"; ';
const SUFFIX = "\n})";

/** Evaluates a script, calls its `init` with the settings, and returns its `filter`. */
export function load(script, settings) {
  const module = { exports: {} };
  compile(script)(module.exports, module);
  const { init, filter } = module.exports;
  if (typeof filter !== "function") {
    throw new Error("the script exports no function `filter`: write exports.filter = (context, event) => { … }");
  }
  if (init !== undefined) {
    if (typeof init !== "function") throw new Error("exports.init is no function: write exports.init = (settings) => { … }");
    init(settings);
  }
  return filter;
}

function compile(script) {
  try {
    return (0, eval)(PREFIX + script + SUFFIX);
  } catch (error) {
    if (/^\s*(import|export)\b/m.test(script)) error.message += "; a script is no module: write exports.filter = …";
    throw error;
  }
}

/** What was thrown, as one line: its name and message, and where in the script. */
export function describe(thrown) {
  if (!(thrown instanceof Error)) return String(thrown);
  return `${thrown.name}: ${thrown.message}${position(thrown.stack)}`;
}

/** The place of the first frame that lies in the script. */
function position(stack) {
  const found = /<input>:(\d+)(?::(\d+))?/.exec(stack ?? "");
  if (found === null) return "";
  const line = Number(found[1]);
  const column = line === 1 ? Number(found[2]) - PREFIX.length : Number(found[2]);
  return ` (line ${line}, column ${column})`;
}

/** `console` for scripts, on the gateway's log. */
export function makeConsole(log) {
  const at = (level) => (...parts) => log(level, parts.map(asText).join(" "));
  return Object.freeze({ debug: at("debug"), log: at("info"), info: at("info"), warn: at("warn"), error: at("error") });
}

function asText(part) {
  if (typeof part === "string") return part;
  if (part instanceof Error) return `${part.name}: ${part.message}`;
  return JSON.stringify(part) ?? String(part);
}

/** A filter has no clock and no chance: the engine's would stop the instance, so a plain error says what to use instead. */
export function hideClockAndChance() {
  const now = () => {
    throw new Error("a filter has no clock: use event.event_time");
  };
  globalThis.Date = new Proxy(Date, {
    apply: now,
    construct: (date, args, target) => (args.length === 0 ? now() : Reflect.construct(date, args, target)),
    get: (date, key, receiver) => (key === "now" ? now : Reflect.get(date, key, receiver)),
  });
  Math.random = () => {
    throw new Error("a filter has no source of chance: derive it from event.event_id");
  };
}
