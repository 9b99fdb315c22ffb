//! TLS handshakes: the server name chooses the certificate, and a name that is not served ends it at once.
//!
//! What asks plainly for a name that is not served is refused before there is any TLS (`hello`). A ClientHello that comes in
//! pieces, or is longer than a first read, is left to BoringSSL: it asks for the name before it computes anything.
//!
//! A name that nobody asked for since the start has no credential in memory: its handshake is put aside in the
//! ClientHello (before anything was computed), the files are read on a thread for that (`threads`), and the handshake goes on.
//!
//! Every handshake whose name is served is put aside there, until it may begin (`rates`): a connection that says nothing,
//! no TLS, or a name that is not served takes no part of what visitors may have. A resumed handshake counts as a full one:
//! its key exchange is the larger part of the work, and whether the ticket is good is known only after it is accepted.

mod stale;

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use boring::ex_data::Index;
use pingora::protocols::Shutdown;
use pingora::protocols::tls::SslStream;
use pingora::tls::ssl::{
    self, AlpnError, ClientHello, ErrorCode, ExtensionType, NameType, SelectCertError, Ssl, SslAcceptor, SslMethod,
    SslRef, SslSessionCacheMode, SslVersion, select_next_proto,
};
use sha2::{Digest, Sha256};

use crate::config::TlsVersion;
use crate::proxy::EdgeError;
use crate::proxy::handshake::stale::{Judge, StaleNames};
use crate::proxy::hello::{self, Asked};
use crate::proxy::rates::{Guest, HandshakeBudget, Turn};
use crate::proxy::wire::Wire;
use crate::threads::Threads;
use crate::tls::{self, Challenges, Cold, Credential, Lookup, Stale, TicketKeys};

/// HTTP/2 before HTTP/1.1 (RFC 7301, 3.1: each protocol with its length before it).
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";
/// The protocol of a TLS-ALPN-01 challenge (RFC 8737, 3).
const CHALLENGE: &[u8] = b"acme-tls/1";
/// The ALPN extension of a client that speaks nothing else.
const ONLY_CHALLENGE: &[u8] = b"\x00\x0b\x0aacme-tls/1";
/// An alert's record and level, and what alerts say (RFC 8446, 6).
const ALERT: u8 = 21;
const FATAL: u8 = 2;
const HANDSHAKE_FAILURE: u8 = 40;
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;
/// Credentials that are loaded at one time.
const LOADS_MAX: usize = 16;
/// How often one handshake may load its credential: files that change all the time are not waited for.
const LOADS_EACH_MAX: usize = 3;

/// Makes TLS of sockets, for every server name.
pub(super) struct TlsAcceptor {
    acceptor: SslAcceptor,
    lookup: Arc<LookUp>,
    challenges: Arc<Challenges>,
    choice: Index<Ssl, Choice>,
    stale: StaleNames,
    loads: Threads,
}

/// What serves a name.
type LookUp = dyn Fn(&str) -> Lookup + Send + Sync;

/// What is known of server names.
pub(super) struct Names {
    /// What serves a name.
    pub(super) lookup: Arc<LookUp>,
    /// Told that names' files are not what they were when they were judged.
    pub(super) stale: Arc<Judge>,
}

/// What a connection may ask of a handshake.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) budget: &'a HandshakeBudget,
    /// Handshakes that all visitors may begin in a second.
    pub(super) per_second: usize,
    pub(super) min_version: TlsVersion,
    /// Whether the gateway connected to itself.
    pub(super) own: bool,
}

/// What the ClientHello led to.
enum Choice {
    /// No ClientHello yet.
    Open,
    /// The name is served; nothing was computed yet.
    Known { challenge: bool },
    /// This name's certificate.
    Serve(Arc<str>),
    /// This name's certificate, once it is loaded.
    Load(Arc<str>, Cold),
    /// The answer to a TLS-ALPN-01 challenge.
    Challenge,
    /// The handshake was refused.
    Refuse(HandshakeError),
}

/// Why there is no TLS on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeError {
    /// The client named no server, or an address.
    NoName,
    /// The client named a server that has no certificate here.
    UnknownName,
    /// There are too many handshakes.
    Limited,
    /// The server's certificate changes faster than it can be read.
    NotLoadable,
    /// It was an ACME server, which wanted to see the handshake only.
    Challenge,
    /// It is no TLS, of a version or with ciphers that are not spoken here, or the client gave up.
    Failed,
}

// === impl TlsAcceptor ===

impl TlsAcceptor {
    /// Mozilla's "intermediate" profile, version 5, with the certificates of `names`.
    ///
    /// # Errors
    /// When BoringSSL has no memory left, or there are no threads.
    pub(super) fn new(names: Names, challenges: Arc<Challenges>, tickets: Arc<TicketKeys>) -> Result<Self, EdgeError> {
        let Names { lookup, stale } = names;
        let choice = Ssl::new_ex_index()?;
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        builder.set_curves_list("X25519MLKEM768:X25519:P-256:P-384")?;
        // Sessions are resumed by tickets, which cost the server no memory. Data before the handshake's end (0-RTT) stays
        // off, as it is without being asked for: it can be replayed.
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        tls::send_one_ticket(&mut builder)?;
        tickets.install(&mut builder);
        builder.set_alpn_select_callback(move |ssl, offered| {
            if matches!(ssl.ex_data(choice), Some(Choice::Challenge)) {
                return offered.get(1..).filter(|offered| *offered == CHALLENGE).ok_or(AlpnError::ALERT_FATAL);
            }
            // A client that offers protocols and none of ours meant another service (RFC 7301, 3.2).
            select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::ALERT_FATAL)
        });
        let (look_up, answers) = (lookup.clone(), challenges.clone());
        builder.set_select_certificate_callback(move |mut hello| {
            // Who comes back may begin.
            let is_first = matches!(hello.ssl().ex_data(choice), Some(Choice::Open));
            let loaded = match hello.ssl().ex_data(choice) {
                Some(Choice::Load(name, cold)) => cold.loaded().map(|credential| (name.clone(), credential)),
                _ => None,
            };
            let chosen = choose(&*look_up, &answers, &mut hello, is_first, loaded);
            let result = match chosen {
                Choice::Known { .. } | Choice::Load(..) => Err(SelectCertError::RETRY),
                Choice::Refuse(_) => Err(SelectCertError::ERROR),
                _ => Ok(()),
            };
            hello.ssl_mut().set_ex_data(choice, chosen);
            result
        });
        let loads = Threads::begin("certificates", LOADS_MAX).map_err(EdgeError::Threads)?;
        let stale = StaleNames::new(stale);
        Ok(Self { acceptor: builder.build(), lookup, challenges, choice, stale, loads })
    }

    /// Why a connection that begins with these bytes is refused; `None` = they don't tell.
    pub(super) fn refusal(&self, first: &[u8]) -> Option<HandshakeError> {
        let Asked::For(name) = hello::asked(first)? else {
            return Some(HandshakeError::NoName);
        };
        let Some(name) = tls::normalise(name) else {
            return Some(HandshakeError::NoName);
        };
        let is_unknown = matches!((self.lookup)(&name), Lookup::Unknown);
        (is_unknown && self.challenges.tls_alpn_answer(&name).is_none()).then_some(HandshakeError::UnknownName)
    }

    /// Shakes hands, and says for which server name.
    ///
    /// # Errors
    /// Why not. The connection is over then, with an alert where TLS allows one.
    pub(super) async fn accept(
        &self,
        wire: Wire,
        terms: Terms<'_>,
    ) -> Result<(SslStream<Wire>, Arc<str>), HandshakeError> {
        let mut guest = terms.guest();
        let mut turn = terms.budget.sure_turn(guest).await;
        let mut stream = self.prepare(wire, terms.min_version).map_err(|_| HandshakeError::Failed)?;
        let mut loads = 0;
        loop {
            let accepted = compute(&mut stream, turn, terms.budget, guest).await;
            let is_aside = |error: &ssl::Error| error.code() == ErrorCode::PENDING_CERTIFICATE;
            match (accepted, stream.ssl().ex_data(self.choice)) {
                (Ok(()), Some(Choice::Serve(name))) => {
                    let name = name.clone();
                    return Ok((stream, name));
                }
                (Ok(()), Some(Choice::Challenge)) => {
                    stream.shutdown().await;
                    return Err(HandshakeError::Challenge);
                }
                (Err(_), Some(Choice::Refuse(error))) => return Err(*error),
                (Err(error), Some(Choice::Known { challenge })) if is_aside(&error) => {
                    if *challenge {
                        guest = Guest::Challenger;
                    }
                    if !terms.budget.begin(guest, terms.per_second).await {
                        return Err(HandshakeError::Limited);
                    }
                }
                (Err(error), Some(Choice::Load(name, cold))) if is_aside(&error) => {
                    if loads == LOADS_EACH_MAX {
                        return Err(HandshakeError::NotLoadable);
                    }
                    loads += 1;
                    let (name, cold) = (name.clone(), cold.clone());
                    self.load(&name, cold).await;
                }
                _ => return Err(HandshakeError::Failed),
            }
            turn = terms.budget.turn(guest).await.ok_or(HandshakeError::Limited)?;
        }
    }

    fn prepare(&self, wire: Wire, min_version: TlsVersion) -> io::Result<SslStream<Wire>> {
        let mut ssl = Ssl::new(self.acceptor.context())?;
        ssl.set_min_proto_version(Some(match min_version {
            TlsVersion::Tls12 => SslVersion::TLS1_2,
            TlsVersion::Tls13 => SslVersion::TLS1_3,
        }))?;
        ssl.set_ex_data(self.choice, Choice::Open);
        SslStream::new(ssl, wire).map_err(io::Error::other)
    }

    /// Loads a credential. If its files are not what they were, the name is judged again: what comes of that, another
    /// certificate or none, the next look-up finds.
    async fn load(&self, name: &str, cold: Cold) {
        match (self.loads.run_in_turn(move || cold.load()).await, name.parse()) {
            (Some(Err(Stale)), Ok(name)) => self.stale.judge(name).await,
            (None, _) => tracing::error!(name, "loading a certificate broke off"),
            _ => {}
        }
    }
}

/// Goes on with a handshake, up to its end or to where it is put aside. It has a turn while it computes, and none while it
/// waits for the client.
async fn compute(
    stream: &mut SslStream<Wire>,
    turn: Turn<'_>,
    budget: &HandshakeBudget,
    guest: Guest,
) -> Result<(), ssl::Error> {
    let mut turn = turn;
    loop {
        let computed = {
            let mut handshake = pin!(stream.accept());
            poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await
        };
        drop(turn);
        if let Poll::Ready(done) = computed {
            return done;
        }
        woken().await;
        turn = if is_computed(stream.ssl()) { None } else { budget.sure_turn(guest).await };
    }
}

/// Whether all that is left is to check a MAC: so it is in TLS 1.3 but for a client that was asked for another key share. In
/// TLS 1.2 half of the key exchange comes with the client's second flight. (Before a version is chosen BoringSSL says 1.2.)
fn is_computed(ssl: &SslRef) -> bool {
    ssl.version2() == Some(SslVersion::TLS1_3) && !ssl.used_hello_retry_request()
}

/// Waits until this task is woken by what it waited for when it was last polled.
async fn woken() {
    let mut waits = true;
    poll_fn(|_| if mem::take(&mut waits) { Poll::Pending } else { Poll::Ready(()) }).await;
}

/// Finds the certificate of the name that a client asks for, and unless this is the first time, makes the handshake use
/// it: what it waited for, if reloads come faster than files are read.
fn choose(
    lookup: impl Fn(&str) -> Lookup,
    challenges: &Challenges,
    hello: &mut ClientHello<'_>,
    is_first: bool,
    loaded: Option<(Arc<str>, Arc<Credential>)>,
) -> Choice {
    let Some(name) = hello.servername(NameType::HOST_NAME).and_then(tls::normalise) else {
        return Choice::Refuse(HandshakeError::NoName);
    };
    let name: Arc<str> = name.into();
    let alpn = hello.get_extension(ExtensionType::APPLICATION_LAYER_PROTOCOL_NEGOTIATION);
    let challenge = (alpn == Some(ONLY_CHALLENGE)).then(|| challenges.tls_alpn_answer(&name)).flatten();
    let is_challenge = challenge.is_some();
    let credential = match challenge.map_or_else(|| lookup(&name), Lookup::Ready) {
        Lookup::Unknown => return Choice::Refuse(HandshakeError::UnknownName),
        _ if is_first => return Choice::Known { challenge: is_challenge },
        Lookup::Cold(cold) => match loaded.filter(|(of, _)| *of == name) {
            Some((_, credential)) => credential,
            None => return Choice::Load(name, cold),
        },
        Lookup::Ready(credential) => credential,
    };
    // A session is resumed only under the name that it was begun under: names are of different tenants.
    let context = Sha256::digest(name.as_bytes()).into();
    let installed =
        tls::set_session_context(hello.ssl_mut(), &context).and_then(|()| credential.install(hello.ssl_mut()));
    match installed {
        Ok(()) if is_challenge => Choice::Challenge,
        Ok(()) => Choice::Serve(name),
        Err(_) => Choice::Refuse(HandshakeError::Failed),
    }
}

// === impl Terms ===

impl Terms<'_> {
    fn guest(&self) -> Guest {
        if self.own { Guest::Own } else { Guest::Visitor }
    }
}

// === impl HandshakeError ===

impl HandshakeError {
    /// As the label of a metric.
    pub(super) fn label(self) -> &'static str {
        match self {
            HandshakeError::NoName => "no_name",
            HandshakeError::UnknownName => "unknown_name",
            HandshakeError::Limited => "limited",
            HandshakeError::NotLoadable => "not_loadable",
            HandshakeError::Challenge => "challenge",
            HandshakeError::Failed => "failed",
        }
    }

    /// The alert that tells a client so whom no TLS was set up for, as a record (RFC 8446, 5.1 and 6).
    pub(super) fn alert(self) -> [u8; 7] {
        let description = match self {
            HandshakeError::NoName => MISSING_EXTENSION,
            HandshakeError::UnknownName => UNRECOGNIZED_NAME,
            _ => HANDSHAKE_FAILURE,
        };
        [ALERT, 3, 3, 0, 2, FATAL, description]
    }
}

#[cfg(test)]
mod tests;
