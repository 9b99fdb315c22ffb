//! Names whose credential is not in memory yet, and files that change meanwhile.

use super::*;

#[tokio::test]
async fn many_clients_of_a_cold_name_are_served_at_once() {
    let rig = Rig::serving(&["a.example"]);
    let rig = Arc::new(rig);
    let mut shakes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let rig = rig.clone();
        shakes.spawn(async move { rig.shake(CLIENT, TlsVersion::Tls12).await });
    }
    for (stream, accepted) in shakes.join_all().await {
        assert!(stream.is_some() && accepted.is_ok());
    }
}

#[tokio::test]
async fn a_client_is_served_though_reloads_come_faster_than_its_files_are_read() {
    let mut rig = Rig::serving(&["a.example"]);
    let (folders, name) = (folders(&rig.dir), "a.example".parse().unwrap());
    let names = Names {
        lookup: Arc::new(move |asked| CertStore::load(&folders, std::slice::from_ref(&name), None, NOW).lookup(asked)),
        stale: Arc::new(|_| {}),
    };
    let acceptor = TlsAcceptor::new(names, rig.challenges.clone(), tickets(&rig.dir, NOW));
    rig.acceptor = Arc::new(acceptor.unwrap());
    assert_eq!(rig.shake(CLIENT, TlsVersion::Tls12).await.1.as_deref(), Ok("a.example"));
}

#[tokio::test]
async fn a_file_that_changed_or_broke_since_the_start_is_noticed_when_it_is_needed() {
    let rig = Rig::serving(&["a.example", "b.example"]);
    Issued::valid(&["a.example"], 2020, 2050).write(&rig.dir.path().join("certs"), "a.example");
    let (stream, accepted) = rig.shake(Client { protocols: b"\x02h2", ..CLIENT }, TlsVersion::Tls12).await;
    assert!(accepted.is_ok() && until(&stream.unwrap()).contains("2050"), "the new one is served");
    std::fs::write(rig.dir.path().join("certs/b.example/key.pem"), "broken").unwrap();
    let (stream, accepted) = rig.shake(Client::to("b.example"), TlsVersion::Tls12).await;
    assert_eq!((stream.is_none(), accepted), (true, Err(HandshakeError::UnknownName)));
    let problems: Vec<_> = rig.store.load().problems().collect();
    assert!(problems.len() == 1 && problems[0].file.ends_with("certs/b.example/key.pem"), "{problems:?}");
}

#[tokio::test]
async fn names_that_wait_for_a_reload_do_not_keep_others_from_being_loaded() {
    let stale: Vec<&'static str> = (0..20).map(|n| &*Box::leak(format!("n{n}.example").into_boxed_str())).collect();
    let rig = Arc::new(Rig::serving(&[&stale[..], &["a.example"]].concat()));
    let again = Issued::new(&stale);
    stale.iter().for_each(|name| again.write(&rig.dir.path().join("certs"), name));
    *rig.held.0.lock().unwrap() = true;
    let mut waiting = tokio::task::JoinSet::new();
    for name in stale {
        let rig = rig.clone();
        // Of another CA now, so nothing is verified.
        let client = Client { protocols: b"\x02h2", ..Client::to(name) };
        waiting.spawn(async move { rig.shake(client, TlsVersion::Tls12).await.1 });
    }
    while rig.acceptor.stale.waiting_now() < 19 {
        tokio::task::yield_now().await;
    }
    assert!(rig.shake(CLIENT, TlsVersion::Tls12).await.1.is_ok());
    *rig.held.0.lock().unwrap() = false;
    rig.held.1.notify_all();
    assert!(waiting.join_all().await.iter().all(Result::is_ok));
}
