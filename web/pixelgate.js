/*!
 * Pixelgate 0.1.0: sends the page's conversion events to the gateway that served this file.
 * Beside Meta's pixel it follows every call of fbq() and sends a copy under the same event id; alone, with
 * data-pixel="123" on its tag, it sends by itself. Without consent nothing is sent and no cookie touched.
 * It never throws into the page.
 */
(function () {
  'use strict';

  const win = window;
  const doc = document;
  const HELD_MAX = 100; // events that wait for consent
  const SILENCE_MS = 30 * 60e3; // after a stop word, as Meta's own client
  const STOP_WORDS = /^((Data Source|Account) Deactivated|Data Source Id Or Pixel Id Missing\.)$|Not Onboarded/;
  const COOKIE_SECONDS = 90 * 86400;

  const guard = (f) => function () {
    try {
      return f.apply(this, arguments);
    } catch (e) {
      return undefined; // the page goes on
    }
  };

  const tag = doc.currentScript || doc.querySelector('script[src*="/pixelgate.js"]');
  const pixels = new Map(); // pixel id → { user, viewed }
  const everyone = {}; // advanced matching for all pixels
  const held = []; // what waits for consent
  let revoked = false;
  let unsure = false; // revoked only because Meta's script was locked when we came
  let dataProcessing; // Limited Data Use
  let cookiesOff = false;
  let autoView = {}; // the PageView that the tag sent by itself
  let gateway;

  // === What the page says: fbq() and pixelgate() have one vocabulary ===

  const tracked = new WeakSet(); // the options of the calls that were sent

  /** Acts on one call; returns the arguments that Meta's script shall get. */
  function follow(call, fbq) {
    const args = Array.from(call);
    const what = args[0];
    if (what === 'init') init(args[1], args[2]);
    if (what === 'track' || what === 'trackCustom') track(args, 1, null, fbq);
    if (what === 'trackSingle' || what === 'trackSingleCustom') track(args, 2, String(args[1]), fbq);
    if (what === 'set' && args[1] === 'userData') Object.assign(everyone, plain(args[2]));
    if (what === 'set' && args[1] === 'firstPartyCookies' && !args[3]) cookiesOff = String(args[2]) === 'false';
    if (what === 'dataProcessingOptions') {
      dataProcessing = {
        dataProcessingOptions: args[1],
        dataProcessingOptionsCountry: args[2],
        dataProcessingOptionsState: args[3],
      };
    }
    if (what === 'consent' && args[1] === 'grant') release();
    if (what === 'consent' && args[1] === 'revoke') {
      revoked = true;
      unsure = false;
    }
    return args;
  }

  function init(id, user) {
    id = String(id).trim();
    if (!/^\d{1,20}$/.test(id)) return;
    if (!pixels.has(id)) pixels.set(id, { user: {} });
    Object.assign(pixels.get(id).user, plain(user));
  }

  /** args[at] is the event's name; its data and its options follow. */
  function track(args, at, only, fbq) {
    const name = args[at];
    const options = Object(args[at + 2]);
    if (typeof name !== 'string' || !name || tracked.has(options)) return;
    const page = location.href;
    const view = name === 'PageView' && !only;

    let id = options.eventID != null ? options.eventID : options.event_id;
    if (typeof id === 'number') id = String(id);
    if (typeof id !== 'string' || !id) id = view && autoView.page === page ? autoView.id : newId();
    // A copy, as the page may use one object for many calls.
    args[at + 2] = Object.assign({}, options, { eventID: id });
    if (args[at + 1] === undefined) args[at + 1] = {};
    tracked.add(args[at + 2]);

    (only ? [only] : Array.from(pixels.keys())).forEach((to) => {
      const pixel = pixels.get(to) || {};
      if (view) {
        // Meta's script swallows a pixel's further PageViews, unless fbq.allowDuplicatePageViews.
        const again = pixel.viewed === page || (pixel.viewed && fbq && fbq.callMethod);
        if (again && !(fbq && fbq.allowDuplicatePageViews)) return;
        pixel.viewed = page;
      }
      const event = describe(to, name, id, plain(args[at + 1]));
      const job = guard(() => send(to, Object.assign(event, visitor(pixel.user))));
      if (!revoked) job();
      else if (held.length < HELD_MAX) held.push(job);
    });
  }

  function release() {
    revoked = unsure = false;
    held.splice(0).forEach((job) => job());
  }

  // === The event as POST /events takes it ===

  function describe(pixelId, name, id, data) {
    const framed = win.top !== win;
    const event = {
      event_name: name,
      event_id: id,
      'fb.pixel_id': pixelId,
      custom_data: data,
      website_context: {
        location: (framed && doc.referrer) || location.href,
        referrer: doc.referrer || null,
        isInIFrame: framed,
      },
    };

    let value = data.value == null ? NaN : Number(data.value);
    let currency = data.currency;
    if (name === 'Purchase') {
      // The Conversions API refuses a purchase without them; Meta's own client fills in the same.
      value = value || 0;
      if (!/^[a-z]{3}$/i.test(currency)) currency = 'USD';
    }
    if (isFinite(value)) event.conversion_value = { value: value, currency: currency };

    const products = pick(data, ['content_type', 'content_category', 'content_name', 'delivery_category']);
    if (data.content_ids != null) products.content_ids = [].concat(data.content_ids).map(String);
    if (Array.isArray(data.contents)) {
      products.contents = data.contents.filter((item) => item && item.id != null).map((item) => Object.assign(
        pick(item, ['quantity', 'item_price', 'title', 'description', 'brand', 'category']), { id: String(item.id) }));
    }
    event['fb.dynamic_product_ads'] = products;

    Object.assign(event, pick(data, ['num_items', 'predicted_ltv', 'search_string', 'order_id'], 'fb.'));
    if (data.status != null) event['fb.registration_status'] = data.status;
    return event;
  }

  /** Who it was, read when the event leaves. The gateway normalises and hashes. */
  function visitor(user) {
    const who = { 'fb.advanced_matching': Object.assign({}, everyone, user) };
    if (dataProcessing) who['fb.data_processing_options'] = dataProcessing;
    const fbp = guard(browserId)();
    const fbc = guard(clickId)();
    if (fbp) who['fb.fbp'] = fbp;
    if (fbc) who['fb.clickID'] = fbc;
    return who;
  }

  /** What of an object can be sent, as it is now. */
  function plain(object) {
    const result = {};
    if (typeof object !== 'object') return result;
    Object.keys(object || {}).forEach(guard((key) => {
      const text = JSON.stringify(object[key]);
      if (text) result[key] = JSON.parse(text);
    }));
    return result;
  }

  function pick(object, keys, prefix) {
    const result = {};
    keys.forEach((key) => {
      if (object[key] != null) result[(prefix || '') + key] = object[key];
    });
    return result;
  }

  function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return 'pg.' + Array.from(bytes, (byte) => (byte + 256).toString(16).slice(1)).join('');
  }

  // === First-party cookies, shared with Meta's script: fb.<dots in the domain>.<ms>.<payload> ===

  const renewed = {};
  let domain; // the shortest one that takes cookies; empty where only the host itself does

  function browserId() {
    const random = () => Math.floor(Math.random() * 999999999);
    return readCookie('_fbp') || makeCookie('_fbp', '' + (random() + 1) + random());
  }

  /** `_fbc`; a new fbclid replaces it, and stands for it where cookies are refused. */
  function clickId() {
    const stored = readCookie('_fbc');
    const click = [location.search, doc.referrer.split('?')[1]]
      .map((query) => new URLSearchParams(query || '').get('fbclid'))
      .filter((found) => found && found.length <= 500)[0];
    if (!click) return stored;
    const payload = click.replace(/\./g, '__DOT__');
    return stored.split('.')[3] === payload ? stored : makeCookie('_fbc', payload) || click;
  }

  function readCookie(name) {
    const value = rawCookie(name);
    const parts = /^fb\.(\d+)\.\d+\.[^.]+(\.[^.]+)?$/.exec(value);
    if (!parts) return '';
    const dots = Number(parts[1]);
    const on = dots ? location.hostname.split('.').slice(-dots - 1).join('.') : '';
    // A gateway of the same site renews it by its answer, which Safari lets live longer.
    const byGateway = on && ('.' + gateway.hostname).endsWith('.' + on);
    if (!renewed[name] && !cookiesOff && !byGateway) writeCookie(name, value, on);
    renewed[name] = true;
    return value;
  }

  function makeCookie(name, payload) {
    if (cookiesOff) return '';
    const on = site();
    const value = 'fb.' + (on.split('.').length - 1) + '.' + Date.now() + '.' + payload;
    writeCookie(name, value, on);
    return rawCookie(name) === value ? value : '';
  }

  function rawCookie(name) {
    const found = new RegExp('(?:^|; )' + name + '=([^;]*)').exec(doc.cookie);
    return (found && guard(decodeURIComponent)(found[1])) || '';
  }

  function writeCookie(name, value, on) {
    doc.cookie = name + '=' + encodeURIComponent(value) + '; path=/; samesite=lax; max-age='
      + (value ? COOKIE_SECONDS : 0) + (on ? '; domain=' + on : '')
      + (location.protocol === 'https:' ? '; secure' : '');
  }

  /** Browsers refuse cookies for public suffixes: the first domain that takes one is the site's. */
  function site() {
    if (domain !== undefined) return domain;
    domain = '';
    const labels = location.hostname.split('.');
    if (/^[\d.]+$|:/.test(location.hostname)) return domain; // an address
    for (let from = labels.length - 2; from >= 0 && !domain; from--) {
      const candidate = labels.slice(from).join('.');
      writeCookie('_pixelgate', '1', candidate);
      if (rawCookie('_pixelgate')) domain = candidate;
      writeCookie('_pixelgate', '', candidate);
    }
    return domain;
  }

  // === Sending ===

  const silences = {}; // pixel id → until when (ms), for where sessionStorage is refused
  const retries = new Set();

  function send(pixelId, event) {
    if (silentUntil(pixelId) > Date.now()) return;
    const body = JSON.stringify(event);
    post(body, true, (status, answer) => {
      if (STOP_WORDS.test(answer)) silence(pixelId);
      else if (!status || status === 408 || status === 429 || status >= 500) {
        retrySoon((leaving) => post(body, leaving, () => {}));
      }
    });
  }

  /** `failed(status, answer)`: status 0 is a network error. */
  function post(body, keepalive, failed) {
    const url = gateway.origin + '/events';
    if (win.fetch && 'keepalive' in Request.prototype) {
      // No content type of ours: text/plain needs no preflight.
      fetch(url, { method: 'POST', body: body, credentials: 'include', keepalive: keepalive })
        .then((answer) => answer.ok || answer.text().then((text) => failed(answer.status, text)))
        .catch(() => failed(0, ''));
      return;
    }
    // Without keepalive only a beacon outlives the page, at the price of its answer.
    if (navigator.sendBeacon && navigator.sendBeacon(url, body)) return;
    const request = new XMLHttpRequest();
    request.open('POST', url);
    request.withCredentials = true;
    request.onloadend = guard(() => {
      if (request.status < 200 || request.status > 299) failed(request.status, request.responseText);
    });
    request.send(body);
  }

  /** Once: a second later, or when the page is left before. Browsers keep 64 KiB alive at most: the rest goes then. */
  function retrySoon(job) {
    const run = (leaving) => {
      if (retries.delete(run)) guard(job)(leaving);
    };
    retries.add(run);
    setTimeout(() => run(false), 1000);
  }

  function silentUntil(pixelId) {
    return Number(silences[pixelId] || guard(() => sessionStorage.getItem('pixelgate.' + pixelId))());
  }

  function silence(pixelId) {
    silences[pixelId] = Date.now() + SILENCE_MS;
    guard(() => sessionStorage.setItem('pixelgate.' + pixelId, silences[pixelId]))();
  }

  // === Tapping fbq: the queue of the site's snippet, then the callMethod that Meta's script puts there ===

  const tapped = new WeakSet();
  let inside = false; // within Meta's script
  let putBack = false; // it was locked, and queued the call again
  let drained = []; // the entry it took from the queue last

  /** Passes what object[key] is, and what it is set to later, through `change`. */
  function watch(object, key, change) {
    let value;
    const set = (next) => {
      value = next;
      guard(() => { value = change(next); })();
    };
    set(object[key]);
    try {
      Object.defineProperty(object, key, { configurable: true, enumerable: true, get: () => value, set: set });
    } catch (e) {
      if (object[key] !== value) object[key] = value;
    }
  }

  function tap(fbq) {
    if (typeof fbq !== 'function' || tapped.has(fbq)) return fbq;
    tapped.add(fbq);
    if (fbq.callMethod) catchUp(fbq);
    guard(watch)(fbq, 'queue', (queue) => tapQueue(fbq, queue));
    guard(watch)(fbq, 'callMethod', (method) => tapMethod(fbq, method));
    return fbq;
  }

  /** Meta's script was first: its pixels can be asked for, and a lock may mean that consent was revoked. */
  function catchUp(fbq) {
    guard(() => fbq.getState().pixels.forEach((pixel) => {
      init(pixel.id, pixel.userData);
      if (pixel.eventCount) pixels.get(String(pixel.id)).viewed = location.href;
    }))();
    const locked = guard(() => fbq.queue.length > 0 || fbq.instance.locks.isLocked())();
    if (locked && !revoked) revoked = unsure = true;
  }

  function tapQueue(fbq, queue) {
    if (!Array.isArray(queue) || tapped.has(queue)) return queue;
    tapped.add(queue);
    const see = (entry) => guard(follow)(entry, fbq) || entry;
    queue.forEach((entry, at) => { queue[at] = see(entry); });
    const override = (name, make) => Object.defineProperty(queue, name, {
      configurable: true, writable: true, value: make(queue[name]),
    });
    override('push', (push) => function () {
      putBack = inside;
      return push.apply(this, Array.from(arguments, see));
    });
    override('shift', (shift) => function () {
      if (unsure) release();
      drained = shift.apply(this, arguments);
      return drained;
    });
    return queue;
  }

  function tapMethod(fbq, method) {
    if (typeof method !== 'function') return method;
    return function () {
      const last = drained;
      drained = [];
      const seen = guard(() => (
        last.length === arguments.length && Array.from(last).every((value, at) => value === arguments[at])
      ))();
      const args = (!seen && guard(follow)(arguments, fbq)) || arguments;
      const outer = inside;
      inside = true;
      putBack = false;
      try {
        return method.apply(this, args);
      } finally {
        inside = outer;
        if (unsure && !putBack && args[0] !== 'consent') release();
      }
    };
  }

  // === Start ===

  function start() {
    if (!tag || !tag.src || (win.pixelgate && win.pixelgate.loaded)) return;
    gateway = new URL(tag.src);
    revoked = tag.dataset.consent === 'required';
    const own = (tag.dataset.pixel || '').split(',');
    own.forEach((id) => init(id));

    const calls = (win.pixelgate && win.pixelgate.q) || [];
    const api = guard(function () { follow(arguments); });
    api.loaded = true;
    api.version = '0.1.0';
    win.pixelgate = api;

    const names = ['fbq', '_fbq'];
    names.forEach((name) => guard(watch)(win, name, tap));
    Array.from(calls).forEach((call) => api.apply(null, call));

    // Where `fbq` is a declared variable it can't be watched: look again.
    const look = guard(() => names.forEach((name) => tap(win[name])));
    const parsed = guard(() => {
      look();
      const viewed = Array.from(pixels.values()).some((pixel) => pixel.viewed);
      if (!own[0] || tag.dataset.auto === 'false' || win.fbq || viewed) return;
      autoView = { page: location.href, id: newId() };
      api('track', 'PageView', {}, { eventID: autoView.id });
    });
    if (doc.readyState === 'loading') doc.addEventListener('DOMContentLoaded', parsed);
    else parsed();
    win.addEventListener('load', look);
    win.addEventListener('pagehide', () => retries.forEach((run) => run(true)));
  }
  guard(start)();
})();
