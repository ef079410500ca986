use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use axum::Router;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use super::*;
use crate::ready::Readiness;

/// A listener in a runtime of its own, as in the programs.
struct Running {
    address: SocketAddr,
    listener: Listener,
    readiness: Readiness,
    keys: Keys,
    stop: Option<oneshot::Sender<()>>,
    runtime: tokio::runtime::Runtime,
    serving: Option<tokio::task::JoinHandle<()>>,
}

fn listener(address: &str) -> Listener {
    let addresses = vec![address.parse().unwrap()];
    Listener { addresses, hosts: Vec::new(), token: None, tls: None }
}

fn run(mut listener: Listener) -> Running {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let metrics = HttpMetrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let sizes = Histogram::new([1.0, 10.0]);
    sizes.observe(3.0);
    registry.register("conntracct_test_frame_bytes", "Sizes of frames", sizes);
    let readiness = Readiness::default();
    let state = AppState {
        registry: Arc::new(registry),
        readiness: readiness.clone(),
        stats: Arc::new(|| serde_json::json!({ "probe": { "events_total": 7 } })),
    };
    let bound = runtime.block_on(bind(&listener, metrics)).unwrap();
    let (address, keys) = (bound.addresses()[0], bound.keys());
    listener.addresses = vec![address];
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = runtime.spawn(bound.serve(state, Router::new(), async move {
        let _ = stopped.await;
    }));
    let (stop, serving) = (Some(stop), Some(serving));
    Running { address, listener, readiness, keys, stop, runtime, serving }
}

impl Running {
    /// Sends these bytes and returns all that comes back.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The status of a GET with these headers.
    fn status(&self, target: &str, headers: &str) -> String {
        let request = format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let answer = self.raw(&request);
        answer.strip_prefix("HTTP/1.1 ").expect("an answer")[..3].to_owned()
    }

    fn get(&self, target: &str) -> (u16, String) {
        let answer = get(&self.listener, target).unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap())
    }
}

#[test]
fn the_pages_say_what_they_are_for() {
    let running = run(listener("127.0.0.1:0"));
    assert_eq!(running.get("/healthz"), (200, "alive\n".into()));
    assert_eq!(running.get("/stats"), (200, r#"{"probe":{"events_total":7}}"#.into()));
    assert_eq!(running.get("/nothing").0, 404);

    let part = running.readiness.part("store", "not opened yet");
    let body = r#"{"conditions":{"store":{"ok":false,"why":"not opened yet"}},"ready":false}"#;
    assert_eq!(running.get("/readyz"), (503, body.into()));
    part.fine();
    assert_eq!(running.get("/readyz").0, 200);
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    let running = run(listener("127.0.0.1:0"));
    running.get("/healthz");
    let (_, text) = running.get("/metrics");
    assert!(text.contains("\nconntracct_http_requests_total{outcome=\"ok\"} 1\n"), "{text}");
    assert!(text.contains("# TYPE conntracct_http_requests_total counter"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");

    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
    let text = running.raw(request);
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    promtool(&running.get("/metrics").1);
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

#[test]
fn only_its_own_names_are_answered() {
    let mut listener = listener("127.0.0.1:0");
    listener.hosts = vec!["gw1.example.net".into()];
    let running = run(listener);
    let status = |host: &str| running.status("/healthz", &format!("Host: {host}\r\n"));
    for host in ["localhost", "LOCALHOST:1234", "127.0.0.1:80", "[::1]:8000", "gw1.example.net:1"] {
        assert_eq!(status(host), "200", "{host}");
    }
    for host in ["evil.example.net", "localhost.evil.net", "192.0.2.1", "127.0.0.2", "[::2]"] {
        assert_eq!(status(host), "421", "{host}");
    }
    for host in ["", "a b", "user@localhost"] {
        assert_eq!(status(host), "400", "{host:?}");
    }
    assert_eq!(running.status("/healthz", ""), "400", "no host at all");
    assert_eq!(running.status("/healthz", "Host: localhost\r\nHost: localhost\r\n"), "400");
    let target = "http://evil.example.net/healthz";
    assert_eq!(running.status(target, "Host: localhost\r\n"), "400", "the target says another");
}

#[test]
fn the_token_opens_everything_and_health_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut listener = listener("127.0.0.1:0");
    listener.token = Some(folder.path().join("token"));
    let running = run(listener);
    let status =
        |target: &str, more: &str| running.status(target, &format!("Host: localhost\r\n{more}"));
    assert_eq!(status("/healthz", ""), "200");
    assert_eq!(status("/readyz", ""), "200");
    for target in ["/metrics", "/stats", "/nothing", "/healthz/../stats"] {
        assert_eq!(status(target, ""), "401", "{target}");
        assert_eq!(status(target, "Authorization: Bearer wrong\r\n"), "401", "{target}");
        assert_eq!(status(target, "Authorization: Basic eDp5\r\n"), "401", "{target}");
    }
    assert_eq!(running.get("/metrics").0, 200, "the client shows it");
}

#[test]
fn health_is_asked_without_a_token_and_says_what_is_the_matter() {
    let folder = tempfile::tempdir().unwrap();
    let mut listener = listener("127.0.0.1:0");
    listener.token = Some(folder.path().join("token"));
    let mut running = run(listener);
    // As for somebody who may not read it.
    running.listener.token = Some(folder.path().join("another"));
    let ask = |ready| {
        let mut said = Vec::new();
        let outcome = check_health(Some(&running.listener), ready, &mut said);
        (outcome.map_err(|error| error.to_string()), String::from_utf8(said).unwrap())
    };
    let store = running.readiness.part("store", "not opened yet");
    assert_eq!(ask(false), (Ok(()), "alive, not ready: store: not opened yet\n".into()));
    let not_ready = "it runs but is not ready: store: not opened yet";
    assert_eq!(ask(true), (Err(not_ready.into()), String::new()));
    store.fine();
    assert_eq!(ask(true), (Ok(()), "alive and ready\n".into()));
    assert!(matches!(check_health(None, false, &mut Vec::new()), Err(HealthError::Off)));
    let nobody = self::listener("127.0.0.1:1");
    let outcome = check_health(Some(&nobody), false, &mut Vec::new());
    assert!(matches!(outcome, Err(HealthError::Ask(_))), "{outcome:?}");
}

#[test]
fn bodies_are_bounded() {
    let running = run(listener("127.0.0.1:0"));
    let post = |header: &str| {
        let head = format!("POST /stats HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        running.raw(&format!("{head}Connection: close\r\n\r\n"))
    };
    assert!(post("Content-Length: 1048577").starts_with("HTTP/1.1 413"));
    assert!(post("Transfer-Encoding: chunked").starts_with("HTTP/1.1 413"));
    assert!(post("Content-Length: 0").starts_with("HTTP/1.1 405"));
}

#[test]
fn a_port_in_use_is_named_with_a_way_out() {
    let running = run(listener("127.0.0.1:0"));
    let error = running
        .runtime
        .block_on(bind(&running.listener, HttpMetrics::default()))
        .unwrap_err()
        .to_string();
    let start = format!("{} is in use by another process; ", running.address);
    assert!(error.starts_with(&start) && error.contains("--http"), "{error}");
}

#[test]
fn beyond_the_bound_connections_wait_and_are_served_later() {
    let running = run(listener("127.0.0.1:0"));
    // Each has asked once and been answered, so all are accepted, and stay open.
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    };
    let mut open: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(running.address).unwrap();
            ask(&mut stream);
            stream
        })
        .collect();
    let mut waiting = TcpStream::connect(running.address).unwrap();
    waiting.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut byte = [0];
    assert!(waiting.read(&mut byte).is_err(), "it was served beyond the bound");
    open.pop();
    waiting.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(waiting.read(&mut byte).unwrap(), 1, "served once there is room");
}

#[test]
fn stopping_closes_idle_connections_and_takes_no_more() {
    let mut running = run(listener("127.0.0.1:0"));
    let mut idle = TcpStream::connect(running.address).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut start = [0; 12];
    idle.read_exact(&mut start).unwrap();
    running.stop.take().unwrap().send(()).unwrap();
    running.runtime.block_on(running.serving.take().unwrap()).unwrap();
    idle.read_to_end(&mut Vec::new()).unwrap();
    assert!(matches!(get(&running.listener, "/healthz"), Err(ClientError::Connect { .. })));
}

#[test]
fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["gw1.example.net".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut listener = listener("0.0.0.0:0");
    listener.hosts = vec!["gw1.example.net".into()];
    listener.token = Some(folder.path().join("token"));
    listener.tls = Some(TlsFiles { cert: cert.clone(), key });
    let mut running = run(listener);
    running.address.set_ip([127, 0, 0, 1].into());
    assert_eq!(running.get("/stats").0, 200);
    let plain = running.raw("GET /healthz HTTP/1.1\r\nHost: gw1.example.net\r\n\r\n");
    assert!(!plain.contains("HTTP/1.1 200"), "{plain:?}");

    // A stranger's certificate is not taken.
    let other = rcgen::generate_simple_self_signed(["gw1.example.net".to_owned()]).unwrap();
    std::fs::write(&cert, other.cert.pem()).unwrap();
    assert!(matches!(get(&running.listener, "/stats"), Err(ClientError::Broken { .. })));
}

#[test]
fn token_and_certificate_are_read_again_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key, token] = ["cert.pem", "key.pem", "token"].map(|name| folder.path().join(name));
    let write_pair = || {
        let made = rcgen::generate_simple_self_signed(["gw1.example.net".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    };
    write_pair();
    let mut listener = listener("127.0.0.1:0");
    listener.hosts = vec!["gw1.example.net".into()];
    listener.token = Some(token.clone());
    listener.tls = Some(TlsFiles { cert: cert.clone(), key: key.clone() });
    let running = run(listener);
    assert_eq!(running.keys.reload().unwrap(), Vec::<&str>::new(), "nothing has changed");
    assert_eq!(running.get("/stats").0, 200);

    // The client reads the files each time, the listener when it is told to.
    std::fs::write(&token, "another-token-of-24-bytes\n").unwrap();
    assert_eq!(running.get("/stats").0, 401, "the old token is in force");
    write_pair();
    assert!(get(&running.listener, "/stats").is_err(), "the old certificate is in force");
    std::fs::write(&key, "no key").unwrap();
    running.keys.reload().unwrap_err();
    write_pair();
    assert_eq!(running.keys.reload().unwrap(), ["HTTP token", "HTTP certificate"]);
    assert_eq!(running.get("/stats").0, 200);

    // Without its file a new token is made, and no old one goes on.
    std::fs::remove_file(&token).unwrap();
    assert_eq!(running.keys.reload().unwrap(), ["HTTP token"]);
    assert_eq!(running.get("/stats").0, 200);
}

#[test]
fn a_certificate_that_does_not_serve_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.pem");
    std::fs::write(&file, "").unwrap();
    let mut listener = listener("127.0.0.1:0");
    listener.tls = Some(TlsFiles { cert: file.clone(), key: file.clone() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(bind(&listener, HttpMetrics::default())).unwrap_err();
    let start = format!("{} does not hold a certificate", file.display());
    assert!(error.to_string().starts_with(&start), "{error}");
}
