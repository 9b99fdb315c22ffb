use std::io::Write;

use serde_json::{Value, json};

use crate::util::client::page_view;
use crate::util::site::HOST_DOMAIN;
use crate::util::{Account, Gateway, Site, Standin, eventually};

const PIXEL: u64 = 2001;
const NAME: &str = "events.shoes.example";
/// SHA-256 of `john_smith@gmail.com` (test vector 1 of the facts on Meta's normalisation).
const EMAIL_HASH: &str = "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f";

async fn shop(standin: &Standin) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .account(Account::new("shoes", PIXEL).domain(NAME).ingest_key("shop backend", "key-of-shoes"))
        .account(Account::new("hats", 2002).ingest_key("hat backend", "key-of-hats"))
        .account(Account::new("off", 2003).domain("events.off.example").top("active = false"))
        .account(Account::new("half", 2004).domain("events.half.example").pixel_keys("active = false"))
        .account(Account::new("strict", 2005).domain("events.strict.example").tables(
            "[websites]\nallow = [\"strict.example\", \"*.strict.example\"]\nblock = [\"old.strict.example\"]",
        ));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_format_arrives_as_a_conversions_api_event() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let event = json!({
        "event_name": "Purchase", "event_id": "order-1", "fb.pixel_id": PIXEL.to_string(),
        "conversion_value": { "value": 19.5, "currency": "EUR" },
        "custom_data": { "content_ids": "sku-1", "colour": "red" },
        "fb.dynamic_product_ads": { "content_type": "product", "content_ids": ["sku-1"] },
        "fb.advanced_matching": { "em": " John_Smith@gmail.com " },
        "fb.fbp": "fb.1.1677024568192.220088425", "fb.clickID": "AbC-dEf",
        "website_context": { "location": "https://shop.example/thanks", "referrer": "https://shop.example/cart", "isInIFrame": false },
        "fb.data_processing_options": { "dataProcessingOptions": ["LDU"], "dataProcessingOptionsCountry": 0, "dataProcessingOptionsState": 0 },
        "unknown_key": { "is": "read past" }
    });
    let request = gateway
        .browser()
        .post(NAME, "/events?cee=no")
        .header("user-agent", "Tester/1")
        .header("origin", "https://shop.example");
    let answer = request.body(event.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert!(headers["vary"].to_str().unwrap().to_lowercase().contains("origin"));
    assert_eq!(answer.text().await.unwrap(), "");

    let arrived = standin.event(PIXEL, "order-1").await;
    assert_eq!(arrived["event_name"], "Purchase");
    assert_eq!(arrived["action_source"], "website");
    assert_eq!(arrived["event_source_url"], "https://shop.example/thanks");
    assert_eq!(arrived["referrer_url"], "https://shop.example/cart");
    assert_eq!(arrived["user_data"]["em"], json!([EMAIL_HASH]));
    assert_eq!(arrived["user_data"]["fbp"], "fb.1.1677024568192.220088425");
    assert_eq!(arrived["user_data"]["client_user_agent"], "Tester/1");
    let fbc = arrived["user_data"]["fbc"].as_str().unwrap();
    assert!(fbc.starts_with("fb.1.") && fbc.ends_with(".AbC-dEf"), "{fbc}");
    assert_eq!(arrived["custom_data"]["value"], 19.5);
    assert_eq!(arrived["custom_data"]["currency"], "EUR");
    assert_eq!(arrived["custom_data"]["content_ids"], json!(["sku-1"]));
    assert_eq!(arrived["custom_data"]["colour"], "red");
    assert_eq!(arrived["data_processing_options"], json!(["LDU"]));
    assert!(arrived["event_time"].is_i64());
    assert!(!arrived.to_string().contains("John_Smith"));
    assert_eq!(standin.violations().await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pixels_own_format_comes_as_image_form_and_beacon() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let browser = gateway.browser();
    let query = format!(
        "id={PIXEL}&ev=ViewContent&eid=v-1&dl=https%3A%2F%2Fshop.example%2Fp&rl=&cd[value]=5&cd[currency]=EUR&ud[em]={EMAIL_HASH}&dpo=LDU&dpoco=0&dpost=0"
    );
    for path in ["/tr", "/tr/"] {
        let image = browser
            .get(NAME, &format!("{path}?{}", query.replace("v-1", &format!("image{}", path.len()))))
            .send()
            .await
            .unwrap();
        assert_eq!(image.status(), 200);
        assert_eq!(image.headers()["content-type"], "image/gif");
        assert!(image.headers()["cache-control"].to_str().unwrap().contains("no-store"));
        assert_eq!(image.bytes().await.unwrap().len(), 43);
    }
    let form = browser.post(NAME, "/tr/").header("content-type", "application/x-www-form-urlencoded");
    let form = form.body(query.replace("v-1", "form")).send().await.unwrap();
    assert_eq!((form.status().as_u16(), form.text().await.unwrap()), (200, String::new()));
    let multipart = format!(
        "--b\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\n{PIXEL}\r\n--b\r\nContent-Disposition: form-data; name=\"ev\"\r\n\r\nLead\r\n--b\r\nContent-Disposition: form-data; name=\"eid\"\r\n\r\nbeacon\r\n--b--\r\n"
    );
    let beacon = browser.post(NAME, "/tr").header("content-type", "multipart/form-data; boundary=b").body(multipart);
    assert_eq!(beacon.send().await.unwrap().status(), 200);
    let noscript = format!("/tr?id={PIXEL}&ev=PageView&noscript=1");
    let noscript = browser.get(NAME, &noscript).header("referer", "https://shop.example/quiet").send().await.unwrap();
    assert_eq!(noscript.status(), 200);

    standin.took(PIXEL, &["image3", "image4", "form", "beacon"]).await;
    let image = standin.event(PIXEL, "image3").await;
    assert_eq!(image["event_name"], "ViewContent");
    assert_eq!(image["custom_data"]["value"], 5.0);
    assert_eq!(image["user_data"]["em"], json!([EMAIL_HASH]));
    assert_eq!(image["data_processing_options"], json!(["LDU"]));
    let quiet = eventually("the noscript image arrives", async || {
        standin.bodies(PIXEL).await.into_iter().find(|event| event["event_source_url"] == "https://shop.example/quiet")
    })
    .await;
    assert!(quiet["event_id"].as_str().is_some_and(|id| !id.is_empty()), "an id is made where none came");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_send_in_the_graph_format_with_an_ingest_key() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let browser = gateway.browser();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let event = |id: &str| json!({ "event_name": "Purchase", "event_time": now, "event_id": id, "action_source": "website", "user_data": { "em": "John_Smith@gmail.com", "client_user_agent": "x" }, "custom_data": { "value": 1, "currency": "usd" } });

    let body = json!({ "data": [event("a"), event("b")], "access_token": "key-of-shoes", "test_event_code": "TEST1" });
    let answer = browser.post(NAME, &format!("/v26.0/{PIXEL}/events")).json_body(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let said: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(said["events_received"], 2);
    assert_eq!(said["messages"], json!([]));
    assert!(said["fbtrace_id"].is_string());

    let capi = browser.post(NAME, &format!("/capi/{PIXEL}/events")).bearer_auth("key-of-shoes");
    assert_eq!(capi.json_body(&json!({ "data": [event("c")] })).send().await.unwrap().status(), 200);
    let query = browser.post(HOST_DOMAIN, "/v25.0/2002/events?access_token=key-of-hats");
    assert_eq!(query.json_body(&json!({ "data": [event("d")] })).send().await.unwrap().status(), 200);
    standin.took(PIXEL, &["a", "b", "c"]).await;
    standin.took(2002, &["d"]).await;
    assert_eq!(standin.event(PIXEL, "a").await["user_data"]["em"], json!([EMAIL_HASH]));
    assert_eq!(standin.event(PIXEL, "a").await["custom_data"]["currency"], "usd");
    let coded = standin.requests(PIXEL).await.into_iter().any(|request| request["test_event_code"] == "TEST1");
    assert!(coded, "test_event_code is passed on");

    for (key, path) in [("wrong", format!("/v26.0/{PIXEL}/events")), ("key-of-hats", format!("/capi/{PIXEL}/events"))] {
        let refused = browser
            .post(NAME, &path)
            .bearer_auth(key)
            .json_body(&json!({ "data": [event("z")] }))
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), 401);
        let said: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
        assert_eq!(said["error"]["code"], 190, "{said}");
    }
    let unknown = browser
        .post(NAME, "/v26.0/2002/events")
        .bearer_auth("key-of-hats")
        .json_body(&json!({ "data": [event("z")] }))
        .send()
        .await
        .unwrap();
    assert_eq!(unknown.status(), 404, "another account's pixel is like an unknown one");
    assert!(!gateway.log().contains("key-of-"), "keys never reach the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_use_metas_stop_words() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let browser = gateway.browser();
    let cases = [
        (NAME, json!({ "event_name": "PageView" }), 400, "Data Source Id Or Pixel Id Missing."),
        (NAME, page_view(9_999, "x"), 404, "Not Onboarded"),
        (NAME, page_view(2002, "x"), 404, "Not Onboarded"),
        (HOST_DOMAIN, page_view(9_999, "x"), 404, "Not Onboarded"),
        ("events.off.example", page_view(2003, "x"), 403, "Account Deactivated"),
        ("events.half.example", page_view(2004, "x"), 403, "Data Source Deactivated"),
    ];
    for (name, event, status, words) in cases {
        assert_eq!(browser.send(name, &event).await, (status, words.to_owned()), "{name} {event}");
    }
    let answer = browser.post(NAME, "/events").header("origin", "https://a.example").body("{}").send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://a.example", "CORS stands on errors too");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_hosts_domain_the_pixel_finds_the_account() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let browser = gateway.browser();
    for (pixel, id) in [(PIXEL, "of-shoes"), (2002, "of-hats")] {
        assert_eq!(browser.send(HOST_DOMAIN, &page_view(pixel, id)).await.0, 200);
        standin.took(pixel, &[id]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_pages_may_send() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let send = async |origin: Option<&str>, location: &str| {
        let mut event = page_view(2005, "w");
        event["website_context"]["location"] = location.into();
        let mut request = gateway.browser().post("events.strict.example", "/events").body(event.to_string());
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(send(Some("https://www.strict.example"), "https://x.example/").await.0, 200);
    assert_eq!(send(None, "https://strict.example/p").await.0, 200);
    let refused = (403, "Not Onboarded".to_owned());
    assert_eq!(send(Some("https://old.strict.example"), "https://strict.example/").await, refused);
    assert_eq!(send(Some("https://evil.example"), "https://strict.example/").await, refused);
    assert_eq!(send(None, "not a url").await, refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_is_answered() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    for path in ["/events", "/tr", "/v26.0/2001/events"] {
        let request = gateway.browser().request(reqwest::Method::OPTIONS, NAME, path);
        let request = request.header("origin", "https://a.example").header("access-control-request-method", "POST");
        let answer = request.header("access-control-request-headers", "content-type").send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://a.example");
        assert!(
            answer.headers()["access-control-allow-headers"].to_str().unwrap().to_lowercase().contains("content-type")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_party_answer_renews_cookies_for_the_registrable_domain() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let mut event = page_view(PIXEL, "c1");
    event["fb.clickID"] = "NewClick".into();
    let cookies = async |name: &str| {
        let answer = gateway.browser().post(name, "/events").body(event.to_string()).send().await.unwrap();
        answer
            .headers()
            .get_all("set-cookie")
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let set = cookies(NAME).await;
    let fbc = set.iter().find(|cookie| cookie.starts_with("_fbc=fb.1.")).unwrap_or_else(|| panic!("{set:?}"));
    for part in ["NewClick", "Domain=shoes.example", "Max-Age=7776000", "SameSite=Lax", "Secure", "Path=/"] {
        assert!(fbc.contains(part), "{part} is missing in {fbc}");
    }
    assert!(set.iter().any(|cookie| cookie.starts_with("_fbp=fb.1.1677024568192.220088425")), "{set:?}");
    assert_eq!(cookies(HOST_DOMAIN).await, Vec::<String>::new(), "never on the host's domain");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_a_filter_took_away_is_no_cookie_either() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME).filter(
        "fields",
        "fields.wasm",
        "hold",
        "remove_user_data = [\"fbp\", \"external_id\"]",
    ));
    let gateway = Gateway::start(&site).await;
    let mut event = page_view(PIXEL, "c1");
    event["fb.advanced_matching"] = json!({ "external_id": "U-1" });
    event["fb.clickID"] = "NewClick".into();
    let answer = gateway.browser().post(NAME, "/events").body(event.to_string()).send().await.unwrap();
    let set: Vec<_> = answer.headers().get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(matches!(set[..], [only] if only.starts_with("_fbc=")), "{set:?}");
    let user_data = standin.event(PIXEL, "c1").await["user_data"].clone();
    assert!(user_data["fbc"].is_string() && user_data["fbp"].is_null(), "{user_data}");
    assert!(
        user_data["external_id"].is_null(),
        "it is not hashed, so the filter sees only that it is there: {user_data}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_fbp_is_made_only_where_the_account_wants_it() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .account(Account::new("shoes", PIXEL).domain(NAME).tables("[cookies]\nmint = true"))
        .account(Account::new("hats", 2002).domain("events.hats.example"))
        .account(
            Account::new("gloves", 2003).domain("events.gloves.example").tables("[cookies]\nmint = true\nset = false"),
        );
    let gateway = Gateway::start(&site).await;
    let minted = async |name: &str, pixel: u64, id: &str| {
        let mut event = page_view(pixel, id);
        event.as_object_mut().unwrap().remove("fb.fbp");
        let answer = gateway.browser().post(name, "/events").body(event.to_string()).send().await.unwrap();
        let cookies = answer.headers().get_all("set-cookie").iter();
        cookies.map(|cookie| cookie.to_str().unwrap().to_owned()).find(|cookie| cookie.starts_with("_fbp="))
    };
    let cookie = minted(NAME, PIXEL, "new").await.expect("a cookie");
    let fbp = standin.event(PIXEL, "new").await["user_data"]["fbp"].as_str().unwrap().to_owned();
    assert!(fbp.starts_with("fb.1.") && cookie.contains(&fbp), "{cookie}: {fbp}");
    assert_eq!(minted("events.hats.example", 2002, "none").await, None);
    assert_eq!(minted(HOST_DOMAIN, PIXEL, "host").await, None);
    assert_eq!(minted("events.gloves.example", 2003, "no-cookie").await, None);
    let unset = standin.event(2003, "no-cookie").await["user_data"]["fbp"].clone();
    assert_eq!(unset, Value::Null, "what no cookie can keep would be another browser with every event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_is_no_ascii_costs_the_others_nothing() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let mut event = page_view(PIXEL, "latin");
    event.as_object_mut().unwrap().remove("fb.fbp");
    let cookies = reqwest::header::HeaderValue::from_bytes(b"name=J\xfcrgen; _fbp=fb.1.1677024568192.42").unwrap();
    let request = gateway.browser().post(NAME, "/events").header("cookie", cookies).body(event.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(standin.event(PIXEL, "latin").await["user_data"]["fbp"], "fb.1.1677024568192.42");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_the_pixel_is_taken_whole_or_not_at_all() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let send = async |pixels: [u64; 2], round: &str| {
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (n, pixel) in pixels.iter().enumerate() {
            let event = format!("id={pixel}&ev=PageView&eid={round}-{n}&dl=https%3A%2F%2Fshop.example%2F");
            form.append_pair(&format!("events[{n}]"), &event);
        }
        let request = gateway.browser().post(NAME, "/tr").header("content-type", "application/x-www-form-urlencoded");
        request.body(form.finish()).send().await.unwrap().status().as_u16()
    };
    assert!(send([PIXEL, 999], "mixed").await >= 400, "the second pixel is not served here");
    assert_eq!(send([PIXEL, PIXEL], "good").await, 200);
    standin.took(PIXEL, &["good-0", "good-1"]).await;
    assert_eq!(standin.events(PIXEL).await.len(), 2, "nothing of a refused batch is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pixel_that_is_not_served_is_refused_before_the_body_is_read() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let too_large = vec![b'x'; 17 * 1024 * 1024];
    let status = async |pixel: u64| {
        let request = gateway.browser().post(NAME, &format!("/v26.0/{pixel}/events")).header("expect", "100-continue");
        request.body(too_large.clone()).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(PIXEL).await, 413);
    assert_ne!(status(999).await, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_get_a_clear_answer_and_nobody_else_notices() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let browser = gateway.browser();
    let deep = format!(
        r#"{{"event_name":"X","fb.pixel_id":"{PIXEL}","custom_data":{}1{}}}"#,
        r#"{"a":"#.repeat(40),
        "}".repeat(40)
    );
    let nothing = browser.post(NAME, "/events").send().await.unwrap();
    assert_eq!(
        (nothing.status().as_u16(), nothing.text().await.unwrap().as_str()),
        (400, "Data Source Id Or Pixel Id Missing.")
    );
    let bodies: [&[u8]; 9] = [
        b"garbage",
        b"{\"event_name\":\"PageVi",
        b"[]",
        b"null",
        b"{\"event_name\":7,\"fb.pixel_id\":\"2001\"}",
        b"{\"event_name\":\"\",\"fb.pixel_id\":\"2001\"}",
        b"\xff\xfe\x00",
        b"{\"event_name\":\"X\",\"fb.pixel_id\":{\"a\":1}}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let answer = browser.post(NAME, "/events").body(body.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{}", String::from_utf8_lossy(body));
    }
    for path in ["/tr?id=x&ev=", "/tr?ev=PageView", "/tr"] {
        assert_eq!(browser.get(NAME, path).send().await.unwrap().status(), 400, "{path}");
    }
    for body in ["{}", "{\"data\":[]}", "{\"data\":{}}", "{\"data\":[1]}", "nonsense"] {
        let request = browser.post(NAME, &format!("/v26.0/{PIXEL}/events")).bearer_auth("key-of-shoes");
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
        let said: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(said["error"]["code"], 100, "{body}: {said}");
    }
    let too_large = browser.post(NAME, "/events").body(vec![b' '; 2 * 1024 * 1024]).send().await;
    assert_eq!(too_large.unwrap().status(), 413);
    assert!(gateway.metric("pixelgate_events_rejected_total", "").await >= 19.0);
    assert_eq!(browser.send(NAME, &page_view(PIXEL, "after")).await.0, 200);
    standin.took(PIXEL, &["after"]).await;
    assert_eq!(standin.events(PIXEL).await.len(), 1, "nothing of it was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_bodies_are_inflated_within_the_limit() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let send = async |body: Vec<u8>| {
        let request = gateway.browser().post(NAME, "/events").header("content-encoding", "gzip").body(body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send(gzip(page_view(PIXEL, "zipped").to_string().as_bytes())).await, 200);
    standin.took(PIXEL, &["zipped"]).await;
    assert_eq!(send(gzip(&vec![b' '; 50 * 1024 * 1024])).await, 413, "a bomb is cut off");
    assert_eq!(send(b"no gzip".to_vec()).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_party_script_is_served() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    let answer = gateway.browser().get(NAME, "/pixelgate.js").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/javascript"));
    assert!(answer.headers()["cache-control"].to_str().unwrap().contains("max-age"));
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert!(answer.text().await.unwrap().contains("fbq"));
    let again = gateway.browser().get(NAME, "/pixelgate.js").header("if-none-match", etag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    let zipped = gateway.browser().get(NAME, "/pixelgate.js").header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    assert!(zipped.bytes().await.unwrap().len() <= 6 * 1024);
}

/// `RequestBuilder::json` needs a feature that the gateway itself has no use for.
trait JsonBody {
    fn json_body(self, body: &Value) -> Self;
}

impl JsonBody for reqwest::RequestBuilder {
    fn json_body(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }
}
