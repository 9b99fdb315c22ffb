// A small web server that is both the shop and the gateway: pages of a test, the script, and a record of its posts.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

import { fbevents } from './meta.js';

const script = readFileSync(new URL('../../../web/pixelgate.js', import.meta.url));

export class Site {
  /** What was posted to /events, in order: `{ body, text, headers }`. */
  posts = [];
  /** Answers to the next posts, `[status, text]`; 0 breaks the connection; when empty, 200. */
  answers = [];
  #pages = new Map();
  #held = new Map();
  #server = createServer((request, response) => this.#answer(request, response));

  static async start({ drain = 'direct' } = {}) {
    const site = new Site();
    site.page('/pixelgate.js', script, { 'content-type': 'text/javascript' });
    site.page('/fbevents.js', fbevents(drain), { 'content-type': 'text/javascript' });
    await new Promise((resolve) => site.#server.listen(0, '127.0.0.1', resolve));
    return site;
  }

  stop() {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(resolve));
  }

  url(path = '/', host = 'www.shop.example') {
    return `http://${host}:${this.#server.address().port}${path}`;
  }

  /** The tag that a site installs. */
  tag(attributes = 'async') {
    return `<script ${attributes} src="${this.url('/pixelgate.js', 'events.shop.example')}"></script>`;
  }

  page(path, body, headers = {}) {
    this.#pages.set(path, { body, headers: { 'content-type': 'text/html', ...headers } });
  }

  /** Keeps answers for `path` back until the returned function is called. */
  hold(path) {
    let open;
    this.#held.set(path, new Promise((resolve) => { open = resolve; }));
    return open;
  }

  named(name) {
    return this.posts.filter((post) => post.body.event_name === name);
  }

  async #answer(request, response) {
    const { pathname } = new URL(request.url, 'http://localhost');
    if (request.method === 'POST') return this.#record(request, response);
    await this.#held.get(pathname);
    const page = this.#pages.get(pathname);
    response.writeHead(page ? 200 : 404, page?.headers).end(page?.body);
  }

  async #record(request, response) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    this.posts.push({ body: JSON.parse(text), text, headers: request.headers });
    const [status, answer] = this.answers.shift() ?? [200, ''];
    // No HTTP at all: a closed connection, Chromium would try again by itself.
    if (status === 0) return request.socket.end('broken');
    await this.#held.get('/events');
    response.writeHead(status, {
      'access-control-allow-origin': request.headers.origin ?? 'null',
      'access-control-allow-credentials': 'true',
    }).end(answer);
  }
}
