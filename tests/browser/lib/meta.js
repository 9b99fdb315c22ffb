// Stand-ins for what Meta gives to a site: the snippet that everyone pastes, and the script that it fetches.

/** Meta's snippet, as its documentation prints it, followed by the page's own calls. */
export function snippet(calls, src = '/fbevents.js') {
  return `<script>
    !function(f,b,e,v,n,t,s)
    {if(f.fbq)return;n=f.fbq=function(){n.callMethod?
    n.callMethod.apply(n,arguments):n.queue.push(arguments)};
    if(!f._fbq)f._fbq=n;n.push=n;n.loaded=!0;n.version='2.0';
    n.queue=[];t=b.createElement(e);t.async=!0;
    t.src=v;s=b.getElementsByTagName(e)[0];
    s.parentNode.insertBefore(t,s)}(window, document,'script',
    '${src}');
    ${calls}
  </script>`;
}

/**
 * A script that behaves towards `fbq` as Meta's does, and notes in `window.meta` what Meta's would send.
 * Versions differ in how they empty the queue: `drain` is `direct`, or `callMethod`.
 */
export const fbevents = (drain) => `(${standIn})(window.fbq, ${JSON.stringify(drain)});`;

function standIn(fbq, drain) {
  const sent = (window.meta = []);
  const pixels = [];
  const viewed = new Set();
  let locked = false;

  function fire(pixel, name, options) {
    pixel.eventCount += 1;
    sent.push({ pixel: pixel.id, name, id: options && (options.eventID || options.event_id) });
  }

  function all(context, name, options) {
    for (const pixel of pixels) {
      if (name === 'PageView' && viewed.has(pixel.id) && !context.allowDuplicatePageViews) continue;
      if (name === 'PageView') viewed.add(pixel.id);
      fire(pixel, name, options);
    }
  }

  function call() {
    const [what, ...rest] = arguments;
    if (locked && what !== 'consent') {
      fbq.queue.push(arguments);
    } else if (what === 'init') {
      if (!pixels.some((pixel) => pixel.id === String(rest[0]))) {
        pixels.push({ id: String(rest[0]), userData: rest[1] || {}, eventCount: 0 });
      }
    } else if (what === 'consent') {
      locked = rest[0] === 'revoke';
      empty();
    } else if (what === 'track' || what === 'trackCustom') {
      all(this, rest[0], rest[2]);
    } else if (what === 'trackSingle' || what === 'trackSingleCustom') {
      pixels.filter((pixel) => pixel.id === String(rest[0])).forEach((pixel) => fire(pixel, rest[1], rest[3]));
    }
  }

  function empty() {
    while (fbq.queue.length && !locked) {
      const entry = fbq.queue.shift();
      (drain === 'callMethod' ? fbq.callMethod : call).apply(fbq, entry);
    }
  }

  fbq.callMethod = function () {
    return call.apply(this, arguments);
  };
  fbq.getState = () => ({ pixels });
  fbq.instance = {
    locks: {
      isLocked: () => locked,
      release() {
        locked = false;
        empty();
      },
    },
  };
  empty();
}
