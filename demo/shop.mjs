// The demo's shop, as an advertiser's own web server: the gateway sends what is no event here (upstream mode).

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "shop");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

/** Serves demo/shop on a free port of this machine. */
export async function serveShop() {
    const server = createServer(async (request, answer) => {
        const path = new URL(request.url, "http://shop").pathname;
        const file = join(ROOT, normalize(path.endsWith("/") ? `${path}index.html` : path));
        try {
            const body = await readFile(file);
            answer.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" }).end(body);
        } catch {
            answer.writeHead(404, { "content-type": "text/plain" }).end("not found");
        }
    });
    await new Promise((resolve) => { server.listen(0, "127.0.0.1", resolve); });
    return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}
