// _fbp and _fbc: Meta's form, on the site's registrable domain, for 90 days.

import assert from 'node:assert/strict';

import { inBrowser } from '../lib/harness.js';

const DAY = 86_400;

async function cookie(context, name) {
  return (await context.cookies()).find((candidate) => candidate.name === name);
}

async function visit(t, path = '/', host = 'www.shop.example') {
  const before = t.site.posts.length;
  await t.page.goto(t.site.url(path, host));
  await t.until('the page view', () => t.site.posts.length > before);
  return t.site.posts.at(-1).body;
}

const install = (t, attributes = 'data-pixel="111"') => t.site.page('/', t.site.tag(attributes));

inBrowser('_fbp is made once, for the site\'s domain', async (t) => {
  install(t);
  const body = await visit(t);
  const fbp = await cookie(t.context, '_fbp');
  assert.match(fbp.value, /^fb\.1\.\d{13}\.\d{2,18}$/);
  assert.equal(fbp.domain, '.shop.example');
  assert.equal(fbp.sameSite, 'Lax');
  const days = (fbp.expires - Date.now() / 1000) / DAY;
  assert.ok(days > 89.9 && days <= 90, `${days} days`);
  assert.equal(body['fb.fbp'], fbp.value);
  assert.equal((await visit(t))['fb.fbp'], fbp.value);
  assert.equal((await t.context.cookies()).length, 1, 'nothing is left of looking for the domain');
});

for (const [host, domain, index] of [
  ['www.shop.co.uk', '.shop.co.uk', 2],
  ['a.b.c.shop.example', '.shop.example', 1],
  ['localhost', 'localhost', 0],
  ['127.0.0.1', '127.0.0.1', 0],
]) {
  inBrowser(`on ${host} the cookie is for ${domain}`, async (t) => {
    install(t);
    await visit(t, '/', host);
    const fbp = await cookie(t.context, '_fbp');
    assert.equal(fbp.domain, domain);
    assert.equal(fbp.value.split('.')[1], String(index));
  });
}

inBrowser('_fbc follows the fbclid: made, kept, replaced', async (t) => {
  install(t);
  const first = (await visit(t, '/?fbclid=IwAR0_first'))['fb.clickID'];
  assert.match(first, /^fb\.1\.\d{13}\.IwAR0_first$/);
  assert.equal((await cookie(t.context, '_fbc')).value, first);
  assert.equal((await visit(t))['fb.clickID'], first);
  assert.equal((await visit(t, '/?fbclid=IwAR0_first'))['fb.clickID'], first, 'the same click keeps its time');
  assert.match((await visit(t, '/?fbclid=Iw_second'))['fb.clickID'], /\.Iw_second$/);
});

inBrowser('an empty or overlong fbclid is no click', async (t) => {
  install(t);
  assert.equal((await visit(t, '/?fbclid='))['fb.clickID'], undefined);
  assert.equal((await visit(t, `/?fbclid=${'x'.repeat(501)}`))['fb.clickID'], undefined);
  assert.equal(await cookie(t.context, '_fbc'), undefined);
});

inBrowser('cookies of Meta\'s script are used as they are, malformed ones replaced', async (t) => {
  install(t);
  const now = Date.now();
  const set = (name, value) => t.context.addCookies([{ name, value, domain: '.shop.example', path: '/' }]);
  await set('_fbp', `fb.1.${now}.123456`);
  await set('_fbc', `fb.1.${now}.abc.AQQCAQIB`);
  const body = await visit(t);
  assert.equal(body['fb.fbp'], `fb.1.${now}.123456`);
  assert.equal(body['fb.clickID'], `fb.1.${now}.abc.AQQCAQIB`);
  await set('_fbp', '%E0%A4%A');
  assert.match((await visit(t))['fb.fbp'], /^fb\.1\.\d{13}\.\d+$/);
});

inBrowser('a gateway of another site cannot renew cookies, so the script does', async (t) => {
  const soon = Math.floor(Date.now() / 1000) + DAY;
  const value = `fb.1.${Date.now()}.42`;
  for (const [host, renewed] of [['www.shop.example', false], ['www.other.example', true]]) {
    install(t);
    const domain = host.replace('www', '');
    await t.context.addCookies([{ name: '_fbp', value, domain, path: '/', expires: soon }]);
    assert.equal((await visit(t, '/', host))['fb.fbp'], value);
    const now = (await t.context.cookies()).find((candidate) => candidate.domain === domain);
    assert.equal(now.expires > soon + DAY, renewed, host);
  }
});

inBrowser('where the page turns first-party cookies off none is made, the click id still goes', async (t) => {
  t.site.page('/', `${t.site.tag('')}<script>
    pixelgate('set', 'firstPartyCookies', false);
    pixelgate('init', '111');
    pixelgate('track', 'PageView');</script>`);
  const body = await visit(t, '/?fbclid=Iw_x');
  assert.equal(body['fb.fbp'], undefined);
  assert.equal(body['fb.clickID'], 'Iw_x');
  assert.deepEqual(await t.context.cookies(), []);
});
