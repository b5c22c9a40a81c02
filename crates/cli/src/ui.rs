//! What is printed, where and in which language: data on stdout; progress, hints and errors on stderr.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;

/// The language of texts for people. JSON keys, codes and option names are never translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// 日本語
    Ja,
    /// English
    En,
}

impl Language {
    /// `--lang` where it is given, else `LC_ALL`, `LC_MESSAGES` or `LANG`, else English. Looked up before the
    /// arguments are parsed, because the help text depends on it.
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = OsString>) -> Self {
        let arguments: Vec<_> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
        let flag = arguments.iter().enumerate().find_map(|(at, argument)| match argument.as_str() {
            "--lang" => arguments.get(at + 1).cloned(),
            _ => argument.strip_prefix("--lang=").map(str::to_owned),
        });
        let named = flag.or_else(|| {
            ["KURAMORI_LANG", "LC_ALL", "LC_MESSAGES", "LANG"]
                .iter()
                .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        });
        if named.is_some_and(|name| name.starts_with("ja")) { Self::Ja } else { Self::En }
    }
}

/// The options that every command takes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Language of texts: ja or en
    #[arg(long, global = true, value_enum, value_name = "LANGUAGE")]
    pub(crate) lang: Option<Language>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print less on standard error
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Never draw a progress bar
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
}

/// The printer.
#[derive(Debug)]
pub(crate) struct Ui {
    pub(crate) language: Language,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    progress: bool,
}

impl Ui {
    pub(crate) fn new(options: &Options, language: Language) -> Self {
        let progress = !options.no_progress && !options.quiet && std::io::stderr().is_terminal();
        Self { language, json: options.json, quiet: options.quiet, progress }
    }

    /// Picks the text of the user's language.
    pub(crate) fn pick<'a>(&self, ja: &'a str, en: &'a str) -> &'a str {
        match self.language {
            Language::Ja => ja,
            Language::En => en,
        }
    }

    /// Data for people; nothing in JSON mode. A closed pipe is not an error.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
        }
    }

    /// Data for programs: one JSON object a line, only in JSON mode.
    pub(crate) fn data(&self, value: &impl Serialize) {
        if self.json {
            let mut out = std::io::stdout().lock();
            let _ = serde_json::to_writer(&mut out, value);
            let _ = writeln!(out);
        }
    }

    /// The language of pages.
    pub(crate) fn report_language(&self) -> kuramori_report::Language {
        match self.language {
            Language::Ja => kuramori_report::Language::Ja,
            Language::En => kuramori_report::Language::En,
        }
    }

    /// Asks on the terminal; without one the answer is no.
    pub(crate) fn confirm(&self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() || self.json {
            self.note(self.pick(
                "端末ではないため確認できません。実行するには --yes を付けてください。",
                "There is no terminal to ask on; give --yes to do it.",
            ));
            return false;
        }
        let _ = write!(std::io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "はい")
    }

    /// A remark on stderr.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
        }
    }

    /// A progress bar over bytes; hidden where nobody would see it.
    pub(crate) fn bytes_bar(&self, total: Option<u64>) -> indicatif::ProgressBar {
        if !self.progress {
            return indicatif::ProgressBar::hidden();
        }
        let (template, bar) = match total {
            Some(total) => (
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                indicatif::ProgressBar::new(total),
            ),
            None => ("{msg} {spinner} {bytes} {bytes_per_sec}", indicatif::ProgressBar::new_spinner()),
        };
        match indicatif::ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    /// An error: one sentence with its causes, the code, and what to do.
    pub(crate) fn failure(&self, failure: &Failure) {
        let mut err = std::io::stderr().lock();
        if self.json {
            let _ = serde_json::to_writer(
                &mut err,
                &serde_json::json!({
                    "message_type": "error",
                    "code": failure.code(),
                    "kind": failure.kind(),
                    "message": failure.text(),
                    "hint": failure.hint(),
                    "exit_code": failure.exit() as u8,
                }),
            );
            let _ = writeln!(err);
            return;
        }
        let _ = writeln!(err, "{} [{}]: {}", self.pick("エラー", "error"), failure.code(), failure.text());
        if let Some(hint) = failure.hint() {
            let _ = writeln!(err, "{}: {hint}", self.pick("対処", "hint"));
        }
    }
}
