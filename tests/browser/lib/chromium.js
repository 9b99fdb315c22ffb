// Debian's Chromium, headless, that finds only the names a test gives it.

import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { chromium } from 'playwright-core';

/**
 * Starts a browser.
 *
 * `map`: resolver rules such as `events.shop.example:443 127.0.0.1:4443`; every other name is not found.
 * `trust`: PEM files whose first certificate is trusted (Chromium takes the hashes of leaf keys, not of a CA's).
 */
export function launch({ map = [], trust = [] } = {}) {
  const rules = [...map.map((rule) => `MAP ${rule}`), 'MAP * ~NOTFOUND', 'EXCLUDE 127.0.0.1', 'EXCLUDE localhost'];
  const args = [`--host-resolver-rules=${rules.join(', ')}`];
  if (trust.length) args.push(`--ignore-certificate-errors-spki-list=${trust.map(keyHash).join(',')}`);
  return chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    // Chromium's sandbox refuses to run as root, which is who runs tests in containers.
    chromiumSandbox: process.getuid() !== 0,
    args,
  });
}

/** SHA-256 of the certificate's public key, base64. */
function keyHash(pemFile) {
  const key = new X509Certificate(readFileSync(pemFile)).publicKey.export({ type: 'spki', format: 'der' });
  return createHash('sha256').update(key).digest('base64');
}

/** Waits until `probe` gives something true, and gives that; fails after ten seconds. */
export async function until(what, probe) {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
