//! One order at a CA: from a name and a key to a chain (RFC 8555, 7.4).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

use crate::account::ServerName;
use crate::issuance::budget::Kind;
use crate::issuance::state::Proof;
use crate::issuance::store::KeyKind;
use crate::issuance::transport::made;
use crate::issuance::trouble::{Trouble, kind};
use crate::tls::{Challenges, Credential, Offered};

/// How long a CA may take to validate, and to issue.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time before the CA is asked for the first time whether it is done; the library doubles it.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// What is to be had.
pub(super) struct Request<'a> {
    pub(super) account: &'a Account,
    pub(super) name: &'a ServerName,
    pub(super) key: &'a KeyPair,
    pub(super) profile: Option<&'a str>,
    /// What the order is for, if it is not told what it replaces.
    pub(super) kind: Kind,
    /// The certificate that the new one takes the place of (RFC 9773, 5).
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
    /// An order that was begun before.
    pub(super) begun: Option<&'a str>,
    /// The challenge that is tried, if the CA offers it.
    pub(super) proof: Proof,
    pub(super) challenges: &'a Arc<Challenges>,
}

/// What came of it.
pub(super) struct Obtained {
    /// PEM, leaf first.
    pub(super) chain: String,
    /// How the name was proved; `None` = it was proved before.
    pub(super) proof: Option<Proof>,
}

/// Writes down how an order goes, before it goes on.
pub(super) trait Clerk: Sync {
    /// An order of this kind is about to be sent: durable when it returns.
    fn pay(&self, kind: Kind) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Whether the budgets have room for an order of this kind now.
    fn has_room(&self, kind: Kind) -> bool;

    /// The order has this URL: durable when it returns. Nothing more is asked of the CA before.
    fn remember(&self, url: &str) -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// A new key.
pub(super) fn new_key(kind: KeyKind) -> Result<KeyPair, rcgen::Error> {
    match kind {
        KeyKind::Ecdsa => KeyPair::generate(),
        KeyKind::Rsa | KeyKind::RsaTwin => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    }
}

/// Orders a certificate.
pub(super) async fn obtain(request: Request<'_>, clerk: &impl Clerk) -> Result<Obtained, Trouble> {
    let mut order = match request.begun {
        Some(url) => resumed(request.account, url).await?,
        None => {
            let order = new_order(&request, clerk).await?;
            clerk.remember(order.url()).await?;
            order
        }
    };
    let mut proof = None;
    let retries = RetryPolicy::new().initial_delay(FIRST_LOOK).backoff(1.6).timeout(PATIENCE);
    if order.state().status == OrderStatus::Pending {
        let answered_until_validated = authorise(&mut order, &request).await?;
        proof = answered_until_validated.first().map(|(proof, _)| *proof);
        match order.poll_ready(&retries).await {
            Ok(OrderStatus::Invalid) => return Err(why_invalid(&mut order).await),
            Ok(_) => {}
            Err(error @ Error::Api(_)) => {
                return Err(match why_invalid(&mut order).await {
                    why @ (Trouble::Validation(_) | Trouble::Caa(_)) => why,
                    _ => Trouble::of(&error),
                });
            }
            Err(error) => return Err(Trouble::of(&error)),
        }
    }
    if order.state().status == OrderStatus::Ready {
        order.finalize_csr(&signing_request(&request)?).await.map_err(|error| Trouble::of(&error))?;
    }
    let chain = order.poll_certificate(&retries).await.map_err(|error| Trouble::of(&error))?;
    Ok(Obtained { chain, proof })
}

/// An order that was begun before, if something can still come of it.
async fn resumed(account: &Account, url: &str) -> Result<Order, Trouble> {
    let mut order = account.order(url.to_owned()).await.map_err(|error| match Trouble::of(&error) {
        Trouble::Refused(_) | Trouble::Account(..) => Trouble::Lost,
        trouble => trouble,
    })?;
    if order.state().status == OrderStatus::Invalid { Err(Trouble::Lost) } else { Ok(order) }
}

async fn new_order(request: &Request<'_>, clerk: &impl Clerk) -> Result<Order, Trouble> {
    let identifiers = [Identifier::Dns(request.name.as_str().to_owned())];
    let plain = || {
        let order = NewOrder::new(&identifiers);
        match request.profile {
            Some(profile) => order.profile(profile),
            None => order,
        }
    };
    if let Some(replaces) = &request.replaces {
        // The account may have been made in this conversation.
        let _of_before = made();
        clerk.pay(Kind::Replacement).await?;
        match request.account.new_order(&plain().replaces(replaces.clone())).await {
            Ok(order) => return Ok(order),
            Err(Error::Api(problem)) if !may_be_about_replacing(&problem) => return Err(Trouble::of_problem(&problem)),
            // The next try says the same; one without it has its turn once there is room.
            Err(Error::Api(problem)) if !clerk.has_room(request.kind) => return Err(Trouble::of_problem(&problem)),
            // The CA does not know the certificate, or has it replaced already: then it is an order like any other.
            Err(Error::Api(_) | Error::Unsupported(_)) => {}
            // It made the order, and does not say again what it replaces, as it should (RFC 9773, 5): the library throws
            // such an order away. It is a good one all the same, but for the limits.
            Err(error) => match made() {
                Some(url) => {
                    clerk.pay(request.kind).await?;
                    return request.account.order(url).await.map_err(|error| Trouble::of(&error));
                }
                None => return Err(Trouble::of(&error)),
            },
        }
    }
    clerk.pay(request.kind).await?;
    request.account.new_order(&plain()).await.map_err(|error| Trouble::of(&error))
}

/// Whether an order may have been refused for what it is told to replace (RFC 9773, 5 and 7.4). CAs say so in words of their
/// own and with any kind of problem, so it is so unless the problem is surely another one: or the certificate would end
/// before the CA takes an order for its name.
fn may_be_about_replacing(problem: &Problem) -> bool {
    match Trouble::of_problem(problem) {
        Trouble::Refused(_) => true,
        // Of the certificate's account, perhaps.
        Trouble::Account(..) => kind(problem) == "unauthorized",
        // One that is only overloaded says so (RFC 9110, 15.6.4).
        Trouble::Broken(_) => problem.status != Some(503),
        _ => false,
    }
}

/// Answers the challenges of all authorisations that are open, and tells the CA to look. The answers stand as long as
/// the result lives.
async fn authorise(order: &mut Order, request: &Request<'_>) -> Result<Vec<(Proof, Offered)>, Trouble> {
    let mut offered = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization.map_err(|error| Trouble::of(&error))?;
        match authorization.status {
            AuthorizationStatus::Pending => offered.push(answer(authorization, request).await?),
            AuthorizationStatus::Valid => {}
            // What failed before the gateway was killed: the CA makes a new one for a new order.
            _ => return Err(Trouble::Lost),
        }
    }
    Ok(offered)
}

async fn answer(
    mut authorization: AuthorizationHandle<'_>,
    request: &Request<'_>,
) -> Result<(Proof, Offered), Trouble> {
    let offers =
        |proof: &Proof| authorization.challenges.iter().any(|challenge| challenge.r#type == challenge_type(*proof));
    let Some(proof) = [request.proof, Proof::Http01, Proof::TlsAlpn01].into_iter().find(offers) else {
        return Err(Trouble::Refused("it offers neither http-01 nor tls-alpn-01".to_owned()));
    };
    let Some(mut challenge) = authorization.challenge(challenge_type(proof)) else {
        return Err(Trouble::Refused("it took back a challenge".to_owned()));
    };
    let authorisation = challenge.key_authorization();
    let tls_alpn = tls_alpn_credential(request.name, authorisation.digest().as_ref())?;
    let offered = request.challenges.offer(
        request.name.clone(),
        challenge.token.clone(),
        authorisation.as_str().to_owned(),
        Some(tls_alpn),
    );
    if challenge.status == ChallengeStatus::Pending {
        challenge.set_ready().await.map_err(|error| match &error {
            Error::Api(problem) => Trouble::of_challenge(problem),
            other => Trouble::of(other),
        })?;
    }
    Ok((proof, offered))
}

fn challenge_type(proof: Proof) -> ChallengeType {
    match proof {
        Proof::Http01 => ChallengeType::Http01,
        Proof::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// The certificate with which a handshake for `acme-tls/1` is answered (RFC 8737, 3).
fn tls_alpn_credential(name: &ServerName, digest: &[u8]) -> Result<Arc<Credential>, Trouble> {
    let made = || {
        let mut params = CertificateParams::new([name.as_str().to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate()?;
        Ok::<_, rcgen::Error>((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let (chain, key) = made().map_err(|error| Trouble::Local(error.to_string()))?;
    Credential::parse(chain.as_bytes(), key.as_bytes()).map_err(|error| Trouble::Local(error.to_string()))
}

/// A request with the name as the only one (RFC 8555, 7.4), and no subject.
fn signing_request(request: &Request<'_>) -> Result<Vec<u8>, Trouble> {
    let made = || {
        let mut params = CertificateParams::new([request.name.as_str().to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(request.key)
    };
    let csr = made().map_err(|error| Trouble::Local(error.to_string()))?;
    Ok(csr.der().to_vec())
}

/// What the CA found when it looked.
async fn why_invalid(order: &mut Order) -> Trouble {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Err(error) = authorization.refresh().await {
            return Trouble::of(&error);
        }
        let mut problems = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problems.next() {
            return Trouble::of_challenge(problem);
        }
    }
    Trouble::Refused("the order became invalid, and the CA does not say why".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_surely_no_matter_of_replacing_is_not_tried_without_it() {
        for (kind, status, may_be) in [
            ("malformed", 400, true),
            ("alreadyReplaced", 409, true),
            ("conflict", 409, true),
            ("", 404, true),
            ("unauthorized", 403, true),
            ("serverInternal", 500, true),
            ("serverInternal", 503, false),
            ("rateLimited", 429, false),
            ("", 429, false),
            ("badNonce", 400, false),
            ("accountDoesNotExist", 400, false),
            ("userActionRequired", 403, false),
            ("invalidProfile", 400, false),
        ] {
            let json = serde_json::json!({
                "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no known issuer", "status": status,
            });
            let problem = serde_json::from_value(json).unwrap();
            assert_eq!(may_be_about_replacing(&problem), may_be, "{kind} {status}");
        }
    }
}
