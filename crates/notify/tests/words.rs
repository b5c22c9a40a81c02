//! Both languages say the same things, and everything that can be found has words.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::collections::{BTreeMap, BTreeSet};

/// Key → placeables. Read by hand: one message per line, no terms, no selectors in these files.
fn read(language: &str) -> BTreeMap<String, BTreeSet<String>> {
    let path = format!("{}/locales/{language}.ftl", env!("CARGO_MANIFEST_DIR"));
    let text = fs_err::read_to_string(path).unwrap();
    fluent_bundle::FluentResource::try_new(text.clone()).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{language}: {line}"));
        let places =
            value.split("{ $").skip(1).map(|rest| rest.split_once(" }").unwrap().0.to_owned()).collect();
        assert!(found.insert(key.to_owned(), places).is_none(), "{language}: {key} twice");
    }
    found
}

#[test]
fn both_languages_have_the_same_keys_and_placeables() {
    let (ja, en) = (read("ja"), read("en"));
    assert_eq!(ja.keys().collect::<Vec<_>>(), en.keys().collect::<Vec<_>>());
    for (key, places) in &ja {
        assert_eq!(places, &en[key], "{key}");
    }
}

/// Every quoted word in the rooms' sources that follows a mark.
fn quoted(room: &str, mark: &str) -> BTreeSet<String> {
    let folder = format!("{}/../{room}/src", env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let text = fs_err::read_to_string(entry.unwrap().path()).unwrap();
        for part in text.split(mark).skip(1) {
            let word: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            found.insert(word);
        }
    }
    found
}

#[test]
fn every_finding_and_action_has_words() {
    let words = read("ja");
    let mut seen = 0;
    for code in quoted("judge", "\"judge.") {
        for key in [format!("judge-{code}"), format!("title-judge-{code}")] {
            assert!(words.contains_key(&key), "{key}");
        }
        seen += 1;
    }
    for code in quoted("notify", "Finding::new(\"notify.") {
        assert!(words.contains_key(&format!("title-notify-{code}")), "{code}");
        seen += 1;
    }
    for room in ["judge", "notify"] {
        for mark in ["Severity::Alarm, \"", "Severity::Warning, \""] {
            for action in quoted(room, mark) {
                assert!(words.contains_key(&format!("action-{action}")), "{action}");
                seen += 1;
            }
        }
        for figure in quoted(room, ".with(\"") {
            assert!(words.contains_key(&format!("figure-{figure}")), "{figure}");
            seen += 1;
        }
    }
    assert!(seen > 60, "the sources were found: {seen}");
}
