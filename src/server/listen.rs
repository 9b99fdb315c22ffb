//! The sockets: taken over from systemd where it holds them, else bound here, before anything serves.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::io::Errno;
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
    #[error("[listen] {key}: cannot listen on {address}: {error}\n  → {}", remedy(*address, error))]
    Tcp {
        /// The key of `[listen]`.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The control socket.
    #[error("[host] control {}: no control socket can be opened there: {error}\n  → {}", path.display(), control_remedy(error))]
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
                return Err(std::io::Error::new(ErrorKind::AlreadyExists, "what is there is no socket"));
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

/// What to do where an address cannot be had.
fn remedy(address: SocketAddr, error: &std::io::Error) -> String {
    let port = address.port();
    let has_no_ipv6 = Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
        || (error.kind() == ErrorKind::AddrNotAvailable && address.ip().is_unspecified());
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "another program listens there, `ss -ltnp 'sport = :{port}'` as root says which: stop it, or write another \
             address; if it is systemd, make the addresses of pixelgate.socket those of [listen]"
        ),
        ErrorKind::PermissionDenied if port < 1_024 => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, as \
             conf/systemd/pixelgate.service has it"
                .to_owned()
        }
        ErrorKind::PermissionDenied => "see what forbids it: RestrictAddressFamilies= of the unit, or SELinux".to_owned(),
        _ if address.is_ipv6() && has_no_ipv6 => {
            "this machine has no IPv6: write the key without this address".to_owned()
        }
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address, `ip address` shows those it has: write one of these, or 0.0.0.0 or [::] for \
             all; a cloud's public address (EC2, GCE) is none of them"
                .to_owned()
        }
        _ => "write another address".to_owned(),
    }
}

/// What to do where the control socket cannot be opened.
fn control_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AlreadyExists => "name another path in pixelgate.toml, or move away what is there",
        ErrorKind::NotFound => {
            "make its folder, for the gateway's user; /run/pixelgate comes by RuntimeDirectory=pixelgate in the unit"
        }
        _ => {
            "name a path in a folder that the gateway's user may write to; where the key is not written it is in data_dir"
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_refusal_of_an_address_has_its_own_remedy() {
        let of = |address: &str, kind: ErrorKind| remedy(address.parse().unwrap(), &kind.into());
        assert!(of("0.0.0.0:443", ErrorKind::AddrInUse).contains("`ss -ltnp 'sport = :443'`"));
        assert!(of("0.0.0.0:443", ErrorKind::PermissionDenied).contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"));
        assert!(!of("0.0.0.0:8443", ErrorKind::PermissionDenied).contains("CAP_NET_BIND_SERVICE"));
        assert!(of("192.0.2.1:443", ErrorKind::AddrNotAvailable).contains("0.0.0.0 or [::]"));
        assert!(of("[2001:db8::1]:443", ErrorKind::AddrNotAvailable).contains("`ip address`"));
        assert!(of("[::]:443", ErrorKind::AddrNotAvailable).contains("no IPv6"));
        let no_family = std::io::Error::from(Errno::AFNOSUPPORT);
        assert!(remedy("[::1]:443".parse().unwrap(), &no_family).contains("no IPv6"));
        let no_descriptor = std::io::Error::from(Errno::MFILE);
        assert!(!remedy("[::]:443".parse().unwrap(), &no_descriptor).contains("no IPv6"));
    }
}
