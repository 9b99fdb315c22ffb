// Without Meta's pixel: the tag's data-pixel, and pixelgate().

import assert from 'node:assert/strict';

import { inBrowser, settle } from '../lib/harness.js';
import { snippet } from '../lib/meta.js';

const STUB = '<script>window.pixelgate=window.pixelgate||function(){(pixelgate.q=pixelgate.q||[]).push(arguments)};';

inBrowser('data-pixel sends a PageView for each pixel by itself', async (t) => {
  t.site.page('/', t.site.tag('async data-pixel="111, 222"'));
  await t.page.goto(t.site.url());
  await t.until('both', () => t.site.posts.length === 2);
  await settle(t);
  assert.deepEqual(t.site.posts.map(({ body }) => body['fb.pixel_id'] + body.event_name), ['111PageView', '222PageView']);
  assert.match(await t.page.evaluate(() => pixelgate.version), /^\d+\.\d+\.\d+$/);
  assert.match(t.site.posts[0].body.event_id, /^pg\.[0-9a-f]{32}$/);
});

inBrowser('data-auto="false" sends nothing by itself', async (t) => {
  t.site.page('/', t.site.tag('async data-pixel="111" data-auto="false"'));
  await t.page.goto(t.site.url());
  await settle(t);
  assert.equal(t.site.posts.length, 0);
  await t.page.evaluate(() => pixelgate('track', 'Purchase', { value: '12.50', currency: 'EUR' }, { eventID: 'order-7' }));
  await t.until('the purchase', () => t.site.posts.length === 1);
  const { body } = t.site.posts[0];
  assert.equal(body.event_id, 'order-7');
  assert.deepEqual(body.conversion_value, { value: 12.5, currency: 'EUR' });
});

inBrowser('calls before the script has arrived are kept by the stub', async (t) => {
  t.site.page('/', `${STUB}
    pixelgate('init', '333', { em: 'a@b.example' });
    pixelgate('set', 'userData', { ph: '+44 20 7946 0000' });
    pixelgate('dataProcessingOptions', ['LDU'], 1, 1000);
    pixelgate('trackCustom', 'Brochure', { pages: 3 });
  </script>${t.site.tag()}`);
  await t.page.goto(t.site.url());
  await t.until('the event', () => t.site.posts.length === 1);
  const { body } = t.site.posts[0];
  assert.equal(body.event_name, 'Brochure');
  assert.equal(body['fb.pixel_id'], '333');
  assert.deepEqual(body.custom_data, { pages: 3 });
  assert.deepEqual(body['fb.advanced_matching'], { em: 'a@b.example', ph: '+44 20 7946 0000' });
  assert.deepEqual(body['fb.data_processing_options'], {
    dataProcessingOptions: ['LDU'], dataProcessingOptionsCountry: 1, dataProcessingOptionsState: 1000,
  });
});

inBrowser('a PageView that the page sends itself is not sent twice', async (t) => {
  t.site.page('/', `${STUB} pixelgate('track', 'PageView');</script>${t.site.tag('async data-pixel="111"')}`);
  await t.page.goto(t.site.url());
  await t.until('the page view', () => t.site.posts.length === 1);
  await settle(t);
  assert.equal(t.site.posts.length, 1);
});

inBrowser('Meta\'s pixel turning up late gets the id of the PageView that was sent already', async (t) => {
  t.site.page('/', t.site.tag('async data-pixel="111"'));
  t.site.page('/late.html', snippet("fbq('init', '111'); fbq('track', 'PageView');"));
  await t.page.goto(t.site.url());
  await t.until('the page view', () => t.site.posts.length === 1);
  await t.page.evaluate(async () => {
    const late = new DOMParser().parseFromString(await (await fetch('/late.html')).text(), 'text/html');
    const script = document.createElement('script');
    script.textContent = late.querySelector('script').textContent;
    document.head.append(script);
  });
  await t.page.waitForFunction(() => window.meta?.length === 1);
  await settle(t);
  assert.equal(t.site.posts.length, 1);
  assert.equal((await t.page.evaluate(() => window.meta))[0].id, t.site.posts[0].body.event_id);
});

inBrowser('two tags on one page send once', async (t) => {
  t.site.page('/', t.site.tag('data-pixel="111"') + t.site.tag('data-pixel="111"'));
  await t.page.goto(t.site.url());
  await t.until('the page view', () => t.site.posts.length === 1);
  await settle(t);
  assert.equal(t.site.posts.length, 1);
});

inBrowser('a tag that another script adds finds its own origin', async (t) => {
  t.site.page('/', '<title>shop</title>');
  await t.page.goto(t.site.url());
  await t.page.evaluate((src) => {
    const script = document.createElement('script');
    script.src = src;
    script.dataset.pixel = '111';
    document.head.append(script);
  }, t.site.url('/pixelgate.js', 'events.shop.example'));
  await t.until('the page view', () => t.site.posts.length === 1);
  assert.match(t.site.posts[0].headers.host, /^events\.shop\.example:/);
});
