//! Readiness: named conditions, each fine or degraded with a sentence. Components set their own;
//! `/readyz` shows all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// The conditions of a program, shared by its components. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, Condition>>>,
}

/// How a condition is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Whether it is fine.
    pub ok: bool,
    /// What is the matter, for a person; empty when fine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// One component's condition.
#[derive(Clone, Debug)]
pub struct Part {
    all: Readiness,
    name: &'static str,
}

impl Readiness {
    /// A condition of this name. It is degraded, saying `why`, until its component says that it
    /// is fine: a program is ready when all of its parts have said so. Names are written in the
    /// code, so their number is bounded.
    #[must_use]
    pub fn part(&self, name: &'static str, why: &str) -> Part {
        let part = Part { all: self.clone(), name };
        part.degraded(why);
        part
    }

    /// Whether all are fine, and each of them by name.
    #[must_use]
    pub fn all(&self) -> (bool, BTreeMap<&'static str, Condition>) {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (conditions.values().all(|condition| condition.ok), conditions)
    }
}

impl Part {
    /// All is well.
    pub fn fine(&self) {
        self.set(Condition { ok: true, why: String::new() });
    }

    /// Something is the matter.
    pub fn degraded(&self, why: impl Into<String>) {
        self.set(Condition { ok: false, why: why.into() });
    }

    fn set(&self, condition: Condition) {
        let mut all = self.all.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.name, condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_part_has_said_so() {
        let readiness = Readiness::default();
        let store = readiness.part("store", "not opened yet");
        let listener = readiness.part("listener", "not bound yet");
        store.fine();
        let (ready, conditions) = readiness.all();
        assert!(!ready);
        assert_eq!(conditions["listener"].why, "not bound yet");
        listener.fine();
        assert!(readiness.all().0);
        store.degraded("the disk is full");
        let (ready, conditions) = readiness.all();
        assert!(!ready);
        assert_eq!(conditions["store"], Condition { ok: false, why: "the disk is full".into() });
    }
}
