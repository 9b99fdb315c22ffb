// Visits the demo's shop in headless Chromium, again and again, and prints a line for each visit.
//
//   node visit.js --url https://events.shoes.example/ --rules 'MAP events.shoes.example:443 127.0.0.1:4443' \
//     --spki <hash>[,<hash>] [--visits 10 | --seconds 15] [--pixel 1000000001]
//
// Every fourth visitor declines cookies and must send nothing. Exits 1 if a visit failed or an event was not answered
// with success. SIGTERM ends it after the visit that is under way.

import { parseArgs } from 'node:util';

import { launch } from './lib/chromium.js';

const { values: options } = parseArgs({
  options: {
    url: { type: 'string' },
    rules: { type: 'string' },
    spki: { type: 'string', default: '' },
    visits: { type: 'string', default: 'Infinity' },
    seconds: { type: 'string', default: 'Infinity' },
    pixel: { type: 'string' },
  },
});

/** What one page load or click must have sent before the visitor goes on. */
class Posts {
  answered = 0;
  failures = [];
  #waiting = new Set();

  constructor(context) {
    context.on('request', (request) => this.#isEvent(request) && this.#waiting.add(request));
    context.on('requestfinished', (request) => this.#ended(request));
    context.on('requestfailed', (request) => this.#ended(request));
  }

  /** Waits until `count` events in all were answered. */
  async reach(count) {
    const deadline = Date.now() + 10_000;
    while (this.answered < count || this.#waiting.size) {
      if (this.failures.length) throw new Error(this.failures[0]);
      if (Date.now() > deadline) throw new Error(`${this.answered} of ${count} events were answered`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  #isEvent(request) {
    return request.method() === 'POST' && new URL(request.url()).pathname === '/events';
  }

  async #ended(request) {
    if (!this.#waiting.has(request)) return;
    const response = await request.response();
    const sentTo = JSON.parse(request.postData())['fb.pixel_id'];
    if (!response?.ok()) this.failures.push(`an event was answered ${response?.status() ?? request.failure()?.errorText}`);
    else if (options.pixel && sentTo !== options.pixel) this.failures.push(`an event went to pixel ${sentTo}`);
    else this.answered += 1;
    this.#waiting.delete(request);
  }
}

async function visit(browser, number) {
  const consents = number % 4 !== 0;
  const context = await browser.newContext();
  try {
    const posts = new Posts(context);
    const sent = (count) => posts.reach(consents ? count : 0);
    const page = await context.newPage();
    await page.goto(options.url);
    await page.click(consents ? '#accept' : '#decline');
    await sent(1); // PageView
    await page.locator('.product a').nth(number % 3).click();
    await page.waitForSelector('#add');
    await sent(3); // PageView, ViewContent
    await page.click('#add');
    await sent(4); // AddToCart
    await page.fill('#email', `visitor${number}@example.com`);
    await page.click('#buy');
    await page.waitForSelector('#order');
    await sent(6); // PageView, Purchase
    if (!consents && posts.answered) throw new Error(`${posts.answered} events without consent`);
    return posts.answered;
  } finally {
    await context.close();
  }
}

let stopped = false;
process.once('SIGTERM', () => { stopped = true; });
process.once('SIGINT', () => { stopped = true; });
const end = Date.now() + Number(options.seconds) * 1000;
const browser = await launch({ rules: options.rules, spki: options.spki.split(',').filter(Boolean), onSignal: false });
let failed = 0;
for (let number = 1; number <= Number(options.visits) && Date.now() < end && !stopped; number += 1) {
  const start = Date.now();
  try {
    const events = await visit(browser, number);
    console.log(`visit ${number}: ${events} events answered, ${Date.now() - start} ms`);
  } catch (error) {
    failed += 1;
    console.log(`visit ${number}: failed: ${error.message.split('\n')[0]}`);
  }
}
await browser.close();
process.exit(failed ? 1 : 0);
