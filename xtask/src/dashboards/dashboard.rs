//! Dashboards as they lie in `grafana/dashboards`: their queries and variables, and the rules of
//! their form that need no database.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// One dashboard.
#[derive(Debug)]
pub(super) struct Dashboard {
    pub(super) title: String,
    pub(super) variables: Vec<Variable>,
    pub(super) queries: Vec<Query>,
}

/// A panel's query.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) panel: String,
    pub(super) sql: String,
}

/// A variable and what may be chosen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Where a variable's values come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Several of what a query finds, or all, for which a text stands.
    Query { sql: String, all: String },
    /// Several of these, or all, for which a text stands.
    List { values: Vec<String>, all: String },
    /// What is typed; at first this.
    Text { default: String },
}

/// Reads every dashboard of a folder.
///
/// # Errors
/// There is none, one cannot be read, or is not in the form that [`parse`] wants.
pub(super) fn read_all(folder: &Path) -> Result<Vec<Dashboard>> {
    let list = fs::read_dir(folder).with_context(|| format!("could not list {folder:?}"))?;
    let mut files = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|kind| kind == "json"));
    files.sort();
    ensure!(!files.is_empty(), "{} holds no dashboard", folder.display());
    let read = |file: &std::path::PathBuf| {
        let text = fs::read_to_string(file)?;
        parse(&text)
    };
    files.iter().map(|file| read(file).with_context(|| file.display().to_string())).collect()
}

/// Takes a dashboard's text apart.
///
/// # Errors
/// It is no dashboard of ours: keys are not in order (so that changes are readable), it carries
/// a database id, numbers of panels repeat, panels overlap, a query asks another data source than
/// the provisioned one, or a variable is of a kind this check cannot choose values for.
pub(super) fn parse(text: &str) -> Result<Dashboard> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    ensure!(
        format!("{value:#}\n") == text,
        "not in the one form we keep: two spaces a level, keys in order (jq -S . does it)"
    );
    let file: File = serde_json::from_value(value)?;
    ensure!(file.id.is_none(), "`id` is a number of somebody's database: make it null");
    ensure!(
        file.schema_version >= OLDEST_SCHEMA,
        "schemaVersion is {}, {OLDEST_SCHEMA} is what Grafana 11 begins with",
        file.schema_version
    );
    ensure!(file.uid.starts_with("conntracct-"), "uid {:?}: begin with conntracct-", file.uid);
    let mut numbers = BTreeSet::new();
    let mut queries = Vec::new();
    for (at, panel) in file.panels.iter().enumerate() {
        let title = &panel.title;
        ensure!(numbers.insert(panel.id), "panel {title:?}: the id {} is taken", panel.id);
        if let Some(other) = file.panels[..at].iter().find(|other| other.grid.meets(panel.grid)) {
            bail!("the panels {title:?} and {:?} overlap", other.title);
        }
        for target in &panel.targets {
            ensure!(
                target.datasource.uid == DATA_SOURCE,
                "panel {title:?} asks the data source {:?}, not {DATA_SOURCE:?}",
                target.datasource.uid
            );
            queries.push(Query { panel: title.clone(), sql: target.raw_sql.clone() });
        }
    }
    let variables = file.templating.list.into_iter().map(RawVariable::parse);
    Ok(Dashboard { title: file.title, variables: variables.collect::<Result<_>>()?, queries })
}

/// The provisioned data source's uid.
pub(crate) const DATA_SOURCE: &str = "conntracct";

/// Grafana 11's, and 10.4's.
const OLDEST_SCHEMA: u32 = 39;

#[derive(Deserialize)]
struct File {
    id: Option<u64>,
    uid: String,
    title: String,
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    panels: Vec<Panel>,
    templating: Templating,
}

#[derive(Deserialize)]
struct Panel {
    id: u32,
    title: String,
    #[serde(rename = "gridPos")]
    grid: Grid,
    #[serde(default)]
    targets: Vec<Target>,
}

#[derive(Clone, Copy, Deserialize)]
struct Grid {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

impl Grid {
    fn meets(self, other: Self) -> bool {
        let apart = |a: u32, a_long: u32, b: u32, b_long: u32| a + a_long <= b || b + b_long <= a;
        !apart(self.x, self.w, other.x, other.w) && !apart(self.y, self.h, other.y, other.h)
    }
}

#[derive(Deserialize)]
struct Target {
    datasource: DataSource,
    #[serde(rename = "rawSql")]
    raw_sql: String,
}

#[derive(Deserialize)]
struct DataSource {
    uid: String,
}

#[derive(Deserialize)]
struct Templating {
    list: Vec<RawVariable>,
}

#[derive(Deserialize)]
struct RawVariable {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    query: String,
    #[serde(default, rename = "includeAll")]
    include_all: bool,
    #[serde(default)]
    multi: bool,
    #[serde(rename = "allValue")]
    all: Option<String>,
}

impl RawVariable {
    fn parse(self) -> Result<Variable> {
        let Self { name, kind, query, include_all, multi, all } = self;
        let all = || {
            ensure!(include_all && multi, "variable {name}: several and all must be allowed");
            all.with_context(|| format!("variable {name}: `allValue` must say what All stands for"))
        };
        let kind = match kind.as_str() {
            "query" => Kind::Query { sql: query, all: all()? },
            // "text : value, text : value"
            "custom" => {
                let value =
                    |item: &str| item.rsplit(" : ").next().unwrap_or(item).trim().to_owned();
                Kind::List { values: query.split(',').map(value).collect(), all: all()? }
            }
            "textbox" => Kind::Text { default: query },
            other => bail!("variable {name}: this check does not know how to choose a {other}"),
        };
        Ok(Variable { name, kind })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn panel(id: u32, y: u32) -> Value {
        let target = json!({"datasource": {"uid": "conntracct"}, "rawSql": "SELECT 1"});
        let grid = json!({"x": 0, "y": y, "w": 12, "h": 8});
        json!({"id": id, "title": format!("P{id}"), "gridPos": grid, "targets": [target]})
    }

    fn dashboard() -> Value {
        let variable = json!({"name": "p", "type": "custom", "query": "tcp : 6, udp : 17",
            "multi": true, "includeAll": true, "allValue": "'-1'"});
        json!({"id": null, "uid": "conntracct-x", "title": "X", "schemaVersion": 39,
            "panels": [panel(1, 0), panel(2, 8)], "templating": {"list": [variable]}})
    }

    fn parse_value(value: &Value) -> Result<Dashboard> {
        parse(&format!("{value:#}\n"))
    }

    #[test]
    fn queries_and_variables_are_found() {
        let parsed = parse_value(&dashboard()).unwrap();
        assert_eq!(parsed.queries.len(), 2);
        assert_eq!(parsed.queries[1].panel, "P2");
        let values = vec!["6".to_owned(), "17".to_owned()];
        assert_eq!(parsed.variables[0].kind, Kind::List { values, all: "'-1'".into() });
    }

    #[test]
    fn every_rule_of_form_can_be_broken() {
        let cases: [(&str, Value, &str); 8] = [
            ("/id", json!(7), "somebody's database"),
            ("/schemaVersion", json!(36), "schemaVersion is 36"),
            ("/uid", json!("overview"), "begin with conntracct-"),
            ("/panels/1/id", json!(1), "the id 1 is taken"),
            ("/panels/1/gridPos/y", json!(7), "overlap"),
            ("/panels/0/targets/0/datasource/uid", json!("mine"), "data source \"mine\""),
            ("/templating/list/0/allValue", Value::Null, "what All stands for"),
            ("/templating/list/0/type", json!("adhoc"), "choose a adhoc"),
        ];
        for (at, value, complaint) in cases {
            let mut broken = dashboard();
            *broken.pointer_mut(at).unwrap() = value;
            let error = format!("{:#}", parse_value(&broken).unwrap_err());
            assert!(error.contains(complaint), "{at}: {error}");
        }
        let error = parse(&dashboard().to_string()).unwrap_err();
        assert!(error.to_string().contains("the one form"), "{error}");
    }

    #[test]
    fn ours_are_in_form() {
        let folder = crate::workspace::root().join("grafana/dashboards");
        assert!(!read_all(&folder).unwrap().is_empty());
    }
}
