//! What is to be told, before it has words.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kuramori_model::finding::{Finding, Severity, Value};
use serde::{Deserialize, Serialize};

/// Why people hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// Something is wrong now.
    Opened,
    /// It has become worse.
    Raised,
    /// It is over.
    Recovered,
    /// Several at once.
    Digest,
    /// The daily sign of life; its absence says that we cannot speak.
    Daily,
    /// A person wants to know whether the way works.
    Test,
}

/// One finding with the names of its system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What was found.
    pub finding: Finding,
    /// Since when.
    pub opened: Timestamp,
    /// When it was over.
    #[serde(default)]
    pub closed: Option<Timestamp>,
    /// The system's name in Japanese; empty for the platform.
    #[serde(default)]
    pub name_ja: String,
    /// The system's name in English; empty for the platform.
    #[serde(default)]
    pub name_en: String,
}

/// One notice. Its JSON is what lies in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Stable: `alarm-12.opened`. Makes the mail's message id.
    pub id: String,
    /// The id of the notice that it belongs below, if any.
    #[serde(default)]
    pub answers: Option<String>,
    /// When it was made.
    pub at: Timestamp,
    /// Why.
    pub occasion: Occasion,
    /// What.
    #[serde(default)]
    pub items: Vec<Item>,
    /// Figures of the daily notice: `systems`, `recoverable`, `open-alarms`, `last-window` …
    #[serde(default)]
    pub figures: BTreeMap<String, Value>,
}

impl Notice {
    /// For an alarm of the catalog that opened, grew louder or closed.
    pub fn of_alarm(number: u64, occasion: Occasion, at: Timestamp, item: Item) -> Self {
        let opened = format!("alarm-{number}.opened");
        let (id, answers) = match occasion {
            Occasion::Opened => (opened, None),
            Occasion::Raised => {
                (format!("alarm-{number}.raised-{}", item.finding.severity.as_str()), Some(opened))
            }
            _ => (format!("alarm-{number}.closed"), Some(opened)),
        };
        Self { id, answers, at, occasion, items: vec![item], figures: BTreeMap::new() }
    }

    /// The sign of life of a day (`2026-11-22`), with what is open and some figures.
    pub fn daily(day: &str, at: Timestamp, items: Vec<Item>, figures: BTreeMap<String, Value>) -> Self {
        Self { id: format!("daily-{day}"), answers: None, at, occasion: Occasion::Daily, items, figures }
    }

    /// A test, asked for by `who`.
    pub fn test(number: u64, at: Timestamp, who: &str) -> Self {
        let figures = BTreeMap::from([("who".to_owned(), Value::from(who))]);
        Self {
            id: format!("test-{number}"),
            answers: None,
            at,
            occasion: Occasion::Test,
            items: Vec::new(),
            figures,
        }
    }

    /// The loudest of its findings.
    pub fn severity(&self) -> Severity {
        self.items.iter().map(|item| item.finding.severity).max().unwrap_or(Severity::Info)
    }
}
