//! What happens at the repository server: a stock restic client's commit becomes a restore point, a vault's
//! report is read, a refused attempt becomes an alarm.

use std::sync::Mutex;

use kuramori_catalog::Writer;
use kuramori_model::{
    fault::chain,
    finding::{Finding, Severity},
    ids::SystemId,
};
use kuramori_serve::{Event, Watch};
use tokio::sync::mpsc;

use crate::{
    App, job,
    logins::{REPORTS, SHELF},
    report, results,
};

/// Events that may wait; beyond that the next start looks for what was missed.
const WAITING: usize = 4096;

/// Hands events on without blocking the network.
#[derive(Debug)]
pub(crate) struct Ear(mpsc::Sender<Event>);

impl Watch for Ear {
    fn event(&self, event: Event) {
        if (event.committed().is_some() || event.alarming()) && self.0.try_send(event).is_err() {
            tracing::error!(
                "an event of the repository server was dropped; its restore point is registered later"
            );
        }
    }
}

/// An ear and what it hears.
pub(crate) fn ear() -> (Ear, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Ear(sender), receiver)
}

/// Attempts that were refused since the judge last looked.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<Vec<Finding>>);

impl Refused {
    fn add(&self, event: &Event) {
        let login = event.login.clone().unwrap_or_default();
        let mut finding = Finding::new("serve.refused", Severity::Warning, "check-login")
            .about(&login)
            .with("login", login.as_str())
            .with("peer", event.peer.map(|peer| peer.ip().to_string()).unwrap_or_default());
        if let Some(system) = event.repository.as_ref().and_then(|name| SystemId::new(name.as_str()).ok()) {
            finding = finding.of(&system);
        }
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if all.len() < 100 && !all.iter().any(|other| other.key() == finding.key()) {
            all.push(finding);
        }
    }

    /// Something that arrived and cannot be believed.
    pub(crate) fn note(&self, finding: Finding) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|other| other.key() != finding.key());
        if all.len() < 100 {
            all.push(finding);
        }
    }

    /// A report that does not verify: a broken vault, or somebody who plays one.
    pub(crate) fn report(&self, why: &str) {
        let finding = Finding::new("report.forged", Severity::Alarm, "check-vault").with("why", why);
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|other| other.key() != finding.key());
        all.push(finding);
    }

    pub(crate) fn all(&self) -> Vec<Finding> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Works off events until the sender is gone.
pub(crate) async fn listen(app: App, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if event.alarming() {
            app.refused.add(&event);
        }
        let Some((repository, name)) = event.committed() else { continue };
        if repository.as_str() == REPORTS {
            if let Err(error) = report::read(&app, name).await {
                tracing::error!("a report of the vault cannot be used: {}", chain(&error));
            }
            continue;
        }
        if let Some(system) = repository.as_str().strip_prefix(SHELF).and_then(|id| SystemId::new(id).ok()) {
            if let Err(error) = results::read(&app, &system, name).await {
                tracing::error!(%system, "a job's result cannot be used: {}", chain(&error));
            }
            continue;
        }
        let Ok(id) = SystemId::new(repository.as_str()) else { continue };
        let outcome = async {
            let system = app.catalog.system(&id).await?.system;
            if system.writer == Writer::Restic && job::adopt_system(&app, &system).await? > 0 {
                app.export_control().await?;
            }
            Ok::<_, crate::ServerError>(())
        };
        if let Err(error) = outcome.await {
            tracing::error!(system = %id, "a committed restore point could not be registered: {}", chain(&error));
        }
    }
}
