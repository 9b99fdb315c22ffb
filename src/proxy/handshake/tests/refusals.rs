//! What is refused by a connection's first bytes, beside what BoringSSL makes of the same.

use std::net::{Shutdown, TcpStream};

use super::*;

/// What is said of these first bytes, and what comes of them when TLS is set up.
async fn both(rig: &Rig, first: Vec<u8>) -> (Option<HandshakeError>, Accepted) {
    let refusal = rig.acceptor.refusal(&first);
    let (address, accepting) = rig.accept(TlsVersion::Tls12).await;
    spawn_blocking(move || {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.write_all(&first).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    })
    .await
    .unwrap();
    (refusal, accepting.await.unwrap())
}

#[tokio::test]
async fn names_are_refused_that_are_not_served_and_clients_that_name_none() {
    let rig = Rig::serving(&["a.example"]);
    for (name, refusal) in [
        (&b"a.example"[..], None),
        (b"A.Example.", None),
        (b"b.example", Some(HandshakeError::UnknownName)),
        (b"x.a.example", Some(HandshakeError::UnknownName)),
        (b"127.0.0.1", Some(HandshakeError::NoName)),
        (b"", Some(HandshakeError::NoName)),
        (b"\xff.example", None),
    ] {
        assert_eq!(rig.acceptor.refusal(&hello(name)), refusal, "{name:?}");
    }
}

#[tokio::test]
async fn a_name_that_has_a_challenge_is_not_refused() {
    let rig = Rig::serving(&["a.example"]);
    let refusal = || rig.acceptor.refusal(&hello(b"new.example"));
    assert_eq!(refusal(), Some(HandshakeError::UnknownName));
    let issued = Issued::new(&["new.example"]);
    let answer = Credential::parse(issued.chain.as_bytes(), issued.key.as_bytes()).unwrap();
    let _offered = rig.challenges.offer("new.example".parse().unwrap(), "t".into(), "k".into(), Some(answer));
    assert_eq!(refusal(), None);
}

#[tokio::test]
async fn what_is_refused_would_be_refused_by_boringssl() {
    let rig = Rig::serving(&["a.example"]);
    let mut judged = [0, 0];
    for whole in [hello(b"a.example"), hello(b"b.example")] {
        let cut = (1..whole.len()).step_by(3).map(|length| whole[..length].to_vec());
        let changed = (0..whole.len()).flat_map(|at| {
            let whole = &whole;
            [0, whole[at].wrapping_add(1), 255].map(|byte| {
                let mut changed = whole.clone();
                changed[at] = byte;
                changed
            })
        });
        for first in cut.chain(changed) {
            let (refusal, accepted) = both(&rig, first.clone()).await;
            let Some(refusal) = refusal else {
                let is_unclear = hello::asked(&first).is_none();
                assert!(is_unclear || accepted != Err(HandshakeError::UnknownName), "{accepted:?} {first:?}");
                judged[0] += 1;
                continue;
            };
            assert!(
                [Err(refusal), Err(HandshakeError::Failed)].contains(&accepted),
                "{refusal:?} {accepted:?} {first:?}"
            );
            judged[1] += 1;
        }
    }
    assert!(judged.iter().all(|judged| *judged > 50), "{judged:?}");
}
