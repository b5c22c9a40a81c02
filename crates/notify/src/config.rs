//! Who is told what, and by which way. Part of the server's configuration; unknown keys are errors.

use std::path::PathBuf;

use kuramori_model::{finding::Severity, ids::SystemId};
use serde::{Deserialize, Serialize};

/// Everything about notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// The hospital's name, as the mails say it.
    pub hospital: String,
    /// IANA time zone of the times in the mails.
    #[serde(default = "tokyo")]
    pub zone: String,
    /// Where the console is, for the reader; none leaves the line out.
    #[serde(default)]
    pub console: Option<String>,
    /// More notices than this at once for one target become one digest.
    #[serde(default = "five")]
    pub digest_over: usize,
    /// The ways.
    #[serde(default, rename = "target")]
    pub targets: Vec<Target>,
    /// What goes where. None at all means: everything from `warning` on to every target.
    #[serde(default, rename = "matcher")]
    pub matchers: Vec<Matcher>,
}

fn tokyo() -> String {
    "Asia/Tokyo".to_owned()
}

fn five() -> usize {
    5
}

/// One way to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name, for matchers and the outbox.
    pub name: String,
    /// The language of its texts.
    #[serde(default)]
    pub language: Language,
    /// A mail server.
    pub smtp: Smtp,
}

/// Language of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Japanese, then English, in one mail.
    #[default]
    Both,
    /// 日本語
    Ja,
    /// English
    En,
}

/// A mail server and the envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// Name or address.
    pub host: String,
    /// Port; none means 25, 587 or 465 by `security`.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub security: Security,
    /// PEM file of the CA that signed the server's certificate; then no other CA is believed. None means
    /// the public CAs.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The name in the certificate, if it is not `host`.
    #[serde(default)]
    pub certificate_name: Option<String>,
    /// Login, if the server wants one.
    #[serde(default)]
    pub login: Option<Login>,
    /// Sender: `蔵守 <kuramori@example.jp>`.
    pub from: String,
    /// Readers.
    pub to: Vec<String>,
    /// Seconds for one attempt as a whole.
    #[serde(default = "half_a_minute")]
    pub timeout_s: u64,
}

fn half_a_minute() -> u64 {
    30
}

/// Protection of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// None: for a relay inside the closed network.
    #[default]
    Plain,
    /// STARTTLS, required.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

/// Login at the mail server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// User name.
    pub user: String,
    /// File that holds the password in its first line.
    pub password_file: PathBuf,
}

/// A rule: what matches all of its fields goes to its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matcher {
    /// To which target.
    pub target: String,
    /// From which severity on.
    #[serde(default = "warning")]
    pub from: Severity,
    /// Only codes that begin with one of these; empty means all.
    #[serde(default)]
    pub codes: Vec<String>,
    /// Only these systems; empty means all, and the platform.
    #[serde(default)]
    pub systems: Vec<SystemId>,
    /// Whether the daily sign of life and tests go there.
    #[serde(default = "yes")]
    pub daily: bool,
}

fn warning() -> Severity {
    Severity::Warning
}

fn yes() -> bool {
    true
}
