// Posts: credentials, keepalive, one retry, stop words, and the ways around missing browser features.

import assert from 'node:assert/strict';

import { inBrowser, settle } from '../lib/harness.js';

const install = (t, calls = '') => t.site.page('/', `${t.site.tag('data-pixel="111" data-auto="false"')}
  <script>${calls}</script>`);
const track = (t, name) => t.page.evaluate((event) => pixelgate('track', event), name);

for (const [why, answer] of [['a broken connection', [0]], ['a 503', [503, '']], ['a 429', [429, '']]]) {
  inBrowser(`after ${why} the same event is sent once more`, async (t) => {
    install(t);
    t.site.answers = [answer, answer];
    await t.page.clock.install();
    await t.page.goto(t.site.url());
    await track(t, 'Lead');
    await t.until('the event', () => t.site.posts.length === 1);
    await t.until('the retry', () => t.page.clock.runFor(1_000).then(() => t.site.posts.length === 2));
    assert.equal(t.site.posts[0].text, t.site.posts[1].text);
    await t.page.clock.runFor(60_000);
    await settle(t);
    assert.equal(t.site.posts.length, 2);
  });
}

inBrowser('a 400 is not sent again', async (t) => {
  install(t);
  t.site.answers = [[400, 'no event name']];
  await t.page.clock.install();
  await t.page.goto(t.site.url());
  const refused = t.page.waitForResponse((response) => response.status() === 400);
  await track(t, 'Lead');
  await (await refused).finished();
  await settle(t);
  await t.page.clock.runFor(60_000);
  await settle(t);
  assert.equal(t.site.posts.length, 1);
});

inBrowser('a retry that is due goes out when the page is left', async (t) => {
  install(t);
  t.site.page('/next', '<title>next</title>');
  t.site.answers = [[503, '']];
  await t.page.goto(t.site.url());
  const refused = t.page.waitForResponse((response) => response.status() === 503);
  await track(t, 'Lead');
  await (await refused).finished();
  await settle(t);
  await t.page.goto(t.site.url('/next'));
  await t.until('the retry', () => t.site.posts.length === 2);
});

for (const words of [
  'Not Onboarded', 'Data Source Deactivated', 'Account Deactivated', 'Data Source Id Or Pixel Id Missing.',
]) {
  inBrowser(`"${words}" silences that pixel for half an hour, over page loads, and no other`, async (t) => {
    install(t);
    t.site.answers = [[503, words]];
    await t.page.goto(t.site.url());
    await track(t, 'First');
    await t.page.waitForFunction(() => sessionStorage.length);
    await track(t, 'Second');
    await t.page.goto(t.site.url());
    await track(t, 'Third');
    await settle(t);
    assert.deepEqual(t.site.posts.map(({ body }) => body.event_name), ['First']);
    const until = await t.page.evaluate(() => Number(sessionStorage.getItem('pixelgate.111')));
    assert.ok(Math.abs(until - Date.now() - 30 * 60_000) < 60_000);
    await t.page.evaluate(() => {
      pixelgate('init', '222');
      pixelgate('trackSingle', '222', 'Other');
    });
    await t.until('the other pixel', () => t.site.named('Other').length === 1);
    await t.page.evaluate(() => sessionStorage.setItem('pixelgate.111', Date.now() - 1));
    await t.page.goto(t.site.url());
    await track(t, 'Later');
    await t.until('the end of the silence', () => t.site.named('Later').length === 1);
  });
}

inBrowser('an event outlives the page that sent it', async (t) => {
  install(t);
  t.site.page('/next', '<title>next</title>');
  await t.page.goto(t.site.url());
  const keepalive = await t.page.evaluate(() => new Promise((resolve) => {
    const { fetch } = window;
    window.fetch = (url, init) => {
      resolve(init.keepalive);
      return fetch(url, init);
    };
    pixelgate('track', 'Early');
    addEventListener('pagehide', () => pixelgate('track', 'Lead'));
  }));
  assert.equal(keepalive, true); // Chromium often sends without it, too
  await t.page.goto(t.site.url('/next'));
  await t.until('the event', () => t.site.named('Lead').length === 1);
});

inBrowser('an event larger than browsers let outlive a page is sent all the same', async (t) => {
  install(t);
  await t.page.goto(t.site.url());
  await t.page.evaluate(() => {
    pixelgate('track', 'Large', { text: 'x'.repeat(100_000) });
    pixelgate('track', 'Wide', { text: '€'.repeat(30_000) });
  });
  await t.until('both', () => t.site.named('Large').length && t.site.named('Wide').length);
});

inBrowser('cookies of the gateway\'s own site go with the post', async (t) => {
  install(t);
  await t.context.addCookies([{ name: 'choice', value: 'all', domain: '.shop.example', path: '/' }]);
  await t.page.goto(t.site.url());
  await track(t, 'Lead');
  await t.until('the event', () => t.site.posts.length === 1);
  assert.match(t.site.posts[0].headers.cookie, /choice=all/);
});

for (const [without, calls] of [
  ['keepalive', 'delete Request.prototype.keepalive;'],
  ['fetch', 'delete window.fetch;'],
  ['fetch and beacons', 'delete window.fetch; delete Navigator.prototype.sendBeacon;'],
]) {
  inBrowser(`a browser without ${without} sends too`, async (t) => {
    install(t, `${calls} pixelgate('track', 'Lead');`);
    await t.page.goto(t.site.url());
    await t.until('the event', () => t.site.posts.length === 1);
    assert.equal(t.site.posts[0].headers['content-type'], 'text/plain;charset=UTF-8');
  });
}

inBrowser('XMLHttpRequest hears stop words and tries once more as well', async (t) => {
  install(t, 'delete window.fetch; delete Navigator.prototype.sendBeacon;');
  t.site.answers = [[500, ''], [404, 'Not Onboarded'], [404, 'Not Onboarded']];
  await t.page.goto(t.site.url());
  await track(t, 'First');
  await t.until('the retry', () => t.site.posts.length === 2);
  await track(t, 'Second');
  await t.page.waitForFunction(() => sessionStorage.length);
  await track(t, 'Third');
  await t.until('the second', () => t.site.named('Second').length === 1);
  assert.equal(t.site.named('Third').length, 0);
});
