//! From a request to a response: who is not let in is refused, before anything else is looked at.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::keeper::now;
use super::{MOST_LIVE, live};
use crate::dashboard::assets::assets;
use crate::dashboard::board::Board;
use crate::dashboard::guard::{Guard, Refusal};
use crate::dashboard::pages;
use crate::dashboard::route::{Ask, Page};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Only what this server itself gives may run, show or be asked; nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What all connections share.
pub(super) struct Desk {
    board: watch::Receiver<Board>,
    guard: Guard,
    /// For pages that are live.
    places: Arc<Semaphore>,
    cancel: CancellationToken,
}

impl Desk {
    pub(super) fn new(
        board: watch::Receiver<Board>,
        guard: Guard,
        cancel: CancellationToken,
    ) -> Self {
        Self { board, guard, places: Arc::new(Semaphore::new(MOST_LIVE)), cancel }
    }

    /// The body of a request is never read.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Result<Response<Body>, Infallible> {
        let mut response = match self.guard.admit(request.method(), request.headers()) {
            Ok(()) => self.show(request.uri().path(), request.uri().query().unwrap_or_default()),
            Err(refusal) => refused(refusal),
        };
        self.protect(response.headers_mut());
        if request.method() == Method::HEAD {
            *response.body_mut() = body(Bytes::new());
        }
        Ok(response)
    }

    fn show(&self, path: &str, query: &str) -> Response<Body> {
        if let Some(asset) = assets().find(path) {
            let mut response = made(StatusCode::OK, asset.kind, asset.content);
            let forever = HeaderValue::from_static("private, max-age=31536000, immutable");
            response.headers_mut().insert(CACHE_CONTROL, forever);
            return response;
        }
        match path {
            "/live" => return self.live(),
            "/healthz" => return made(StatusCode::OK, PLAIN, "ok\n"),
            _ => {}
        }
        let board = self.board.borrow();
        let page = match Page::parse(path) {
            Some(page) => pages::render(&board, &page, &Ask::parse(query), now()),
            None => pages::nowhere(&board, now()),
        };
        drop(board);
        let status = if page.is_found { StatusCode::OK } else { StatusCode::NOT_FOUND };
        made(status, HTML, page.html)
    }

    fn live(&self) -> Response<Body> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let says = format!("{MOST_LIVE} pages are live already; close some.\n");
            let mut response = made(StatusCode::SERVICE_UNAVAILABLE, PLAIN, says);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return response;
        };
        let ticks = live::ticks(self.board.clone(), place, self.cancel.clone());
        let mut response = Response::new(StreamBody::new(ticks).boxed_unsync());
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn protect(&self, headers: &mut hyper::HeaderMap) {
        let mut set =
            |name: HeaderName, value| _ = headers.insert(name, HeaderValue::from_static(value));
        set(CONTENT_SECURITY_POLICY, POLICY);
        set(X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(X_FRAME_OPTIONS, "DENY");
        set(REFERRER_POLICY, "no-referrer");
        set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
        set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
        set(HeaderName::from_static("x-accel-buffering"), "no");
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    let mut response = made(refusal.status(), PLAIN, format!("{}\n", refusal.says()));
    let headers = response.headers_mut();
    match refusal {
        Refusal::Method => _ = headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD")),
        Refusal::Token => {
            let asks = HeaderValue::from_static("Basic realm=\"wgnet\", charset=\"UTF-8\"");
            headers.insert(WWW_AUTHENTICATE, asks);
        }
        Refusal::Host | Refusal::Origin => {}
    }
    response
}

fn made(status: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body(content));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn body(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).boxed_unsync()
}
