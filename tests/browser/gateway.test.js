// From a page in a real browser through a running gateway to the Graph API's stand-in.
//
// The test that starts both (tests/it/clients.rs) says where they are; a variable that is missing is a failure:
//   GATEWAY_HTTPS  127.0.0.1:port of its TLS listener
//   GATEWAY_NAME   a first-party name of an account, such as events.shop.example
//   GATEWAY_SPKI   base64 of the SHA-256 of that name's public key, for Chromium to trust
//   GRAPH_CONTROL  the stand-in's control URL, http://127.0.0.1:port/_control; it keeps bodies
//   PIXEL_ID       a pixel of the account
// CHROMIUM may name another browser than /usr/bin/chromium. The shop is www. beside the gateway's name, served here.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, beforeEach, test } from 'node:test';

import { launch, until } from './lib/chromium.js';
import { fbevents, snippet } from './lib/meta.js';
import { openShop } from './lib/shop.js';

const [address, name, spki, graph, pixel] = ['GATEWAY_HTTPS', 'GATEWAY_NAME', 'GATEWAY_SPKI', 'GRAPH_CONTROL', 'PIXEL_ID']
  .map((variable) => process.env[variable] || assert.fail(`${variable} is not set`));
const gateway = `https://${name}`;
const site = name.slice(name.indexOf('.') + 1);
const shopName = `www.${site}`;
const sha256 = (text) => createHash('sha256').update(text).digest('hex');

const tag = (attributes = '') => `<script async ${attributes} src="${gateway}/pixelgate.js"></script>`;
let letMetaCome;
const pages = {
  '/': () => tag() + snippet(`
    fbq('init', '${pixel}', { em: ' Visitor@Example.com ' });
    fbq('track', 'PageView');`),
  '/alone': () => tag(`data-pixel="${pixel}" data-auto="false"`),
  '/plain': () => '<title>plain</title>',
  // Meta's script comes after ours, as it does on pages with the tag above the snippet.
  '/fbevents.js': async () => {
    await new Promise((resolve) => { letMetaCome = resolve; });
    return fbevents('direct');
  },
};

let shop;
let browser;
let page;
before(async () => {
  shop = await openShop(shopName, pages);
  browser = await launch({ rules: `MAP ${name}:443 ${address}, ${shop.rule}`, spki: [spki, shop.spki] });
});
beforeEach(async () => {
  page = await (await browser.newContext()).newPage();
});
after(async () => {
  await browser?.close();
  await shop?.close();
});

/** The event as the Graph API got it. */
function delivered(eventId) {
  return until(`${eventId} at the Graph API`, async () => {
    const { bodies } = await (await fetch(`${graph}/bodies?pixel=${pixel}`)).json();
    return bodies.flatMap((body) => body.data).find((event) => event.event_id === eventId);
  });
}

/** How often the Graph API got it. */
async function deliveries(eventId) {
  const { events } = await (await fetch(`${graph}/events?pixel=${pixel}`)).json();
  return events.filter((event) => event.event_id === eventId).reduce((total, event) => total + event.count, 0);
}

const fromPage = (path, init) => page.evaluate(async ([url, options]) => {
  const answer = await fetch(url, options);
  return [answer.status, await answer.text()];
}, [gateway + path, { method: 'POST', credentials: 'include', keepalive: true, ...init }]);

test('what the page tells Meta\'s pixel is delivered once, under the same ids', async () => {
  await page.goto(`https://${shopName}/?fbclid=IwAR0_click`, { waitUntil: 'commit' });
  await page.waitForFunction(() => window.pixelgate?.loaded);
  letMetaCome();
  await page.waitForFunction(() => window.meta?.length === 1);
  await page.evaluate(() => fbq('track', 'Purchase', {
    value: 59.9, currency: 'EUR', content_ids: ['sku-1'], content_type: 'product',
  }));

  const meta = await page.evaluate(() => window.meta);
  assert.deepEqual(meta.map((event) => event.name), ['PageView', 'Purchase']);
  const [view, purchase] = await Promise.all(meta.map((event) => delivered(event.id)));
  for (const event of [view, purchase]) {
    assert.equal(event.action_source, 'website');
    assert.equal(event.event_source_url, `https://${shopName}/?fbclid=IwAR0_click`);
    assert.ok(Math.abs(event.event_time - Date.now() / 1000) < 60);
    assert.deepEqual([event.user_data.em].flat(), [sha256('visitor@example.com')]);
    assert.match(event.user_data.fbc, /^fb\.1\.\d{13}\.IwAR0_click$/);
    assert.match(event.user_data.client_user_agent, /Chrome/);
  }
  assert.equal(view.event_name, 'PageView');
  assert.equal(purchase.event_name, 'Purchase');
  assert.equal(purchase.custom_data.value, 59.9);
  assert.equal(purchase.custom_data.currency.toUpperCase(), 'EUR');
  assert.deepEqual(purchase.custom_data.content_ids, ['sku-1']);
  for (const event of meta) assert.equal(await deliveries(event.id), 1, event.name);

  const fbp = (await page.context().cookies()).find((cookie) => cookie.name === '_fbp');
  assert.equal(fbp.domain, `.${site}`);
  assert.ok(fbp.secure);
  assert.deepEqual([view.user_data.fbp, purchase.user_data.fbp], [fbp.value, fbp.value]);
});

test('an event that is sent while the page is left arrives', async () => {
  await page.goto(`https://${shopName}/alone`);
  await page.waitForFunction(() => window.pixelgate?.loaded);
  const id = `left-${Date.now()}`;
  await page.evaluate((eventID) => {
    pixelgate('track', 'Lead', {}, { eventID });
    location.href = '/plain';
  }, id);
  assert.equal((await delivered(id)).event_name, 'Lead');
});

test('Meta\'s own gateway plugin is answered as it expects, and its event delivered', async () => {
  await page.goto(`https://${shopName}/plain`);
  const id = `ob3_plugin-set_${sha256(String(Date.now()))}`;
  const body = JSON.stringify({
    event_name: 'ViewContent',
    conversion_value: { value: 10, currency: 'USD' },
    'fb.dynamic_product_ads': { content_type: 'product', content_ids: ['sku-1'] },
    custom_data: { value: 10, currency: 'USD', content_type: 'product', content_ids: 'sku-1' },
    event_id: id,
    'fb.pixel_id': pixel,
    'fb.advanced_matching': {},
    website_context: { location: `https://${shopName}/p/1`, referrer: '', isInIFrame: false },
    'fb.fbp': 'fb.1.1677024568192.220088425',
  });
  assert.deepEqual(await fromPage('/events?cee=no', { body }), [200, '']);
  const event = await delivered(id);
  assert.equal(event.event_name, 'ViewContent');
  assert.deepEqual(event.custom_data.content_ids, ['sku-1']);
  assert.equal(event.user_data.fbp, 'fb.1.1677024568192.220088425');
});

test('stop words are readable by a page of another origin', async () => {
  await page.goto(`https://${shopName}/plain`);
  const unknown = JSON.stringify({ event_name: 'Lead', 'fb.pixel_id': '18446744073709551615' });
  assert.deepEqual(await fromPage('/events', { body: unknown }), [404, 'Not Onboarded']);
  const missing = JSON.stringify({ event_name: 'Lead' });
  assert.deepEqual(await fromPage('/events', { body: missing }), [400, 'Data Source Id Or Pixel Id Missing.']);
});
