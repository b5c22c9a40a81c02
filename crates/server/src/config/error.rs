//! What can be wrong with a configuration, said so that the line can be put right without a manual.

use std::fmt;

use kuramori_model::fault::{Fault, Kind};

/// Where a value or a mistake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A file's path, `environment` or `--set`.
    pub origin: String,
    /// Line in a file, counted from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.origin),
            None => f.write_str(&self.origin),
        }
    }
}

/// A configuration that the server does not start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration cannot be read")]
    Read(#[source] std::io::Error),
    /// A key that nobody knows: usually a typing mistake, and a dangerous one when it is ignored.
    #[error("{place}: unknown key `{key}`")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key as written.
        key: String,
        /// The nearest key that exists there.
        suggestion: Option<String>,
        /// Every key that exists there.
        known: Vec<String>,
    },
    /// A value of the wrong form: a number without its unit, an address without its port.
    #[error("{place}: {}{message}", .key.as_deref().map(|k| format!("`{k}`: ")).unwrap_or_default())]
    Value {
        /// Where.
        place: Place,
        /// Which key, as `table.key`.
        key: Option<String>,
        /// What is wrong and how to write it.
        message: String,
    },
    /// A key without which the server cannot start.
    #[error("`{key}` is missing")]
    Missing {
        /// Which key, as `table.key`.
        key: &'static str,
    },
}

impl Fault for ConfigError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "config.unreadable",
            Self::UnknownKey { .. } => "config.unknown-key",
            Self::Value { .. } => "config.bad-value",
            Self::Missing { .. } => "config.missing-key",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Fix
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { suggestion: Some(suggestion), .. } => {
                Some(format!("did you mean `{suggestion}`?"))
            }
            Self::UnknownKey { known, .. } if !known.is_empty() => {
                Some(format!("known here: {}", known.join(", ")))
            }
            Self::Missing { key } => Some(format!("add `{key}` to the file, or start with `--set {key}=…`")),
            _ => None,
        }
    }
}

/// The nearest of `known` to `word`, if it is near enough to be meant.
pub(crate) fn nearest(word: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|name| (distance(word, name), name))
        .filter(|(far, name)| *far <= 1 + name.len() / 4 || (word.len() > 3 && name.starts_with(word)))
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name.clone())
}

/// Edit distance (Levenshtein), one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = before + usize::from(left != *right);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}
