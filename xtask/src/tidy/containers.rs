//! Rules about `docker/` and `grafana/provisioning`: whatever one file names in another is there.
//! No container engine runs these files before a user does, so at least no name in them is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use yaml_rust2::{Yaml, YamlLoader};

use super::Finding;

const COMPOSE: &str = "docker/compose.yaml";
const DOCKERFILE: &str = "docker/Dockerfile";
const ENV: &str = "docker/.env";
const DOCUMENT: &str = "docs/docker.md";
const DATA_SOURCE: &str = "grafana/provisioning/datasources/conntracct.yaml";
const PROVIDER: &str = "grafana/provisioning/dashboards/conntracct.yaml";
const PROMETHEUS: &str = "docker/prometheus/prometheus.yml";
/// Whose keys the variables of our own images must be, by build stage.
const EXAMPLES: [(&str, &str); 2] =
    [("aggregator", "docs/examples/aggregator.toml"), ("node", "docs/examples/node.toml")];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let files =
        [COMPOSE, DOCKERFILE, ENV, DOCUMENT, DATA_SOURCE, PROVIDER, PROMETHEUS, ".gitignore"];
    let files = files.into_iter().chain(EXAMPLES.map(|(_stage, file)| file));
    let read = |file: &'static str| -> Result<_> {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        Ok((file, text))
    };
    let texts = files.map(read).collect::<Result<_>>()?;
    Look { texts, exists: &|path| root.join(path).exists(), findings: Vec::new() }.run()
}

struct Look<'a> {
    texts: BTreeMap<&'static str, String>,
    exists: &'a dyn Fn(&str) -> bool,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn run(mut self) -> Result<Vec<Finding>> {
        let compose = self.yaml(COMPOSE)?;
        let stages = self.stages();
        self.variables();
        let mut used = (BTreeSet::new(), BTreeSet::new());
        for (name, service) in table(&compose["services"]) {
            self.image(&name, service, &stages);
            self.environment(&name, service);
            used.0.extend(self.volumes(&name, service));
            used.1.extend(texts(&service["secrets"]));
            for (other, condition) in table(&service["depends_on"]) {
                self.depends(&name, &other, condition, &compose["services"], &stages);
            }
        }
        self.declared("volume", &used.0, &compose["volumes"]);
        self.declared("secret", &used.1, &compose["secrets"]);
        for (name, secret) in table(&compose["secrets"]) {
            self.secret(&name, text(&secret["file"]));
        }
        self.grafana(&compose["services"]["grafana"])?;
        self.prometheus(&compose["services"]["prometheus"])?;
        Ok(self.findings)
    }

    fn text(&self, file: &str) -> &str {
        self.texts.get(file).map_or("", String::as_str)
    }

    fn yaml(&self, file: &str) -> Result<Yaml> {
        let documents =
            YamlLoader::load_from_str(self.text(file)).with_context(|| file.to_owned())?;
        documents.into_iter().next().with_context(|| format!("{file} is empty"))
    }

    fn ensure(&mut self, good: bool, file: &str, what: impl FnOnce() -> String) {
        if !good {
            self.findings.push(Finding { file: file.to_owned(), line: 0, what: what() });
        }
    }

    /// The Dockerfile's stages, each with whether it has a health check of its own.
    fn stages(&mut self) -> BTreeMap<String, bool> {
        let mut stages = BTreeMap::new();
        let mut last = String::new();
        for line in self.text(DOCKERFILE).to_owned().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["FROM", from, "AS", name] = words[..] {
                let known = from.contains(':') || stages.contains_key(from);
                self.ensure(known, DOCKERFILE, || {
                    format!("no stage {from} before this one: {line}")
                });
                last = name.to_owned();
                stages.insert(last.clone(), false);
            } else if let ["COPY", from, source, _to] = words[..] {
                let stage = from.strip_prefix("--from=").unwrap_or_default();
                let known = stages.contains_key(stage);
                self.ensure(known, DOCKERFILE, || format!("no stage {stage:?}: {line}"));
                let made = source.rsplit('/').next().unwrap_or_default();
                let made = self.text(DOCKERFILE).contains(&format!("target/release/{made}"));
                self.ensure(made, DOCKERFILE, || format!("nothing makes {source}: {line}"));
            } else if words.first() == Some(&"HEALTHCHECK") {
                stages.insert(last.clone(), true);
            }
        }
        stages
    }

    /// Every `${NAME}` has a value, and every value a use.
    fn variables(&mut self) {
        let compose = self.text(COMPOSE).to_owned();
        let used: BTreeSet<&str> =
            compose.split("${").skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let env = self.text(ENV).to_owned();
        let lines = env.lines().filter(|line| !line.starts_with('#'));
        let set: BTreeSet<&str> = lines.filter_map(|line| Some(line.split_once('=')?.0)).collect();
        for name in used.difference(&set) {
            self.ensure(false, COMPOSE, || format!("${{{name}}} has no value in {ENV}"));
        }
        for name in set.difference(&used).filter(|name| **name != "COMPOSE_PROJECT_NAME") {
            self.ensure(false, ENV, || format!("{name} is used nowhere in {COMPOSE}"));
        }
    }

    fn image(&mut self, name: &str, service: &Yaml, stages: &BTreeMap<String, bool>) {
        let build = &service["build"];
        if build.is_badvalue() {
            let pinned =
                text(&service["image"]).split_once(':').is_some_and(|(_, tag)| tag != "latest");
            self.ensure(pinned, COMPOSE, || format!("{name}: an image without a version"));
            return;
        }
        let folder = join("docker", text(&build["context"]));
        let file = join(&folder, text(&build["dockerfile"]));
        self.ensure(file == DOCKERFILE, COMPOSE, || format!("{name}: no Dockerfile at {file}"));
        let target = text(&build["target"]);
        let known = stages.contains_key(target);
        self.ensure(known, COMPOSE, || format!("{name}: {DOCKERFILE} has no stage {target}"));
    }

    /// Secrets that are named are given, and variables of our programs are keys of theirs.
    fn environment(&mut self, name: &str, service: &Yaml) {
        let given: BTreeSet<String> = texts(&service["secrets"]).collect();
        let example =
            EXAMPLES.iter().find(|(stage, _)| text(&service["build"]["target"]) == *stage);
        for (variable, value) in table(&service["environment"]) {
            if let Some(secret) = text(value).strip_prefix("/run/secrets/") {
                let known = given.contains(secret);
                self.ensure(known, COMPOSE, || format!("{name} is not given the secret {secret}"));
            }
            let key = variable.strip_prefix("CONNTRACCT_").map(str::to_lowercase);
            if let (Some((_, example)), Some(key)) = (example, key) {
                let last = key.rsplit("__").next().unwrap_or_default().to_owned();
                let known = self
                    .text(example)
                    .lines()
                    .any(|line| line.trim_start_matches('#').starts_with(&format!("{last} = ")));
                self.ensure(known, COMPOSE, || format!("{name}: {variable}: no key in {example}"));
            }
        }
    }

    /// Paths that are mounted exist; gives the named volumes.
    fn volumes(&mut self, name: &str, service: &Yaml) -> Vec<String> {
        let mut named = Vec::new();
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            if source.starts_with('.') {
                let path = join("docker", source);
                let there = (self.exists)(&path);
                self.ensure(there, COMPOSE, || format!("{name} mounts {path}, which is not there"));
            } else if !source.starts_with('/') {
                named.push(source.to_owned());
            }
        }
        named
    }

    fn depends(
        &mut self,
        name: &str,
        other: &str,
        condition: &Yaml,
        services: &Yaml,
        stages: &BTreeMap<String, bool>,
    ) {
        let service = &services[other];
        self.ensure(!service.is_badvalue(), COMPOSE, || format!("{name}: no service {other}"));
        if text(&condition["condition"]) == "service_healthy" {
            let in_image = stages.get(text(&service["build"]["target"])) == Some(&true);
            let checked = in_image || !service["healthcheck"].is_badvalue();
            self.ensure(checked, COMPOSE, || {
                format!("{name} waits for the health of {other}, which nothing checks")
            });
        }
    }

    fn declared(&mut self, kind: &str, used: &BTreeSet<String>, declared: &Yaml) {
        let declared: BTreeSet<String> = table(declared).map(|(name, _)| name).collect();
        for name in used.symmetric_difference(&declared) {
            let missing = if used.contains(name) { "declared" } else { "used" };
            self.ensure(false, COMPOSE, || format!("the {kind} {name} is not {missing}"));
        }
    }

    /// A secret's file is nowhere in git, and the document says how it is made.
    fn secret(&mut self, name: &str, file: &str) {
        let path = join("docker", file);
        let hidden = path.starts_with("docker/secrets/")
            && self.text(".gitignore").lines().any(|line| line == "/docker/secrets");
        self.ensure(hidden, COMPOSE, || {
            format!("{path} holds a secret, and git does not ignore it")
        });
        let told = self.text(DOCUMENT).contains(name);
        self.ensure(told, DOCUMENT, || format!("does not say how the secret {name} is made"));
    }

    /// What Grafana's provisioning takes from its surroundings is there.
    fn grafana(&mut self, service: &Yaml) -> Result<()> {
        let source = self.text(DATA_SOURCE).to_owned();
        for line in source.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some((_, name)) = line.split_once('$') else { continue };
            let given = if let Some(file) = name.strip_prefix("__file{/run/secrets/") {
                texts(&service["secrets"]).any(|secret| file == format!("{secret}}}"))
            } else {
                !service["environment"][name.trim()].is_badvalue()
            };
            self.ensure(given, DATA_SOURCE, || format!("the service grafana is not given ${name}"));
        }
        let uid = text(&self.yaml(DATA_SOURCE)?["datasources"][0]["uid"]).to_owned();
        let asked = crate::dashboards::DATA_SOURCE;
        self.ensure(uid == asked, DATA_SOURCE, || {
            format!("the dashboards ask for {asked}, not {uid}")
        });
        let mounts: Vec<String> = texts(&service["volumes"]).collect();
        let mounted = |path: &str| {
            mounts.iter().any(|m| m.split(':').nth(1).is_some_and(|at| path.starts_with(at)))
        };
        let folder = text(&self.yaml(PROVIDER)?["providers"][0]["options"]["path"]).to_owned();
        self.ensure(mounted(&folder), PROVIDER, || format!("nothing is mounted at {folder}"));
        let home = text(&service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]);
        let home = home.replace(&folder, "grafana/dashboards");
        let there = (self.exists)(&home);
        self.ensure(there, COMPOSE, || format!("the home dashboard {home} is not there"));
        Ok(())
    }

    /// The token that Prometheus shows lies in one of its volumes.
    fn prometheus(&mut self, service: &Yaml) -> Result<()> {
        let config = self.yaml(PROMETHEUS)?;
        let mounts: Vec<String> = texts(&service["volumes"]).collect();
        for job in config["scrape_configs"].as_vec().into_iter().flatten() {
            let Some(token) = job["authorization"]["credentials_file"].as_str() else { continue };
            let mounted =
                mounts.iter().any(|m| m.split(':').nth(1).is_some_and(|at| token.starts_with(at)));
            self.ensure(mounted, PROMETHEUS, || format!("{token} is in no volume of prometheus"));
        }
        Ok(())
    }
}

fn text(yaml: &Yaml) -> &str {
    yaml.as_str().unwrap_or_default()
}

fn texts(yaml: &Yaml) -> impl Iterator<Item = String> + use<> {
    let items = yaml.as_vec().cloned().unwrap_or_default();
    items.into_iter().filter_map(Yaml::into_string)
}

fn table(yaml: &Yaml) -> impl Iterator<Item = (String, &Yaml)> {
    let entries = yaml.as_hash().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value)))
}

/// A path seen from the root, with `.` and `..` resolved.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// What is found when in `file` every `from` becomes `to`.
    fn findings(file: &'static str, from: &str, to: &str) -> String {
        let root = workspace::root();
        let names =
            [COMPOSE, DOCKERFILE, ENV, DOCUMENT, DATA_SOURCE, PROVIDER, PROMETHEUS, ".gitignore"];
        let names = names.into_iter().chain(EXAMPLES.map(|(_, file)| file));
        let mut texts: BTreeMap<&'static str, String> =
            names.map(|name| (name, fs::read_to_string(root.join(name)).unwrap())).collect();
        let broken = texts.get_mut(file).unwrap();
        assert!(broken.contains(from), "{file} has no {from:?}");
        *broken = broken.replace(from, to);
        let exists = |path: &str| root.join(path).exists();
        let look = Look { texts, exists: &exists, findings: Vec::new() };
        look.run().unwrap().iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn ours_are_right() {
        assert_eq!(findings(COMPOSE, "services:", "services:"), "");
    }

    #[test]
    fn every_rule_can_be_broken() {
        for (file, from, to, what) in [
            (COMPOSE, "target: node", "target: nodes", "has no stage nodes"),
            (COMPOSE, "dockerfile: docker/", "dockerfile: ", "no Dockerfile at Dockerfile"),
            (COMPOSE, ":v3.2.1", ":latest", "without a version"),
            (COMPOSE, "${CONNTRACCT_DB_PORT}", "${DB_PORT}", "${DB_PORT} has no value"),
            (ENV, "CONNTRACCT_NODE=", "NODE=", "NODE is used nowhere"),
            (COMPOSE, "./postgres/roles.sql:", "./postgres/role.sql:", "docker/postgres/role.sql"),
            (COMPOSE, "- bundles:", "- bundle:", "the volume bundle is not declared"),
            (COMPOSE, "  prometheus:\n\n", "  prometheus:\n  spare:\n\n", "spare is not used"),
            (COMPOSE, "secrets: [db-password]", "secrets: []", "not given the secret db-password"),
            (COMPOSE, "./secrets/db-password", "./db-password", "git does not ignore it"),
            (COMPOSE, "CONNTRACCT_API__TOKEN_FILE", "CONNTRACCT_API__TOKEN", "no key in"),
            (COMPOSE, "      db: {", "      dbase: {", "no service dbase"),
            (
                COMPOSE,
                "/dashboards/overview.json",
                "/dashboards/view.json",
                "view.json is not there",
            ),
            (COMPOSE, "CONNTRACCT_DB_NAME:", "CONNTRACCT_DB:", "not given $CONNTRACCT_DB_NAME"),
            (
                COMPOSE,
                "- http:/var/lib/conntracct-http:ro",
                "- http:/srv:ro",
                "no volume of prometheus",
            ),
            (DOCKERFILE, "HEALTHCHECK", "# HEALTHCHECK", "health of aggregator, which nothing"),
            (DOCKERFILE, "--from=builder", "--from=build", "no stage \"build\""),
            (DOCKERFILE, "FROM base AS node", "FROM basis AS node", "no stage basis"),
            (
                DOCKERFILE,
                "target/release/conntracct-node ",
                "",
                "nothing makes /out/conntracct-node",
            ),
            (DATA_SOURCE, "uid: conntracct", "uid: store", "not store"),
            (DATA_SOURCE, "grafana-db-password}", "db-password}", "not given $__file"),
            (PROVIDER, "/etc/grafana/dashboards", "/srv/dashboards", "nothing is mounted"),
            (DOCUMENT, "grafana-admin-password", "it", "how the secret grafana-admin-password"),
            (".gitignore", "/docker/secrets", "/docker/secret", "git does not ignore it"),
        ] {
            let found = findings(file, from, to);
            assert!(found.contains(what), "{from} -> {to}: wanted {what:?}, found:\n{found}");
        }
    }
}
