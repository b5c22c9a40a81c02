//! What a judge has found and a person must hear: a code, the figures, and the next action.
//!
//! A finding carries no sentences. The console and the notices make them in Japanese or English from
//! `code` and `action`, with `params` as the figures.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::SystemId;

/// How loud. Orders by weight: `Alarm` is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know; nothing to do.
    Info,
    /// Somebody must look within days.
    Warning,
    /// Somebody must act now.
    Alarm,
}

impl Severity {
    /// The stable name, as stored and as used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }
}

/// A figure of a finding, with its unit, so that each language can write it in its own way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A name, digest or other text that is shown as it is.
    Text(String),
    /// A count.
    Number(i64),
    /// An amount of data in bytes.
    Bytes(u64),
    /// A point in time.
    Time(Timestamp),
    /// A length of time in seconds.
    Seconds(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

/// Something that a person must hear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable, never translated: `judge.missed`. Also the key of the sentence.
    pub code: String,
    /// The system that it is about; none for the platform itself.
    pub system: Option<SystemId>,
    /// What tells two findings of the same code and system apart (a vault's name); usually empty.
    #[serde(default)]
    pub subject: String,
    /// How loud.
    pub severity: Severity,
    /// What to do next, as a stable code: `check-source`. The sentence is the catalogue's.
    pub action: String,
    /// The figures of the sentence.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// The records that it rests on: `run-12`, `seq-40`.
    #[serde(default)]
    pub evidence: Vec<String>,
}

impl Finding {
    /// A finding without figures yet.
    pub fn new(code: &str, severity: Severity, action: &str) -> Self {
        Self {
            code: code.to_owned(),
            system: None,
            subject: String::new(),
            severity,
            action: action.to_owned(),
            params: BTreeMap::new(),
            evidence: Vec::new(),
        }
    }

    /// Names the system.
    #[must_use]
    pub fn of(mut self, system: &SystemId) -> Self {
        self.system = Some(system.clone());
        self
    }

    /// Names what else tells it apart.
    #[must_use]
    pub fn about(mut self, subject: &str) -> Self {
        subject.clone_into(&mut self.subject);
        self
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a record that the finding rests on.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers write numbers and literals in place")]
    pub fn seen_in(mut self, record: impl ToString) -> Self {
        self.evidence.push(record.to_string());
        self
    }

    /// Two findings with the same key are the same trouble going on.
    pub fn key(&self) -> String {
        let system = self.system.as_ref().map_or("", SystemId::as_str);
        format!("{}|{system}|{}", self.code, self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_survives_its_own_json_and_keeps_its_key() {
        let system = SystemId::new("billing").unwrap();
        let finding = Finding::new("judge.missed", Severity::Alarm, "check-source")
            .of(&system)
            .with("due", Timestamp::UNIX_EPOCH)
            .with("bytes", Value::Bytes(7))
            .seen_in(crate::ids::RunId(3));
        let text = serde_json::to_string(&finding).unwrap();
        let back: Finding = serde_json::from_str(&text).unwrap();
        assert_eq!(back, finding);
        assert_eq!(back.key(), "judge.missed|billing|");
        assert_eq!(back.evidence, ["run-3"]);
    }
}
