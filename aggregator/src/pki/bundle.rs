//! The one file that enrols a node: the authority's certificate, the node's certificate and the
//! node's key, as PEM blocks under a header that `conntracct-node join` checks.

use flow::NodeName;

/// First line of every bundle; the number is the format's version.
const HEADER: &str = "# conntracct node bundle, format 1";

/// A bundle's text. It contains a private key.
pub(super) fn compose(name: &NodeName, ca: &str, certificate: &str, key: &str) -> String {
    format!(
        "{HEADER}\n# node: {name}\n# Contains the node's private key. On the node run\n\
         #   conntracct-node join {name}.bundle\n# and delete this file everywhere.\n\
         {ca}{certificate}{key}"
    )
}
