//! A client that behaves as browsers and servers do: TLS with SNI, HTTP/2 or 1.1.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::{Value, json};

/// Resolves every name to the gateway.
struct Everywhere(SocketAddr);

impl Resolve for Everywhere {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// A client; connections are kept between its requests.
#[derive(Clone)]
pub(crate) struct Browser {
    client: reqwest::Client,
    port: u16,
}

impl Browser {
    pub(crate) fn new(gateway: SocketAddr, ca: &str) -> Self {
        let root = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a CA");
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .dns_resolver(Arc::new(Everywhere(gateway)))
            .user_agent("Tester/0")
            .no_gzip()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(super::PATIENCE)
            .no_proxy()
            .build();
        Self { client: client.expect("a client"), port: gateway.port() }
    }

    /// The URL of a path under a name.
    pub(crate) fn url(&self, name: &str, path: &str) -> String {
        format!("https://{name}:{}{path}", self.port)
    }

    pub(crate) fn get(&self, name: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(name, path))
    }

    pub(crate) fn post(&self, name: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.post(self.url(name, path))
    }

    pub(crate) fn request(&self, method: reqwest::Method, name: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(name, path))
    }

    /// Sends one event as Meta's script does, and returns the status and the body of the answer.
    pub(crate) async fn send(&self, name: &str, event: &Value) -> (u16, String) {
        self.try_send(name, event).await.expect("the gateway answers")
    }

    pub(crate) async fn try_send(&self, name: &str, event: &Value) -> reqwest::Result<(u16, String)> {
        let request =
            self.post(name, "/events").header("content-type", "text/plain;charset=UTF-8").body(event.to_string());
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

/// A page view in the gateway's format.
pub(crate) fn page_view(pixel: u64, event_id: &str) -> Value {
    json!({
        "event_name": "PageView",
        "event_id": event_id,
        "fb.pixel_id": pixel.to_string(),
        "website_context": { "location": "https://shop.example/", "referrer": "", "isInIFrame": false },
        "fb.fbp": "fb.1.1677024568192.220088425",
    })
}
