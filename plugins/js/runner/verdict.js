// What a script answers, turned into the verdict of filter.wit.

const PASS = { tag: "pass" };

/** The verdict that an answer means; throws an error that names what is wrong with it. */
export function toVerdict(answer) {
  if (answer === undefined || answer === true) return PASS;
  if (answer === false) return { tag: "drop", val: "script" };
  if (answer === null || typeof answer !== "object" || Array.isArray(answer)) {
    throw new Error(`filter returned ${typeName(answer)}: return nothing or true to pass, false or { drop: "why" } to drop, { set, remove, rename } to modify`);
  }
  if (typeof answer.then === "function") throw new Error("filter returned a Promise: a filter can't be async, it has nothing to wait for");
  for (const key of Object.keys(answer)) {
    if (key !== "drop" && key !== "set" && key !== "remove" && key !== "rename") {
      throw new Error(`filter returned an object with the key "${key}": only drop, or set, remove and rename have a meaning`);
    }
  }
  if ("drop" in answer) {
    if (typeof answer.drop !== "string") throw new Error(`drop is ${typeName(answer.drop)}: it says why, in a word or two`);
    if (Object.keys(answer).length > 1) throw new Error("filter returned drop together with edits: it is one or the other");
    return { tag: "drop", val: answer.drop };
  }
  const edits = toEdits(answer);
  return edits.length === 0 ? PASS : { tag: "modify", val: edits };
}

/** In this order whatever the order of the keys: first rename, then remove, then set. */
function toEdits({ rename = {}, remove = [], set = {} }) {
  const edits = [];
  for (const [path, to] of Object.entries(asObject("rename", rename))) {
    if (typeof to !== "string") throw new Error(`rename of "${path}" is ${typeName(to)}: it is the new path`);
    edits.push({ tag: "rename", val: { path, to } });
  }
  if (!Array.isArray(remove)) throw new Error(`remove is ${typeName(remove)}: it is a list of paths`);
  for (const path of remove) {
    if (typeof path !== "string") throw new Error(`remove has ${typeName(path)} in it: it is a list of paths`);
    edits.push({ tag: "remove", val: path });
  }
  for (const [path, value] of Object.entries(asObject("set", set))) {
    edits.push({ tag: "set", val: { path, value: toScalar(path, value) } });
  }
  return edits;
}

function asObject(name, value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Error(`${name} is ${typeName(value)}: it is an object whose keys are paths`);
  }
  return value;
}

function toScalar(path, value) {
  switch (typeof value) {
    case "string":
      return { tag: "text", val: value };
    case "number":
      if (!Number.isFinite(value)) throw new Error(`set of "${path}" is ${value}: a number must be finite`);
      return { tag: "number", val: value };
    case "boolean":
      return { tag: "boolean", val: value };
    case "bigint":
      return { tag: "json", val: value.toString() };
    case "object":
      if (value !== null) return { tag: "json", val: JSON.stringify(value) };
  }
  throw new Error(`set of "${path}" is ${typeName(value)}: to take a field away use remove`);
}

function typeName(value) {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}
