// Consent: without it nothing is sent and no cookie is touched; what waits is bounded.

import assert from 'node:assert/strict';

import { inBrowser, settle } from '../lib/harness.js';
import { snippet } from '../lib/meta.js';

const noCookies = async ({ page }) => assert.equal(await page.evaluate(() => document.cookie), '');

inBrowser('data-consent="required" waits for grant, then sends what waited', async (t) => {
  t.site.page('/', t.site.tag('async data-pixel="111" data-consent="required"'));
  await t.page.goto(t.site.url());
  await t.page.evaluate(() => pixelgate('track', 'Lead'));
  await settle(t);
  assert.equal(t.site.posts.length, 0);
  await noCookies(t);
  await t.page.evaluate(() => pixelgate('consent', 'grant'));
  await t.until('both', () => t.site.posts.length === 2);
  assert.deepEqual(t.site.posts.map(({ body }) => body.event_name), ['PageView', 'Lead']);
  assert.match(t.site.posts[0].body['fb.fbp'], /^fb\.1\.\d+\.\d+$/);
});

inBrowser('fbq consent is followed: revoked, granted, revoked again', async (t) => {
  t.site.page('/', t.site.tag('') + snippet(`
    fbq('consent', 'revoke');
    fbq('init', '111');
    fbq('track', 'PageView');`));
  await t.page.goto(t.site.url());
  await t.page.waitForFunction(() => window.meta);
  await settle(t);
  assert.equal(t.site.posts.length, 0);
  await noCookies(t);
  await t.page.evaluate(() => fbq('consent', 'grant'));
  await t.until('the page view', () => t.site.posts.length === 1);
  assert.equal(t.site.posts[0].body.event_id, (await t.page.evaluate(() => window.meta))[0].id);
  await t.page.evaluate(() => {
    fbq('consent', 'revoke');
    fbq('track', 'Lead');
  });
  await settle(t);
  assert.equal(t.site.posts.length, 1);
});

inBrowser('an old grant, heard again as the queue is emptied, does not undo a later revoke', async (t) => {
  const meta = t.site.hold('/fbevents.js');
  t.site.page('/', t.site.tag('') + snippet(`
    fbq('consent', 'grant');
    fbq('init', '111');
    fbq('track', 'A');
    fbq('consent', 'revoke');
    fbq('track', 'B');`));
  await t.page.goto(t.site.url(), { waitUntil: 'commit' });
  await t.until('the first', () => t.site.posts.length === 1);
  meta();
  await t.page.waitForFunction(() => window.meta);
  await settle(t);
  assert.deepEqual(t.site.posts.map(({ body }) => body.event_name), ['A']);
}, { site: { drain: 'callMethod' } });

inBrowser('a revoke that was said before the script came is respected', async (t) => {
  const ours = t.site.hold('/pixelgate.js');
  t.site.page('/', snippet(`
    fbq('consent', 'revoke');
    fbq('init', '111');
    fbq('track', 'A');`) + t.site.tag());
  await t.page.goto(t.site.url(), { waitUntil: 'commit' });
  await t.page.waitForFunction(() => window.meta);
  ours();
  await t.page.waitForFunction(() => window.pixelgate?.loaded);
  await t.page.evaluate(() => fbq('track', 'B'));
  await settle(t);
  assert.equal(t.site.posts.length, 0);
  await noCookies(t);
  await t.page.evaluate(() => fbq('consent', 'grant'));
  await t.until('both', () => t.site.posts.length === 2);
  const ids = (await t.page.evaluate(() => window.meta)).map((event) => event.id);
  assert.deepEqual(t.site.posts.map(({ body }) => body.event_id), ids);
});

inBrowser('a lock of Meta\'s script that was none of consent is waited for, too', async (t) => {
  const ours = t.site.hold('/pixelgate.js');
  t.site.page('/', snippet(`
    fbq('consent', 'revoke');
    fbq('init', '111');`) + t.site.tag());
  await t.page.goto(t.site.url(), { waitUntil: 'commit' });
  await t.page.waitForFunction(() => window.meta);
  ours();
  await t.page.waitForFunction(() => window.pixelgate?.loaded);
  await t.page.evaluate(() => fbq('track', 'A'));
  await settle(t);
  assert.equal(t.site.posts.length, 0);
  await t.page.evaluate(() => fbq.instance.locks.release());
  await t.until('what waited', () => t.site.posts.length === 1);
  assert.equal(t.site.posts[0].body.event_name, 'A');
});

inBrowser('what waits for consent is bounded', async (t) => {
  t.site.page('/', t.site.tag('data-consent="required"'));
  await t.page.goto(t.site.url());
  await t.page.evaluate(() => {
    pixelgate('init', '111');
    for (let i = 0; i < 150; i++) pixelgate('track', 'Lead');
    pixelgate('consent', 'grant');
  });
  await t.until('a hundred', () => t.site.posts.length >= 100);
  await settle(t);
  assert.equal(t.site.posts.length, 100);
});
