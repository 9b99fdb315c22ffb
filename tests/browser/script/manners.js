// A guest on the page: small, silent, never in the way.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { inBrowser, settle } from '../lib/harness.js';
import { snippet } from '../lib/meta.js';

test('the script is at most 6 KB as it is served', () => {
  const script = readFileSync(new URL('../../../web/pixelgate.js', import.meta.url));
  const { length } = gzipSync(script, { level: 6 });
  assert.ok(length <= 6_000, `${length} bytes`);
});

inBrowser('a strict content security policy needs the gateway in script-src and connect-src only', async (t) => {
  const gateway = new URL(t.site.url('/', 'events.shop.example')).origin;
  t.site.page('/', t.site.tag('async data-pixel="111"'), {
    'content-security-policy':
      `default-src 'none'; script-src ${gateway}; connect-src ${gateway}; require-trusted-types-for 'script'`,
  });
  const complaints = [];
  t.page.on('console', (message) => complaints.push(message.text()));
  await t.page.goto(t.site.url());
  await t.until('the page view', () => t.site.posts.length === 1);
  assert.deepEqual(complaints.filter((text) => /policy/i.test(text)), []);
});

inBrowser('one name on window is all it adds', async (t) => {
  t.site.page('/bare', '<title>bare</title>');
  t.site.page('/', t.site.tag('data-pixel="111"'));
  const names = async (path) => {
    await t.page.goto(t.site.url(path));
    return t.page.evaluate(() => Object.getOwnPropertyNames(window).filter((name) => window[name] !== undefined));
  };
  const before = await names('/bare');
  assert.deepEqual((await names('/')).filter((name) => !before.includes(name)), ['pixelgate']);
  assert.equal(await t.page.evaluate(() => typeof fbq), 'undefined', 'fbq is waited for, not made');
});

inBrowser('odd calls neither throw nor disturb what follows', async (t) => {
  t.site.page('/', `${t.site.tag('')}${snippet(`
    fbq(); fbq(null); fbq('init'); fbq('init', {}); fbq('init', 'abc'); fbq('track'); fbq('track', null);
    fbq('track', {}); fbq('track', 'Odd', null, null); fbq('set'); fbq('consent'); fbq('trackSingle');
    fbq('dataProcessingOptions'); fbq(['track', 'Old']); fbq.queue.push(null); fbq.queue.length = 0;
    fbq('init', '111');`)}<script>
    pixelgate(); pixelgate(null); pixelgate('track'); pixelgate('init', null); pixelgate('unknown', 1);
    fbq('track', 'Odd', 'text', 'text');
    fbq('track', 'Good', {}, { eventID: { an: 'object' } });</script>`);
  await t.page.goto(t.site.url());
  await t.until('the good event', () => t.site.named('Good').length === 1);
  assert.equal(typeof t.site.named('Good')[0].body.event_id, 'string');
  assert.equal(t.site.named('Odd').length, 1);
});

for (const [what, setup] of [
  ['a frozen fbq', 'window.fbq = Object.freeze(Object.assign(function () {}, { queue: Object.freeze([]) }));'],
  ['an fbq that is no function', 'window.fbq = 7;'],
  ['an fbq that cannot be redefined', "Object.defineProperty(window, 'fbq', { value: null });"],
  ['an fbq whose parts throw', "window.fbq = new Proxy(function () {}, { get() { throw new Error('no'); } });"],
  ['a pixelgate that is something else', 'window.pixelgate = Object.freeze({ q: 7 });'],
  ['a pixelgate that cannot be replaced', "Object.defineProperty(window, 'pixelgate', { value: 1 });"],
  ['no crypto', "Object.defineProperty(window, 'crypto', { value: undefined });"],
  ['no sessionStorage', "Object.defineProperty(window, 'sessionStorage', { get() { throw new Error('no'); } });"],
  ['no cookies', "Object.defineProperty(document, 'cookie', { get() { throw new Error('no'); }, set() { throw 1; } });"],
  ['a fetch that throws', "window.fetch = () => { throw new Error('no'); };"],
  ['a fetch that gives no promise', 'window.fetch = () => 7;'],
]) {
  inBrowser(`the page works with ${what}`, async (t) => {
    t.site.page('/', `<script>${setup}</script>${t.site.tag('data-pixel="111"')}
      <script>try { fbq('track', 'Lead'); } catch (e) {} document.title = 'fine';</script>`);
    await t.page.goto(t.site.url());
    await settle({ site: t.site, page: await otherPage(t) });
    assert.equal(await t.page.title(), 'fine');
  });
}

/** A page whose globals are as they should be, to wait from. */
async function otherPage(t) {
  t.site.page('/plain', '<title>plain</title>');
  const page = await t.context.newPage();
  await page.goto(t.site.url('/plain'));
  return page;
}

inBrowser('a sandboxed frame, where cookies and storage are refused, sends too', async (t) => {
  t.site.page('/frame', t.site.tag('data-pixel="111"'));
  t.site.page('/', '<iframe sandbox="allow-scripts" src="/frame"></iframe>');
  await t.page.goto(t.site.url('/?fbclid=Iw_x'));
  await t.until('the page view', () => t.site.posts.length === 1);
  assert.equal(t.site.posts[0].body['fb.fbp'], undefined);
});

inBrowser('what Meta\'s script throws or returns reaches the page unchanged', async (t) => {
  t.site.page('/', `${t.site.tag('')}${snippet("fbq('init', '111');")}`);
  await t.page.goto(t.site.url());
  await t.page.waitForFunction(() => window.meta);
  const seen = await t.page.evaluate(() => {
    fbq.callMethod = function () {
      if (arguments[0] === 'throw') throw new Error('from Meta');
      return [this === fbq, arguments.length];
    };
    try {
      fbq('throw');
    } catch (error) {
      return [error.message, fbq.callMethod.apply(fbq, ['track', 'Lead'])];
    }
  });
  assert.deepEqual(seen, ['from Meta', [true, 4]]);
});
