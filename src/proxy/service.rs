//! What happens to a request: it is an event, the script, something for an account's own servers, or nothing.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, CONTENT_TYPE, SET_COOKIE};
use http::{Method, StatusCode, Uri};
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use tokio_util::task::TaskTracker;

use crate::clock::now_ms;
use crate::event::decode::{Form, RenewedCookies};
use crate::ingest::{GraphParts, Ingest, Refusal, Request};
use crate::proxy::bodies::{BodyMemory, Holder, Sender, Shares};
use crate::proxy::body::{self, Body, BodyError, BodyLimits};
use crate::proxy::context::{Connection, Context, Forward};
use crate::proxy::incoming::{self, Ports};
use crate::proxy::respond::{Answer, Rejection, Style};
use crate::proxy::routes::Target;
use crate::proxy::script::Script;
use crate::proxy::upstream::Upstreams;
use crate::proxy::{Observer, cookies, cors, forwarded};
use crate::snapshot::{Published, Route};
use crate::tls::Challenges;

/// Where an ACME server looks for the answer to an HTTP-01 challenge (RFC 8555, 8.3).
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// The gateway as Pingora's proxy sees it.
pub(super) struct Service {
    pub(super) published: Arc<Published>,
    pub(super) ingest: Arc<Ingest>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) bodies: Arc<BodyMemory>,
    /// Those in flight.
    pub(super) requests: TaskTracker,
    pub(super) script: Script,
    pub(super) challenges: Arc<Challenges>,
    pub(super) ports: Ports,
}

/// How a request goes on.
pub(super) enum Step {
    /// With this answer.
    Answer(Answer),
    /// At an upstream server.
    Forward(Forward),
}

/// A request whose name is known here.
struct Arrived<'a> {
    connection: &'a Connection,
    host: &'a str,
    route: Route,
    uri: &'a Uri,
}

// === impl Service ===

impl Service {
    /// Says how a request goes on.
    pub(super) async fn decide(&self, session: &mut Session, ctx: &mut Context) -> Result<Step, Rejection> {
        let connection = ctx.connection.clone().ok_or(Rejection::Misdirected)?;
        let header = session.req_header();
        let (method, uri) = (header.method.clone(), header.uri.clone());
        let host = incoming::host_of(header).map(|host| host.into_owned());
        let Some(server_name) = &connection.server_name else {
            let port = incoming::port_of(header);
            return self.plain(ctx, &method, host.as_deref(), port, &uri).map(Step::Answer);
        };
        let host = host.ok_or(Rejection::Misdirected)?;
        let route = incoming::route_of(&ctx.snapshot, server_name, &host).ok_or(Rejection::Misdirected)?;
        if let Route::Tenant(tenant) = &route {
            ctx.account = Some(tenant.config.id.clone());
        }
        let target = Target::of(uri.path());
        let arrived = Arrived { connection: &connection, host: &host, route, uri: &uri };
        ctx.target = target.label();
        let answer = match (method, target) {
            (Method::OPTIONS, ours) if ours != Target::Other => preflight(session.req_header()),
            (Method::GET | Method::HEAD, Target::Script) => self.script.answer(&session.req_header().headers),
            // A HEAD asks what a GET would say; it is no visit.
            (Method::HEAD, Target::Pixel) => Answer::gif(),
            (Method::GET, Target::Pixel) => self.pixel_image(session, ctx, arrived).await?,
            (Method::POST, Target::Pixel) => self.pixel_form(session, ctx, arrived).await?,
            (Method::POST, Target::Gateway) => self.gateway(session, ctx, arrived).await?,
            (Method::POST, Target::Graph { pixel }) => self.graph(session, ctx, arrived, pixel).await?,
            _ => return self.forward(session, ctx, &arrived.route).await.map(Step::Forward),
        };
        Ok(Step::Answer(answer))
    }

    /// The answer to plain HTTP if the name is known: to an ACME server what it looks for (RFC 8555, 8.3), else the same
    /// over TLS.
    fn plain(
        &self,
        ctx: &Context,
        method: &Method,
        host: Option<&str>,
        port: u16,
        uri: &Uri,
    ) -> Result<Answer, Rejection> {
        let known = host.filter(|host| ctx.snapshot.route(host).is_some()).ok_or(Rejection::NotFound)?;
        let token = uri.path().strip_prefix(ACME_CHALLENGE).filter(|_| method == Method::GET);
        if let Some(answer) = token.and_then(|token| self.challenges.http_answer(known, token)) {
            return Ok(Answer::new(StatusCode::OK).body("application/octet-stream", answer.into()));
        }
        incoming::secure_location(known, port, uri, &self.ports).map(Answer::redirect).ok_or(Rejection::NotFound)
    }

    async fn gateway(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        arrived: Arrived<'_>,
    ) -> Result<Answer, Rejection> {
        let request = arrived.request(session.req_header(), ctx);
        let body = self.browser_body(session, ctx, &request).await?;
        let accepted = ctx.learn(&request, self.ingest.gateway(&request, &body.bytes).await)?;
        Ok(with_cookies(Answer::new(StatusCode::OK), &request, &accepted.cookies))
    }

    async fn pixel_image(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        arrived: Arrived<'_>,
    ) -> Result<Answer, Rejection> {
        let request = arrived.request(session.req_header(), ctx);
        let query = arrived.uri.query().unwrap_or_default();
        let taken = self.ingest.pixel(&request, Form { query, content_type: None, body: b"" }).await;
        let accepted = ctx.learn(&request, taken)?;
        Ok(with_cookies(Answer::gif(), &request, &accepted.cookies))
    }

    async fn pixel_form(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        arrived: Arrived<'_>,
    ) -> Result<Answer, Rejection> {
        let request = arrived.request(session.req_header(), ctx);
        let content_type = incoming::text(&session.req_header().headers, CONTENT_TYPE);
        let body = self.browser_body(session, ctx, &request).await?;
        let query = arrived.uri.query().unwrap_or_default();
        let form = Form { query, content_type: content_type.as_deref(), body: &body.bytes };
        let accepted = ctx.learn(&request, self.ingest.pixel(&request, form).await)?;
        Ok(with_cookies(Answer::new(StatusCode::OK), &request, &accepted.cookies))
    }

    async fn graph(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        arrived: Arrived<'_>,
        pixel: &str,
    ) -> Result<Answer, Rejection> {
        ctx.style = Style::Graph;
        let header = session.req_header();
        let request = arrived.request(header, ctx);
        let content_type = incoming::text(&header.headers, CONTENT_TYPE);
        let bearer = incoming::bearer(&header.headers);
        let parts = GraphParts {
            pixel,
            content_type: content_type.as_deref(),
            query: arrived.uri.query().unwrap_or_default(),
            bearer: bearer.as_deref(),
            body: b"",
        };
        // Who may not send is told so before anything of the body is held.
        let admitted = ctx.learn(&request, self.ingest.admit(&request, &parts))?;
        let sender = if admitted.proven { Sender::Server } else { Sender::Unproven };
        let holder = Holder::new(source(&request), Some(admitted.account), sender);
        let body = self.body(session, ctx, ctx.snapshot.gateway.limits.graph_body_bytes_max, holder).await?;
        let parts = GraphParts { body: &body.bytes, ..parts };
        let accepted = self.ingest.graph(&request, parts).await?;
        Ok(Answer::graph_success(accepted.received, &ctx.id))
    }

    async fn forward(&self, session: &Session, ctx: &Context, route: &Route) -> Result<Forward, Rejection> {
        let Route::Tenant(tenant) = route else {
            return Err(Rejection::NotFound);
        };
        if tenant.config.upstream.is_empty() {
            return Err(Rejection::NotFound);
        }
        if !tenant.config.active {
            return Err(Refusal::AccountInactive.into());
        }
        let gateway = &ctx.snapshot.gateway;
        if body::declared_bytes(session).is_some_and(|bytes| bytes > gateway.limits.upstream_body_bytes_max) {
            return Err(Rejection::Body(BodyError::TooLarge));
        }
        if forwarded::is_looping(session.req_header()) {
            return Err(Rejection::Loop);
        }
        let pool = self.upstreams.pool(&tenant.config, gateway.host.upstream_private).await;
        Ok(Forward { pool: pool.ok_or(Rejection::NotFound)?, tried: Vec::new(), body_bytes: 0 })
    }

    async fn browser_body(&self, session: &mut Session, ctx: &Context, request: &Request) -> Result<Body, BodyError> {
        let holder = Holder::new(source(request), ctx.account.clone(), Sender::Browser);
        self.body(session, ctx, ctx.snapshot.gateway.limits.body_bytes_max, holder).await
    }

    async fn body(
        &self,
        session: &mut Session,
        ctx: &Context,
        bytes_max: usize,
        holder: Holder,
    ) -> Result<Body, BodyError> {
        let limits = &ctx.snapshot.gateway.limits;
        let limits = BodyLimits { bytes_max, time_max: limits.body_timeout, shares: Shares::of(limits) };
        body::read(session, limits, self.bodies.claim(holder)).await
    }

    /// Refuses a request in a way that its client hears of, though it still has something to send.
    pub(super) async fn reject(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        rejection: &Rejection,
    ) -> pingora::Result<()> {
        self.observer.rejected(rejection.label());
        ctx.rejected = Some(rejection.label());
        let comes = !matches!(rejection, Rejection::Body(BodyError::TooSlow | BodyError::Broken));
        let answer = rejection.answer(ctx.style, &ctx.id);
        if !session.is_http2() {
            if comes {
                body::discard(session).await;
            }
            return answer.send(session).await;
        }
        answer.send(session).await?;
        if comes {
            body::see_off(session).await;
        }
        Ok(())
    }
}

// === impl Arrived ===

impl Arrived<'_> {
    fn request(&self, header: &RequestHeader, ctx: &Context) -> Request {
        incoming::request(header, ctx, self.connection.peer.ip(), self.route.clone(), self.host, now_ms())
    }
}

/// Whose share of memory a body counts against; a trusted proxy that names nobody brings many visitors.
fn source(request: &Request) -> Option<IpAddr> {
    let trusted = &request.snapshot.gateway.listen.trusted_proxies;
    request.arrival.client_ip.filter(|address| !forwarded::is_within(trusted, *address))
}

fn preflight(request: &RequestHeader) -> Answer {
    let requested = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let answer = Answer::new(StatusCode::NO_CONTENT);
    cors::preflight(requested).into_iter().fold(answer, |answer, (name, value)| answer.header(name, value))
}

/// Renews the browser's cookies, on an account's own name and if the account wants it.
fn with_cookies(answer: Answer, request: &Request, renewed: &RenewedCookies) -> Answer {
    match &request.route {
        Route::Tenant(tenant) if tenant.config.cookies.set => {}
        _ => return answer,
    }
    let pairs = [("_fbp", &renewed.fbp), ("_fbc", &renewed.fbc)];
    let set = pairs.into_iter().filter_map(|(name, value)| cookies::set(name, value.as_deref()?, &request.host));
    set.fold(answer, |answer, cookie| answer.header(SET_COOKIE, cookie))
}
