// A stand-in for Meta's script: takes the calls as Meta's does and, instead of sending, tells the page what it would.

(() => {
  const { fbq } = window;
  let locked = false;
  let pixel = '';

  function call(what, ...rest) {
    if (locked && what !== 'consent') {
      fbq.queue.push(arguments);
    } else if (what === 'consent') {
      locked = rest[0] === 'revoke';
      empty();
    } else if (what === 'init') {
      [pixel] = rest;
    } else if (what === 'track' || what === 'trackCustom') {
      const detail = { pixel, name: rest[0], id: rest[2]?.eventID };
      dispatchEvent(new CustomEvent('pixel-sent', { detail }));
    }
  }

  function empty() {
    while (fbq.queue.length && !locked) call(...fbq.queue.shift());
  }

  fbq.callMethod = call;
  fbq.getState = () => ({ pixels: [{ id: pixel, userData: {} }] });
  // The page's own script shows what is sent, so it comes first.
  if (document.readyState === 'loading') addEventListener('DOMContentLoaded', empty);
  else empty();
})();
