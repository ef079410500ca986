//! The real program: started, asked over HTTP, stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use daemon::http::{Answer, Listener, get};

/// A running aggregator; killed when dropped.
struct Program {
    child: Child,
    listener: Listener,
}

impl Program {
    /// Makes a PKI in `state` and starts an aggregator there, on free ports of loopback.
    fn start(state: &Path) -> Self {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_conntracct-aggregator"));
            command.env_clear().arg("--state-dir").arg(state).args(arguments);
            command
        };
        let made = run(&["pki", "init", "--san", "localhost"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut child = run(&["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let before = said.len();
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "it ended: {said}");
            if said[before..].contains("HTTP") {
                break address(&said[before..]).unwrap_or_else(|| panic!("no address in {said}"));
            }
        };
        // Whoever logs must be read.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let token = Some(state.join("http-token"));
        let listener = Listener { addresses: vec![address], hosts: Vec::new(), token, tls: None };
        Self { child, listener }
    }

    fn get(&self, target: &str) -> (u16, String) {
        let Answer { status, body } = get(&self.listener, target).unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first address of loopback with a port in a line of log.
fn address(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let rest = &line[start..];
    let end = rest["127.0.0.1:".len()..]
        .find(|c: char| !c.is_ascii_digit())
        .map_or(rest.len(), |end| end + "127.0.0.1:".len());
    rest[..end].parse().ok()
}

#[test]
fn the_running_program_answers_and_reports_while_it_runs() {
    let state = tempfile::tempdir().unwrap();
    let program = Program::start(state.path());
    assert_eq!(program.get("/healthz"), (200, "alive\n".into()));
    let (status, body) = program.get("/readyz");
    let ready: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &ready["ready"]), (200, &true.into()), "{body}");
    let (status, body) = program.get("/stats");
    assert_eq!(status, 200);
    let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(stats["http"]["connections"].is_number(), "{body}");

    let (status, text) = program.get("/metrics");
    assert_eq!(status, 200);
    for component in ["store", "count", "ingest", "http"] {
        let name = format!("# HELP conntracct_{component}_");
        assert!(text.contains(&name), "nothing of {component} in\n{text}");
    }
    promtool(&text);

    let report = Command::new(env!("CARGO_BIN_EXE_conntracct-aggregator"))
        .env_clear()
        .args(["report", "--format", "json", "--state-dir"])
        .arg(state.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&report.stderr);
    assert!(report.status.success(), "{said}");
    let total: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((&total["row"], &total["flows"]), (&"total".into(), &0.into()));
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
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}\n{text}");
}
