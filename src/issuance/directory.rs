//! What a CA says to anybody who asks, and the library keeps to itself or to accounts: its directory (RFC 8555, 7.1.1), with the
//! profiles that it offers, and when it wants a certificate renewed (RFC 9773). What is no directory is told before any order.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use instant_acme::{CertificateIdentifier, RenewalInfo, SuggestedWindow};
use serde::Deserialize;
use tokio::time::timeout;

use crate::config::AcmeAccount;
use crate::issuance::budget::millis;
use crate::issuance::fault::{Fault, written};
use crate::issuance::transport::Transport;
use crate::issuance::trouble::Trouble;

/// How long what was read is believed.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a directory is left alone that could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);
/// How long it may take to answer where a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// CAs by their directories.
#[derive(Default)]
pub(super) struct Directories {
    known: Mutex<HashMap<Way, Known>>,
}

/// A directory and the `ca_file` with which its server is trusted.
type Way = (String, Option<PathBuf>);

#[derive(Clone)]
struct Known {
    /// `None` = its directory could not be read.
    ca: Option<Arc<Ca>>,
    until_ms: i64,
}

/// What a directory says, and the way to the CA.
struct Ca {
    transport: Transport,
    /// What the CA is called in CAA records.
    identities: Arc<[String]>,
    /// The profiles that it offers (draft-ietf-acme-profiles, 3).
    profiles: Vec<String>,
    /// Where it says when it wants certificates renewed.
    renewal_info: Option<String>,
}

/// The document, as far as it counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    #[serde(default)]
    meta: Meta,
    new_order: Option<String>,
    renewal_info: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
    /// Each with its description.
    #[serde(default)]
    profiles: BTreeMap<String, serde_json::Value>,
}

// === impl Directories ===

impl Directories {
    /// What the account's CA is called in CAA records; empty = it does not say, or cannot be asked.
    pub(super) async fn caa_identities(&self, account: &AcmeAccount, now_ms: i64) -> Arc<[String]> {
        let ca = match self.known(account, now_ms) {
            Some(known) => known.ca,
            None => match timeout(PATIENCE, self.read(account, now_ms)).await {
                Ok(Ok(ca)) => Some(ca),
                Ok(Err(trouble)) => {
                    tracing::warn!(reason = trouble.reason(), "the CA's directory cannot be read");
                    None
                }
                Err(_) => {
                    tracing::warn!(
                        directory = account.directory,
                        "the CA's directory cannot be read: it does not answer"
                    );
                    self.note(account, None, now_ms);
                    None
                }
            },
        };
        ca.map_or_else(|| Arc::from([]), |ca| ca.identities.clone())
    }

    /// Sees that the account's CA has a directory and, for a new order, offers the profile that is asked for.
    pub(super) async fn check(&self, account: &AcmeAccount, is_new: bool, now_ms: i64) -> Result<(), Trouble> {
        let ca = self.ca(account, now_ms).await?;
        let asked = account.profile.as_ref().filter(|profile| is_new && !ca.profiles.contains(profile));
        let Some(profile) = asked else { return Ok(()) };
        // It may offer it soon.
        self.forget(account);
        let profile = written(account, "profile", profile);
        let text = match ca.profiles.join(", ") {
            none if none.is_empty() => format!("{profile} asks for a profile, and the CA offers none"),
            offered => format!("{profile} is none of the profiles that the CA offers: {offered}"),
        };
        Err(Trouble::Account(Fault::Profile, text))
    }

    /// When the account's CA wants a certificate renewed, and when it wants to be asked again (Unix milliseconds); `None` =
    /// it says nothing of it. No account is needed for that: it is not told of.
    pub(super) async fn window(
        &self,
        account: &AcmeAccount,
        id: &CertificateIdentifier<'_>,
        now_ms: i64,
    ) -> Result<Option<(SuggestedWindow, Option<i64>)>, Trouble> {
        let ca = self.ca(account, now_ms).await?;
        let Some(url) = &ca.renewal_info else { return Ok(None) };
        let answer = ca.transport.get(&format!("{url}/{id}")).await.map_err(|reason| {
            // The CA may have moved, or its `ca_file` been renewed.
            self.forget(account);
            Trouble::Unreachable(reason)
        })?;
        match answer.status {
            // Another CA's certificate.
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let info: RenewalInfo =
                    serde_json::from_slice(&answer.body).map_err(|error| Trouble::Refused(error.to_string()))?;
                Ok(Some((info.suggested_window, answer.again_ms)))
            }
            status => Err(Trouble::of_status(status.as_u16(), &answer.body)),
        }
    }

    /// Forgets all CAs but those of these accounts.
    pub(super) fn retain(&self, accounts: &[Arc<AcmeAccount>]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|way, _| accounts.iter().any(|account| way_of(account) == *way));
    }

    /// The account's CA: as it is known, or as its directory says now.
    async fn ca(&self, account: &AcmeAccount, now_ms: i64) -> Result<Arc<Ca>, Trouble> {
        match self.known(account, now_ms).and_then(|known| known.ca) {
            Some(ca) => Ok(ca),
            None => self.read(account, now_ms).await,
        }
    }

    fn known(&self, account: &AcmeAccount, now_ms: i64) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&way_of(account)).cloned()?;
        let left = known.until_ms.saturating_sub(now_ms);
        (left > 0 && left <= millis(GOOD_FOR)).then_some(known)
    }

    async fn read(&self, account: &AcmeAccount, now_ms: i64) -> Result<Arc<Ca>, Trouble> {
        let read = read(account).await.map(Arc::new);
        self.note(account, read.as_ref().ok().cloned(), now_ms);
        read
    }

    fn note(&self, account: &AcmeAccount, ca: Option<Arc<Ca>>, now_ms: i64) {
        let good_for = if ca.is_some() { GOOD_FOR } else { AGAIN_AFTER };
        let known = Known { ca, until_ms: now_ms.saturating_add(millis(good_for)) };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(way_of(account), known);
    }

    fn forget(&self, account: &AcmeAccount) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&way_of(account));
    }
}

fn way_of(account: &AcmeAccount) -> Way {
    (account.directory.clone(), account.ca_file.clone())
}

async fn read(account: &AcmeAccount) -> Result<Ca, Trouble> {
    let transport = Transport::open(account).await.map_err(|why| Trouble::of_way(account, why))?;
    let answer = transport.get(&account.directory).await.map_err(|why| unanswered(account, &why))?;
    let at = written(account, "directory", &account.directory);
    let is_none = |what: String| Trouble::Account(Fault::Directory, format!("{at} {what}"));
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => return Err(Trouble::RateLimited(format!("{at} answers {}", answer.status))),
        status if status.is_server_error() => return Err(Trouble::Unreachable(format!("{at} answers {status}"))),
        status if !status.is_success() => return Err(is_none(format!("answers {status}: no ACME directory is there"))),
        _ => {}
    }
    let directory: Result<Directory, _> = serde_json::from_slice(&answer.body);
    let Ok(Directory { meta, new_order: Some(_), renewal_info }) = directory else {
        return Err(is_none(format!("answers {} with something that is no ACME directory", answer.status)));
    };
    let profiles = meta.profiles.into_keys().collect();
    Ok(Ca { transport, identities: meta.caa_identities.into(), profiles, renewal_info })
}

/// Why there is no answer, as the TLS library words it: what only another configuration mends is told from what may pass.
fn unanswered(account: &AcmeAccount, why: &str) -> Trouble {
    let at = written(account, "directory", &account.directory);
    // The URL is told too, and may call anything.
    if why.contains("invalid peer certificate") {
        return Trouble::Account(
            Fault::Trust,
            format!("the server at {at} has a certificate that is not trusted: {why}"),
        );
    }
    if why.contains("InvalidContentType") {
        return Trouble::Account(Fault::Directory, format!("the server at {at} does not speak TLS: {why}"));
    }
    Trouble::Unreachable(format!("{at} does not answer: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::issuance::tests::{NOW_MS, account};

    /// Answers each request with the next of these, and says where. Rust's own sockets, on a thread.
    fn server(answers: Vec<(&'static str, &'static str)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                // One read takes all of a request that is so short.
                assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
                let length = body.len();
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                    .unwrap();
            }
        });
        format!("{address}/dir")
    }

    async fn checked(directories: &Directories, account: &AcmeAccount) -> Result<(), (&'static str, String)> {
        let checked = directories.check(account, true, NOW_MS).await;
        checked.map_err(|trouble| (trouble.label(), format!("{}\n{}", trouble.reason(), trouble.remedy(account))))
    }

    #[tokio::test]
    async fn what_is_no_directory_is_told_with_its_key_and_what_it_answers() {
        for (status, body, label, words) in [
            ("404 Not Found", "no", "account", "answers 404 Not Found"),
            ("301 Moved Permanently", "", "account", "answers 301"),
            ("200 OK", "<html>", "account", "no ACME directory"),
            ("200 OK", "{}", "account", "no ACME directory"),
            ("503 Service Unavailable", "", "unreachable", "answers 503"),
            ("429 Too Many Requests", "", "rate_limited", "answers 429"),
        ] {
            let account = AcmeAccount {
                name: "default".to_owned(),
                directory: format!("http://{}", server(vec![(status, body)])),
                ..(*account("a")).clone()
            };
            let (label_is, told) = checked(&Directories::default(), &account).await.unwrap_err();
            let key = format!("[acme] directory = \"{}\"", account.directory);
            assert!(label_is == label && told.contains(words) && told.contains(&key), "{label_is}: {told}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_speaks_no_tls_and_a_file_that_is_none_are_told_apart() {
        let of = |directory: String| AcmeAccount { directory, ..(*account("a")).clone() };
        let plain = of(format!("https://{}", server(vec![("400 Bad Request", "")])));
        let (label, told) = checked(&Directories::default(), &plain).await.unwrap_err();
        assert!(label == "account" && told.contains("does not speak TLS"), "{label}: {told}");
        let nobody = of("http://127.0.0.1:9/dir".to_owned());
        let (label, told) = checked(&Directories::default(), &nobody).await.unwrap_err();
        assert!(
            label == "unreachable" && told.contains("directory of [[acme.accounts]] a = \"http"),
            "{label}: {told}"
        );
        let file = AcmeAccount { ca_file: Some("/nowhere/ca.pem".into()), ..nobody };
        let (label, told) = checked(&Directories::default(), &file).await.unwrap_err();
        assert!(label == "account" && told.contains("/nowhere/ca.pem"), "{label}: {told}");
    }

    #[tokio::test]
    async fn a_profile_is_looked_for_before_an_order_and_each_time_anew() {
        let offers = |profiles: &'static str| ("200 OK", profiles);
        let classic = r#"{"newOrder":"x","meta":{"profiles":{"classic":"90 days"}}}"#;
        let directory = format!(
            "http://{}",
            server(vec![
                offers(r#"{"newOrder":"x"}"#),
                offers(classic),
                offers(r#"{"newOrder":"x","meta":{"profiles":{"classic":"","shortlived":"6 days"}}}"#),
            ])
        );
        let asks = AcmeAccount { directory, profile: Some("shortlived".to_owned()), ..(*account("a")).clone() };
        let directories = Directories::default();
        let (label, told) = checked(&directories, &asks).await.unwrap_err();
        assert!(label == "account" && told.contains("= \"shortlived\"") && told.contains("offers none"), "{told}");
        let (_, told) = checked(&directories, &asks).await.unwrap_err();
        assert!(told.contains("none of the profiles that the CA offers: classic"), "{told}");
        checked(&directories, &asks).await.unwrap();
        // What is good is believed, and an order that was begun needs none.
        checked(&directories, &asks).await.unwrap();
        let other = AcmeAccount { profile: Some("none".to_owned()), ..asks };
        directories.check(&other, false, NOW_MS).await.unwrap();
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_told_from_a_ca_that_does_not_answer() {
        let told = |why: &str| unanswered(&account("a"), why).label();
        assert_eq!(told("client error (Connect): invalid peer certificate: UnknownIssuer"), "account");
        assert_eq!(told("client error (Connect): tcp connect error: Connection refused (os error 111)"), "unreachable");
        let of_url = "error sending request for url (https://ca.example/certificates/directory): Connection refused";
        assert_eq!(told(of_url), "unreachable");
    }

    #[test]
    fn what_counts_is_read_where_it_is() {
        let read = |text: &str| serde_json::from_str::<Directory>(text).unwrap();
        let identities = |text: &str| read(text).meta.caa_identities;
        assert_eq!(identities(r#"{"newNonce":"x","meta":{"caaIdentities":["letsencrypt.org"]}}"#), ["letsencrypt.org"]);
        assert_eq!(identities(r#"{"meta":{"termsOfService":"x"}}"#), [""; 0]);
        assert_eq!(identities(r#"{"newNonce":"x"}"#), [""; 0]);
        let renewal_info = read(r#"{"renewalInfo":"https://ca.example/ari"}"#).renewal_info;
        assert_eq!(renewal_info.as_deref(), Some("https://ca.example/ari"));
    }
}
