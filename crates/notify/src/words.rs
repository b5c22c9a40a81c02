//! Sentences from the Fluent catalogue, one file per language with the same keys and placeables.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use fluent_bundle::{FluentArgs, FluentResource, FluentValue, concurrent::FluentBundle};
use jiff::tz::TimeZone;
use kuramori_model::{finding::Value, units::Bytes};

/// The words of one language.
pub struct Words {
    bundle: FluentBundle<FluentResource>,
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words").field("locales", &self.bundle.locales).finish_non_exhaustive()
    }
}

/// A stable code as a key of the catalogue: `judge.missed` is `judge-missed`.
pub fn dash(code: &str) -> String {
    code.replace('.', "-")
}

impl Words {
    /// 日本語
    pub fn japanese() -> &'static Self {
        static WORDS: OnceLock<Words> = OnceLock::new();
        WORDS.get_or_init(|| Self::read("ja", include_str!("../locales/ja.ftl")))
    }

    /// English
    pub fn english() -> &'static Self {
        static WORDS: OnceLock<Words> = OnceLock::new();
        WORDS.get_or_init(|| Self::read("en", include_str!("../locales/en.ftl")))
    }

    fn read(language: &str, text: &str) -> Self {
        // A broken line costs that line only; a test finds it before a person does.
        let (Ok(resource) | Err((resource, _))) = FluentResource::try_new(text.to_owned());
        let locale = language.parse().into_iter().collect();
        let mut bundle = FluentBundle::new_concurrent(locale);
        bundle.set_use_isolating(false);
        bundle.add_resource_overriding(resource);
        Self { bundle }
    }

    /// The sentence of a key; none if there is no such key.
    pub fn find(&self, key: &str, figures: &BTreeMap<String, String>) -> Option<String> {
        let pattern = self.bundle.get_message(key)?.value()?;
        let mut arguments = FluentArgs::new();
        for (name, value) in figures {
            arguments.set(name.as_str(), FluentValue::from(value.as_str()));
        }
        let mut errors = Vec::new();
        Some(self.bundle.format_pattern(pattern, Some(&arguments), &mut errors).into_owned())
    }

    /// The sentence of a key; a missing key shows itself, so that it is noticed.
    pub fn say(&self, key: &str, figures: &BTreeMap<String, String>) -> String {
        self.find(key, figures).unwrap_or_else(|| key.to_owned())
    }

    /// A word without figures.
    pub fn word(&self, key: &str) -> String {
        self.say(key, &BTreeMap::new())
    }

    /// A figure as this language writes it.
    pub fn figure(&self, value: &Value, zone: &TimeZone) -> String {
        match value {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bytes(bytes) => Bytes(*bytes).to_string(),
            Value::Time(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string(),
            Value::Seconds(seconds) => self.length(*seconds),
        }
    }

    fn length(&self, seconds: i64) -> String {
        let (key, first, second) = match seconds {
            s if s >= 86_400 => ("length-days", s / 86_400, s % 86_400 / 3600),
            s if s >= 3600 => ("length-hours", s / 3600, s % 3600 / 60),
            s => ("length-minutes", s / 60, s % 60),
        };
        let figures = [("a", first), ("b", second)];
        self.say(key, &figures.into_iter().map(|(name, n)| (name.to_owned(), n.to_string())).collect())
    }
}
