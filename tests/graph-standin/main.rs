//! A stand-in for Meta's Graph API: a process of its own that answers `POST /v{N}.{M}/{pixel}/events` as Meta does and
//! remembers what it was sent. The tests and the demo deliver to it.
//!
//! ```text
//! graph-standin --port 0 --ready-file ready.json [--tls-cert chain.pem --tls-key key.pem] [--fast]
//! ```
//!
//! * `edge.rs`: the events edge, with Meta's checks and error codes
//! * `book.rs`: what was received, per pixel, bounded
//! * `script.rs`: what a test wants it to do wrong
//! * `control.rs`: `/_control/…`, where tests script it and read the book
//! * `serve.rs`: connections, plain or TLS, HTTP/1.1 and HTTP/2

mod book;
mod control;
mod edge;
mod script;
mod serve;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;

use book::Book;
use script::Script;

/// Behaves like the events edge of Meta's Graph API, and remembers what it was sent.
#[derive(Debug, Parser)]
struct Arguments {
    /// Port on 127.0.0.1; 0 lets the system choose.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Written once connections are accepted: {"url", "port", "pid"}.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Certificate chain (PEM); with --tls-key it speaks TLS and offers HTTP/2.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Checks only what is needed to count: for measuring who sends.
    #[arg(long)]
    fast: bool,
    /// Events remembered by id in all; later ones are only counted.
    #[arg(long, default_value_t = 2_000_000)]
    events_max: usize,
    /// Bytes of whole request bodies kept, the newest.
    #[arg(long, default_value_t = 0)]
    keep_body_bytes: usize,
    /// Milliseconds until each answer.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Exits when standard input closes, so that it does not outlive the test that started it.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// What all connections share.
struct StandIn {
    fast: bool,
    delay_ms: u64,
    book: Book,
    script: Script,
    exchanges: AtomicU64,
}

/// Whatever can go wrong at the start; it is printed and ends the process.
type StartError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), StartError> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<(), StartError> {
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(chain), Some(key)) => Some(serve::tls_acceptor(chain, key)?),
        _ => None,
    };
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port))).await?;
    let port = listener.local_addr()?.port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let ready = serde_json::json!({
        "url": format!("{scheme}://127.0.0.1:{port}"), "port": port, "pid": std::process::id()
    });
    let stand_in = Arc::new(StandIn {
        fast: arguments.fast,
        delay_ms: arguments.delay_ms,
        book: Book::new(arguments.events_max, arguments.keep_body_bytes),
        script: Script::default(),
        exchanges: AtomicU64::new(0),
    });
    match &arguments.ready_file {
        Some(path) => write_whole(path, &ready.to_string())?,
        None => writeln!(std::io::stdout(), "{ready}")?,
    }
    if arguments.until_stdin_closes {
        std::thread::spawn(|| {
            let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    serve::serve(listener, tls, stand_in).await;
    Ok(())
}

// === impl StandIn ===

impl StandIn {
    /// Another name for each exchange, as Meta's answers have.
    fn trace_id(&self) -> String {
        format!("Astandin{:012x}", self.exchanges.fetch_add(1, Ordering::Relaxed))
    }
}

/// Writes a file so that who waits for it never reads half of it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// Unix milliseconds.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
