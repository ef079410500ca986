//! `conntracct-node join NAME.bundle`: installs the certificates and the key that
//! `conntracct-aggregator pki issue NAME` wrote.
//!
//! A bundle is one text file: a header line with the format's version, comments, and three PEM
//! blocks (authority, node certificate, node key). Everything is checked before anything is
//! written; an identity of another node or fleet is replaced only with `--force`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flow::NodeName;
use jiff::Timestamp;

use crate::tls::{Identity, IdentityError, IdentityPaths};

/// What every bundle starts with; the format's version follows.
const HEADER: &str = "# conntracct node bundle, format ";
/// The format this program reads.
const FORMAT: &str = "1";
/// Largest bundle read, in bytes; real ones have less than 3,000.
const MAX_BUNDLE: u64 = 64 << 10;

/// Install the certificates and key of a bundle written by `conntracct-aggregator pki issue`.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinCommand {
    /// The bundle.
    pub bundle: PathBuf,
    /// Folder to install into.
    #[arg(long, value_name = "DIR", default_value = IdentityPaths::DEFAULT_DIR)]
    pub dir: PathBuf,
    /// Replace the identity of another node or fleet.
    #[arg(long)]
    pub force: bool,
}

/// What [`join`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The node's name from now on.
    pub node: NodeName,
    /// When its certificate ends.
    pub not_after: Timestamp,
    /// The bundle it came from, to be deleted now.
    pub bundle: PathBuf,
    /// Where the files are.
    pub paths: IdentityPaths,
    /// The same identity was there before.
    pub unchanged: bool,
}

/// Why a bundle was not installed. Nothing was changed, unless the error says so.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The bundle cannot be read.
    #[error("cannot read the bundle {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no bundle.
    #[error(
        "{path} is not a node bundle ({problem}); `conntracct-aggregator pki issue NAME` writes one"
    )]
    NotABundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Its parts do not belong together.
    #[error("the bundle is damaged, nothing was changed")]
    Damaged(#[from] IdentityError),
    /// The node has another identity.
    #[error(
        "{dir} holds the identity of {old}, the bundle is that of {new}; nothing was changed, \
         --force replaces it"
    )]
    Other {
        /// The folder.
        dir: PathBuf,
        /// Whose identity is there.
        old: String,
        /// Whose is in the bundle.
        new: NodeName,
    },
    /// A file cannot be written.
    #[error("cannot write {path}; run this as root, or name another folder with --dir")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl JoinCommand {
    /// Does it and prints what to do next.
    ///
    /// # Errors
    /// As [`join`], or when the output cannot be written.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        Ok(join(&self.bundle, &self.dir, self.force)?.tell(out)?)
    }
}

impl Joined {
    /// Tells a person what was done and what to do next.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { node, not_after, bundle, paths, unchanged } = self;
        let dir = paths.ca.parent().unwrap_or_else(|| Path::new("."));
        let what = if *unchanged { "is" } else { "is now" };
        let keys = dir.display();
        writeln!(out, "This node {what} {node}, until {not_after}; its keys are in {keys}.")?;
        writeln!(out, "Delete {} here and where it came from.", bundle.display())?;
        writeln!(out, "Next:")?;
        if dir == Path::new(IdentityPaths::DEFAULT_DIR) {
            writeln!(out, "  conntracct-node --aggregator HOST:4433")
        } else {
            let (ca, cert, key) = (paths.ca.display(), paths.cert.display(), paths.key.display());
            writeln!(out, "  conntracct-node --aggregator HOST:4433 \\")?;
            writeln!(out, "    --ca {ca} --cert {cert} --key {key}")
        }
    }
}

/// Checks a bundle and installs it into `dir`.
///
/// # Errors
/// When it cannot be read, is no bundle, its parts do not belong together, another identity is
/// there and `force` is not given, or the folder cannot be written.
pub fn join(bundle: &Path, dir: &Path, force: bool) -> Result<Joined, JoinError> {
    let text = read(bundle)?;
    let not_a_bundle = |problem| JoinError::NotABundle { path: bundle.to_owned(), problem };
    let parts = Parts::parse(&text).map_err(not_a_bundle)?;
    let here = |part| PathBuf::from(format!("the {part} in {}", bundle.display()));
    let names = IdentityPaths {
        ca: here("authority's certificate"),
        cert: here("node's certificate"),
        key: here("key"),
    };
    let identity =
        Identity::parse(parts.ca.as_bytes(), parts.cert.as_bytes(), parts.key.as_bytes(), &names)?;
    let paths = IdentityPaths::in_dir(dir);
    let unchanged = match Identity::load(&paths) {
        Ok(old) if old.same_as(&identity) => true,
        // A new certificate of the same node and fleet is a renewal.
        Ok(old) if force || old.renewed_by(&identity) => false,
        Err(IdentityError::Missing { .. }) if none_exists(&paths) => false,
        Err(_) if force => false,
        Ok(old) => return Err(other(dir, &format!("node {}", old.node), &identity)),
        Err(_) => return Err(other(dir, "an unusable node", &identity)),
    };
    if !unchanged {
        install(&parts, dir, &paths)?;
    }
    let Identity { node, not_after, .. } = identity;
    Ok(Joined { node, not_after, bundle: bundle.to_owned(), paths, unchanged })
}

fn other(dir: &Path, old: &str, new: &Identity) -> JoinError {
    JoinError::Other { dir: dir.to_owned(), old: old.to_owned(), new: new.node.clone() }
}

fn none_exists(paths: &IdentityPaths) -> bool {
    [&paths.ca, &paths.cert, &paths.key].into_iter().all(|path| !path.exists())
}

/// The three PEM blocks of a bundle, as text.
struct Parts {
    ca: String,
    cert: String,
    key: String,
}

impl Parts {
    fn parse(text: &str) -> Result<Self, String> {
        let format = text.lines().next().and_then(|line| line.strip_prefix(HEADER));
        match format.map(str::trim) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(format!("it has format {other}, this program reads {FORMAT}"));
            }
            None => return Err("its first line is not a bundle's".to_owned()),
        }
        let blocks = blocks(text)?;
        match <[_; 3]>::try_from(blocks) {
            Ok([("CERTIFICATE", ca), ("CERTIFICATE", cert), ("PRIVATE KEY", key)]) => {
                Ok(Self { ca, cert, key })
            }
            _ => Err("it is not two certificates and a key".to_owned()),
        }
    }
}

/// The PEM blocks of a text (RFC 7468) with their labels; between them only comments and empty
/// lines may stand.
fn blocks(text: &str) -> Result<Vec<(&str, String)>, String> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim_end) {
        let begins = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        let ends = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----"));
        match (&mut open, begins, ends) {
            (None, Some(label), _) => open = Some((label, format!("{line}\n"))),
            (None, None, None) if line.is_empty() || line.starts_with('#') => {}
            (Some((label, block)), None, end) if end.is_none_or(|end| end == *label) => {
                block.push_str(line);
                block.push('\n');
                if end.is_some() {
                    blocks.extend(open.take());
                }
            }
            _ => return Err(format!("unexpected line {line:?}")),
        }
    }
    if open.is_some() { Err("it ends in the middle of a part".to_owned()) } else { Ok(blocks) }
}

fn read(path: &Path) -> Result<String, JoinError> {
    let unreadable = |source| JoinError::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BUNDLE + 1).read_to_end(&mut text).map_err(unreadable)?;
    let not_a_bundle = |problem: &str| JoinError::NotABundle {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    if text.len() as u64 > MAX_BUNDLE {
        return Err(not_a_bundle("it is too large"));
    }
    String::from_utf8(text).map_err(|_binary| not_a_bundle("it is not text"))
}

/// Writes all three beside their places first, so that a full disk changes nothing.
fn install(parts: &Parts, dir: &Path, paths: &IdentityPaths) -> Result<(), JoinError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|source| JoinError::Unwritable { path: dir.to_owned(), source })?;
    let files = [
        (&paths.key, &parts.key, 0o600),
        (&paths.cert, &parts.cert, 0o644),
        (&paths.ca, &parts.ca, 0o644),
    ];
    let unwritable = |path: &Path, source| JoinError::Unwritable { path: path.to_owned(), source };
    for (path, content, mode) in files {
        let fresh = beside(path);
        let _ = fs::remove_file(&fresh);
        write(&fresh, content, mode).map_err(|source| unwritable(&fresh, source))?;
    }
    for (path, ..) in files {
        fs::rename(beside(path), path).map_err(|source| unwritable(path, source))?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| unwritable(dir, source))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        SanType,
    };

    use super::*;

    struct Fleet {
        ca: String,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Fleet {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let ca = params.self_signed(&key).unwrap().pem();
            Self { issuer: Issuer::from_ca_cert_pem(&ca, key).unwrap(), ca }
        }

        fn certificate(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
            let mut params = CertificateParams::default();
            let uri = format!("conntracct:node:{name}");
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
        }

        fn bundle(&self, name: &str) -> String {
            let (cert, key) = self.certificate(name, ExtendedKeyUsagePurpose::ClientAuth);
            format!("{HEADER}{FORMAT}\n# node: {name}\n{}{cert}{key}", self.ca)
        }
    }

    fn try_join(dir: &Path, text: &str, force: bool) -> Result<Joined, JoinError> {
        let bundle = dir.join("a.bundle");
        fs::write(&bundle, text).unwrap();
        join(&bundle, &dir.join("pki"), force)
    }

    #[test]
    fn a_bundle_becomes_an_identity_with_a_private_key() {
        let dir = tempfile::tempdir().unwrap();
        let text = Fleet::new().bundle("gw1");
        let joined = try_join(dir.path(), &text, false).unwrap();
        assert_eq!((joined.node.as_str(), joined.unchanged), ("gw1", false));
        assert_eq!(Identity::load(&joined.paths).unwrap().node.as_str(), "gw1");
        let mode = fs::metadata(&joined.paths.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("pki")).unwrap().count(), 3);
        assert!(try_join(dir.path(), &text, false).unwrap().unchanged);

        let mut told = Vec::new();
        joined.tell(&mut told).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert!(told.starts_with("This node is now gw1, until "), "{told}");
        assert!(told.contains(&format!("--key {}", joined.paths.key.display())), "{told}");
    }

    #[test]
    fn another_identity_is_replaced_only_by_force_and_a_renewal_without() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::new();
        let first = try_join(dir.path(), &fleet.bundle("gw1"), false).unwrap();
        let before = fs::read(&first.paths.cert).unwrap();
        for other in [fleet.bundle("gw2"), Fleet::new().bundle("gw1")] {
            let refused = try_join(dir.path(), &other, false).unwrap_err();
            assert!(matches!(refused, JoinError::Other { .. }), "{refused}");
            assert!(refused.to_string().contains("node gw1"), "{refused}");
            assert_eq!(fs::read(&first.paths.cert).unwrap(), before);
        }
        let renewed = try_join(dir.path(), &fleet.bundle("gw1"), false).unwrap();
        assert!(!renewed.unchanged);
        let forced = try_join(dir.path(), &fleet.bundle("gw2"), true).unwrap();
        assert_eq!(forced.node.as_str(), "gw2");
    }

    #[test]
    fn damaged_bundles_change_nothing_and_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::new();
        let good = fleet.bundle("gw1");
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let (cert, key) = fleet.certificate("gw1", client.clone());
        let (_, other_key) = fleet.certificate("gw1", client);
        let (foreign, foreign_key) = {
            let other = Fleet::new();
            other.certificate("gw1", ExtendedKeyUsagePurpose::ClientAuth)
        };
        let (server, server_key) = fleet.certificate("gw1", ExtendedKeyUsagePurpose::ServerAuth);
        let head = format!("{HEADER}{FORMAT}\n{}", fleet.ca);
        let cases = [
            (good.replace("format 1", "format 2"), "format 2"),
            (good.replace("# conntracct", "# something"), "first line"),
            (good.replace("-----END PRIVATE KEY-----\n", ""), "middle of a part"),
            (good.replace("-----BEGIN PRIVATE", "rm -rf\n-----BEGIN PRIVATE"), "unexpected line"),
            (format!("{good}{cert}"), "two certificates and a key"),
            (good.replace('\n', " "), "format 1 # node"),
            ("x".repeat(100_000), "too large"),
            (format!("{head}{cert}{other_key}"), "is not the key of"),
            (format!("{head}{foreign}{foreign_key}"), "was not issued by the authority"),
            (format!("{head}{server}{server_key}"), "for another use"),
            (format!("{head}{}{key}", fleet.ca), "not a node's certificate"),
        ];
        for (text, told) in cases {
            let error = anyhow::Error::from(try_join(dir.path(), &text, true).unwrap_err());
            let chain = format!("{error:#}");
            assert!(chain.contains(told), "{chain}");
            assert!(!dir.path().join("pki").exists());
        }
    }

    #[test]
    fn missing_keys_name_the_folder_and_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let error = Identity::load(&IdentityPaths::in_dir(dir.path())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no keys in {}", dir.path().display())), "{error}");
        assert!(error.contains("conntracct-node join NAME.bundle"), "{error}");
    }
}
