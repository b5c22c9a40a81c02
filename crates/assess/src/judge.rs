//! What the list and the answers say: gaps, an order, the next three steps.

use std::collections::BTreeMap;

use kuramori_drill::drill::order;
use kuramori_model::class::{DataClass, Protection};
use serde::Serialize;

use crate::{
    questions::{Answers, QUESTIONS},
    register::{Register, Row},
};

/// How a point stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The list says so: 記録あり.
    Recorded,
    /// The list does not say: 要確認.
    ToBeConfirmed,
    /// The list says that it is missing.
    Missing,
}

fn verdict(known: Option<bool>) -> Verdict {
    match known {
        Some(true) => Verdict::Recorded,
        Some(false) => Verdict::Missing,
        None => Verdict::ToBeConfirmed,
    }
}

/// One system as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Its name.
    pub system: String,
    /// A backup is taken.
    pub backup: Verdict,
    /// Generations are at or above the floor.
    pub generations: Verdict,
    /// How many, and the floor.
    pub count: (Option<u32>, u32),
    /// A copy is cut off from the network.
    pub offline: Verdict,
    /// A copy cannot be rewritten.
    pub immutable: Verdict,
    /// A restore was tried.
    pub restored: Verdict,
    /// Somebody to call is named.
    pub contact: Verdict,
}

/// Something to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Stable name.
    pub key: &'static str,
    /// Systems that it is about.
    pub systems: Vec<String>,
}

/// Everything that the page says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assessment {
    /// The hospital.
    pub hospital: String,
    /// Systems in the list.
    pub systems: usize,
    /// Each, in restore order.
    pub gaps: Vec<Gap>,
    /// The answers by question.
    pub answers: Vec<(&'static str, Verdict)>,
    /// The next three steps.
    pub steps: Vec<Step>,
    /// Headings of the list that were left out.
    pub ignored: Vec<String>,
    /// Needed systems that the list does not have.
    pub unknown_needs: Vec<String>,
}

impl Assessment {
    /// Systems for which a point stands like this.
    pub fn with(&self, point: impl Fn(&Gap) -> Verdict, verdict: Verdict) -> Vec<&str> {
        self.gaps.iter().filter(|gap| point(gap) == verdict).map(|gap| gap.system.as_str()).collect()
    }
}

fn gap(row: &Row) -> Gap {
    Gap {
        system: row.name.clone(),
        backup: verdict(row.backup),
        generations: match (row.backup, row.generations) {
            (Some(false), _) => Verdict::Missing,
            (_, Some(count)) => verdict(Some(count >= row.floor())),
            (_, None) => Verdict::ToBeConfirmed,
        },
        count: (row.generations, row.floor()),
        offline: verdict(if row.backup == Some(false) { Some(false) } else { row.offline }),
        immutable: verdict(if row.backup == Some(false) { Some(false) } else { row.immutable }),
        restored: if row.backup == Some(false) {
            Verdict::Missing
        } else {
            verdict(row.restored.as_ref().map(|when| !when.is_empty()))
        },
        contact: verdict(row.contact.as_ref().map(|_| true).or(Some(false))),
    }
}

/// The place of a system that has none: by what it is worth.
fn place(row: &Row) -> u32 {
    row.order.unwrap_or_else(|| {
        let class = match row.protection {
            Some(Protection::Critical) => 0,
            Some(Protection::Important) => 100,
            Some(Protection::Standard) => 200,
            None => 150,
        };
        1000 + class + u32::from(row.data != Some(DataClass::Ehr)) * 10
    })
}

/// Judges.
pub fn assess(register: &Register, answers: &Answers) -> Assessment {
    let rows = &register.rows;
    let places: Vec<(String, u32)> = rows.iter().map(|row| (row.name.clone(), place(row))).collect();
    let needs: BTreeMap<String, Vec<String>> =
        rows.iter().map(|row| (row.name.clone(), row.needs.clone())).collect();
    let gaps: Vec<Gap> = order(&places, &needs)
        .into_iter()
        .filter_map(|name| rows.iter().find(|row| row.name == name))
        .map(gap)
        .collect();
    let mut unknown_needs: Vec<String> = rows
        .iter()
        .flat_map(|row| &row.needs)
        .filter(|need| !rows.iter().any(|row| row.name == **need))
        .cloned()
        .collect();
    unknown_needs.sort();
    unknown_needs.dedup();
    let mut assessment = Assessment {
        hospital: answers.hospital.clone(),
        systems: rows.len(),
        gaps,
        answers: QUESTIONS
            .iter()
            .map(|question| (question.key, verdict(answers.get(question.key))))
            .collect(),
        steps: Vec::new(),
        ignored: register.ignored.clone(),
        unknown_needs,
    };
    assessment.steps = steps(&assessment, answers);
    assessment
}

/// The three that help most, in the order in which they can be taken.
fn steps(found: &Assessment, answers: &Answers) -> Vec<Step> {
    let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let is = |point: fn(&Gap) -> Verdict, verdict: Verdict| names(found.with(point, verdict));
    let unknown: Vec<String> = found
        .gaps
        .iter()
        .filter(|gap| {
            [gap.backup, gap.generations, gap.offline, gap.restored].contains(&Verdict::ToBeConfirmed)
        })
        .map(|gap| gap.system.clone())
        .collect();
    let said_no = |key: &str| answers.get(key) != Some(true);
    let candidates = [
        ("list-systems", if found.systems == 0 { vec![String::new()] } else { Vec::new() }),
        ("take-backups", is(|gap| gap.backup, Verdict::Missing)),
        ("offline-copy", is(|gap| gap.offline, Verdict::Missing)),
        ("ask-vendors", unknown),
        ("more-generations", is(|gap| gap.generations, Verdict::Missing)),
        ("try-restore", is(|gap| gap.restored, Verdict::Missing)),
        ("notice-absence", if said_no("absence_noticed") { vec![String::new()] } else { Vec::new() }),
        ("keys-outside", if said_no("keys_kept") { vec![String::new()] } else { Vec::new() }),
        ("decide-order", if said_no("order_decided") { vec![String::new()] } else { Vec::new() }),
        ("print-runbook", if said_no("runbook_printed") { vec![String::new()] } else { Vec::new() }),
        ("own-accounts", if said_no("own_accounts") { vec![String::new()] } else { Vec::new() }),
        ("write-lock", is(|gap| gap.immutable, Verdict::Missing)),
        ("inspect", if said_no("clean_known") { vec![String::new()] } else { Vec::new() }),
        ("drill", if said_no("drill_yearly") { vec![String::new()] } else { Vec::new() }),
        ("second-site", if said_no("second_site") { vec![String::new()] } else { Vec::new() }),
        ("keep-drilling", vec![String::new()]),
    ];
    candidates
        .into_iter()
        .filter(|(_, systems)| !systems.is_empty())
        .take(3)
        .map(|(key, mut systems)| {
            systems.retain(|name| !name.is_empty());
            Step { key, systems }
        })
        .collect()
}
