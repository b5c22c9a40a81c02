//! Which repositories are pulled: those that a person or the configuration knows, and a few new ones.

use std::collections::HashSet;

use kuramori_model::finding::{Finding, Severity};

use super::{Have, Pull, about};
use crate::{config::is_repository, error::Result, register::Time};

impl Pull<'_> {
    /// Which of the names that the primary gave are pulled, in restore order, each with whether it is new.
    pub(super) fn accept(
        &mut self,
        names: Vec<String>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<(String, bool)>> {
        let mut accepted = Vec::new();
        // Over all windows, not for each: else a primary could fill the disk with eight more each night.
        let mut unconfirmed =
            self.have.iter().filter(|(name, have)| !have.confirmed && !self.config.knows(name)).count();
        let names: HashSet<String> = names.into_iter().collect();
        let reports = self.config.report.as_ref().map(|report| report.repository.as_str());
        for name in &names {
            if Some(name.as_str()) == reports {
                continue;
            }
            if !is_repository(name) {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
                findings.push(
                    Finding::new("vault.bad-name", Severity::Alarm, "check-primary").with("name", shown),
                );
                continue;
            }
            let new = !self.have.contains_key(name);
            let confirmed = self.config.knows(name) || self.have.get(name).is_some_and(|have| have.confirmed);
            if new {
                unconfirmed += usize::from(!confirmed);
                if !confirmed && unconfirmed > self.limits.new_repositories {
                    findings.push(about("vault.too-many-new", Severity::Alarm, "check-primary", name));
                    continue;
                }
                self.register.see(name, "new", &self.now)?;
                self.have.insert(name.clone(), Have::default());
            } else {
                self.register.set_state(name, if confirmed { "known" } else { "new" })?;
            }
            if new || !confirmed {
                findings.push(about("vault.new-repository", Severity::Warning, "confirm-repository", name));
            }
            accepted.push((name.clone(), new));
        }
        for known in self.have.keys().filter(|known| self.whole && !names.contains(*known)) {
            self.register.set_state(known, "vanished")?;
            findings.push(about("vault.repository-vanished", Severity::Alarm, "check-primary", known));
        }
        let rank = |name: &str| {
            let control = name != kuramori_model::ids::CONTROL_REPOSITORY;
            (control, self.config.order.iter().position(|known| known == name).unwrap_or(usize::MAX))
        };
        accepted.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        Ok(accepted)
    }

    pub(super) fn backlog_findings(&self, now: &Time, findings: &mut Vec<Finding>) -> Result<()> {
        for row in self.register.repositories()? {
            let Some(since) = row.backlog_since_s else { continue };
            let age = now.accumulated_s.saturating_sub(since);
            if age > self.config.window.backlog_alarm_s {
                findings.push(
                    about("vault.backlog", Severity::Alarm, "longer-window", &row.name)
                        .with("bytes", kuramori_model::finding::Value::Bytes(row.backlog_bytes))
                        .with(
                            "age",
                            kuramori_model::finding::Value::Seconds(i64::try_from(age).unwrap_or(i64::MAX)),
                        ),
                );
            }
        }
        Ok(())
    }
}
