//! What inspection found, and up to where files were locked.

use kuramori_judge::retention::Verdict;
use kuramori_model::{clock::Clock, ids::Sequence};

use super::{Register, signed};
use crate::error::Result;

impl Register {
    /// Stores a verdict. A point that was found suspect stays so.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn judged(&self, sequence: Sequence, verdict: Verdict, clock: &dyn Clock) -> Result<()> {
        self.tick(clock)?;
        self.run(async |db| {
            sqlx::query("update points set verdict = ?1 where sequence = ?2 and verdict <> 'suspect'")
                .bind(verdict.as_str())
                .bind(signed(sequence.0))
                .execute(db)
                .await
                .map(drop)
        })
    }

    /// Whether a person still has to look at something suspect of this repository.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn is_suspect(&self, repository: &str) -> Result<bool> {
        let alarms = self.alarms()?;
        Ok(alarms.iter().any(|alarm| {
            alarm.finding.code == crate::inspect::SUSPECT && alarm.finding.subject == repository
        }))
    }

    /// The last point all of whose files were locked.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn locked_up_to(&self, repository: &str) -> Result<Sequence> {
        let text = self.meta(&format!("locked.{repository}"))?;
        Ok(Sequence(text.and_then(|text| text.parse().ok()).unwrap_or(0)))
    }

    /// Remembers that all files of a point were locked.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn set_locked_up_to(&self, repository: &str, sequence: Sequence) -> Result<()> {
        self.set_meta(&format!("locked.{repository}"), &sequence.0.to_string())
    }
}
