//! The socket of a connection, buffered and with deadlines: what TLS and HTTP read from and write to.
//!
//! Pingora limits each read, not the time that a whole header takes, so a client could send one byte a minute for ever.
//! Here a read that has to wait looks at [`Pace`], which knows what the connection is doing.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};

use crate::proxy::limits::ConnectionPermit;
use crate::proxy::pace::{Pace, Received};

/// Read buffer: most events fit with their header, and a TLS record's head and body come with one system call. What is
/// larger is read past it.
const READ_BYTES: usize = 4 * 1024;
/// Write buffer: a flight of the handshake, or an answer's header and body, leave with one system call.
const WRITE_BYTES: usize = 4 * 1024;

/// How long a socket is read after its last answer, if its client may still be sending. Closed with bytes unread it would
/// be reset, and the client might lose the answer (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// A socket that is read and written under deadlines.
pub(super) struct Wire {
    io: BufStream<TcpStream>,
    /// How long it is read once our side is closed, and until when that is.
    linger: Duration,
    lingers_until: Option<Instant>,
    pace: Arc<Pace>,
    read_timer: Timer,
    write_timer: Timer,
    write_timeout: Duration,
    /// Bytes of the HTTP/1 header that is being sent, and how many it may have.
    header_bytes: usize,
    header_bytes_max: usize,
    socket: Arc<SocketDigest>,
    /// Counts the connection for as long as its socket is open.
    permit: ConnectionPermit,
}

/// A timer that is made when it is first needed.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

// === impl Wire ===

impl Wire {
    /// Wraps a socket. A write that the client does not take for `write_timeout` fails, and so does a read when an HTTP/1
    /// header is not complete after `header_bytes_max`, as they come over the network: Pingora would let it grow to 1 MiB,
    /// and has no answer for one that ends here.
    pub(super) fn new(
        tcp: TcpStream,
        pace: Arc<Pace>,
        write_timeout: Duration,
        header_bytes_max: usize,
        permit: ConnectionPermit,
    ) -> Self {
        let socket = Arc::new(SocketDigest::from_raw_fd(tcp.as_raw_fd()));
        let io = BufStream::with_capacity(READ_BYTES, WRITE_BYTES, tcp);
        let (read_timer, write_timer) = (Timer::default(), Timer::default());
        Self {
            io,
            linger: LINGER,
            lingers_until: None,
            pace,
            read_timer,
            write_timer,
            write_timeout,
            header_bytes: 0,
            header_bytes_max,
            socket,
            permit,
        }
    }

    /// What was received and nobody has read yet, which stays to be read; waits for it, and is empty at the end.
    pub(super) async fn unread(&mut self) -> io::Result<&[u8]> {
        self.io.fill_buf().await
    }

    /// The permit of this connection, to count it for its source.
    pub(super) fn permit(&mut self) -> &mut ConnectionPermit {
        &mut self.permit
    }

    /// A client that was too slow is not waited for any longer.
    fn timed_out(&mut self) -> io::Error {
        self.linger = Duration::ZERO;
        io::ErrorKind::TimedOut.into()
    }

    /// Counts what was received. A header ends with the first read after it: what is there of a body counts no further.
    fn count(&mut self, bytes: usize) {
        self.header_bytes = match self.pace.received() {
            Received::Other => 0,
            Received::HeaderBegun => bytes,
            Received::MoreHeader => self.header_bytes + bytes,
        };
    }

    /// Whether more of a header is to be read than it may have.
    fn is_header_too_large(&self) -> bool {
        self.header_bytes >= self.header_bytes_max && self.pace.is_in_header()
    }

    /// Reads what the client still sends, until it closes its side or the time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.lingers_until.unwrap_or_else(Instant::now);
        let mut bytes = [0; READ_BYTES];
        loop {
            let mut unread = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut unread) {
                Poll::Ready(Ok(())) if !unread.filled().is_empty() && Instant::now() < until => self.pace.unsettle(),
                Poll::Ready(_) => return Poll::Ready(()),
                // Without a budget nothing was read, whatever there is; tokio polls again soon.
                Poll::Pending if self.pace.is_settled() && has_budget_remaining() => return Poll::Ready(()),
                Poll::Pending => return self.read_timer.poll_at(until, cx),
            }
        }
    }

    /// The outcome of a write, or an error if it has waited for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.write_timer.stop();
            return write;
        }
        ready!(self.write_timer.poll_after(self.write_timeout, cx));
        Poll::Ready(Err(self.timed_out()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.lingers_until.is_some() {
            // TLS looks for the client's closing alert; application data would make it give up at once.
            return self.poll_linger(cx).map(Ok);
        }
        if self.is_header_too_large() {
            self.permit.observer().rejected("header_too_large");
            // It is not waited for, as one that is too slow.
            self.linger = Duration::ZERO;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buf) {
            match buf.filled().len() - before {
                0 => self.pace.gone(),
                bytes => self.count(bytes),
            }
            return Poll::Ready(read);
        }
        let Some(deadline) = self.pace.deadline() else {
            self.read_timer.stop();
            return Poll::Pending;
        };
        ready!(self.read_timer.poll_at(deadline, cx));
        self.pace.late();
        Poll::Ready(Err(self.timed_out()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &write {
            self.pace.sent(*bytes);
        }
        self.in_time(cx, write)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.io).poll_flush(cx);
        self.in_time(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers_until.is_none() {
            let shutdown = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.in_time(cx, shutdown))?;
            self.lingers_until = Some(Instant::now() + self.linger);
        }
        self.poll_linger(cx).map(Ok)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("fd", &self.id()).finish_non_exhaustive()
    }
}

// What Pingora asks of a transport.

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().as_raw_fd()
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        // The client may be gone already; either way the socket is closed next.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Ssl for Wire {}

impl Peek for Wire {}

// === impl Timer ===

impl Timer {
    /// Ready once `deadline` has passed; runs anew if the deadline is another one than before.
    fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }

    /// Ready once `wait` has passed since the timer was last stopped.
    fn poll_after(&mut self, wait: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        sleep.as_mut().poll(cx)
    }

    fn stop(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::task::coop::consume_budget;
    use tokio::time::timeout;

    use super::*;
    use crate::proxy::limits::ConnectionLimits;
    use crate::proxy::pace::TLS_ALERT_BYTES_MAX;
    use crate::proxy::testing::Uncounted;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);
    const HEADER_MAX: usize = 100;

    /// A client's socket, and the wire at the other end of it.
    async fn pair() -> (TcpStream, Wire, Arc<Pace>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let permit = ConnectionLimits::new(Arc::new(Uncounted)).admit(1).unwrap();
        let pace = Pace::new();
        (client, Wire::new(tcp, pace.clone(), SHORT, HEADER_MAX, permit), pace)
    }

    async fn read(wire: &mut Wire) -> io::Result<u8> {
        timeout(LONG / 2, wire.read_u8()).await.unwrap()
    }

    #[tokio::test]
    async fn an_idle_connection_ends() {
        let (_client, mut wire, pace) = pair().await;
        pace.idle(SHORT, Some(LONG));
        assert_eq!(read(&mut wire).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_first_byte_begins_a_header_and_its_limit() {
        let (mut client, mut wire, pace) = pair().await;
        pace.idle(LONG, Some(SHORT));
        client.write_all(b"G").await.unwrap();
        assert_eq!(read(&mut wire).await.unwrap(), b'G');
        assert_eq!(read(&mut wire).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_header_that_led_to_no_request_has_a_reason() {
        let (mut client, mut wire, pace) = pair().await;
        pace.idle(LONG, Some(LONG));
        assert_eq!(pace.broken_header(), None, "none was begun");
        client.write_all(b"G").await.unwrap();
        read(&mut wire).await.unwrap();
        wire.write_all(&[0; TLS_ALERT_BYTES_MAX]).await.unwrap();
        assert_eq!(pace.broken_header(), None, "the client may have gone away");
        wire.write_all(b"HTTP/1.1 400 Bad Request").await.unwrap();
        assert_eq!(pace.broken_header(), Some("bad_request"));
        pace.idle(LONG, Some(SHORT));
        client.write_all(b"G").await.unwrap();
        read(&mut wire).await.unwrap();
        read(&mut wire).await.unwrap_err();
        assert_eq!((pace.broken_header(), pace.requests()), (Some("too_slow"), 0));
        pace.busy();
        assert_eq!((pace.broken_header(), pace.requests()), (None, 1));
    }

    #[tokio::test]
    async fn a_header_may_have_so_many_bytes_and_whatever_follows_any_number() {
        let (mut client, mut wire, pace) = pair().await;
        for _ in 0..3 {
            pace.idle(LONG, Some(LONG));
            client.write_all(&[b'h'; HEADER_MAX - 1]).await.unwrap();
            wire.read_exact(&mut [0; HEADER_MAX - 1]).await.unwrap();
            pace.busy();
            client.write_all(&[b'b'; 10 * HEADER_MAX]).await.unwrap();
            wire.read_exact(&mut [0; 10 * HEADER_MAX]).await.unwrap();
        }
        pace.idle(LONG, Some(LONG));
        client.write_all(&[b'h'; HEADER_MAX]).await.unwrap();
        wire.read_exact(&mut [0; HEADER_MAX]).await.unwrap();
        assert_eq!(read(&mut wire).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn bytes_do_not_extend_an_idle_time_without_headers() {
        let (mut client, mut wire, pace) = pair().await;
        pace.idle(SHORT, None);
        client.write_all(b"P").await.unwrap();
        assert_eq!(read(&mut wire).await.unwrap(), b'P');
        assert_eq!(read(&mut wire).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_request_has_no_limit_here() {
        let (mut client, mut wire, pace) = pair().await;
        pace.idle(SHORT, Some(SHORT));
        pace.busy();
        assert!(timeout(SHORT * 3, wire.read_u8()).await.is_err());
        client.write_all(b"x").await.unwrap();
        assert_eq!(read(&mut wire).await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (_client, mut wire, _) = pair().await;
        let written = async {
            loop {
                wire.write_all(&[0; 65_536]).await?;
            }
        };
        let written: Result<io::Result<()>, _> = timeout(LONG / 2, written).await;
        assert_eq!(written.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_has_its_answer_is_not_waited_for() {
        let (mut client, mut wire, pace) = pair().await;
        wire.write_all(b"answer").await.unwrap();
        pace.settled(LONG, LONG);
        timeout(LINGER / 2, AsyncWriteExt::shutdown(&mut wire)).await.unwrap().unwrap();
        drop(wire);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_task_that_may_not_read_now_does_not_take_its_client_for_silent() {
        let (mut client, mut wire, pace) = pair().await;
        client.write_all(b"more").await.unwrap();
        pace.settled(LONG, LONG);
        let mut shutdown = pin!(AsyncWriteExt::shutdown(&mut wire));
        let ended = poll_fn(|cx| {
            while has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            Poll::Ready(shutdown.as_mut().poll(cx).is_ready())
        });
        assert!(!ended.await);
        drop(client);
        shutdown.await.unwrap();
    }

    #[tokio::test]
    async fn what_a_client_still_sends_does_not_cost_it_the_answer() {
        for was_read in [false, true] {
            let (mut client, mut wire, pace) = pair().await;
            let answering = tokio::spawn(async move {
                assert_eq!(read(&mut wire).await.unwrap(), 0);
                wire.write_all(b"answer").await.unwrap();
                if was_read {
                    // It sends more than it should.
                    pace.settled(LONG, LONG);
                }
                AsyncWriteExt::shutdown(&mut wire).await.unwrap();
            });
            client.write_all(&vec![0; 4 << 20]).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
            drop(client);
            answering.await.unwrap();
        }
    }
}
