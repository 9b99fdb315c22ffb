// Beside Meta's pixel: whatever the order in which things arrive, both sides carry the same ids.

import assert from 'node:assert/strict';

import { inBrowser, settle } from '../lib/harness.js';
import { snippet } from '../lib/meta.js';

const CALLS = `
  fbq('init', '111');
  fbq('track', 'PageView');
  fbq('track', 'ViewContent', { content_ids: ['a'] });`;

/** Waits until Meta's stand-in sent all of `names`, and asserts that the gateway got each with the same id. */
async function sameOnBothSides({ site, page, until }, names) {
  await page.waitForFunction((count) => window.meta?.length >= count, names.length);
  await until(`${names}`, () => site.posts.length >= names.length);
  await settle({ site, page });
  const meta = await page.evaluate(() => window.meta);
  assert.deepEqual(meta.map((event) => event.name), names);
  const ours = site.posts.map(({ body }) => ({ pixel: body['fb.pixel_id'], name: body.event_name, id: body.event_id }));
  assert.deepEqual(ours, meta);
  const ids = new Set(meta.map((event) => `${event.pixel} ${event.id}`));
  assert.equal(ids.size, meta.length, 'every event has an id of its own');
}

for (const drain of ['direct', 'callMethod']) {
  const site = { drain };

  inBrowser(`the tag above the snippet, run before it (${drain})`, async (t) => {
    t.site.page('/', t.site.tag('') + snippet(CALLS));
    await t.page.goto(t.site.url());
    await t.page.waitForFunction(() => window.meta);
    await t.page.evaluate(() => fbq('trackCustom', 'Later'));
    await sameOnBothSides(t, ['PageView', 'ViewContent', 'Later']);
  }, { site });

  inBrowser(`the tag above the snippet, arriving after it and before Meta's script (${drain})`, async (t) => {
    const meta = t.site.hold('/fbevents.js');
    t.site.page('/', t.site.tag() + snippet(CALLS));
    await t.page.goto(t.site.url(), { waitUntil: 'commit' });
    await t.until('the queued events', () => t.site.posts.length === 2);
    await t.page.evaluate(() => fbq('trackCustom', 'Queued'));
    meta();
    await t.page.waitForFunction(() => window.meta);
    await t.page.evaluate(() => fbq('trackCustom', 'Later'));
    await sameOnBothSides(t, ['PageView', 'ViewContent', 'Queued', 'Later']);
  }, { site });

  inBrowser(`the tag below the snippet, run before Meta's script (${drain})`, async (t) => {
    const meta = t.site.hold('/fbevents.js');
    t.site.page('/', snippet(CALLS) + t.site.tag(''));
    await t.page.goto(t.site.url(), { waitUntil: 'commit' });
    await t.until('the queued events', () => t.site.posts.length === 2);
    meta();
    await sameOnBothSides(t, ['PageView', 'ViewContent']);
  }, { site });

  inBrowser(`the tag after Meta's script: its pixels are asked for, later events are copied (${drain})`, async (t) => {
    const ours = t.site.hold('/pixelgate.js');
    t.site.page('/', snippet("fbq('init', '111', { em: 'a@b.example' }); fbq('track', 'PageView');") + t.site.tag());
    await t.page.goto(t.site.url(), { waitUntil: 'commit' });
    await t.page.waitForFunction(() => window.meta?.length === 1);
    ours();
    await t.page.waitForFunction(() => window.pixelgate?.loaded);
    await t.page.evaluate(() => {
      fbq('track', 'PageView'); // Meta's script swallows it
      fbq('track', 'Purchase', { value: 1, currency: 'EUR' });
    });
    await t.until('the purchase', () => t.site.posts.length);
    await settle(t);
    const meta = await t.page.evaluate(() => window.meta);
    assert.deepEqual(meta.map((event) => event.name), ['PageView', 'Purchase']);
    assert.deepEqual(t.site.posts.map(({ body }) => body.event_name), ['Purchase']);
    assert.equal(t.site.posts[0].body.event_id, meta[1].id);
    assert.equal(t.site.posts[0].body['fb.advanced_matching'].em, 'a@b.example');
  }, { site });
}

inBrowser('events arrive although Meta\'s script never does', async (t) => {
  t.site.page('/', t.site.tag() + snippet(CALLS, 'http://blocked.invalid/fbevents.js'));
  await t.page.goto(t.site.url());
  await t.until('both', () => t.site.posts.length === 2);
  await t.page.evaluate(() => fbq('track', 'Lead'));
  await t.until('the lead', () => t.site.named('Lead').length === 1);
});

inBrowser('the page\'s own event id is kept, in both spellings and as a number', async (t) => {
  t.site.page('/', t.site.tag('') + snippet(`
    fbq('init', '111');
    fbq('track', 'A', {}, { eventID: 'order-1' });
    fbq('track', 'B', {}, { event_id: 'order-2' });
    fbq('track', 'C', {}, { eventID: 3 });`));
  await t.page.goto(t.site.url());
  await sameOnBothSides(t, ['A', 'B', 'C']);
  assert.deepEqual(t.site.posts.map(({ body }) => body.event_id), ['order-1', 'order-2', '3']);
});

inBrowser('an options object that is used for two calls, or frozen, loses no event', async (t) => {
  t.site.page('/', t.site.tag('') + snippet(`
    fbq('init', '111');
    const shared = Object.freeze({ eventID: 'same' });
    fbq('track', 'A', {}, shared);
    fbq('track', 'B', {}, shared);`));
  await t.page.goto(t.site.url());
  await t.until('both', () => t.site.posts.length === 2);
  assert.deepEqual(t.site.posts.map(({ body }) => [body.event_name, body.event_id]), [['A', 'same'], ['B', 'same']]);
});

inBrowser('track goes to every pixel, trackSingle to one', async (t) => {
  t.site.page('/', t.site.tag('') + snippet(`
    fbq('init', '111');
    fbq('init', 222);
    fbq('track', 'All');
    fbq('trackSingle', '222', 'One');
    fbq('trackSingleCustom', 111, 'Other', {}, { eventID: 'x' });`));
  await t.page.goto(t.site.url());
  await t.page.waitForFunction(() => window.meta?.length === 4);
  await t.until('all', () => t.site.posts.length === 4);
  const ours = t.site.posts.map(({ body }) => ({ pixel: body['fb.pixel_id'], name: body.event_name, id: body.event_id }));
  assert.deepEqual(ours, await t.page.evaluate(() => window.meta));
  assert.deepEqual(ours.map(({ pixel, name }) => pixel + name), ['111All', '222All', '222One', '111Other']);
  assert.equal(ours[0].id, ours[1].id, 'one call, one id');
});

inBrowser('a repeated PageView is swallowed as Meta\'s script does, unless the page allows it', async (t) => {
  const calls = "fbq('init', '111'); fbq('track', 'PageView'); fbq('track', 'PageView');";
  t.site.page('/', t.site.tag('') + snippet(calls));
  await t.page.goto(t.site.url());
  await sameOnBothSides(t, ['PageView']);
  await t.page.evaluate(() => {
    history.pushState({}, '', '/swallowed');
    fbq('track', 'PageView');
  });
  await sameOnBothSides(t, ['PageView']);
  await t.page.evaluate(() => {
    history.pushState({}, '', '/next');
    fbq.allowDuplicatePageViews = true;
    fbq('track', 'PageView');
  });
  await sameOnBothSides(t, ['PageView', 'PageView']);
});

inBrowser('fbq that the page declares as a variable is found all the same', async (t) => {
  const meta = t.site.hold('/fbevents.js');
  t.site.page('/', `<script>var fbq, _fbq;</script>${t.site.tag('')}${snippet(CALLS)}`);
  await t.page.goto(t.site.url(), { waitUntil: 'commit' });
  await t.until('the queued events', () => t.site.posts.length === 2);
  meta();
  await sameOnBothSides(t, ['PageView', 'ViewContent']);
});

inBrowser('an fbq that another script wraps is not heard twice', async (t) => {
  t.site.page('/', t.site.tag('') + snippet("fbq('init', '111');"));
  await t.page.goto(t.site.url());
  await t.page.waitForFunction(() => window.meta);
  await t.page.evaluate(() => {
    window.fbq = Object.assign(function () {
      fbq.callMethod.apply(fbq, arguments);
    }, fbq);
    fbq('track', 'Wrapped');
  });
  await sameOnBothSides(t, ['Wrapped']);
});
