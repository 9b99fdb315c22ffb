//! The sockets: taken over from systemd where it holds them, else bound here, before anything serves.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::ListenConfig;
use crate::proxy::EdgeListeners;
use crate::server::ready_file::ReadyFile;

/// Connections that the kernel keeps waiting while we are busy, or being restarted under systemd.
const BACKLOG: i32 = 4_096;

/// The same on the control socket.
const CONTROL_BACKLOG: i32 = 128;

/// Every TCP listener, bound.
pub(super) struct Listeners {
    pub(super) edge: EdgeListeners,
    pub(super) ops: TcpListener,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A TCP address.
    #[error(
        "cannot listen on {address} ([listen] {key}): {error}; another program has it, or a port below 1024 needs CAP_NET_BIND_SERVICE"
    )]
    Tcp {
        /// The key of `[listen]`.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The control socket.
    #[error("cannot open the control socket {path}: {error}")]
    Control {
        /// Its path.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
}

// === impl Listeners ===

impl Listeners {
    /// Takes or binds them all.
    pub(super) fn open(config: &ListenConfig) -> Result<Self, ListenError> {
        let mut inherited = inherited();
        let mut open = |key: &'static str, address: &SocketAddr| {
            let held = inherited.iter().position(|listener| listener.local_addr().is_ok_and(|held| held == *address));
            match held {
                Some(index) => Ok(inherited.swap_remove(index)),
                None => bind(*address).map_err(|error| ListenError::Tcp { key, address: *address, error }),
            }
        };
        let https = config.https.iter().map(|address| open("https", address)).collect::<Result<_, _>>()?;
        let http = config.http.iter().map(|address| open("http", address)).collect::<Result<_, _>>()?;
        let ops = open("ops", &config.ops)?;
        for address in inherited.iter().filter_map(|listener| listener.local_addr().ok()) {
            tracing::warn!("no address of [listen] is {address}, a socket that systemd passed: nobody answers there");
        }
        Ok(Self { edge: EdgeListeners { https, http }, ops })
    }

    /// What is listened on, with the ports that the system chose.
    pub(super) fn ready_file(&self, revision: u64) -> std::io::Result<ReadyFile> {
        let addresses =
            |listeners: &[TcpListener]| listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
        Ok(ReadyFile {
            https: addresses(&self.edge.https)?,
            http: addresses(&self.edge.http)?,
            ops: self.ops.local_addr()?,
            pid: std::process::id(),
            revision,
        })
    }
}

/// What systemd passed (sd_listen_fds(3)).
fn inherited() -> Vec<TcpListener> {
    let mut passed = ListenFd::from_env();
    let listeners = (0..passed.len()).filter_map(|index| passed.take_tcp_listener(index).ok().flatten());
    listeners.filter(|listener| listener.set_nonblocking(true).is_ok()).collect()
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` must not take IPv4 too.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The control socket, for this user only. One that a dead process left is replaced; the outbox's lock has shown by now
/// that no other gateway runs on this folder.
pub(super) fn control(path: &Path) -> Result<tokio::net::UnixListener, ListenError> {
    let open = || {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => {
                return Err(std::io::Error::other("what is there is no socket; [host] control names another file"));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before it listens nobody can connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(CONTROL_BACKLOG)?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(OwnedFd::from(socket).into())
    };
    open().map_err(|error| ListenError::Control { path: path.to_owned(), error })
}
