//! What each order means.

use std::collections::BTreeMap;

use kuramori_model::{
    approval::{Action, Budget, Refusal},
    gate::Signature,
};
use kuramori_repo::Cancel;

use crate::{
    approval::{Grant, Wanted, change},
    control::Order,
    error::{Error, Result},
    vault::Vault,
    window::Options,
};

impl Vault {
    /// Does what an order says.
    ///
    /// # Errors
    /// As the order's own call.
    pub fn obey(&self, order: Order, cancel: &Cancel) -> Result<serde_json::Value> {
        match order {
            Order::Status {} => Ok(json(&self.report()?)),
            Order::Pull { max_seconds, request: None, proposer }
                if max_seconds.is_some_and(|seconds| seconds > self.config.window.max_seconds) =>
            {
                let wanted = self.wanted_window(max_seconds.unwrap_or_default());
                Ok(serde_json::json!({ "waiting": self.request(&wanted, &proposer)? }))
            }
            Order::Pull { max_seconds, request, .. } => {
                let granted = match request {
                    Some(request) => Some(self.grant_window(request)?),
                    None => None,
                };
                let (finished, work) = self.pull(&Options { max_seconds, granted }, cancel)?;
                Ok(serde_json::json!({ "window": finished, "work": work }))
            }
            Order::Verify {} => Ok(json(&self.work(cancel)?)),
            Order::Seed { from } => {
                let (pulled, work) = self.seed(&from, cancel)?;
                Ok(serde_json::json!({ "pulled": pulled, "work": work }))
            }
            Order::Restore { request: Some(request), dry: false, .. } => {
                Ok(json(&self.restore(&self.plan_of_request(request)?, request, cancel)?))
            }
            Order::Restore { request: Some(request), dry: true, .. } => {
                Ok(serde_json::json!({ "plan": self.plan_of_request(request)? }))
            }
            Order::Restore { receiver, systems, point, max_seconds, reason, dry, proposer, .. } => {
                let plan = self.plan_restore(&receiver, &systems, point, max_seconds, reason)?;
                if dry {
                    return Ok(serde_json::json!({ "plan": plan }));
                }
                let waiting = self.request(&plan.wanted(), &proposer)?;
                Ok(serde_json::json!({ "plan": plan, "waiting": waiting }))
            }
            Order::Officers {} => Ok(json(&self.register.officers()?)),
            Order::OfficerAdd { officer, key, request, proposer } => {
                let done = self.add_officer(&officer, key, request);
                self.or_ask(done.map(|()| serde_json::json!({ "officer": officer })), &proposer, || {
                    change(&officer, "add", key)
                })
            }
            Order::OfficerRetire { officer, request, proposer } => {
                let done = self.retire_officer(&officer, request);
                self.or_ask(done.map(|()| serde_json::json!({ "officer": officer })), &proposer, || {
                    change(&officer, "retire", None)
                })
            }
            Order::OfficerSheet { officer, request, proposer } => {
                let done = self.new_sheet(&officer, request);
                self.or_ask(done.map(|sheet| json(&sheet)), &proposer, || change(&officer, "sheet", None))
            }
            Order::Ask { action, target, params, proposer } => {
                let wanted = match action {
                    Action::RetentionCut => self.wanted_retention(),
                    Action::Unlock | Action::Policy => Wanted { action, target, params, window: None },
                    Action::Restore | Action::LongWindow | Action::GateRelease | Action::KeyChange => {
                        return Err(Error::Invalid(format!("`{action}` is asked for by its own verb")));
                    }
                };
                Ok(serde_json::json!({ "waiting": self.request(&wanted, &proposer)? }))
            }
            Order::Requests {} => Ok(json(&self.requests()?)),
            Order::Approve { request, officer, proof } => Ok(json(&self.approve(request, &officer, &proof)?)),
            Order::Withdraw { request, who } => Ok(json(&self.withdraw(request, &who)?)),
            Order::Carry { request } => self.carry(request),
            Order::ReleaseGate { request: Some(request), .. } => Ok(json(&self.release_gate(request)?)),
            Order::ReleaseGate { request: None, proposer } => {
                let wanted = self.wanted_release()?;
                Ok(serde_json::json!({ "waiting": self.request(&wanted, &proposer)? }))
            }
            Order::AuditRoot { ja } => {
                let note = crate::pull::lock(&self.log).note();
                let language =
                    if ja { kuramori_escrow::Language::Japanese } else { kuramori_escrow::Language::English };
                let page = self.root_page(&note, language)?;
                Ok(
                    serde_json::json!({ "checkpoint": note.text(), "entries": note.checkpoint.size, "page": page }),
                )
            }
            Order::Report {} => {
                let bytes = self.write_report()?;
                serde_json::from_slice(&bytes).map_err(|error| Error::io("write the report")(error.into()))
            }
            Order::Clear { key } => {
                let now = self.register.tick(&*self.clock)?;
                let cleared = self.register.clear(&key, &now)?;
                if let Some(locks) = self.folder.locks().filter(|_| cleared) {
                    self.tell_cleared(locks)?;
                }
                self.note(
                    "alarm.cleared-by-hand",
                    &serde_json::json!({ "key": key, "was_raised": cleared }),
                )?;
                Ok(serde_json::json!({ "cleared": cleared }))
            }
            Order::ConfirmClock {} => {
                self.note("clock.confirmed", &serde_json::json!({ "wall": self.clock.now() }))?;
                Ok(json(&self.register.confirm_clock(&*self.clock)?))
            }
            Order::Confirm { repository } => {
                if !self.register.confirm(&repository)? {
                    return Err(Error::UnknownRepository(repository));
                }
                self.note("repository.confirmed", &serde_json::json!({ "repository": repository }))?;
                Ok(serde_json::json!({ "repository": repository }))
            }
        }
    }

    /// What was done; or, if nobody was asked yet, the request for it.
    fn or_ask(
        &self,
        done: Result<serde_json::Value>,
        proposer: &str,
        wanted: impl FnOnce() -> Wanted,
    ) -> Result<serde_json::Value> {
        match done {
            Err(Error::Approval(Refusal::NotAsked)) => {
                Ok(serde_json::json!({ "waiting": self.request(&wanted(), proposer)? }))
            }
            done => done,
        }
    }

    fn wanted_window(&self, seconds: u32) -> Wanted {
        let params = BTreeMap::from([("address".to_owned(), self.config.primary.address.to_string())]);
        let window = Some(Budget { seconds, bytes: self.config.window.max_bytes.0 });
        Wanted { action: Action::LongWindow, target: "primary".to_owned(), params, window }
    }

    /// Uses a request for a longer pull window up, once a window may open at all.
    fn grant_window(&self, request: u64) -> Result<Grant> {
        let asked = self.asked(request, Action::LongWindow)?;
        let wanted = self.wanted_window(asked.window.map_or(0, |window| window.seconds));
        let granted = Some(self.may(Some(request), &wanted)?);
        self.preflight(&Options { granted, ..Options::default() })?;
        self.grant(Some(request), &wanted)
    }

    /// Carries out what has no verb of its own: the vault's retention itself; for others (a store's locks, a
    /// policy elsewhere) the vault signs that it was approved.
    fn carry(&self, request: u64) -> Result<serde_json::Value> {
        let asked = self.shown(request)?.row.proposal;
        match asked.action {
            Action::RetentionCut => Ok(json(&self.cut_retention(request)?)),
            Action::Unlock | Action::Policy => {
                let (action, window) = (asked.action, asked.window);
                let (target, params) = (asked.target.clone(), asked.params.clone());
                let grant = self.grant(Some(request), &Wanted { action, target, params, window })?;
                let signature: Signature = self.key.sign(&asked.canonical());
                Ok(serde_json::json!({ "proposal": asked, "grant": grant, "signature": signature }))
            }
            Action::Restore | Action::LongWindow | Action::GateRelease | Action::KeyChange => Err(
                Error::Invalid(format!("`{}` is carried out by its own verb with --request", asked.action)),
            ),
        }
    }
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
