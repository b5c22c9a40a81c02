//! Retention only grows: to keep less than before takes two officers and a day.
//!
//! The register remembers what was kept until now. A configuration that keeps more counts at once; one that
//! keeps less counts only after the request for exactly these figures was approved and carried out. Until then
//! the larger figure of each line holds, and an alarm says so.

use std::collections::BTreeMap;

use kuramori_judge::retention::Retention;
use kuramori_model::{
    approval::Action,
    finding::{Finding, Severity},
};

use crate::{approval::Wanted, error::Result, vault::Vault};

const KEY: &str = "retention";
/// The alarm while less is configured than is kept.
pub(crate) const WAITS: &str = "vault.retention-cut-waits";

impl Vault {
    /// What is kept now: never less than before.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn retention(&self) -> Result<Retention> {
        let new = &self.config.retention;
        let before: Option<Retention> =
            self.register.meta(KEY)?.and_then(|text| serde_json::from_str(&text).ok());
        let Some(before) = before else {
            self.set_retention(new)?;
            return Ok(new.clone());
        };
        let kept = Retention {
            daily: new.daily.max(before.daily),
            weekly: new.weekly.max(before.weekly),
            monthly: new.monthly.max(before.monthly),
            min_days: new.min_days.max(before.min_days),
            removals_per_day: new.removals_per_day.min(before.removals_per_day),
            needs_inspection: new.needs_inspection || before.needs_inspection,
        };
        if kept != before {
            self.set_retention(&kept)?;
        }
        Ok(kept)
    }

    /// Says that less is configured than is kept, as long as that is so.
    pub(crate) fn retention_finding(&self) -> Result<Option<Finding>> {
        Ok((self.retention()? != self.config.retention)
            .then(|| Finding::new(WAITS, Severity::Warning, "approve-or-restore-configuration")))
    }

    /// What the configured retention asks for.
    pub fn wanted_retention(&self) -> Wanted {
        let new = &self.config.retention;
        let figures = [
            ("daily", new.daily),
            ("weekly", new.weekly),
            ("monthly", new.monthly),
            ("min_days", new.min_days),
            ("removals_per_day", new.removals_per_day),
            ("needs_inspection", u32::from(new.needs_inspection)),
        ];
        let params: BTreeMap<String, String> =
            figures.iter().map(|(name, figure)| ((*name).to_owned(), figure.to_string())).collect();
        Wanted { action: Action::RetentionCut, target: "vault".to_owned(), params, window: None }
    }

    /// Takes the configured retention over although it keeps less.
    ///
    /// # Errors
    /// [`crate::Error::Approval`].
    pub fn cut_retention(&self, request: u64) -> Result<Retention> {
        let grant = self.grant(Some(request), &self.wanted_retention())?;
        self.note(
            "retention.cut",
            &serde_json::json!({ "grant": grant, "retention": self.config.retention }),
        )?;
        self.set_retention(&self.config.retention)?;
        Ok(self.config.retention.clone())
    }

    fn set_retention(&self, retention: &Retention) -> Result<()> {
        self.register.set_meta(KEY, &serde_json::to_string(retention).unwrap_or_default())
    }
}
