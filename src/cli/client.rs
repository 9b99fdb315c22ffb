//! A client of the control socket: HTTP/1.1 over a Unix socket.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Ended, GatewayArgs, tell};

/// What the gateway answered.
pub(super) struct Answer {
    /// Whether it did what was asked.
    pub(super) status: StatusCode,
    /// What it says.
    pub(super) body: Value,
}

/// Why there is no answer.
pub(super) enum CallError {
    /// Nothing answers at that socket, or this user may not ask there.
    Unreachable(PathBuf, std::io::Error),
    /// Something else.
    Other(anyhow::Error),
}

/// Asks the running gateway for what it does; tells the person on standard error why not, if it does not.
pub(super) fn call(
    gateway: &GatewayArgs,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<Result<Value, Ended>> {
    match try_call(gateway, method, path, body) {
        Ok(answer) if answer.status.is_success() => Ok(Ok(answer.body)),
        Ok(answer) => {
            tell(format_args!("pixelgate: {}", answer.reason()));
            Ok(Err(Ended::Bad))
        }
        Err(CallError::Unreachable(socket, error)) => {
            tell(format_args!(
                "pixelgate: no gateway answers at {}: {error}\n  → {}",
                socket.display(),
                remedy(&error)
            ));
            Ok(Err(Ended::Unreachable))
        }
        Err(CallError::Other(error)) => Err(error),
    }
}

/// Asks the running gateway.
pub(super) fn try_call(
    gateway: &GatewayArgs,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, CallError> {
    let socket = gateway.socket.clone().unwrap_or_else(|| crate::config::control_socket(&gateway.config));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("no runtime").map_err(CallError::Other)?;
    runtime.block_on(async {
        let stream = UnixStream::connect(&socket).await.map_err(|error| unconnected(socket, error))?;
        exchange(stream, method, path, body).await.map_err(CallError::Other)
    })
}

/// What to do where no gateway answers.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run this as the gateway's user, or as root",
        _ => "start it (`systemctl start pixelgate`), or name its folder with --config or its socket with --socket",
    }
}

/// Where nothing listens there is no gateway; where this user may not connect there is none for it.
fn unconnected(socket: PathBuf, error: std::io::Error) -> CallError {
    match error.kind() {
        // The last one: no socket can have a path that is too long.
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied | ErrorKind::InvalidInput => {
            CallError::Unreachable(socket, error)
        }
        _ => CallError::Other(anyhow!("the control socket {}: {error}", socket.display())),
    }
}

async fn exchange(stream: UnixStream, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "pixelgate")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.map_or_else(Bytes::new, |value| Bytes::from(value.to_string()))))?;
    let response = sender.send_request(request).await.context("the gateway closed the connection")?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    driver.abort();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
    Ok(Answer { status, body })
}

// === impl Answer ===

impl Answer {
    /// Why it did not do it.
    pub(super) fn reason(&self) -> &str {
        self.body.get("error").and_then(Value::as_str).unwrap_or("the gateway refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_this_user_may_not_use_is_out_of_reach() {
        let of = |kind: ErrorKind| unconnected(PathBuf::from("control.sock"), kind.into());
        for kind in [ErrorKind::NotFound, ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied] {
            assert!(matches!(of(kind), CallError::Unreachable(..)), "{kind}");
        }
        assert!(matches!(of(ErrorKind::NotADirectory), CallError::Other(_)));
        assert!(remedy(&ErrorKind::PermissionDenied.into()).contains("gateway's user"));
    }
}
