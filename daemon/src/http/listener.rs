//! Where the HTTP listener is and who may ask: the configuration, parsed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Origins, Strings};

/// The `[api]` section as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawApi {
    /// Names under which clients may ask, besides addresses and `localhost`.
    pub hosts: Strings,
    /// The file with the token that clients must show.
    pub token_file: Option<PathBuf>,
    /// The certificate chain for TLS, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// A legal listener. Off loopback it has TLS and a token, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where to listen: one address, or both of `localhost`.
    pub addresses: Vec<SocketAddr>,
    /// The names in `Host` that are answered besides the addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The token's file, where one must be shown.
    pub token: Option<PathBuf>,
    /// Certificate and key, where TLS is spoken.
    pub tls: Option<TlsFiles>,
}

/// A certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

/// When a token must be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRule {
    /// Everywhere.
    Always,
    /// On any address that is not of this machine alone.
    OffLoopback,
}

impl RawApi {
    /// Parses `endpoint` (the value of `api_endpoint`) and the section.
    ///
    /// # Errors
    /// An address that is none, half a pair of TLS files, an address off loopback without TLS.
    pub fn parse(
        &self,
        endpoint: &str,
        rule: TokenRule,
        state_dir: &Path,
        origins: &Origins,
    ) -> Result<Listener, ConfigError> {
        let addresses =
            addresses(endpoint).map_err(|problem| origins.bad("api_endpoint", problem))?;
        let tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.clone(), key: key.clone() }),
            (None, None) => None,
            (Some(_), None) => return Err(origins.bad("api.cert", "needs `api.key` beside it")),
            (None, Some(_)) => return Err(origins.bad("api.key", "needs `api.cert` beside it")),
        };
        let loopback = addresses.iter().all(|address| address.ip().is_loopback());
        if !loopback && tls.is_none() {
            let problem = format!(
                "is {endpoint:?}, which others can reach: set `api.cert` and `api.key` for TLS, \
                 or use a loopback address like \"localhost:8000\""
            );
            return Err(origins.bad("api_endpoint", problem));
        }
        let wanted = rule == TokenRule::Always || !loopback || self.token_file.is_some();
        let token = || self.token_file.clone().unwrap_or_else(|| state_dir.join(TOKEN_FILE));
        let hosts = self.hosts.0.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Listener { addresses, hosts, token: wanted.then(token), tls })
    }
}

impl Listener {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().all(|address| address.ip().is_loopback())
    }
}

/// Where the token is kept, in the state folder, unless configured.
const TOKEN_FILE: &str = "http-token";

fn addresses(endpoint: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = endpoint.parse() {
        return Ok(vec![address]);
    }
    let local = endpoint.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
    let Some(port) = local else {
        return Err(format!(
            "is {endpoint:?}, but must be ADDRESS:PORT or localhost:PORT, like \"localhost:8000\", \
             \"127.0.0.1:8000\" or \"[::1]:8000\""
        ));
    };
    let hosts: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    Ok(hosts.map(|host| SocketAddr::new(host, port)).to_vec())
}
