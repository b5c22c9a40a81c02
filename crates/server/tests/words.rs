//! Both languages say the same things: same keys, same placeables, and none is empty.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::collections::{BTreeMap, BTreeSet};

use kuramori_server::{
    config::Language,
    lang::{self, Catalogue},
};

fn keys(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("not `key = text`: {line}"));
        let placeables =
            value.split("{ $").skip(1).map(|rest| rest.split(' ').next().unwrap().to_owned()).collect();
        assert!(!value.trim().is_empty(), "{key} is empty");
        assert!(found.insert(key.to_owned(), placeables).is_none(), "{key} stands twice");
    }
    found
}

#[test]
fn both_catalogues_have_the_same_keys_and_placeables() {
    let (ja, en) = (keys(lang::JA), keys(lang::EN));
    assert!(ja.len() > 100);
    assert_eq!(ja, en);
}

#[test]
fn every_message_can_be_read() {
    for (language, text) in [(Language::Ja, lang::JA), (Language::En, lang::EN)] {
        let catalogue = Catalogue::of(language);
        for key in keys(text).keys() {
            assert!(!catalogue.say(key).contains('⟦'), "{key}");
        }
        assert_eq!(catalogue.say("no-such-key"), "⟦no-such-key⟧");
    }
}

#[test]
fn every_cause_has_its_sentence_and_its_action() {
    let ja = keys(lang::JA);
    let causes: BTreeSet<_> = ja.keys().filter_map(|key| key.strip_prefix("cause-")).collect();
    let actions: BTreeSet<_> =
        ja.keys().filter_map(|key| key.strip_prefix("next-")).filter(|key| *key != "due").collect();
    assert_eq!(causes, actions);
    assert_eq!(causes.len(), 14);
}
