//! The keys that connections to the aggregator are made with, and reading them anew while the
//! node runs.

use tokio::sync::watch;

use crate::tls::{
    Certificates, ConfigError, Holder, HostCheck, Identity, IdentityError, IdentityPaths,
    client_config,
};

/// The keys in use. A connection takes what is current when it begins.
pub(crate) struct Keys {
    identity: Identity,
    configs: watch::Sender<quinn::ClientConfig>,
    certificates: Certificates,
}

/// Why keys could not be taken into use; those before stay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// They are not there, or do not belong together.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// They are of a kind that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// They are another node's.
    #[error(
        "the certificate names node {found} and this process runs as {node}; restart it to run \
         as {found}"
    )]
    OtherNode {
        /// The name this process runs under.
        node: flow::NodeName,
        /// The name in the certificate.
        found: flow::NodeName,
    },
}

impl Keys {
    /// Takes an identity into use. What connections are made with is in the receiver.
    pub(crate) fn of(
        identity: Identity,
        certificates: Certificates,
    ) -> Result<(Self, watch::Receiver<quinn::ClientConfig>), ConfigError> {
        let (configs, current) = watch::channel(client_config(&identity, HostCheck::UriOnly)?);
        let keys = Self { identity, configs, certificates };
        keys.note();
        Ok((keys, current))
    }

    /// Reads the files anew. What of them is not as before; the next connection uses it.
    ///
    /// # Errors
    /// When they cannot be used, or are another node's; the keys before stay in use.
    pub(crate) fn read(&mut self, paths: &IdentityPaths) -> Result<Vec<String>, KeysError> {
        let fresh = Identity::load(paths)?;
        if fresh.node != self.identity.node {
            let (node, found) = (self.identity.node.clone(), fresh.node);
            return Err(KeysError::OtherNode { node, found });
        }
        let mut changed = Vec::new();
        if !self.identity.has_certificate_of(&fresh) {
            changed.push(format!("node certificate (until {})", fresh.not_after));
        }
        if !self.identity.has_authority_of(&fresh) {
            changed.push("CA certificate".to_owned());
        }
        self.configs.send_replace(client_config(&fresh, HostCheck::UriOnly)?);
        self.identity = fresh;
        self.note();
        Ok(changed)
    }

    fn note(&self) {
        self.certificates.note(Holder::Node, self.identity.not_after);
        if let Some(ends) = self.identity.authority_not_after() {
            self.certificates.note(Holder::Authority, ends);
        }
    }
}
