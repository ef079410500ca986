//! A query as Grafana would send it: variables and macros replaced by what they stand for.
//!
//! Only what our dashboards use, and as Grafana's PostgreSQL data source does it: first variables
//! (`$name`, `${name}`, `${name:format}`), then macros (`$__name(arguments)`). Whatever is not
//! known is an error, not text that the database may or may not understand.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

/// The dashboard's time range and a panel's step, in milliseconds since 1970 as Grafana has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) step: i64,
}

/// What is chosen for a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// "All" of a list, which stands for this text as it is.
    All(String),
    /// Some of a list.
    Some(Vec<String>),
    /// What was typed into a text box.
    Typed(String),
}

/// The variables' values by name.
pub(super) type Values = BTreeMap<String, Value>;

/// The text that is sent.
///
/// # Errors
/// An unknown variable, format or macro, or a macro without its arguments.
pub(super) fn expand(sql: &str, range: Range, values: &Values) -> Result<String> {
    macros(&variables(sql, range, values)?, range)
}

fn variables(sql: &str, range: Range, values: &Values) -> Result<String> {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let word = word(&from[1..]);
        if let Some(braced) = from.strip_prefix("${") {
            let end = braced.find('}').context("a `${` without its `}`")?;
            let (name, format) = braced[..end].split_once(':').unwrap_or((&braced[..end], ""));
            out.push_str(&value(name, format, range, values)?);
            rest = &braced[end + 1..];
        } else if word.is_empty() {
            bail!("a `$` that begins neither a variable nor a macro");
        } else if from[1 + word.len()..].starts_with('(') {
            // A macro, later.
            out.push_str(&from[..=word.len()]);
            rest = &from[1 + word.len()..];
        } else {
            out.push_str(&value(word, "", range, values)?);
            rest = &from[1 + word.len()..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value(name: &str, format: &str, range: Range, values: &Values) -> Result<String> {
    match name {
        "__from" => return Ok(range.from.to_string()),
        "__to" => return Ok(range.to.to_string()),
        "__interval_ms" => return Ok(range.step.to_string()),
        "__interval" => return Ok(interval(range.step)),
        _ => {}
    }
    let value = values.get(name).with_context(|| format!("the variable ${name} is unknown"))?;
    Ok(match (value, format) {
        (Value::All(text), _) => text.clone(),
        (Value::Some(chosen), "" | "sqlstring") => {
            chosen.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",")
        }
        (Value::Typed(text), "sqlstring") => quoted(text),
        (Value::Typed(text), "") => text.replace('\'', "''"),
        (_, format) => bail!("${{{name}:{format}}}: the format {format} is unknown"),
    })
}

fn macros(sql: &str, range: Range) -> Result<String> {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find("$__") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let name = word(&from[1..]);
        let call = &from[1 + name.len()..];
        let inner = call.strip_prefix('(').with_context(|| format!("${name} without `(`"))?;
        let end = inner.find(')').with_context(|| format!("${name}( without `)`"))?;
        let arguments: Vec<&str> = inner[..end].split(',').map(str::trim).collect();
        out.push_str(&call_of(name, &arguments, range)?);
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn call_of(name: &str, arguments: &[&str], range: Range) -> Result<String> {
    let time = |ms| -> Result<String> { Ok(format!("'{}'", Timestamp::from_millisecond(ms)?)) };
    let first = arguments.first().copied().unwrap_or_default();
    let needs = |count: usize| {
        ensure!(
            arguments.len() == count && !first.is_empty(),
            "${name} takes {count} arguments, not {arguments:?}"
        );
        Ok(())
    };
    Ok(match name {
        "__timeFrom" => time(range.from)?,
        "__timeTo" => time(range.to)?,
        "__timeFilter" => {
            needs(1)?;
            format!("{first} BETWEEN {} AND {}", time(range.from)?, time(range.to)?)
        }
        "__timeGroup" => {
            needs(2)?;
            let seconds = seconds(arguments[1].trim_matches('\''))?;
            format!("floor(extract(epoch from {first})/{seconds})*{seconds}")
        }
        "__timeGroupAlias" => {
            format!("{} AS \"time\"", call_of("__timeGroup", arguments, range)?)
        }
        "__unixEpochFrom" => range.from.div_euclid(1000).to_string(),
        "__unixEpochTo" => range.to.div_euclid(1000).to_string(),
        "__unixEpochFilter" => {
            needs(1)?;
            let (from, to) = (range.from.div_euclid(1000), range.to.div_euclid(1000));
            format!("{first} >= {from} AND {first} <= {to}")
        }
        _ => bail!("the macro ${name} is unknown"),
    })
}

/// The name at the beginning of `text`.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn interval(ms: i64) -> String {
    if ms % 1000 == 0 { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn seconds(interval: &str) -> Result<f64> {
    let at = interval.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(interval.len());
    let number: f64 =
        interval[..at].parse().with_context(|| format!("{interval:?} is no interval"))?;
    let unit = match &interval[at..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => bail!("{interval:?} is no interval"),
    };
    Ok(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20 10:00:00.250 to 10:05.
    const RANGE: Range = Range { from: 1_795_168_800_250, to: 1_795_169_100_000, step: 10_000 };

    fn values() -> Values {
        BTreeMap::from([
            ("node".to_owned(), Value::Some(vec!["gw1".into(), "o'neill".into()])),
            ("protocol".to_owned(), Value::All("'-1'".into())),
            ("prefix".to_owned(), Value::Typed("10.0.0.0/8' OR '".into())),
        ])
    }

    fn expanded(sql: &str) -> String {
        expand(sql, RANGE, &values()).unwrap()
    }

    #[test]
    fn variables_stand_for_quoted_values() {
        assert_eq!(expanded("a IN ($node) OR $protocol"), "a IN ('gw1','o''neill') OR '-1'");
        assert_eq!(expanded("${prefix:sqlstring}::inet"), "'10.0.0.0/8'' OR '''::inet");
        assert_eq!(expanded("'$prefix'"), "'10.0.0.0/8'' OR '''");
        assert_eq!(expanded("$__interval_ms/$__interval"), "10000/10s");
        assert_eq!(expanded("${__from} $__to"), "1795168800250 1795169100000");
    }

    #[test]
    fn macros_stand_for_the_range() {
        let from = "'2026-11-20T10:00:00.25Z'";
        let to = "'2026-11-20T10:05:00Z'";
        assert_eq!(expanded("$__timeFrom()::timestamptz < $__timeTo()"), {
            format!("{from}::timestamptz < {to}")
        });
        assert_eq!(expanded("$__timeFilter(f.time)"), format!("f.time BETWEEN {from} AND {to}"));
        let group = "floor(extract(epoch from t)/10)*10";
        assert_eq!(expanded("$__timeGroup(t,$__interval)"), group);
        assert_eq!(expanded("$__timeGroupAlias(t, '10s')"), format!("{group} AS \"time\""));
        assert_eq!(expanded("$__unixEpochFilter(e)"), "e >= 1795168800 AND e <= 1795169100");
        assert_eq!(expanded("$__unixEpochFrom() $__unixEpochTo()"), "1795168800 1795169100");
    }

    #[test]
    fn what_is_unknown_is_an_error() {
        for (sql, complaint) in [
            ("$nodes", "the variable $nodes is unknown"),
            ("${node", "without its `}`"),
            ("${node:csv}", "the format csv"),
            ("$__timeBucket(t)", "the macro $__timeBucket"),
            ("$__timeGroup(t)", "takes 2 arguments"),
            ("$__timeGroup(t, soon)", "no interval"),
            ("$__timeFilter(", "without `)`"),
            ("a = '$'", "neither a variable nor a macro"),
        ] {
            let error = format!("{:#}", expand(sql, RANGE, &values()).unwrap_err());
            assert!(error.contains(complaint), "{sql}: {error}");
        }
    }
}
