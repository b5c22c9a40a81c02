//! Words: one Fluent catalogue in two languages, with the same keys and placeables in both.

use std::{borrow::Cow, sync::OnceLock, time::Duration};

use fluent_bundle::{FluentArgs, FluentResource, FluentValue, concurrent::FluentBundle};
use jiff::{Timestamp, tz::TimeZone};

use crate::config::Language;

/// The Japanese catalogue's text.
pub const JA: &str = include_str!("../locales/ja.ftl");
/// The English catalogue's text.
pub const EN: &str = include_str!("../locales/en.ftl");

/// One language's messages.
pub struct Catalogue {
    /// Which language.
    pub language: Language,
    bundle: FluentBundle<FluentResource>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").field("language", &self.language).finish_non_exhaustive()
    }
}

impl Catalogue {
    /// The catalogue of a language; read once.
    pub fn of(language: Language) -> &'static Self {
        static JAPANESE: OnceLock<Catalogue> = OnceLock::new();
        static ENGLISH: OnceLock<Catalogue> = OnceLock::new();
        match language {
            Language::Ja => JAPANESE.get_or_init(|| Self::read(language, JA)),
            Language::En => ENGLISH.get_or_init(|| Self::read(language, EN)),
        }
    }

    fn read(language: Language, text: &str) -> Self {
        let resource = match FluentResource::try_new(text.to_owned()) {
            // A broken line costs that line only; a test finds it.
            Ok(resource) | Err((resource, _)) => resource,
        };
        let mut bundle = FluentBundle::new_concurrent(Vec::new());
        bundle.set_use_isolating(false);
        let _ = bundle.add_resource(resource);
        Self { language, bundle }
    }

    /// A message without figures.
    pub fn say(&self, key: &str) -> String {
        self.tell(key, &[])
    }

    /// A message with figures. A key that does not exist shows itself, so that it is found.
    pub fn tell(&self, key: &str, figures: &[(&str, FluentValue<'_>)]) -> String {
        let Some(pattern) = self.bundle.get_message(key).and_then(|message| message.value()) else {
            return format!("⟦{key}⟧");
        };
        let mut args = FluentArgs::new();
        for (name, value) in figures {
            args.set(Cow::Borrowed(*name), value.clone());
        }
        self.bundle.format_pattern(pattern, Some(&args), &mut Vec::new()).into_owned()
    }

    /// A message whose key has a fixed first part: `state-` and `ok`.
    pub fn pair(&self, group: &str, key: &str) -> String {
        self.say(&format!("{group}{key}"))
    }

    /// Picks the name of the reader's language.
    pub fn pick<'a>(&self, ja: &'a str, en: &'a str) -> &'a str {
        let (own, other) = if self.language == Language::Ja { (ja, en) } else { (en, ja) };
        if own.is_empty() { other } else { own }
    }

    /// The language's tag for HTML.
    pub fn tag(&self) -> &'static str {
        match self.language {
            Language::Ja => "ja",
            Language::En => "en",
        }
    }

    /// A length of time in the two largest fitting units: `3 時間 20 分`.
    pub fn span(&self, time: Duration) -> String {
        let seconds = time.as_secs();
        let n = |value: u64| FluentValue::from(i64::try_from(value).unwrap_or(i64::MAX));
        match seconds {
            0..60 => self.tell("span-seconds", &[("n", n(seconds))]),
            60..3600 => self.tell("span-minutes", &[("n", n(seconds / 60))]),
            // Two days are still thought of in hours: 26 hours say more about a nightly backup than a day.
            3600..172_800 if seconds % 3600 < 60 => self.tell("span-full-hours", &[("h", n(seconds / 3600))]),
            3600..172_800 => {
                self.tell("span-hours", &[("h", n(seconds / 3600)), ("m", n(seconds % 3600 / 60))])
            }
            _ if seconds % 86_400 < 3600 => self.tell("span-full-days", &[("d", n(seconds / 86_400))]),
            _ => self.tell("span-days", &[("d", n(seconds / 86_400)), ("h", n(seconds % 86_400 / 3600))]),
        }
    }

    /// How long ago, or how far ahead.
    pub fn age(&self, at: Timestamp, now: Timestamp) -> String {
        let age = now.duration_since(at);
        let span = self.span(age.unsigned_abs());
        // A second or two ahead is two clocks, not the future.
        let key = if age.as_secs() >= -5 { "ago" } else { "ahead" };
        self.tell(key, &[("span", span.into())])
    }

    /// Day and minute, without the year: what is on this screen is near.
    pub fn time(&self, at: Timestamp, zone: &TimeZone) -> String {
        let local = at.to_zoned(zone.clone());
        match self.language {
            Language::Ja => local.strftime("%-m月%-d日 %H:%M").to_string(),
            Language::En => local.strftime("%-d %b %H:%M").to_string(),
        }
    }

    /// The time in full with its zone, for titles and print.
    pub fn exact(&self, at: Timestamp, zone: &TimeZone) -> String {
        at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// Hour, minute and second: how a report's age is named.
    pub fn clock(&self, at: Timestamp, zone: &TimeZone) -> String {
        at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string()
    }
}

/// The language that a browser asks for: the first of its list that we have.
pub fn accepted(header: &str) -> Option<Language> {
    header.split(',').find_map(|part| parse(part.split(';').next().unwrap_or_default().trim()))
}

/// `ja`, `ja-JP`, `en` …
pub fn parse(tag: &str) -> Option<Language> {
    match tag.split(['-', '_']).next()? {
        "ja" => Some(Language::Ja),
        "en" => Some(Language::En),
        _ => None,
    }
}
