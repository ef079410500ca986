//! What a dashboard is looked at with: ranges from minutes to everything, even ends and odd ones,
//! and every variable at All, at single values and at several.

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::dashboard::{Dashboard, Kind};
use super::expand::{Range, Value, Values};
use super::psql::Psql;
use super::stored::{Chosen, Stored};

/// One look at a dashboard.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) range: Range,
    pub(super) values: Values,
    pub(super) chosen: Chosen,
    /// Nothing need be there.
    pub(super) may_be_empty: bool,
    /// The range holds all there is, whole.
    pub(super) is_everything: bool,
}

/// Every look that is taken, the ranges around the middle of what is stored.
///
/// # Errors
/// A variable's values cannot be found, or a variable is none that this check can apply.
pub(super) fn cases(dashboard: &Dashboard, psql: &Psql, stored: &Stored) -> Result<Vec<Case>> {
    let widest = super::all(dashboard);
    let ranges = ranges(stored);
    let mut cases: Vec<Case> = ranges
        .iter()
        .map(|(name, range)| Case {
            name: (*name).to_owned(),
            range: *range,
            values: widest.clone(),
            chosen: Chosen::default(),
            may_be_empty: *name == NO_TIME,
            is_everything: *name == EVERYTHING,
        })
        .collect();
    let hours = ranges.iter().find(|(name, _)| *name == HOURS).context("no range of hours")?.1;
    let mut choices = Vec::new();
    for variable in &dashboard.variables {
        let choices_of = match &variable.kind {
            Kind::Query { sql, .. } => lists(psql.answer(sql)?.rows.concat()),
            Kind::List { values, .. } => lists(values.clone()),
            Kind::Text { .. } => {
                let typed = |net: IpNet| Value::Typed(short(net));
                stored.prefixes().into_iter().map(typed).collect()
            }
        };
        choices.extend(choices_of.into_iter().map(|value| (variable.name.clone(), value)));
    }
    for (name, value) in &choices {
        let mut values = widest.clone();
        values.insert(name.clone(), value.clone());
        cases.push(Case {
            name: format!("{HOURS}, ${name} = {value:?}"),
            range: hours,
            chosen: chosen(&values)?,
            values,
            may_be_empty: true,
            is_everything: false,
        });
    }
    // The first choice of every variable at once.
    let mut values = widest;
    for (name, value) in choices.iter().rev() {
        values.insert(name.clone(), value.clone());
    }
    let chosen = chosen(&values)?;
    let name = format!("{HOURS}, {values:?}");
    let range = hours;
    cases.push(Case { name, range, values, chosen, may_be_empty: true, is_everything: false });
    Ok(cases)
}

const NO_TIME: &str = "no time at all";
const HOURS: &str = "6 h";
const EVERYTHING: &str = "everything";

fn ranges(stored: &Stored) -> Vec<(&'static str, Range)> {
    let (first, last) = stored.span();
    let (first, last) = (milliseconds(first), milliseconds(last));
    let middle = first.midpoint(last);
    let even = middle - middle.rem_euclid(600_000);
    let range = |from: i64, to: i64| Range { from, to, step: step(to - from) };
    const MINUTE: i64 = 60_000;
    vec![
        (EVERYTHING, range(first - 5 * MINUTE, last + 5 * MINUTE)),
        ("24 h", range(even - 720 * MINUTE, even + 720 * MINUTE)),
        (HOURS, range(even - 180 * MINUTE, even + 180 * MINUTE)),
        ("5 min", range(even, even + 5 * MINUTE)),
        ("odd ends", range(middle - 37 * MINUTE - 12_345, middle + 11 * MINUTE + 7_001)),
        ("the last hour, to now", range(last - 57 * MINUTE - 1, last + 3 * MINUTE)),
        ("less than a step", range(middle + 1_003, middle + 8_017)),
        (NO_TIME, range(even, even)),
    ]
}

/// The step that Grafana takes for a panel of about a thousand points, with our least of 10 s.
fn step(length: i64) -> i64 {
    const STEPS: [i64; 14] =
        [10, 15, 20, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600, 7_200, 10_800];
    let enough = STEPS.into_iter().find(|step| length / (step * 1000) <= 1_000);
    enough.unwrap_or(86_400) * 1000
}

#[expect(clippy::cast_possible_truncation, reason = "times of this age fit")]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).floor() as i64
}

/// Each alone, and the first two together.
fn lists(values: Vec<String>) -> Vec<Value> {
    let two = values.get(..2).map(|two| Value::Some(two.to_vec()));
    let single = values.into_iter().map(|value| Value::Some(vec![value]));
    single.chain(two).collect()
}

/// As a person types it: an address without its length.
fn short(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// What the values mean.
fn chosen(values: &Values) -> Result<Chosen> {
    let mut chosen = Chosen::default();
    for (name, value) in values {
        match (name.as_str(), value) {
            (_, Value::All(_)) => {}
            ("node", Value::Some(nodes)) => chosen.nodes = Some(nodes.clone()),
            ("protocol", Value::Some(numbers)) => {
                let numbers = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>();
                chosen.protocols = Some(numbers.context("a protocol is no number")?);
            }
            ("prefix", Value::Typed(text)) => {
                let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
                let net = || text.parse().or_else(|_none| address());
                chosen.prefix = if text == "all" { None } else { Some(net()?) };
            }
            _ => anyhow::bail!("this check does not know what ${name} = {value:?} leaves out"),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_grafanas() {
        assert_eq!([300_000, 21_600_000, 86_400_000].map(step), [10_000, 30_000, 120_000]);
    }

    #[test]
    fn values_mean_what_they_say() {
        let typed = |text: &str| Values::from([("prefix".into(), Value::Typed(text.into()))]);
        assert_eq!(chosen(&typed("all")).unwrap(), Chosen::default());
        let prefix = chosen(&typed("10.1.2.3")).unwrap().prefix.unwrap();
        assert_eq!(
            (prefix.to_string().as_str(), short(prefix).as_str()),
            ("10.1.2.3/32", "10.1.2.3")
        );
        assert!(chosen(&typed("ten")).is_err());
        let strange = Values::from([("colour".into(), Value::Some(vec!["red".into()]))]);
        assert!(chosen(&strange).is_err());
    }

    #[test]
    fn lists_are_taken_one_by_one_and_two_together() {
        let some = |values: &[&str]| Value::Some(values.iter().map(|v| (*v).to_owned()).collect());
        let given = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(lists(given), [some(&["a"]), some(&["b"]), some(&["a", "b"])]);
        assert_eq!(lists(vec!["a".to_owned()]), [some(&["a"])]);
    }
}
