//! A running server.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::account::Account;
use crate::{DATABASE, ROLE, SUPERUSER, programs, template};

/// How a server is set up. The default suits most tests.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Settings of `postgresql.conf`, over the usual ones.
    pub settings: Vec<(String, String)>,
    /// Whether it listens on a free port of 127.0.0.1 too.
    pub tcp: bool,
    /// `pg_hba.conf`, where other than "everybody".
    pub access: Option<String>,
    /// Files put into the data folder, readable by the server alone.
    pub files: Vec<(String, String)>,
    /// Where the data folder is made, for a disk of its own; else the system's temporary folder.
    pub within: Option<PathBuf>,
}

impl Setup {
    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A PostgreSQL server. Dropping it ends it at once and deletes what it held.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    folder: TempDir,
    programs: PathBuf,
    account: Account,
    setup: Setup,
    port: u16,
}

impl Server {
    /// Starts one with the usual setup.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; with what it said.
    pub fn start() -> io::Result<Self> {
        Self::with(Setup::default())
    }

    /// Starts one. The server ends with the calling thread.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; with what it said.
    pub fn with(setup: Setup) -> io::Result<Self> {
        let programs = programs::folder()?;
        let account = Account::choose()?;
        let mut folder = tempfile::Builder::new();
        folder.prefix("testdb-");
        let folder = match &setup.within {
            Some(within) => folder.tempdir_in(within)?,
            None => folder.tempdir()?,
        };
        account.give(folder.path())?;
        let data = folder.path().join("data");
        template::copy(&programs, account, &data)?;
        for (name, text) in &setup.files {
            let file = data.join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            account.give(&file)?;
        }
        if let Some(access) = &setup.access {
            fs::write(data.join("pg_hba.conf"), access)?;
        }
        let port = if setup.tcp { free_port()? } else { SOCKET_PORT };
        let mut server = Self { child: None, folder, programs, account, setup, port };
        server.start_again()?;
        Ok(server)
    }

    /// The URL of [`DATABASE`] for the role that owns it, over the socket.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(ROLE, DATABASE)
    }

    /// The URL of a database for a role, over the socket.
    #[must_use]
    pub fn url_of(&self, role: &str, database: &str) -> String {
        let (folder, port) = (self.folder.path().display(), self.port);
        format!("postgres://{role}@localhost:{port}/{database}?host={folder}")
    }

    /// The port of 127.0.0.1, and the number in the socket's name.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs statements as superuser, with `psql`, and gives what it prints: unaligned, without
    /// headers. For looking at a store with other eyes than its own.
    ///
    /// # Errors
    /// What PostgreSQL says against it.
    pub fn sql(&self, database: &str, statements: &str) -> io::Result<String> {
        let said = Command::new(self.programs.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--username", SUPERUSER, "--dbname", database])
            .arg("--host")
            .arg(self.folder.path())
            .args(["--port", &self.port.to_string(), "--command", statements])
            .stdin(Stdio::null())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if said.status.success() {
            Ok(text(&said.stdout))
        } else {
            Err(io::Error::other(text(&said.stderr)))
        }
    }

    /// Starts it after it was stopped or killed. The server ends with the calling thread.
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.stop(Signal::QUIT)?;
        let log = fs::File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        self.account.run_as(&mut command);
        self.child = Some(command.spawn()?);
        self.wait_until_ready()
    }

    /// Stops it in order: connections are cut, what is committed is on disk.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn shut_down(&mut self) -> io::Result<()> {
        self.stop(Signal::INT)
    }

    /// Kills its first process, as a power failure would: what was not on disk is gone.
    ///
    /// # Errors
    /// When it cannot be killed, or others of its processes stay.
    pub fn kill(&mut self) -> io::Result<()> {
        self.stop(Signal::KILL)?;
        // Its children notice and end; only then may it be started again.
        self.wait(|| self.nobody_is_left())
    }

    /// Stops it, copies its data folder and starts it again: a backup.
    ///
    /// # Errors
    /// When it does not stop or start, or copying fails.
    pub fn back_up(&mut self) -> io::Result<()> {
        self.shut_down()?;
        let (data, backup) = (self.data(), self.folder.path().join("backup"));
        if backup.exists() {
            fs::remove_dir_all(&backup)?;
        }
        copy(&data, &backup)?;
        self.start_again()
    }

    /// Stops it and puts the backup in the place of its data; [`Server::start_again`] starts it.
    ///
    /// # Errors
    /// When it does not stop, or there is no backup.
    pub fn restore(&mut self) -> io::Result<()> {
        self.shut_down()?;
        let (data, backup) = (self.data(), self.folder.path().join("backup"));
        fs::remove_dir_all(&data)?;
        copy(&backup, &data)
    }

    /// The id of its first process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn command(&self) -> Command {
        let postgres = self.programs.join("postgres");
        // Ends with the thread that started it, whatever becomes of that.
        let mut command = if Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            command.args(["--pdeathsig", "QUIT", "--"]).arg(postgres);
            command
        } else {
            Command::new(postgres)
        };
        let folder = self.folder.path().display().to_string();
        let listen = if self.setup.tcp { "127.0.0.1" } else { "" };
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        let usual = [
            ("unix_socket_directories", folder.as_str()),
            ("listen_addresses", listen),
            ("shared_buffers", "32MB"),
            ("max_connections", "20"),
        ];
        let own = self.setup.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in usual.into_iter().chain(own) {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command
    }

    /// The server tells its state in the last line of this file (`pg_ctl` reads it too).
    fn wait_until_ready(&mut self) -> io::Result<()> {
        let status = self.data().join("postmaster.pid");
        let begun = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && let Some(ended) = child.try_wait()?
            {
                self.child = None;
                return Err(self.failed(&format!("ended ({ended})")));
            }
            let text = fs::read_to_string(&status).unwrap_or_default();
            let pid = self.pid().map(|pid| pid.to_string());
            if text.lines().next() == pid.as_deref()
                && text.lines().last().is_some_and(|last| last.trim_end() == "ready")
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(self.failed("did not become ready"));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn failed(&self, what: &str) -> io::Error {
        io::Error::other(format!("PostgreSQL {what}; it said:\n{}", self.log()))
    }

    fn stop(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, signal)?;
        }
        let begun = Instant::now();
        loop {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                return Err(self.failed("did not stop"));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn wait(&self, condition: impl Fn() -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while !condition() {
            if begun.elapsed() > PATIENCE {
                return Err(self.failed("did not end"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whether no process has the data folder as its working folder.
    fn nobody_is_left(&self) -> bool {
        let data = self.data();
        let Ok(processes) = fs::read_dir("/proc") else { return true };
        !processes
            .flatten()
            .any(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The folder is deleted afterwards; nothing in it is needed any more.
        let _stopped = self.stop(Signal::QUIT);
    }
}

const SOCKET_PORT: u16 = 5432;
const SETPRIV: &str = "/usr/bin/setpriv";

/// How long a server may take to start or stop before that is a failure.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    template::succeed(Command::new("cp").arg("--archive").arg(from).arg(to), "copying")
}

/// A port nobody listens on now.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_runs_stops_and_goes_back_to_its_backup() {
        let mut server = Server::start().unwrap();
        let pid = server.pid().unwrap();
        server.sql(DATABASE, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
        server.back_up().unwrap();
        server.sql(DATABASE, "INSERT INTO t VALUES (2)").unwrap();
        server.kill().unwrap();
        server.start_again().unwrap();
        assert_eq!(server.sql(DATABASE, "SELECT a FROM t ORDER BY a").unwrap(), "1\n2");
        server.restore().unwrap();
        server.start_again().unwrap();
        assert_eq!(server.sql(DATABASE, "SELECT a FROM t").unwrap(), "1");
        assert!(server.sql(DATABASE, "SELECT nonsense").unwrap_err().to_string().contains("ERROR"));
        let (last, folder) = (server.pid().unwrap(), server.folder.path().to_owned());
        assert_ne!(pid, last);
        drop(server);
        assert!(!folder.exists());
        assert!(!Path::new(&format!("/proc/{last}")).exists());
    }
}
