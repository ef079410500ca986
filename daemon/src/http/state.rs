//! What the listener shows, and the pages that both programs have.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;

use super::exposition;
use crate::ready::Readiness;

/// Makes the body of `/stats`. Called on a worker thread for each request: it reads counters and
/// waits for nothing.
pub type Stats = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What the listener shows.
#[derive(Clone)]
pub struct AppState {
    /// Every metric of the program.
    pub registry: Arc<Registry>,
    /// The conditions of `/readyz`.
    pub readiness: Readiness,
    /// The body of `/stats`.
    pub stats: Stats,
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl AppState {
    /// The pages that both programs have.
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/stats", get(stats))
            .route(HEALTH, get(|| async { "alive\n" }))
            .route(READY, get(readyz))
            .with_state(self)
    }
}

/// Says that the process runs; needs no token.
pub(super) const HEALTH: &str = "/healthz";

/// Says whether the process can do its work, and what is the matter; needs no token.
pub(super) const READY: &str = "/readyz";

async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        Ok(()) if exposition::wants_openmetrics(&headers) => {
            ([(header::CONTENT_TYPE, exposition::OPENMETRICS)], text).into_response()
        }
        Ok(()) => {
            let text = exposition::plain(&text);
            ([(header::CONTENT_TYPE, exposition::PLAIN)], text).into_response()
        }
        Err(error) => {
            crate::occasionally!(error, %error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn stats(State(state): State<AppState>) -> Response {
    Json((state.stats)()).into_response()
}

async fn readyz(State(state): State<AppState>) -> Response {
    let (ready, conditions) = state.readiness.all();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": ready, "conditions": conditions });
    (status, Json(body)).into_response()
}
