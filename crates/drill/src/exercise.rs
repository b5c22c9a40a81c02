//! The yearly exercise: people, a scenario, what was reached, what is to be improved until when, and who
//! approved it. What a machine measures is in the drills; this is what only people can write down.

use jiff::civil::Date;
use kuramori_report::{Block, Document, Language, Tone};
use serde::{Deserialize, Serialize};

use crate::{DrillError, Result};

/// One exercise as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exercise {
    /// When it was held.
    pub date: Date,
    /// Who took part.
    pub participants: Vec<String>,
    /// What was assumed to have happened.
    pub scenario: String,
    /// Systems that were brought back.
    #[serde(default)]
    pub systems: Vec<String>,
    /// Drills that belong to it: `drill-12`.
    #[serde(default)]
    pub drills: Vec<String>,
    /// How long it took.
    pub achieved_rto: String,
    /// How much data would have been lost.
    pub achieved_rpo: String,
    /// What was found, and what is done about it.
    #[serde(default)]
    pub finding: Vec<Improvement>,
    /// Who approved the record; empty until then.
    #[serde(default)]
    pub approved_by: String,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_on: Option<Date>,
}

/// One finding with its improvement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Improvement {
    /// What was found.
    pub found: String,
    /// What is done about it.
    pub improvement: String,
    /// Until when.
    pub due: Date,
    /// Who does it.
    #[serde(default)]
    pub owner: String,
    /// When it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Date>,
}

impl Exercise {
    /// Checks that the record says what a record has to say.
    ///
    /// # Errors
    /// [`DrillError::Profile`] with what is missing.
    pub fn check(&self) -> Result<()> {
        let empty = |text: &str| text.trim().is_empty();
        let missing = if self.participants.iter().all(|name| empty(name)) {
            "participants"
        } else if empty(&self.scenario) {
            "scenario"
        } else if empty(&self.achieved_rto) || empty(&self.achieved_rpo) {
            "achieved_rto, achieved_rpo"
        } else if self.finding.iter().any(|one| empty(&one.found) || empty(&one.improvement)) {
            "finding: found, improvement"
        } else if self.approved_by.is_empty() != self.approved_on.is_none() {
            "approved_by and approved_on belong together"
        } else {
            return Ok(());
        };
        Err(DrillError::Profile(format!("the exercise's record lacks: {missing}")))
    }

    /// Improvements that were due before `today` and are not done.
    pub fn overdue(&self, today: Date) -> usize {
        self.finding.iter().filter(|one| one.done.is_none() && one.due < today).count()
    }

    /// An example that can be edited.
    pub fn example() -> Self {
        let date = Date::constant;
        Self {
            date: date(2026, 11, 20),
            participants: vec!["情報担当 中山".to_owned(), "医事課 田中".to_owned()],
            scenario: "夜間に電子カルテと医事会計が暗号化された".to_owned(),
            systems: vec!["billing".to_owned()],
            drills: vec!["drill-12".to_owned()],
            achieved_rto: "2 時間 10 分".to_owned(),
            achieved_rpo: "前夜 1:00".to_owned(),
            finding: vec![Improvement {
                found: "シートの保管場所が分からなかった".to_owned(),
                improvement: "保管者の一覧を手順書に添える".to_owned(),
                due: date(2026, 12, 20),
                owner: "中山".to_owned(),
                done: None,
            }],
            approved_by: String::new(),
            approved_on: None,
        }
    }
}

/// The record's page.
pub fn page(exercise: &Exercise, hospital: &str, today: Date, language: Language) -> Document {
    let title = language.pick("演習の記録", "Record of an exercise");
    let mut page = Document::new(language, title, format!("{hospital}  {}", exercise.date));
    if exercise.approved_by.is_empty() {
        page.notice(Tone::Attention, page.pick("まだ承認されていません。", "Not approved yet."));
    }
    let overdue = exercise.overdue(today);
    if overdue > 0 {
        let word = page.pick("期限を過ぎた改善", "Improvements past their date");
        page.notice(Tone::Bad, format!("{word}: {overdue}"));
    }
    let approved =
        exercise.approved_on.map_or_else(String::new, |on| format!("{} {on}", exercise.approved_by));
    page.add(Block::Facts(vec![
        (page.pick("日付", "Date").to_owned(), exercise.date.to_string()),
        (
            page.pick("参加者", "Participants").to_owned(),
            exercise.participants.join(language.pick("、", ", ")),
        ),
        (page.pick("想定", "Scenario").to_owned(), exercise.scenario.clone()),
        (page.pick("対象システム", "Systems").to_owned(), exercise.systems.join(", ")),
        (page.pick("復元訓練の記録", "Drills").to_owned(), exercise.drills.join(", ")),
        (page.pick("達成した復旧時間", "Recovery time reached").to_owned(), exercise.achieved_rto.clone()),
        (page.pick("達成した復旧時点", "Recovery point reached").to_owned(), exercise.achieved_rpo.clone()),
        (page.pick("承認", "Approved").to_owned(), approved),
    ]));
    page.heading("課題と改善", "Findings and improvements");
    let rows = exercise
        .finding
        .iter()
        .map(|one| {
            vec![
                one.found.clone(),
                one.improvement.clone(),
                one.owner.clone(),
                one.due.to_string(),
                one.done.map_or_else(String::new, |done| done.to_string()),
            ]
        })
        .collect();
    let head = [
        page.pick("課題", "Found"),
        page.pick("改善", "Improvement"),
        page.pick("担当", "Owner"),
        page.pick("期限", "Due"),
        page.pick("完了", "Done"),
    ];
    page.table(&head, rows);
    page.add(Block::Boxes(
        ["作成", "確認", "承認"]
            .into_iter()
            .zip(["Made", "Checked", "Approved"])
            .map(|(ja, en)| language.pick(ja, en).to_owned())
            .collect(),
    ));
    page.footer = page
        .pick(
            "記入された記録です。演習の十分さの判断は病院が行います。",
            "As written down by people; whether it suffices is for the hospital to judge.",
        )
        .into();
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lacks_nothing_and_a_late_improvement_shows() {
        let mut exercise = Exercise::example();
        exercise.check().unwrap();
        let (before, after) = (Date::constant(2026, 12, 20), Date::constant(2026, 12, 21));
        assert_eq!((exercise.overdue(before), exercise.overdue(after)), (0, 1));
        let text = page(&exercise, "湊総合病院", after, Language::Ja).text();
        assert!(text.contains("期限を過ぎた改善: 1") && text.contains("まだ承認されていません"), "{text}");
        exercise.approved_by = "院長".to_owned();
        assert!(exercise.check().is_err(), "an approval has a date");
        exercise.approved_on = Some(after);
        exercise.check().unwrap();
        exercise.participants.clear();
        assert!(exercise.check().is_err());
    }
}
