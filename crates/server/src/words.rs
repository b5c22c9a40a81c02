//! Findings in words: notify's sentences, so that screen and mail say the same.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use kuramori_model::finding::Finding;
use kuramori_notify::{Words, dash};

use crate::{config::Language, facts::System, lang::Catalogue};

/// A finding's sentence and its next action.
pub(crate) fn finding(
    finding: &Finding,
    systems: &[System],
    catalogue: &Catalogue,
    zone: &TimeZone,
) -> (String, String) {
    let words = match catalogue.language {
        Language::Ja => Words::japanese(),
        Language::En => Words::english(),
    };
    let mut figures: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &finding.params {
        figures.insert(name.clone(), words.figure(value, zone));
    }
    let system = match &finding.system {
        Some(id) => systems.iter().find(|system| system.id == *id).map_or_else(
            || id.to_string(),
            |system| catalogue.pick(&system.name_ja, &system.name_en).to_owned(),
        ),
        None => words.word("platform"),
    };
    figures.insert("system".to_owned(), system);
    figures.insert("code".to_owned(), finding.code.clone());
    let sentence =
        words.find(&dash(&finding.code), &figures).unwrap_or_else(|| words.say("unknown-finding", &figures));
    let action =
        words.find(&format!("action-{}", finding.action), &figures).unwrap_or_else(|| finding.action.clone());
    (sentence, action)
}
