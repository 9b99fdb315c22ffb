// The shop: three products, a bag, an order; and a panel that shows what Meta's pixel sends.

const PRODUCTS = [
  { sku: 'harbour', name: 'Harbour', price: 129, colour: '#1f6f8b', text: 'A canvas sneaker for long quays and short rains.' },
  { sku: 'meadow', name: 'Meadow', price: 149, colour: '#5b8c3a', text: 'Light, wide, and happiest off the path.' },
  { sku: 'brick', name: 'Brick', price: 189, colour: '#b5523b', text: 'A city boot that forgives cobblestones.' },
];
const byId = (id) => document.getElementById(id);
const euro = (amount) => new Intl.NumberFormat('en-IE', { style: 'currency', currency: 'EUR' }).format(amount);
const about = (product) => ({
  content_type: 'product', content_ids: [product.sku], content_name: product.name, value: product.price, currency: 'EUR',
});

function picture(product) {
  return `<svg viewBox="0 0 240 150" role="img" aria-label="${product.name}">
    <path d="M28 96 q2 -52 30 -58 q16 22 40 26 q46 8 84 26 q34 6 34 22 l0 8 l-188 0 z" fill="${product.colour}"/>
    <path d="M26 120 l192 0 q4 14 -10 14 l-172 0 q-12 0 -10 -14 z" fill="#26231f"/>
    <path d="M98 66 l-10 18 M116 70 l-10 18 M134 76 l-10 18" stroke="#fffaf2" stroke-width="4" stroke-linecap="round"/>
  </svg>`;
}

function showProducts() {
  byId('products').innerHTML = PRODUCTS.map((product) => `<article class="product">
    <a href="/product.html?sku=${product.sku}">${picture(product)}<h2>${product.name}</h2><p>${euro(product.price)}</p></a>
  </article>`).join('');
}

function showProduct() {
  const sku = new URLSearchParams(location.search).get('sku');
  const product = PRODUCTS.find((candidate) => candidate.sku === sku) ?? PRODUCTS[0];
  byId('picture').innerHTML = picture(product);
  byId('name').textContent = product.name;
  byId('text').textContent = product.text;
  byId('price').textContent = euro(product.price);
  fbq('track', 'ViewContent', about(product));

  byId('add').addEventListener('click', () => {
    sessionStorage.setItem('bag', Number(sessionStorage.getItem('bag')) + 1);
    showBag();
    fbq('track', 'AddToCart', about(product));
  });
  byId('checkout').addEventListener('submit', (event) => {
    event.preventDefault();
    sessionStorage.setItem('email', byId('email').value);
    sessionStorage.removeItem('bag');
    location.href = `/thank-you.html?sku=${product.sku}&order=${Date.now().toString(36).toUpperCase()}`;
  });
}

function showOrder() {
  const query = new URLSearchParams(location.search);
  const product = PRODUCTS.find((candidate) => candidate.sku === query.get('sku')) ?? PRODUCTS[0];
  byId('order').textContent = query.get('order');
  fbq('track', 'Purchase', { ...about(product), num_items: 1 }, { eventID: `order-${query.get('order')}` });
}

function showBag() {
  byId('bag').textContent = `Bag (${sessionStorage.getItem('bag') ?? 0})`;
}

/** Nothing is sent until the visitor accepts: Pixelgate follows fbq('consent', …). */
function askForConsent() {
  if (/(?:^|; )consent=/.test(document.cookie)) return;
  const banner = document.createElement('aside');
  banner.className = 'consent';
  banner.innerHTML = `<p>May we tell our advertising partner what you look at?</p>
    <button id="decline" type="button">Only what is necessary</button>
    <button id="accept" type="button" class="strong">Accept</button>`;
  document.body.append(banner);
  const choose = (choice, consent) => () => {
    document.cookie = `consent=${choice}; path=/; max-age=31536000; samesite=lax`;
    fbq('consent', consent);
    banner.remove();
  };
  byId('accept').addEventListener('click', choose('marketing', 'grant'));
  byId('decline').addEventListener('click', choose('none', 'revoke'));
}

function showWhatIsSent() {
  const panel = document.createElement('footer');
  panel.innerHTML = '<h2>What this page sent</h2><table><tr><th>event</th><th>id, the same in the browser and at the gateway</th></tr></table>';
  document.body.append(panel);
  addEventListener('pixel-sent', ({ detail }) => {
    const row = panel.querySelector('table').insertRow();
    row.insertCell().textContent = detail.name;
    row.insertCell().textContent = detail.id ?? 'none: the gateway was not there yet';
  });
}

showWhatIsSent();
showBag();
askForConsent();
if (byId('products')) showProducts();
if (byId('checkout')) showProduct();
if (byId('order')) showOrder();
