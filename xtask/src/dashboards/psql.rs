//! Asking PostgreSQL by its own client, `psql`: what the package that brings the server brings
//! too, and no second driver to build.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// Whom to ask: arguments and variables of `psql`.
#[derive(Clone, Debug)]
pub(crate) struct Psql {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

/// An answer: the names of its columns, and its rows. NULL is the empty text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Psql {
    /// The database at this URL.
    pub(crate) fn url(url: &str) -> Self {
        Self { arguments: vec![url.to_owned()], variables: Vec::new() }
    }

    /// The database that the variables (`PGHOST` and so on) say.
    pub(crate) fn variables(variables: Vec<(&'static str, String)>) -> Self {
        Self { arguments: Vec::new(), variables }
    }

    /// The same with another variable.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Runs a script; `set` are its `:variables`.
    ///
    /// # Errors
    /// What PostgreSQL says about it.
    pub(crate) fn script(&self, sql: &str, set: &[(&str, &str)]) -> Result<()> {
        self.ask(sql, set, |mut said| {
            std::io::copy(&mut said, &mut std::io::sink())?;
            Ok(())
        })
    }

    /// Asks one query.
    ///
    /// # Errors
    /// What PostgreSQL says about it.
    pub(crate) fn answer(&self, sql: &str) -> Result<Answer> {
        let mut text = String::new();
        self.ask(sql, &[], |mut said| {
            said.read_to_string(&mut text).context("the answer is no text")?;
            Ok(())
        })?;
        let mut lines = csv(&text)?.into_iter();
        Ok(Answer { columns: lines.next().unwrap_or_default(), rows: lines.collect() })
    }

    /// Asks one query whose answers hold neither comma nor quotation mark, row by row.
    ///
    /// # Errors
    /// What PostgreSQL or `row` says.
    pub(crate) fn each(&self, sql: &str, mut row: impl FnMut(&[&str]) -> Result<()>) -> Result<()> {
        self.ask(sql, &[], |said| {
            for (number, line) in BufReader::new(said).lines().enumerate() {
                let line = line?;
                let fields: Vec<&str> = line.split(',').collect();
                if number > 0 {
                    row(&fields).with_context(|| format!("row {number}: {line}"))?;
                }
            }
            Ok(())
        })
    }

    fn ask(
        &self,
        sql: &str,
        set: &[(&str, &str)],
        read: impl FnOnce(Box<dyn Read>) -> Result<()>,
    ) -> Result<()> {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "--csv", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command.args(
            set.iter().flat_map(|(name, value)| ["-v".to_owned(), format!("{name}={value}")]),
        );
        command.args(&self.arguments);
        command.env("PGTZ", "UTC").envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("could not start psql (package postgresql)")?;
        let mut input = child.stdin.take().context("psql has no standard input")?;
        let said = child.stdout.take().context("psql has no standard output")?;
        let mut errors = child.stderr.take().context("psql has no standard error")?;
        let sql = sql.to_owned();
        // All three at once: none of them waits for another that is full.
        let writer = thread::spawn(move || input.write_all(sql.as_bytes()));
        let listener = thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_length| text)
        });
        let outcome = read(Box::new(said));
        let status = child.wait().context("could not wait for psql")?;
        // An error of its own ends psql before it has read everything.
        let _ = writer.join();
        let errors = listener.join().ok().and_then(Result::ok).unwrap_or_default();
        if !status.success() {
            bail!("{}", errors.trim());
        }
        outcome
    }
}

/// Lines of comma-separated values as RFC 4180 has them, each with its end.
fn csv(text: &str) -> Result<Vec<Vec<String>>> {
    let (mut lines, mut line, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => line.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                line.push(std::mem::take(&mut field));
                lines.push(std::mem::take(&mut line));
            }
            c => field.push(c),
        }
    }
    ensure!(!quoted && field.is_empty() && line.is_empty(), "the answer ends within a line");
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_quotation_marks_and_line_ends_may_be_quoted() {
        let lines = csv("a,b\n\"x, y\",\"say \"\"no\"\"\"\n\"two\nlines\",\n").unwrap();
        assert_eq!(lines, [["a", "b"], ["x, y", "say \"no\""], ["two\nlines", ""]]);
        assert!(csv("").unwrap().is_empty());
        assert!(csv("a,b").is_err() && csv("\"a\n").is_err());
    }
}
