// Debian's Chromium, headless, that finds only the names it is told.

import { chromium } from 'playwright-core';

/**
 * Starts a browser.
 *
 * `rules`: host resolver rules, such as `MAP events.shop.example:443 127.0.0.1:4443`; other names are not found.
 * `spki`: keys whose certificates are trusted, as base64 of the SHA-256 of a leaf's public key (a CA's has no effect).
 * `onSignal`: whether a signal that ends this process closes the browser at once.
 */
export function launch({ rules, spki = [], onSignal = true }) {
  const args = [`--host-resolver-rules=${rules}, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1`];
  if (spki.length) args.push(`--ignore-certificate-errors-spki-list=${spki.join(',')}`);
  return chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    // Chromium's sandbox refuses to run as root, which is who runs tests in containers.
    chromiumSandbox: process.getuid() !== 0,
    args,
    handleSIGINT: onSignal,
    handleSIGTERM: onSignal,
  });
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
