//! A list of named steps: each is timed, a failed one does not hide the next one's answer, one that
//! was interrupted is the last, and the end says what took how long.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt::Interrupted;

/// Steps run so far.
pub(crate) struct Steps {
    begun: Instant,
    done: Vec<Step>,
}

struct Step {
    name: &'static str,
    took: Duration,
    outcome: Outcome,
}

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    Skipped(String),
}

impl Steps {
    /// No steps yet; the clock starts.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), done: Vec::new() }
    }

    /// Runs one step and remembers how it went.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        if self.is_interrupted() {
            self.skip(name, "interrupted");
            return;
        }
        eprintln!("\n=== {name}");
        let begun = Instant::now();
        let outcome = match step() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                eprintln!("=== {name} failed: {error:#}");
                Outcome::Failed(error)
            }
        };
        self.done.push(Step { name, took: begun.elapsed(), outcome });
    }

    /// Whether one of them was ended from outside: nobody waits for the others then.
    fn is_interrupted(&self) -> bool {
        self.done.iter().any(|step| match &step.outcome {
            Outcome::Failed(error) => error.is::<Interrupted>(),
            Outcome::Passed | Outcome::Skipped(_) => false,
        })
    }

    /// Remembers that a step was not run, and why.
    pub(crate) fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        let why = why.into();
        eprintln!("\n=== {name}: not run: {why}");
        self.done.push(Step { name, took: Duration::ZERO, outcome: Outcome::Skipped(why) });
    }

    /// Prints every step with its time.
    ///
    /// # Errors
    /// One or more steps failed, or all together took longer than `limit`.
    pub(crate) fn finish(self, limit: Option<Duration>) -> Result<()> {
        let total = self.begun.elapsed();
        eprintln!();
        for step in &self.done {
            let took = step.took.as_secs_f64();
            match &step.outcome {
                Outcome::Passed => eprintln!("  {took:8.1} s  ok       {}", step.name),
                Outcome::Failed(error) => {
                    eprintln!("  {took:8.1} s  FAILED   {}: {error:#}", step.name);
                }
                Outcome::Skipped(why) => eprintln!("             not run  {}: {why}", step.name),
            }
        }
        eprintln!("  {:8.1} s  in all", total.as_secs_f64());
        let failed = self.done.iter().filter(|s| matches!(s.outcome, Outcome::Failed(_))).count();
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.done.len());
        }
        if let Some(limit) = limit.filter(|limit| total > *limit) {
            bail!("all steps passed, but took {total:.0?}; the limit is {limit:.0?}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn one_failed_step_fails_the_whole_and_stops_nothing() {
        let mut steps = Steps::new();
        let mut later = false;
        steps.run("bad", || bail!("no"));
        steps.run("good", || {
            later = true;
            Ok(())
        });
        assert!(later);
        assert!(steps.finish(None).unwrap_err().to_string().contains("1 of 2"));
    }

    #[test]
    fn too_long_is_a_failure_and_a_skipped_step_is_none() {
        let mut steps = Steps::new();
        steps.skip("root", "not root");
        assert!(steps.finish(Some(Duration::from_secs(3600))).is_ok());
        let mut steps = Steps::new();
        steps.run("good", || Ok(()));
        assert!(steps.finish(Some(Duration::ZERO)).is_err());
    }

    #[test]
    fn what_follows_a_failure_is_run_and_what_follows_an_interruption_is_not() {
        let mut steps = Steps::new();
        let mut ran = 0;
        steps.run("fails", || bail!("for a reason"));
        steps.run("is run", || {
            ran += 1;
            Ok(())
        });
        steps.run("is interrupted", || Err(Interrupted).context("while it waited"));
        steps.run("is not run", || {
            ran += 1;
            Ok(())
        });
        assert_eq!(ran, 1);
        let outcomes: Vec<_> =
            steps.done.iter().map(|step| matches!(step.outcome, Outcome::Skipped(_))).collect();
        assert_eq!(outcomes, [false, false, false, true]);
        assert!(steps.finish(None).is_err());
    }
}
