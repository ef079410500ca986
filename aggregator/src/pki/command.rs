//! `conntracct-aggregator pki ...`: the authority on the command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flow::NodeName;
use jiff::Timestamp;

use super::authority::Authority;
use super::issued::{IssuedCertificate, Serial};

/// Make and manage the certificates of the aggregator and its nodes.
#[derive(Clone, Debug, clap::Args)]
pub struct PkiCommand {
    /// Folder of the authority's files.
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The authority's key, where it is not kept in that folder.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_key: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: PkiAction,
}

/// What to do with the authority.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum PkiAction {
    /// Make a new authority and the aggregator's certificate.
    Init {
        /// DNS name or IP address of the aggregator; may be repeated.
        #[arg(long = "san", value_name = "NAME")]
        sans: Vec<String>,
    },
    /// Issue a certificate to a node: one file to take there.
    Issue {
        /// The node's name.
        name: NodeName,
        /// Where to write the bundle [default: NAME.bundle].
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Issue another certificate to a node that has one.
        #[arg(long)]
        renew: bool,
    },
    /// Take a node's certificates back; its session ends within seconds.
    Revoke {
        /// The node's name.
        name: NodeName,
        /// Only the certificate with this serial.
        #[arg(long)]
        serial: Option<Serial>,
    },
    /// Show every certificate issued.
    List,
    /// Make a new certificate for the aggregator in place of the old one.
    RenewServer {
        /// DNS name or IP address of the aggregator; may be repeated.
        #[arg(long = "san", value_name = "NAME")]
        sans: Vec<String>,
    },
}

impl PkiCommand {
    /// Does it and prints the result; `default_dir` is used where no folder was named.
    ///
    /// # Errors
    /// What the authority says, or when the output cannot be written.
    pub fn run(self, default_dir: &Path) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        self.run_to(default_dir, Timestamp::now(), &mut out)
    }

    /// As [`PkiCommand::run`], at the time `now` and printing to `out`.
    ///
    /// # Errors
    /// As [`PkiCommand::run`].
    pub fn run_to(
        self,
        default_dir: &Path,
        now: Timestamp,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let dir = self.dir.unwrap_or_else(|| default_dir.to_owned());
        let mut authority = Authority::at(&dir);
        if let Some(key) = &self.ca_key {
            authority = authority.with_key(key);
        }
        match self.action {
            PkiAction::Init { sans } => {
                authority.init(&sans, now)?;
                told(out, self.json, "initialised", &dir)?;
                if !self.json {
                    writeln!(out, "Next: conntracct-aggregator pki issue NAME, for every node")?;
                }
            }
            PkiAction::RenewServer { sans } => {
                authority.renew_server(&sans, now)?;
                told(out, self.json, "renewed", &dir)?;
                if !self.json {
                    writeln!(out, "Send the aggregator SIGHUP: new connections then use it.")?;
                }
            }
            PkiAction::Issue { name, output, renew } => {
                let bundle = output.unwrap_or_else(|| PathBuf::from(format!("{name}.bundle")));
                let issued = authority.issue(&name, &bundle, renew, now)?;
                if self.json {
                    let mut value = as_json(&issued.certificate, now);
                    value["bundle"] = issued.bundle.display().to_string().into();
                    writeln!(out, "{value:#}")?;
                } else {
                    let file = issued.bundle.display();
                    let until = issued.certificate.not_after;
                    writeln!(out, "{file}: certificate and key of {name}, good until {until}")?;
                    writeln!(out, "It is a secret. Copy it to {name}, run there")?;
                    writeln!(out, "  conntracct-node join {file}")?;
                    writeln!(out, "and delete it here and there.")?;
                }
            }
            PkiAction::Revoke { name, serial } => {
                let revoked = authority.revoke(&name, serial, now)?;
                if self.json {
                    writeln!(out, "{:#}", json_list(&revoked, now))?;
                } else {
                    let serials: Vec<_> = revoked.iter().map(|c| c.serial.to_string()).collect();
                    writeln!(out, "{name} is locked out (serial {})", serials.join(", "))?;
                }
            }
            PkiAction::List => {
                let certificates = authority.list()?;
                if self.json {
                    writeln!(out, "{:#}", json_list(&certificates, now))?;
                } else {
                    table(out, &certificates, now)?;
                }
            }
        }
        Ok(())
    }
}

fn told(out: &mut dyn Write, json: bool, what: &str, dir: &Path) -> io::Result<()> {
    let dir = dir.display();
    if json {
        writeln!(out, "{:#}", serde_json::json!({ what: dir.to_string() }))
    } else {
        writeln!(out, "{dir}: {what}")
    }
}

fn table(
    out: &mut dyn Write,
    certificates: &[IssuedCertificate],
    now: Timestamp,
) -> io::Result<()> {
    if certificates.is_empty() {
        return writeln!(out, "No certificate issued yet: conntracct-aggregator pki issue NAME");
    }
    let width = certificates.iter().map(|c| c.name.as_str().len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:7}  {:20}  SERIAL", "NODE", "STATE", "GOOD UNTIL")?;
    for c in certificates {
        let (name, state) = (c.name.as_str(), c.standing(now).as_str());
        let until = c.not_after.to_string();
        writeln!(out, "{name:width$}  {state:7}  {until:20}  {}", c.serial)?;
    }
    Ok(())
}

fn json_list(certificates: &[IssuedCertificate], now: Timestamp) -> serde_json::Value {
    certificates.iter().map(|c| as_json(c, now)).collect()
}

fn as_json(c: &IssuedCertificate, now: Timestamp) -> serde_json::Value {
    serde_json::json!({
        "name": c.name.as_str(),
        "serial": c.serial.to_string(),
        "state": c.standing(now).as_str(),
        "issued_at": c.issued_at.to_string(),
        "not_after": c.not_after.to_string(),
        "revoked_at": c.revoked_at.map(|at| at.to_string()),
    })
}
