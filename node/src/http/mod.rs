//! What the node adds to the common pages: `/flows`, the live table, and what `/stats` says.

pub mod flows;
pub mod show;
mod stats;

use std::pin::Pin;
use std::sync::Arc;

use actix::Recipient;
use axum::Router;
use axum::routing::get;
use daemon::http::Stats;

use crate::aggregation::actor::ListFlows;
use crate::aggregation::listing::{Choice, Listing};
use crate::metrics::Metrics;

/// Answers which flows are live; `None` while the aggregation cannot answer.
type Lister =
    Arc<dyn Fn(Choice) -> Pin<Box<dyn Future<Output = Option<Listing>> + Send>> + Send + Sync>;

/// The node's own pages, to be served beside the common ones.
pub fn router(aggregation: Recipient<ListFlows>) -> Router {
    pages(Arc::new(move |choice| {
        let aggregation = aggregation.clone();
        Box::pin(async move { aggregation.send(ListFlows(choice)).await.ok() })
    }))
}

/// The same with any lister.
fn pages(lister: Lister) -> Router {
    Router::new().route("/flows", get(flows::page)).with_state(lister)
}

/// What `/stats` says.
#[must_use]
pub fn stats(metrics: Arc<Metrics>) -> Stats {
    Arc::new(move || stats::body(&metrics))
}
