//! The real program: started, asked over HTTP, stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use aggregator::pki::Authority;
use daemon::http::{Answer, Listener, get};
use flow::NodeName;
use jiff::Timestamp;
use node::tls::IdentityPaths;
use rustls_pki_types::CertificateDer;

use crate::ingest::fleet::{config_of, dial};

/// A process; killed when dropped.
struct Process(Child);

/// A running aggregator.
struct Program {
    child: Process,
    listener: Listener,
    /// Where nodes connect.
    quic: SocketAddr,
    log: Receiver<String>,
}

fn command(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conntracct-aggregator"));
    command.env_clear().arg("--state-dir").arg(state);
    command
}

impl Program {
    /// Makes a PKI in `state` and starts an aggregator there, on free ports of loopback.
    fn start(state: &Path, more: &[&str]) -> Self {
        let (child, log) = spawn(state, more);
        Self::started(state, child, log)
    }

    /// The one that is about to take nodes.
    fn started(state: &Path, child: Process, log: Receiver<String>) -> Self {
        let quic = address(&line(&log, "taking nodes"), "[::1]:");
        let listener = listener(state, &line(&log, "listening for HTTP"));
        Self { child, listener, quic, log }
    }

    /// Sends SIGHUP and returns the line that says what came of it.
    fn reload(&self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        line(&self.log, "needs_restart")
    }

    fn get(&self, target: &str) -> (u16, String) {
        ask(&self.listener, target)
    }
}

/// Makes a PKI in `state` and starts an aggregator there, on free ports of loopback.
fn spawn(state: &Path, more: &[&str]) -> (Process, Receiver<String>) {
    let made = command(state).args(["pki", "init", "--san", "localhost"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut child = command(state)
        .args(["--listen", "[::1]:0", "--http", "127.0.0.1:0"])
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap());
    let (lines, log) = mpsc::channel();
    // Whoever logs must be read.
    std::thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            let _nobody_waits = lines.send(line);
        }
    });
    (Process(child), log)
}

/// The listener that a line of log speaks of.
fn listener(state: &Path, line: &str) -> Listener {
    let token = Some(state.join("http-token"));
    let addresses = vec![address(line, "127.0.0.1:")];
    Listener { addresses, hosts: Vec::new(), token, tls: None }
}

fn ask(listener: &Listener, target: &str) -> (u16, String) {
    let Answer { status, body } = get(listener, target).unwrap();
    (status, String::from_utf8(body).unwrap())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next line of log with `text`, whatever comes before it.
fn line(log: &Receiver<String>, text: &str) -> String {
    line_after(log, text, &mut Vec::new())
}

/// The same, with what came before it.
fn line_after(log: &Receiver<String>, text: &str, said: &mut Vec<String>) -> String {
    loop {
        match log.recv_timeout(Duration::from_secs(60)) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => said.push(line),
            Err(error) => panic!("no line with {text:?} ({error}); it said:\n{}", said.join("\n")),
        }
    }
}

/// The address in a line of log that begins like this.
fn address(line: &str, begin: &str) -> SocketAddr {
    let start = line.find(begin).unwrap_or_else(|| panic!("no {begin} in {line}"));
    let (host, rest) = line[start..].split_at(begin.len());
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    format!("{host}{}", &rest[..end]).parse().unwrap()
}

#[test]
fn the_running_program_answers_and_reports_while_it_runs() {
    let state = tempfile::tempdir().unwrap();
    let program = Program::start(state.path(), &[]);
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

#[test]
fn on_postgresql_the_program_runs_and_shows_no_password() {
    let access = "local all postgres trust\nlocal all all scram-sha-256\n";
    let setup = testdb::Setup { access: Some(access.to_owned()), ..testdb::Setup::default() };
    let server = testdb::Server::with(setup).unwrap();
    let role = format!("ALTER ROLE {} PASSWORD 'hunter2'", testdb::ROLE);
    server.sql(testdb::DATABASE, &role).unwrap();
    let (state, url) = (tempfile::tempdir().unwrap(), server.url());
    let ask = |arguments: &[&str], variables: &[(&str, &str)]| {
        let said = Command::new(env!("CARGO_BIN_EXE_conntracct-aggregator"))
            .env_clear()
            .envs(variables.iter().copied())
            .arg("--state-dir")
            .arg(state.path())
            .args(arguments)
            .output()
            .unwrap();
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        (said.status.success(), text)
    };
    let with_password = url.replacen("conntracct@", "conntracct:hunter2@", 1);

    let (fine, text) = ask(&["--store", &with_password, "migrate"], &[]);
    assert!(!fine && text.contains("--store-password-file"), "{text}");
    let (fine, text) = ask(&["--store", &url, "migrate"], &[("PGPASSWORD", "hunter3")]);
    assert!(!fine && text.contains("check user and password"), "{text}");
    let right = [("PGPASSWORD", "hunter2")];
    let (fine, text) = ask(&["--store", &url, "migrate", "--dry-run"], &right);
    assert!(fine && text.contains("it would be made at schema 1"), "{text}");
    assert!(text.contains("flows lie in native day partitions"), "{text}");

    let password = state.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let password = password.display().to_string();
    let flags = ["--store", &url, "--store-password-file", &password];
    let program = Program::start(state.path(), &flags);
    let (status, body) = program.get("/readyz");
    assert_eq!(status, 200, "{body}");
    assert!(program.get("/metrics").1.contains("conntracct_store_commits"));
    let inline = [("CONNTRACCT_STORE", with_password.as_str())];
    let (fine, text) = ask(&["migrate"], &inline);
    assert!(fine && text.starts_with(&format!("{url} is at schema 1")), "{text}");
    let (fine, text) = ask(&["report", "--format", "json"], &inline);
    assert!(fine && text.contains("\"row\":\"total\""), "{text}");
    let (fine, text) = ask(&["--dump-config"], &inline);
    assert!(fine && text.contains(&url), "{text}");
}

#[test]
fn a_database_that_is_away_at_the_start_is_waited_for() {
    let mut server = testdb::Server::start().unwrap();
    let (state, url) = (tempfile::tempdir().unwrap(), server.url());
    server.shut_down().unwrap();
    let (child, log) = spawn(state.path(), &["--store", &url]);
    let waits = line(&log, "the store is away, waiting for it");
    assert!(waits.contains(" WARN ") && waits.contains(&url), "{waits}");
    let early = listener(state.path(), &line(&log, "listening for HTTP until the store is there"));
    assert_eq!(ask(&early, "/healthz"), (200, "alive\n".into()));
    let (status, body) = ask(&early, "/readyz");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("the store is away: the connection to the database failed"), "{body}");

    server.start_again().unwrap();
    let mut said = Vec::new();
    let back = line_after(&log, "the store is back", &mut said);
    assert!(back.contains(" INFO "), "{back}");
    assert!(!said.iter().any(|line| line.contains(" WARN ")), "told once: {said:?}");
    let program = Program::started(state.path(), child, log);
    let (status, body) = program.get("/readyz");
    assert_eq!(status, 200, "{body}");
}

/// The certificate that the program shows on its QUIC port.
fn certificate(program: &Program, identity: &IdentityPaths) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, _endpoint) =
        runtime.block_on(dial(program.quic, config_of(identity))).unwrap();
    let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'_>>>().unwrap();
    chain[0].to_vec()
}

#[test]
fn sighup_reloads_what_it_can_says_the_rest_and_never_ends_the_program() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("aggregator.toml");
    std::fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let program = Program::start(state.path(), &["--config", file.to_str().unwrap()]);
    let line = program.reload();
    assert!(line.contains("changed=\"nothing\" needs_restart=\"nothing\""), "{line}");

    // Everything at once: a revocation, our certificate, the token, the level, and two keys that
    // nothing but a restart changes.
    let pki = Authority::at(&state.path().join("pki"));
    let (gw1, gw2) = (NodeName::new("gw1").unwrap(), NodeName::new("gw2").unwrap());
    let bundle = |name: &str| state.path().join(format!("{name}.bundle"));
    pki.issue(&gw1, &bundle("gw1"), false, Timestamp::now()).unwrap();
    pki.issue(&gw2, &bundle("gw2"), false, Timestamp::now()).unwrap();
    let identity =
        node::join::join(&bundle("gw1"), &state.path().join("gw1"), false).unwrap().paths;
    let before = certificate(&program, &identity);
    pki.revoke(&gw2, None, Timestamp::now()).unwrap();
    pki.renew_server(&["localhost".to_owned()], Timestamp::now()).unwrap();
    assert_eq!(certificate(&program, &identity), before, "nobody has told it");
    let token = state.path().join("http-token");
    std::fs::write(&token, "another-token-of-24-bytes\n").unwrap();
    assert_eq!(program.get("/stats").0, 401);
    std::fs::write(
        &file,
        "spool_age_max = \"3d\"\n[log]\nlevel = \"debug\"\n[limits]\nnodes = 9\n",
    )
    .unwrap();
    let line = program.reload();
    for part in [
        "log.level (info -> debug)",
        "server certificate",
        "HTTP token",
        "needs_restart=\"limits.nodes, spool_age_max\"",
        " INFO ",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert_ne!(certificate(&program, &identity), before);
    assert_eq!(program.get("/stats").0, 200);
    let (_, text) = program.get("/metrics");
    assert!(text.contains("\nconntracct_config_waiting_keys 2\n"), "{text}");

    // What is wrong is said, and stays as it was.
    std::fs::write(&file, "lisen = 3\n").unwrap();
    std::fs::write(state.path().join("pki/issued.json"), "{").unwrap();
    std::fs::write(&token, "short\n").unwrap();
    let line = program.reload();
    for part in ["ERROR", "lisen", "issued.json", "http-token"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    std::fs::write(&token, "another-token-of-24-bytes\n").unwrap();
    assert_eq!(program.get("/healthz").0, 200);
    let (_, text) = program.get("/metrics");
    assert!(text.contains("conntracct_config_reloads_total{outcome=\"part\"} 1"), "{text}");
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
