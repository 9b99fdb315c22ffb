//! Sessions: resumed by tickets, under one name.

use std::sync::atomic::{AtomicUsize, Ordering};

use boring::ssl::SslSession;
use foreign_types::ForeignType;
use pingora::tls::ssl_sys as ffi;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::proxy::rotation::Rotation;

/// A client that keeps sessions.
#[derive(Clone)]
struct Resumer {
    connector: SslConnector,
    left: Arc<Mutex<Option<SslSession>>>,
    /// Sessions that servers sent.
    sent: Arc<AtomicUsize>,
}

impl Resumer {
    fn of(version: SslVersion) -> Self {
        let (left, sent) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (keeping, counting) = (left.clone(), sent.clone());
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_min_proto_version(Some(version)).unwrap();
        builder.set_max_proto_version(Some(version)).unwrap();
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        builder.set_new_session_callback(move |_, session| {
            counting.fetch_add(1, Ordering::Relaxed);
            *keeping.lock().unwrap() = Some(session);
        });
        Self { connector: builder.build(), left, sent }
    }

    fn shake(&self, address: SocketAddr, name: &str, session: Option<&SslSession>) -> (bool, Option<SslSession>) {
        let mut configured = self.connector.configure().unwrap().verify_hostname(false);
        if let Some(session) = session {
            // SAFETY: the session is of this connector's own context.
            #[allow(unsafe_code)]
            unsafe {
                configured.set_session(session).unwrap();
            }
        }
        let tcp = std::net::TcpStream::connect(address).unwrap();
        let mut stream = configured.connect(name, tcp).unwrap();
        // TLS 1.3 sends sessions after the handshake.
        stream.read_exact(&mut [0]).unwrap();
        (stream.ssl().session_reused(), self.left.lock().unwrap().take())
    }
}

impl Rig {
    /// Shakes hands with a session that an earlier handshake left; whether it was resumed, and the session it left.
    async fn resume(
        &self,
        client: &Resumer,
        name: &'static str,
        session: Option<&SslSession>,
    ) -> (bool, Option<SslSession>) {
        let (address, accepting) = self.accept(TlsVersion::Tls12).await;
        let (client, session) = (client.clone(), session.cloned());
        let resumed = spawn_blocking(move || client.shake(address, name, session.as_ref())).await.unwrap();
        assert_eq!(accepting.await.unwrap().as_deref(), Ok(name));
        resumed
    }
}

#[tokio::test]
async fn a_session_is_resumed_under_its_own_name_only_also_after_a_restart() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut rig = Rig::serving(&["a.example", "b.example"]);
        let client = Resumer::of(version);
        let (resumed, session) = rig.resume(&client, "a.example", None).await;
        let session = session.unwrap();
        assert!(!resumed);
        // SAFETY: the session is live.
        #[allow(unsafe_code)]
        let early_data = unsafe { ffi::SSL_SESSION_early_data_capable(session.as_ptr()) == 1 };
        assert!(!early_data, "no data before the handshake's end");
        assert!(rig.resume(&client, "a.example", Some(&session)).await.0, "{version:?}");
        assert!(!rig.resume(&client, "b.example", Some(&session)).await.0, "{version:?}: another name");
        rig = rig.restarted(NOW + 60);
        assert!(rig.resume(&client, "a.example", Some(&session)).await.0, "{version:?}: after a restart");
        rig = rig.restarted(NOW + 86_400);
        assert!(rig.resume(&client, "a.example", Some(&session)).await.0, "{version:?}: the key before");
        rig = rig.restarted(NOW + 2 * 86_400);
        assert!(!rig.resume(&client, "a.example", Some(&session)).await.0, "{version:?}: a key that is forgotten");
    }
}

#[tokio::test]
async fn keys_are_changed_while_it_runs_and_the_one_before_is_taken_for_as_long_again() {
    const EVERY: Duration = Duration::from_secs(60);
    let rig = Rig::serving(&["a.example"]);
    let (begun, stop) = (tokio::time::Instant::now(), CancellationToken::new());
    let looks = Arc::new(AtomicUsize::new(0));
    let counting = looks.clone();
    let rotation = Rotation {
        tickets: rig.tickets.clone(),
        every: Box::new(|| EVERY),
        now_s: Box::new(move || {
            counting.fetch_add(1, Ordering::Relaxed);
            NOW + i64::try_from(begun.elapsed().as_secs()).unwrap()
        }),
    };
    let rotating = tokio::spawn(Arc::new(rotation).run(stop.clone()));
    let client = Resumer::of(SslVersion::TLS1_3);
    let session = rig.resume(&client, "a.example", None).await.1.unwrap();
    // They are looked at once at first, and twice in a minute; the second look begins when what the first did is done.
    for (looked, is_taken) in [(3, true), (5, false)] {
        let keys = || std::fs::read(rig.dir.path().join("ticket.keys")).unwrap();
        let (before, patience) = (keys(), Instant::now() + Duration::from_secs(30));
        tokio::time::pause();
        tokio::time::advance(EVERY).await;
        tokio::time::resume();
        while looks.load(Ordering::Relaxed) < looked || keys() == before {
            assert!(Instant::now() < patience, "the keys are not looked at");
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.resume(&client, "a.example", Some(&session)).await.0, is_taken);
    }
    stop.cancel();
    rotating.await.unwrap();
}

#[tokio::test]
async fn one_ticket_is_sent() {
    let rig = Rig::serving(&["a.example"]);
    let (address, accepting) = rig.accept(TlsVersion::Tls12).await;
    let client = Resumer::of(SslVersion::TLS1_3);
    let sent = client.sent.clone();
    spawn_blocking(move || client.shake(address, "a.example", None)).await.unwrap();
    accepting.await.unwrap().unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 1);
}
