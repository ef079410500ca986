//! A PostgreSQL of our own with the database and the roles that the containers have.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use testdb::{DATABASE, ROLE, SUPERUSER, Setup};

use super::psql::Psql;
use crate::up::Folder;
use crate::workspace;

/// A running server. Dropping it ends it and deletes everything.
pub(super) struct Server {
    server: testdb::Server,
    /// Each role's password.
    secrets: Folder,
}

impl Server {
    /// Makes and starts one. It ends with the calling thread.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub(super) fn start() -> Result<Self> {
        let access = format!("local all {SUPERUSER} trust\nlocal all all scram-sha-256\n");
        let setup = Setup { access: Some(access), ..Setup::default() };
        // Its data need not survive anything.
        let setup = setup.set("fsync", "off").set("max_wal_size", "4GB");
        let server = testdb::Server::with(setup).context("PostgreSQL did not start")?;
        let server = Self { server, secrets: Folder::make(false)? };
        server.roles()?;
        Ok(server)
    }

    /// The database as `role` (conntracct or grafana) sees it.
    ///
    /// # Errors
    /// The role has no password here.
    pub(super) fn psql(&self, role: &str) -> Result<Psql> {
        let file = self.secrets.path().join(role);
        let password = fs::read_to_string(&file)
            .with_context(|| format!("the role {role} has no password"))?;
        Ok(self.connect(role).with("PGPASSWORD", password.trim()))
    }

    /// Stops it.
    ///
    /// # Errors
    /// It did not stop in order.
    pub(super) fn stop(mut self) -> Result<()> {
        Ok(self.server.shut_down()?)
    }

    fn connect(&self, role: &str) -> Psql {
        let socket = self.server.socket();
        let folder = socket.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
        Psql::variables(vec![
            ("PGHOST", folder),
            ("PGPORT", self.server.port().to_string()),
            ("PGUSER", role.to_owned()),
            ("PGDATABASE", DATABASE.to_owned()),
        ])
    }

    /// Makes the database, and the roles as the containers' PostgreSQL makes them at its first
    /// start: those that every server of tests has make room.
    fn roles(&self) -> Result<()> {
        for statement in [
            format!("DROP DATABASE {DATABASE}"),
            format!("DROP ROLE {ROLE}"),
            format!("CREATE DATABASE {DATABASE}"),
        ] {
            self.server.sql("postgres", &statement)?;
        }
        let mut psql = self.connect(SUPERUSER);
        for (role, variable) in
            [("conntracct", "CONNTRACCT_PASSWORD_FILE"), ("grafana", "GRAFANA_PASSWORD_FILE")]
        {
            psql = psql.with(variable, &self.secret(role)?.display().to_string());
        }
        let roles = workspace::root().join("docker/postgres/roles.sql");
        let roles = fs::read_to_string(&roles).with_context(|| roles.display().to_string())?;
        psql.script(&roles, &[]).context("docker/postgres/roles.sql")
    }

    /// A file with a new password, for its role's name; only we read it.
    fn secret(&self, role: &str) -> Result<PathBuf> {
        let mut random = [0_u8; 24];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.secrets.path().join(role);
        let mut file =
            fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, (text + "\n").as_bytes())?;
        Ok(path)
    }
}
