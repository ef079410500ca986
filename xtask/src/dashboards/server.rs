//! A PostgreSQL of our own: made in a temporary folder, reached through a socket in it, gone at
//! the end.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::psql::Psql;
use crate::up::Folder;
use crate::up::process::Running;
use crate::workspace;

/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The database that `docker/postgres/roles.sql` is made for.
const DATABASE: &str = "flows";

/// A running server. Dropping it ends it and deletes everything.
pub(super) struct Server {
    running: Option<Running>,
    folder: Folder,
}

impl Server {
    /// Makes and starts one, with the database and the roles that the containers have.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub(super) fn start() -> Result<Self> {
        let programs = programs()?;
        let folder = Folder::make(false)?;
        let owner = owner(folder.path())?;
        let data = folder.path().join("data");
        let secret = secret(&folder, "postgres", owner)?;
        let mut initdb = owner.command(programs.join("initdb"));
        initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        initdb.args(["--auth=scram-sha-256", "--pwfile"]).arg(&secret).arg("-D").arg(&data);
        workspace::output(&mut initdb)?;
        let mut postgres = owner.command(programs.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(folder.path());
        // Its data need not survive anything.
        for setting in ["listen_addresses=", "fsync=off", "max_wal_size=4GB"] {
            postgres.args(["-c", setting]);
        }
        let running = Running::start("postgres", postgres, &folder.path().join("log"))?;
        let mut server = Self { running: Some(running), folder };
        server.wait()?;
        server.roles(owner)?;
        Ok(server)
    }

    /// The database as `role` (conntracct or grafana) sees it.
    ///
    /// # Errors
    /// The role has no password here.
    pub(super) fn psql(&self, role: &str) -> Result<Psql> {
        self.connect(role, DATABASE)
    }

    /// Stops it.
    ///
    /// # Errors
    /// It did not stop in order.
    pub(super) fn stop(mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| running.terminate(PATIENCE))
    }

    fn connect(&self, role: &str, database: &str) -> Result<Psql> {
        let file = self.folder.path().join(role);
        let password = fs::read_to_string(&file)
            .with_context(|| format!("the role {role} has no password"))?;
        Ok(Psql::variables(vec![
            ("PGHOST", self.folder.path().display().to_string()),
            ("PGUSER", role.to_owned()),
            ("PGPASSWORD", password.trim().to_owned()),
            ("PGDATABASE", database.to_owned()),
        ]))
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let psql = self.connect("postgres", "postgres")?;
        loop {
            self.running.as_mut().context("it was stopped")?.check()?;
            match psql.answer("SELECT 1") {
                Ok(_one) => return Ok(()),
                Err(error) if Instant::now() >= end => {
                    return Err(error.context("PostgreSQL does not answer"));
                }
                Err(_starting) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Makes the database, and the roles as the containers' PostgreSQL makes them at its first
    /// start.
    fn roles(&self, owner: Owner) -> Result<()> {
        let make = format!("CREATE DATABASE {DATABASE}");
        self.connect("postgres", "postgres")?.script(&make, &[])?;
        let mut psql = self.connect("postgres", DATABASE)?;
        for (role, variable) in
            [("conntracct", "CONNTRACCT_PASSWORD_FILE"), ("grafana", "GRAFANA_PASSWORD_FILE")]
        {
            let file = secret(&self.folder, role, owner)?;
            psql = psql.with(variable, &file.display().to_string());
        }
        let roles = workspace::root().join("docker/postgres/roles.sql");
        let roles = fs::read_to_string(&roles).with_context(|| roles.display().to_string())?;
        psql.script(&roles, &[]).context("docker/postgres/roles.sql")
    }
}

/// Whom the server runs as: it refuses to be root.
#[derive(Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group).current_dir("/");
        }
        command
    }
}

/// Gives `folder` to a user who may own a server: ourselves, or in root's case the package's
/// `postgres`.
fn owner(folder: &Path) -> Result<Owner> {
    if !workspace::is_root() {
        return Ok(Owner(None));
    }
    let users = fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.context("there is no user postgres to run PostgreSQL as")?.split(':');
    let mut number = |skip| fields.nth(skip).and_then(|text| text.parse::<u32>().ok());
    let (Some(user), Some(group)) = (number(2), number(0)) else {
        bail!("the line of postgres in /etc/passwd has no numbers");
    };
    chown(folder, Some(user), Some(group)).context("could not give the folder to postgres")?;
    Ok(Owner(Some((user, group))))
}

/// A file with a new password, for its role's name; only its owner reads it.
fn secret(folder: &Folder, role: &str, owner: Owner) -> Result<PathBuf> {
    use std::io::Read;
    let mut random = [0_u8; 24];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.path().join(role);
    fs::write(&file, text + "\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    if let Some((user, group)) = owner.0 {
        chown(&file, Some(user), Some(group))?;
    }
    Ok(file)
}

/// Where `initdb` and `postgres` are: on the search path, or where Debian puts them, the newest.
fn programs() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    debian.sort();
    debian
        .into_iter()
        .rev()
        .map(|(_version, folder)| folder)
        .chain(std::env::split_paths(&path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .context("PostgreSQL is not installed (Debian: package postgresql)")
}
