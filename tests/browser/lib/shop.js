// A shop over HTTPS on a free port of this machine, with a certificate of its own that lives as long as the test.

import { execFileSync } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Serves `pages`, path → function that gives the body; scripts by their ending. */
export async function openShop(name, pages) {
  const { key, cert } = certificate(name);
  const server = createServer({ key, cert }, async (request, response) => {
    const path = new URL(request.url, 'https://shop').pathname;
    const type = path.endsWith('.js') ? 'text/javascript' : 'text/html';
    if (pages[path]) response.writeHead(200, { 'content-type': type }).end(await pages[path]());
    else response.writeHead(404).end();
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const publicKey = new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' });
  return {
    rule: `MAP ${name}:443 127.0.0.1:${server.address().port}`,
    spki: createHash('sha256').update(publicKey).digest('base64'),
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function certificate(name) {
  const folder = mkdtempSync(join(tmpdir(), 'pixelgate-shop-'));
  try {
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    execFileSync('openssl', [
      'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
      '-subj', '/CN=shop', '-addext', `subjectAltName=DNS:${name}`, '-keyout', key, '-out', cert,
    ], { stdio: 'pipe' });
    return { key: readFileSync(key), cert: readFileSync(cert) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
