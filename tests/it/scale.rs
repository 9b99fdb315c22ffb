use std::net::{SocketAddr, TcpStream};

use boring::ssl::{SslConnector, SslMethod, SslVerifyMode};

use crate::util::{Account, Gateway, Site, eventually};

const ACCOUNTS: usize = 1_000;
const NAMES_EACH: usize = 5;
const NAMES: usize = ACCOUNTS * NAMES_EACH;
/// Resident bytes that a name may take: certificates, routes and tenants together; and once it was visited, so many more.
const BYTES_MAX: usize = 6 * 1_024;
const VISITED_BYTES_MAX: usize = 2_560;

fn name(number: usize) -> String {
    format!("events{}.shop{}.example", number % NAMES_EACH, number / NAMES_EACH)
}

/// A gateway with so many accounts. It finds what a run before it left, as all starts but the first do.
async fn with_accounts(accounts: usize) -> (Site, Gateway) {
    let mut site = Site::new("http://127.0.0.1:9")
        .with("[limits]\nhandshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\n");
    for shop in 0..accounts {
        let account = Account::new(&format!("shop{shop}"), 20_000 + shop as u64);
        let names = (0..NAMES_EACH).map(|at| name(shop * NAMES_EACH + at));
        site = site.account(names.fold(account, |account, name| account.domain(&name)));
    }
    assert!(Gateway::start(&site).await.stop().await.success());
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

/// A handshake for each of these names, on two threads.
fn visit(gateway: SocketAddr, numbers: &[usize]) {
    let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    let connector = builder.build();
    std::thread::scope(|scope| {
        for half in numbers.chunks(numbers.len().div_ceil(2)) {
            let connector = &connector;
            scope.spawn(move || {
                for number in half {
                    let tcp = TcpStream::connect(gateway).unwrap();
                    let config = connector.configure().unwrap().verify_hostname(false);
                    config.connect(&name(*number), tcp).expect("a handshake");
                }
            });
        }
    });
}

/// Resident bytes, once all connections are gone.
async fn at_rest(gateway: &Gateway) -> usize {
    eventually("all are gone", async || (gateway.metric("pixelgate_connections", "").await == 0.0).then_some(())).await;
    gateway.resident()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_takes_so_much_memory_and_no_more() {
    let (_few, gateway) = with_accounts(1).await;
    let few = at_rest(&gateway).await;
    let (_many, gateway) = with_accounts(ACCOUNTS).await;
    let many = at_rest(&gateway).await;
    let each = many.saturating_sub(few) / NAMES;
    assert!(each <= BYTES_MAX, "{each} bytes a name");
    // What connections leave in the allocators is there before it is compared.
    visit(gateway.https(), &vec![0; 1_000]);
    let before = at_rest(&gateway).await;
    visit(gateway.https(), &(0..NAMES).collect::<Vec<_>>());
    let visited = at_rest(&gateway).await.saturating_sub(before) / NAMES;
    assert!(visited <= VISITED_BYTES_MAX, "{visited} bytes more a name");
    println!("{each} bytes a name, {visited} more once it was visited");
}
