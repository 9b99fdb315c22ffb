// What a script sees: Meta's names instead of the WIT's, objects instead of lists of pairs. Everything is frozen, so an
// assignment throws where it stands instead of being lost without a word. Objects that are made of a sender's keys have
// no prototype: `constructor` or `__proto__` as a key is a key like any other.

/** `context` of filter.wit, for scripts. */
export function contextView(context) {
  return Object.freeze({
    account: context.account,
    pixel_id: context.pixelId,
    host: context.host,
    signals: fieldsView(context.signals),
  });
}

/** `event` of filter.wit, for scripts. */
export function eventView(event) {
  return Object.freeze({
    event_name: event.eventName,
    event_id: event.eventId,
    event_time: event.eventTime,
    event_source_url: event.eventSourceUrl,
    referrer_url: event.referrerUrl,
    action_source: event.actionSource,
    user_data: userDataView(event.userData),
    custom_data: fieldsView(event.customData),
    data_processing_options: Object.freeze(event.dataProcessingOptions),
    opt_out: event.optOut,
    app_data: fieldsView(event.appData),
    extra: fieldsView(event.extra),
  });
}

function userDataView(user) {
  const view = { __proto__: null };
  for (const { key, digests } of user.hashed) view[key] = Object.freeze(digests);
  if (user.fbp !== null) view.fbp = user.fbp;
  if (user.fbc !== null) view.fbc = user.fbc;
  if (user.clientUserAgent !== null) view.client_user_agent = user.clientUserAgent;
  if (user.clientIpAddress !== null) view.client_ip_address = user.clientIpAddress;
  return Object.freeze(view);
}

function fieldsView(fields) {
  const view = { __proto__: null };
  for (const { name, value } of fields) {
    if (value.tag === "json") parseWhenRead(view, name, value.val);
    else view[name] = value.val;
  }
  return Object.freeze(view);
}

/** Most scripts never look at nested values: parsing them costs only the one that does. */
function parseWhenRead(view, name, text) {
  let parsed;
  Object.defineProperty(view, name, { enumerable: true, get: () => (parsed ??= deepFreeze(JSON.parse(text))) });
}

function deepFreeze(value) {
  if (typeof value !== "object" || value === null) return value;
  for (const key in value) deepFreeze(value[key]);
  return Object.freeze(value);
}
