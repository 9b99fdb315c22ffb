// Meta's snippet as its documentation prints it; only the address at its end is a stand-in's, and a shop would print
// the customer's data into `init` where this one reads its order.

!function(f,b,e,v,n,t,s)
{if(f.fbq)return;n=f.fbq=function(){n.callMethod?
n.callMethod.apply(n,arguments):n.queue.push(arguments)};
if(!f._fbq)f._fbq=n;n.push=n;n.loaded=!0;n.version='2.0';
n.queue=[];t=b.createElement(e);t.async=!0;
t.src=v;s=b.getElementsByTagName(e)[0];
s.parentNode.insertBefore(t,s)}(window, document,'script',
'/fbevents.js'); // https://connect.facebook.net/en_US/fbevents.js

fbq('consent', /consent=marketing/.test(document.cookie) ? 'grant' : 'revoke');
fbq('init', '1000000001', { em: sessionStorage.getItem('email') || undefined });
