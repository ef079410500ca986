//! Every metric of the node, served by the real listener, read by Prometheus' own checker.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use conntracct_node::metrics::Metrics;
use daemon::http::{AppState, Listener, bind, get};
use daemon::ready::Readiness;
use prometheus_client::registry::Registry;

#[test]
fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let metrics = Arc::new(Metrics::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut listener = Listener {
        addresses: vec!["127.0.0.1:0".parse().unwrap()],
        hosts: Vec::new(),
        token: None,
        tls: None,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bound = runtime.block_on(bind(&listener, metrics.http.clone())).unwrap();
    listener.addresses = bound.addresses();
    let state = AppState {
        registry: Arc::new(registry),
        readiness: Readiness::default(),
        stats: conntracct_node::http::stats(metrics),
    };
    runtime.spawn(bound.serve(state, axum::Router::new(), std::future::pending()));
    let answer = get(&listener, "/metrics").unwrap();
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body).unwrap();
    for component in ["probe", "aggregation", "table", "uplink", "spool", "sysctl", "http"] {
        let name = format!("# HELP conntracct_{component}_");
        assert!(text.contains(&name), "nothing of {component} in\n{text}");
    }
    promtool(&text);
}

/// Has Prometheus' own checker read `text`. Where it is not installed the check is left out, but
/// not in CI.
fn promtool(text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "promtool cannot be run: {error}");
            println!("not checked: promtool cannot be run ({error}); install prometheus");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{text}");
}
