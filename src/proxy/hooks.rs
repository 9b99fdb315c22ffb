//! [`Service`] in the hooks that Pingora calls for each request, in this order: `new_ctx`, `request_filter`, then for
//! what goes to an upstream server `upstream_peer` … `upstream_request_filter`, `request_body_filter`, and at the end
//! `logging`.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorSource, ErrorType};

use crate::proxy::body::BodyError;
use crate::proxy::context::{Context, Forward};
use crate::proxy::respond::Rejection;
use crate::proxy::service::{Service, Step};
use crate::proxy::{forwarded, incoming};

/// How long a client may take none of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the rest of a body is read after its answer, so that the connection can be kept.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Servers that one request is tried on.
pub(super) const TRIES_MAX: usize = 3;
/// Bytes of a path that are logged.
const LOGGED_PATH_BYTES_MAX: usize = 200;

#[async_trait]
impl ProxyHttp for Service {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.published.load_full(), self.requests.token())
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<bool> {
        session.set_read_timeout(Some(ctx.snapshot.gateway.limits.body_timeout));
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        match self.decide(session, ctx).await {
            Ok(Step::Answer(answer)) => answer.send(session).await?,
            Ok(Step::Forward(forward)) => {
                ctx.forward = Some(forward);
                return Ok(false);
            }
            Err(rejection) => self.reject(session, ctx, &rejection).await?,
        }
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Context) -> pingora::Result<Box<HttpPeer>> {
        let forward = ctx.forward.as_mut();
        let next = forward.and_then(|forward| {
            // One that was tried is tried again if it is the only one: a kept connection to it may have been closed.
            let peer = forward.pool.peer(&forward.tried).or_else(|| forward.pool.peer(&[]))?;
            forward.tried.extend(peer.address().as_inet());
            Some(peer)
        });
        next.map(Box::new).ok_or_else(|| Error::new_up(ErrorType::ConnectNoRoute))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent, so another server may have it.
        let other = |forward: &Forward| forward.tried.len() < TRIES_MAX && forward.pool.peer(&forward.tried).is_some();
        error.set_retry(ctx.forward.as_ref().is_some_and(other));
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let header = session.req_header();
        let (Some(connection), Some(host)) = (&ctx.connection, incoming::host_of(header)) else {
            return Err(Error::new_in(ErrorType::InternalError));
        };
        let trusted = &ctx.snapshot.gateway.listen.trusted_proxies;
        let client = forwarded::client_address(connection.peer.ip(), &header.headers, trusted);
        forwarded::tell_upstream(request, client, &host)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        if session.was_upgraded() {
            return Ok(());
        }
        let limits = &ctx.snapshot.gateway.limits;
        if let (Some(forward), Some(chunk)) = (&mut ctx.forward, body) {
            forward.body_bytes += chunk.len() as u64;
            if forward.body_bytes > limits.upstream_body_bytes_max {
                return Err(Error::new_down(ErrorType::HTTPStatus(413)));
            }
        }
        // Pingora limits each read; the limit is on all of them together.
        match limits.body_timeout.checked_sub(ctx.begun.elapsed()) {
            Some(left) => session.set_read_timeout(Some(left)),
            None if !end_of_stream => return Err(Error::new_down(ErrorType::ReadTimedout)),
            None => {}
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut Context,
    ) -> pingora::Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // What follows is no body: it lasts as long as the upstream server speaks within the time of a read.
            session.set_read_timeout(None);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        // Not the error itself: an upstream server's header may stand in it.
        tracing::debug!(id = %ctx.id, kind = %error.etype().as_str(), side = error.esource().as_str(), "a request failed");
        let rejection = rejection_of(error).filter(|_| session.response_written().is_none());
        let error_code = match rejection {
            Some(rejection) => {
                // Whether the client still listens is not known here, and changes nothing.
                let _ = self.reject(session, ctx, &rejection).await;
                session.response_written().map_or(0, |response| response.status.as_u16())
            }
            None => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let limits = &ctx.snapshot.gateway.limits;
        if let Some(connection) = ctx.connection.as_ref().filter(|_| !session.is_http2()) {
            let (idle, header) = (limits.idle_timeout, limits.header_timeout);
            let settled = error.is_none() && !session.was_upgraded() && session.as_downstream_mut().is_body_done();
            if settled { connection.pace.settled(idle, header) } else { connection.pace.idle(idle, Some(header)) }
        }
        let header = session.req_header();
        let path = header.uri.path();
        // Neither query, nor address, nor body: keys and people are in them.
        tracing::debug!(
            target: "access",
            request_id = %ctx.id,
            method = %header.method,
            path = path.get(..path.floor_char_boundary(LOGGED_PATH_BYTES_MAX)).unwrap_or_default(),
            status = session.response_written().map_or(0, |response| response.status.as_u16()),
            kind = ctx.target,
            account = ctx.account.as_ref().map(|id| id.as_str()),
            pixel = ctx.pixel.map(tracing::field::display),
            rejected = ctx.rejected,
            ms = ctx.begun.elapsed().as_secs_f64() * 1_000.0,
        );
    }

    // Pingora's own lines have the query in them, and one for each client that goes away.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, ctx: &Context) -> String {
        ctx.id.clone()
    }
}

/// What a client hears of an error on the way to an upstream server; `None` = nothing, it is not there any more.
fn rejection_of(error: &Error) -> Option<Rejection> {
    Some(match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(413), _) => Rejection::Body(BodyError::TooLarge),
        (ErrorType::ReadTimedout | ErrorType::ConnectTimedout, ErrorSource::Upstream) => Rejection::UpstreamSlow,
        (_, ErrorSource::Upstream) => Rejection::UpstreamDown,
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => Rejection::Body(BodyError::TooSlow),
        (ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed, ErrorSource::Downstream) => {
            return None;
        }
        (ErrorType::WriteTimedout, _) => return None,
        (_, ErrorSource::Downstream) => Rejection::BadRequest,
        _ => Rejection::Internal,
    })
}
