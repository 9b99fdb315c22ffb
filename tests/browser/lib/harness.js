// What every subject of the script's tests shares: one browser, and a fresh site and context for each test.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { launch, until } from './chromium.js';
import { Site } from './site.js';

const AT_ONCE = 4;
const cases = [];
let browser;

/** One test in a browser; a script error or a broken promise on its page fails it. */
export function inBrowser(name, body, options = {}) {
  cases.push({ name, body, options });
}

/** Runs all tests that the subjects named. */
export function run(title) {
  describe(title, { concurrency: AT_ONCE }, () => {
    before(async () => {
      browser = await launch({ rules: 'MAP *.example 127.0.0.1, MAP *.co.uk 127.0.0.1' });
    });
    after(() => browser?.close());
    for (const { name, body, options } of cases) it(name, () => once(body, options));
  });
}

async function once(body, options) {
  const site = await Site.start(options.site);
  const context = await browser.newContext(options.context);
  try {
    const page = await context.newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    await body({ site, page, context, until });
    assert.deepEqual(errors, []);
  } finally {
    await context.close();
    await site.stop();
  }
}

/** Lets everything that a page does by itself happen: an event of its own must come through after it. */
export async function settle({ site, page }) {
  const mark = `Mark${Math.random()}`;
  await page.evaluate(
    ([url, name]) => fetch(url, { method: 'POST', body: JSON.stringify({ event_name: name }) }),
    [site.url('/events', 'events.shop.example'), mark],
  );
  await until('the mark', () => site.named(mark).length);
  site.posts = site.posts.filter((post) => post.body.event_name !== mark);
}
