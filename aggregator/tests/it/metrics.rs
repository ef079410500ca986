//! docs/metrics.md says what `/metrics` of both programs says: it is made of their help texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use prometheus_client::registry::Registry;

use crate::golden::golden;

/// A metric as its registry describes it.
#[derive(Debug, Default)]
struct Described {
    kind: String,
    unit: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// What a program's registry describes, by name as Prometheus stores it.
fn described(registry: &Registry) -> BTreeMap<String, Described> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let mut families: BTreeMap<&str, Described> = BTreeMap::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let [what, name, rest] = [(); 3].map(|()| words.next().unwrap());
            let family = families.entry(name).or_default();
            match what {
                "HELP" => {
                    assert_eq!(family.help, "", "{name} is described twice");
                    family.help = rest.to_owned();
                }
                "TYPE" => family.kind = rest.to_owned(),
                "UNIT" => family.unit = rest.to_owned(),
                _ => panic!("{line}"),
            }
        } else if let Some((sample, rest)) = line.split_once('{') {
            let name = families.keys().filter(|name| sample.starts_with(**name));
            let name = *name.max_by_key(|name| name.len()).unwrap();
            let labels = rest.rsplit_once('}').unwrap().0;
            for pair in labels.split(',') {
                let (label, value) = pair.split_once('=').unwrap();
                if label != "le" {
                    let labels = &mut families.get_mut(name).unwrap().labels;
                    let values = labels.entry(label.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    let stored = |(name, family): (&str, Described)| {
        let total = if family.kind == "counter" { "_total" } else { "" };
        (format!("{name}{total}"), family)
    };
    families.into_iter().map(stored).collect()
}

/// The two sentences of a help text: what the metric tells, and what to do.
fn sentences(name: &str, help: &str) -> (String, String) {
    let (tells, what_to_do) = help
        .strip_suffix('.')
        .and_then(|help| help.split_once(". "))
        .unwrap_or_else(|| panic!("{name} does not say what to do: {help:?}"));
    for part in [tells, what_to_do] {
        let worth_reading = part.split(' ').count() >= 2 && !part.contains('|');
        assert!(worth_reading && !part.contains("  "), "{name}: {part:?}");
    }
    let capital = what_to_do[..1].to_uppercase() + &what_to_do[1..];
    (tells.to_owned(), capital)
}

/// The unit, by the name's last words.
fn unit(name: &str, family: &Described) -> String {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if !family.unit.is_empty() {
        return family.unit.clone();
    }
    let known = ["seconds", "bytes", "packets", "permille"];
    known.into_iter().find(|unit| name.ends_with(unit)).unwrap_or("count").to_owned()
}

fn table(text: &mut String, families: &BTreeMap<String, &Described>) {
    let mut component = "";
    for (name, family) in families {
        let parts: Vec<&str> = name.splitn(3, '_').collect();
        assert!(parts.len() == 3 && parts[0] == "conntracct", "{name} breaks the rule of names");
        if parts[1] != component {
            component = parts[1];
            let head =
                "| metric | type, unit | labels | what it tells | what it means, what to do |";
            writeln!(text, "\n### conntracct_{component}\n{head}\n|---|---|---|---|---|").unwrap();
        }
        let labels: Vec<String> = family
            .labels
            .iter()
            .map(|(label, values)| {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                format!("`{label}`: {}", values.join(", "))
            })
            .collect();
        let (tells, what_to_do) = sentences(name, &family.help);
        let (kind, unit, labels) = (&family.kind, unit(name, family), labels.join("; "));
        let short = &name["conntracct_".len()..];
        writeln!(text, "| `{short}` | {kind}, {unit} | {labels} | {tells} | {what_to_do} |")
            .unwrap();
    }
}

#[test]
fn every_metric_is_documented_as_it_describes_itself() {
    let (mut of_node, mut of_aggregator) = (Registry::default(), Registry::default());
    node::metrics::Metrics::default().register(&mut of_node);
    aggregator::metrics::Metrics::default().register(&mut of_aggregator);
    let (of_node, of_aggregator) = (described(&of_node), described(&of_aggregator));
    let mut text = HEAD.to_owned();
    let both = |name: &String| of_node.contains_key(name) && of_aggregator.contains_key(name);
    let only = |families: &'_ BTreeMap<String, Described>, shared: bool| -> Vec<String> {
        families.keys().filter(|name| both(name) == shared).cloned().collect()
    };
    for (title, families, shared) in [
        ("Node", &of_node, false),
        ("Aggregator", &of_aggregator, false),
        ("Both programs", &of_node, true),
    ] {
        writeln!(text, "\n## {title}").unwrap();
        let names = only(families, shared);
        assert!(!names.is_empty(), "nothing of {title}");
        table(&mut text, &names.into_iter().map(|name| (name.clone(), &families[&name])).collect());
    }
    for name in of_node.keys().filter(|name| both(name)) {
        assert_eq!(of_node[name].help, of_aggregator[name].help, "{name}");
    }
    golden("../../../docs/metrics.md", &text);
}

const HEAD: &str = "\
# Metrics

Made of the programs' own help texts by the test `every_metric_is_documented_as_it_describes_itself` \
(aggregator/tests/it/metrics.rs); `UPDATE_GOLDEN=1` writes it again.

Every number is at `GET /metrics` in the text formats of Prometheus, and by component at \
`GET /stats` as JSON: the node's on `localhost:8000`, the aggregator's on `127.0.0.1:8080` with the \
token of `http-token`. Names below lack the prefix `conntracct_`. Labels have the values listed and \
no others, and every one of them is there from the start. Counters begin at 0 with the process.
";
