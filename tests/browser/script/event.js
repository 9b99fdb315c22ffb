// The body of a post, key by key.

import assert from 'node:assert/strict';

import { inBrowser } from '../lib/harness.js';

const page = (site, calls) => `${site.tag('data-pixel="111" data-auto="false"')}<script>${calls}</script>`;

inBrowser('every key of the gateway format that applies is filled', async (t) => {
  t.site.page('/p/1', page(t.site, `pixelgate('track', 'AddToCart', {
    value: 10, currency: 'GBP', content_type: 'product', content_ids: [7, 'b'], content_name: 'Shoe',
    contents: [{ id: 7, quantity: 2, item_price: 5, colour: 'red' }, { quantity: 1 }],
    num_items: 2, order_id: 'o-1', search_string: 'shoe', status: 'completed', predicted_ltv: 99, colour: 'red',
  });`));
  await t.page.goto(t.site.url('/p/1?utm=x'), { referer: 'https://search.example/?q=shoe' });
  await t.until('the event', () => t.site.posts.length === 1);
  const { body, headers } = t.site.posts[0];
  assert.equal(headers['content-type'], 'text/plain;charset=UTF-8');
  assert.equal(headers.origin, t.site.url('').replace(/\/$/, ''));
  assert.equal(body.event_name, 'AddToCart');
  assert.equal(body['fb.pixel_id'], '111');
  assert.deepEqual(body.conversion_value, { value: 10, currency: 'GBP' });
  assert.deepEqual(body['fb.dynamic_product_ads'], {
    content_type: 'product', content_name: 'Shoe', content_ids: ['7', 'b'],
    contents: [{ id: '7', quantity: 2, item_price: 5 }],
  });
  assert.equal(body.custom_data.colour, 'red');
  assert.deepEqual(
    ['num_items', 'order_id', 'search_string', 'registration_status', 'predicted_ltv'].map((key) => body[`fb.${key}`]),
    [2, 'o-1', 'shoe', 'completed', 99],
  );
  assert.deepEqual(body.website_context, {
    location: t.site.url('/p/1?utm=x'), referrer: 'https://search.example/?q=shoe', isInIFrame: false,
  });
});

inBrowser('a purchase without a proper value and currency gets those that Meta\'s own client fills in', async (t) => {
  t.site.page('/', page(t.site, "pixelgate('track', 'Purchase', { value: 'a lot', currency: '€' });"));
  await t.page.goto(t.site.url());
  await t.until('the event', () => t.site.posts.length === 1);
  assert.deepEqual(t.site.posts[0].body.conversion_value, { value: 0, currency: 'USD' });
});

inBrowser('inside a frame the location is the page around it', async (t) => {
  t.site.page('/frame', page(t.site, "pixelgate('track', 'Lead');"));
  t.site.page('/', '<iframe src="/frame"></iframe>');
  await t.page.goto(t.site.url('/?outer=1'));
  await t.until('the event', () => t.site.posts.length === 1);
  const { website_context: place } = t.site.posts[0].body;
  assert.deepEqual(place, { location: t.site.url('/?outer=1'), referrer: t.site.url('/?outer=1'), isInIFrame: true });
});

inBrowser('data that cannot be sent is left out, the event is not', async (t) => {
  t.site.page('/', page(t.site, `
    const loop = {}; loop.loop = loop;
    pixelgate('track', 'Lead', {
      good: 1, loop, big: 1n, f() {}, nothing: undefined, get bad() { throw new Error('no'); },
    });`));
  await t.page.goto(t.site.url());
  await t.until('the event', () => t.site.posts.length === 1);
  assert.deepEqual(t.site.posts[0].body.custom_data, { good: 1 });
});

inBrowser('what is sent is what the page said, not what it changed afterwards', async (t) => {
  t.site.page('/', `${t.site.tag('data-pixel="111" data-auto="false" data-consent="required"')}<script>
    const data = { value: 1 };
    pixelgate('track', 'Lead', data);
    data.value = 2;
    history.pushState({}, '', '/elsewhere');
    pixelgate('consent', 'grant');</script>`);
  await t.page.goto(t.site.url());
  await t.until('the event', () => t.site.posts.length === 1);
  assert.equal(t.site.posts[0].body.custom_data.value, 1);
  assert.equal(t.site.posts[0].body.website_context.location, t.site.url());
});
