//! What a request must get past: the `Host` check, the token, the body limit, the clock.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::metrics::HttpMetrics;
use super::state::{HEALTH, READY};
use super::{ANSWER_TIME, BODY, Keys, Listener};

/// The rules of one listener.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: Vec<String>,
    keys: Keys,
    metrics: HttpMetrics,
}

impl Guard {
    pub(super) fn new(listener: &Listener, keys: Keys, metrics: HttpMetrics) -> Self {
        let mut hosts = listener.hosts.clone();
        if listener.is_loopback() {
            hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        }
        hosts.extend(listener.addresses.iter().map(|address| address.ip().to_string()));
        Self { hosts, keys, metrics }
    }

    /// Why the request is refused, if it is.
    fn refusal(&self, request: &Request) -> Option<(StatusCode, &'static str)> {
        let Some(host) = host(request) else {
            return Some((StatusCode::BAD_REQUEST, "the request names no single host\n"));
        };
        if !self.answers_to(&host) {
            let text = "this listener does not answer to that name; see api.hosts\n";
            return Some((StatusCode::MISDIRECTED_REQUEST, text));
        }
        let open = matches!(request.uri().path(), HEALTH | READY);
        if !open && self.keys.refuses(bearer(request.headers())) {
            let text = "show the token: Authorization: Bearer TOKEN\n";
            return Some((StatusCode::UNAUTHORIZED, text));
        }
        // No page takes a body, so its length must be announced to be taken at all.
        let announced = length(request.headers());
        if announced.is_none_or(|length| length > BODY) {
            return Some((StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"));
        }
        None
    }

    /// Addresses of any form match their canonical one; an address on an unspecified listener
    /// matches always, since no page can have a name that is an address not its own.
    fn answers_to(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let unspecified = self.hosts.iter().any(|host| host == "0.0.0.0" || host == "::");
        match bare.parse::<std::net::IpAddr>() {
            Ok(address) => {
                let text = address.to_canonical().to_string();
                unspecified || self.hosts.contains(&text)
            }
            Err(_name) => self.hosts.iter().any(|known| known.eq_ignore_ascii_case(bare)),
        }
    }
}

/// Lets a request through, or answers it here.
pub(super) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let response = match guard.refusal(&request) {
        Some((StatusCode::UNAUTHORIZED, text)) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, text).into_response()
        }
        Some(refusal) => refusal.into_response(),
        None => match tokio::time::timeout(ANSWER_TIME, next.run(request)).await {
            Ok(response) => response,
            Err(_elapsed) => {
                (StatusCode::GATEWAY_TIMEOUT, "the answer took too long\n").into_response()
            }
        },
    };
    guard.metrics.answered(response.status());
    response
}

/// The host that the request is for, without its port: the one `Host` header, and the same in
/// the target where that names one.
fn host(request: &Request) -> Option<String> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let named = headers.next()?.to_str().ok()?;
    if headers.next().is_some() {
        return None;
    }
    let authority: Authority = named.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().to_owned();
    match request.uri().host() {
        Some(target) if !target.eq_ignore_ascii_case(&host) => None,
        _ => Some(host),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The announced length of the body, 0 without one; `None` where it is not announced.
fn length(headers: &HeaderMap) -> Option<usize> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => Some(0),
    }
}
