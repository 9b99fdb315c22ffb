//! Handshakes in excess.

use super::*;

#[tokio::test]
async fn what_is_refused_takes_nothing_of_what_visitors_may_have() {
    let rig = Rig { per_second: 1, ..Rig::serving(&["a.example"]) };
    for _ in 0..20 {
        let refused = rig.shake(Client::to("b.example"), TlsVersion::Tls12).await.1;
        assert_eq!(refused, Err(HandshakeError::UnknownName));
        let (address, accepting) = rig.accept(TlsVersion::Tls12).await;
        drop(std::net::TcpStream::connect(address).unwrap());
        assert_eq!(accepting.await.unwrap(), Err(HandshakeError::Failed));
    }
    assert!(rig.shake(CLIENT, TlsVersion::Tls12).await.1.is_ok());
}

#[tokio::test]
async fn nothing_is_computed_out_of_turn() {
    let rig = Rig::serving(&["a.example"]);
    let held = rig.budget.turn(Guest::Visitor).await.unwrap();
    for name in ["a.example", "b.example"] {
        let shaking = rig.shake(Client::to(name), TlsVersion::Tls12);
        assert!(tokio::time::timeout(Duration::from_millis(50), shaking).await.is_err(), "{name}");
        let own = Client { own: true, ..Client::to(name) };
        assert_eq!(rig.shake(own, TlsVersion::Tls12).await.1.is_ok(), name == "a.example");
    }
    drop(held);
    assert!(rig.shake(CLIENT, TlsVersion::Tls12).await.1.is_ok());
}

#[tokio::test]
async fn excess_is_shed_and_challenges_and_own_looks_get_through() {
    let rig = Arc::new(Rig { per_second: 1, ..Rig::serving(&["a.example"]) });
    let issued = Issued::new(&["b.example"]);
    let credential = Credential::parse(issued.chain.as_bytes(), issued.key.as_bytes()).unwrap();
    let _offered = rig.challenges.offer("b.example".parse().unwrap(), "t".into(), "k".into(), Some(credential));
    let mut shakes = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let rig = rig.clone();
        shakes.spawn(async move { rig.shake(CLIENT, TlsVersion::Tls12).await });
    }
    let mut shed = 0;
    for (stream, accepted) in shakes.join_all().await {
        assert_eq!(stream.is_some(), accepted.is_ok());
        shed += usize::from(accepted == Err(HandshakeError::Limited));
    }
    assert_eq!(shed, 3, "one begins, one waits for its second");
    let own = Client { own: true, ..CLIENT };
    let challenge = Client { protocols: b"\x0aacme-tls/1", ..Client::to("b.example") };
    for _ in 0..5 {
        assert!(rig.shake(own.clone(), TlsVersion::Tls12).await.1.is_ok());
        assert_eq!(rig.shake(challenge.clone(), TlsVersion::Tls12).await.1, Err(HandshakeError::Challenge));
    }
}
