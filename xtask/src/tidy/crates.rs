//! Rules about crates: what may be in the tree, which way dependencies point, what manifests say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;
use crate::workspace::{self, cargo};

/// Nowhere in the tree.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-sys", "one crypto provider: ring"),
    ("aws-lc-rs", "one crypto provider: ring"),
    ("openssl-sys", "one TLS stack: rustls"),
    ("native-tls", "one TLS stack: rustls"),
    ("rusqlite", "one libsqlite3: sqlx's"),
    ("actix-web", "one HTTP server: axum"),
];

/// Crates of the pure domain, and what must never be below them.
const PURE: &[&str] = &["conntracct-flow", "conntracct-wire"];
const IMPURE: &[&str] = &["tokio", "actix", "sqlx", "aya", "quinn", "axum"];

/// Crates that only the named workspace members may depend on directly.
const CONFINED: &[(&str, &[&str])] = &[
    ("actix", &["conntracct-node"]),
    ("aya", &["conntracct-node"]),
    ("bincode", &["conntracct-wire"]),
    ("sqlx", &["conntracct-aggregator", "conntracct-sim"]),
    ("anyhow", &["conntracct-node", "conntracct-aggregator", "conntracct-sim", "xtask"]),
];

/// What `cargo metadata` says, as far as the rules ask.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Dependency {
    /// Part of what the crate is built from, not of its tests alone.
    fn is_normal(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

pub(super) fn check() -> Result<Vec<Finding>> {
    let said = workspace::output(&mut cargo(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Metadata =
        serde_json::from_slice(&said).context("cargo metadata does not say what we expect")?;
    let mut findings = Vec::new();
    tree(&metadata, &mut findings);
    for id in &metadata.workspace_members {
        let Some(package) = metadata.packages.iter().find(|package| package.id == *id) else {
            continue;
        };
        let text = fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("could not read {}", package.manifest_path))?;
        manifest(package, &text, &mut findings)?;
    }
    Ok(findings)
}

fn tree(metadata: &Metadata, findings: &mut Vec<Finding>) {
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let name = |id: &str| names.get(id).copied().unwrap_or_default().to_owned();
    let mut found = |file: String, what: String| findings.push(Finding { file, line: 0, what });
    for (banned, why) in BANNED {
        for node in nodes.values() {
            if node.deps.iter().any(|dependency| name(&dependency.pkg) == *banned) {
                found("Cargo.lock".into(), format!("{} needs {banned}: {why}", name(&node.id)));
            }
        }
    }
    for id in &metadata.workspace_members {
        let member = name(id);
        let manifest = format!("{member} (Cargo.toml)");
        if PURE.contains(&member.as_str()) {
            for below in closure(id, &nodes) {
                let below = name(below);
                if IMPURE.iter().any(|bad| below == *bad || below.starts_with(&format!("{bad}-"))) {
                    found(manifest.clone(), format!("has {below} in its tree; it must stay pure"));
                }
            }
        }
        let direct = nodes.get(id.as_str()).map_or(&[][..], |node| node.deps.as_slice());
        for (confined, allowed) in CONFINED {
            let used = direct.iter().any(|d| d.is_normal() && name(&d.pkg) == *confined);
            if used && !allowed.contains(&member.as_str()) {
                let allowed = allowed.join(", ");
                found(manifest.clone(), format!("depends on {confined}; only {allowed} may"));
            }
        }
    }
}

/// All crates that `id` is built from, itself left out.
fn closure<'a>(id: &str, nodes: &BTreeMap<&str, &'a Node>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&'a Node> = nodes.get(id).copied().into_iter().collect();
    while let Some(node) = open.pop() {
        for dependency in node.deps.iter().filter(|dependency| dependency.is_normal()) {
            if seen.insert(dependency.pkg.as_str()) {
                open.extend(nodes.get(dependency.pkg.as_str()).copied());
            }
        }
    }
    seen
}

fn manifest(package: &Package, text: &str, findings: &mut Vec<Finding>) -> Result<()> {
    let table: toml::Table =
        text.parse().with_context(|| format!("could not parse {}", package.manifest_path))?;
    let mut found = |what: &str| {
        let file = format!("{} (Cargo.toml)", package.name);
        findings.push(Finding { file, line: 0, what: what.to_owned() });
    };
    let inherits = |table: Option<&toml::Value>, key: &str| {
        table.and_then(|v| v.get(key)).and_then(toml::Value::as_bool) == Some(true)
    };
    if !inherits(table.get("lints"), "workspace") {
        found("does not inherit the lints: add `[lints] workspace = true`");
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if !inherits(table.get("package").and_then(|p| p.get(key)), "workspace") {
            found(&format!("does not inherit `{key}`: write `{key}.workspace = true`"));
        }
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = table.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        for (name, value) in dependencies {
            if !inherits(Some(value), "workspace") {
                found(&format!("{section}: {name} has a version of its own: name it in the root"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(edges: &[(&str, &str, &str)], members: &[&str]) -> Metadata {
        let mut names: BTreeSet<&str> = members.iter().copied().collect();
        names.extend(edges.iter().flat_map(|(from, to, _)| [*from, *to]));
        let package = |name: &&str| Package {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            manifest_path: String::new(),
        };
        let node = |name: &&str| Node {
            id: (*name).to_owned(),
            deps: edges
                .iter()
                .filter(|(from, ..)| from == name)
                .map(|(_, to, kind)| Dependency {
                    pkg: (*to).to_owned(),
                    dep_kinds: vec![DependencyKind {
                        kind: (!kind.is_empty()).then(|| (*kind).to_owned()),
                    }],
                })
                .collect(),
        };
        Metadata {
            packages: names.iter().map(package).collect(),
            workspace_members: members.iter().map(|m| (*m).to_owned()).collect(),
            resolve: Resolve { nodes: names.iter().map(node).collect() },
        }
    }

    fn findings(edges: &[(&str, &str, &str)], members: &[&str]) -> Vec<String> {
        let mut out = Vec::new();
        tree(&metadata(edges, members), &mut out);
        out.into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn banned_crates_are_found_however_deep() {
        let deep = [("conntracct-node", "reqwest", ""), ("reqwest", "native-tls", "")];
        let found = findings(&deep, &["conntracct-node"]);
        assert_eq!(found, ["Cargo.lock: reqwest needs native-tls: one TLS stack: rustls"]);
    }

    #[test]
    fn the_pure_crates_stay_pure_but_their_tests_may_do_more() {
        let deep = [("conntracct-wire", "x", ""), ("x", "tokio-util", "")];
        assert_eq!(findings(&deep, &["conntracct-wire"]).len(), 1);
        let tests = [("conntracct-wire", "tokio", "dev")];
        assert_eq!(findings(&tests, &["conntracct-wire"]), [""; 0]);
    }

    #[test]
    fn actix_belongs_to_the_node() {
        assert_eq!(findings(&[("conntracct-node", "actix", "")], &["conntracct-node"]).len(), 0);
        assert_eq!(
            findings(&[("conntracct-aggregator", "actix", "")], &["conntracct-aggregator"]).len(),
            1
        );
    }

    #[test]
    fn manifests_inherit() {
        let package =
            Package { id: "a".into(), name: "a".into(), manifest_path: "a/Cargo.toml".into() };
        let mut found = Vec::new();
        manifest(&package, "[package]\nversion = \"1\"\n[dependencies]\nx = \"1\"", &mut found)
            .unwrap();
        assert_eq!(found.len(), 7, "{found:?}");
        assert!(manifest(&package, "not toml", &mut found).is_err());
    }
}
