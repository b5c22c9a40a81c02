//! Approvals: the vault alone judges whether enough people said yes.
//!
//! **In** comes what somebody wants ([`Wanted`]), as a request with a number and a short code; then, typed at
//! the vault itself, officers' signatures or codes of their sealed paper sheets ([`sheet`]). **Out** comes a
//! [`Grant`], once: two officers who are not the proposer, in time, for exactly these parameters, and for what
//! weakens the vault after a day of its own running time. Everything is in the log.
//!
//! What can go wrong, and what then: a signature or code that does not fit is refused with its own code and
//! raises an alarm; a row of the register that was changed is no request any more, because what counts is the
//! hash that people signed; the process is killed between the grant and the deed (the request is used up, and
//! the deed must be asked for anew: never twice); the wall clock jumps (it has no say here).
//!
//! Before three officers were ever enrolled, enrolling needs nobody: somebody has to begin. From then on each
//! change of them is itself a request. Closing, locking, withdrawing and extending need nobody, ever.

pub mod sheet;

use std::collections::BTreeMap;

use kuramori_model::{
    approval::{Action, Budget, OFFICERS, Proposal, QUORUM, Refusal},
    finding::{Finding, Severity},
    gate::{Nonce, Signature, VerifyingKey},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    register::{RequestRow, RequestState, Time},
    vault::Vault,
};

/// How long a request lives, in seconds of the vault's running time, beyond the delay of its action.
const LIFE_S: u64 = 2 * 86_400;
/// Requests that may be open at the same time, so that nobody can bury one among others.
const OPEN: usize = 16;

/// What somebody wants, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub action: Action,
    /// On what.
    pub target: String,
    /// Everything else that matters.
    pub params: BTreeMap<String, String>,
    /// The window that it opens.
    pub window: Option<Budget>,
}

/// A request as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// How it is kept.
    #[serde(flatten)]
    pub row: RequestRow,
    /// What is read aloud.
    pub short_code: String,
    /// Officers whose yes counts now.
    pub valid: Vec<String>,
    /// How many are needed.
    pub needed: usize,
    /// It has expired.
    pub expired: bool,
    /// Seconds of the vault's running time that are still to be waited; none while approvals are missing.
    pub wait_s: Option<u64>,
}

/// How an officer says yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Proof {
    /// Ed25519 over the request's canonical bytes.
    Signature(Signature),
    /// A line of the officer's sheet, with the short code as the officer read it back.
    Paper {
        /// The request's short code, so that the line is used for this request and no other.
        short_code: String,
        /// `7-ABCD-EFGH-JKMN`: the line's number and its code.
        code: String,
    },
}

/// That something may be done now, once. Made only by [`Vault::grant`].
#[derive(Debug, Clone, Serialize)]
pub struct Grant {
    /// The request.
    pub request: u64,
    /// Who said yes.
    pub officers: Vec<String>,
    /// The window that was approved.
    pub window: Option<Budget>,
}

impl Vault {
    /// Asks for approvals. Needs nobody itself.
    ///
    /// # Errors
    /// [`Refusal::NoOfficers`] while fewer than three are enrolled.
    pub fn request(&self, wanted: &Wanted, proposer: &str) -> Result<Shown> {
        let now = self.register.tick(&*self.clock)?;
        let have = self.active()?.len();
        if have < QUORUM {
            return Err(Refusal::NoOfficers { have, need: OFFICERS }.into());
        }
        let open = self.register.requests(None, 100)?;
        let open = open
            .iter()
            .filter(|row| row.state == RequestState::Open && row.proposal.expiry >= now.accumulated_s);
        if open.count() >= OPEN {
            return Err(Error::Invalid(format!("{OPEN} requests are open; withdraw one first")));
        }
        let proposal = Proposal {
            action: wanted.action,
            target: wanted.target.clone(),
            params: wanted.params.clone(),
            window: wanted.window,
            nonce: Nonce::draw(&*self.random),
            expiry: now.accumulated_s.saturating_add(wanted.action.delay_s() + LIFE_S),
            vault: self.config.vault.name.clone(),
            proposer: name(proposer)?,
        };
        self.note(
            "approval.requested",
            &serde_json::json!({ "proposal": proposal, "hash": hex::encode(proposal.hash()) }),
        )?;
        let number = self.register.ask(&proposal, &now)?;
        self.shown(number)
    }

    /// Every request, newest first.
    ///
    /// # Errors
    /// Register errors.
    pub fn requests(&self) -> Result<Vec<Shown>> {
        let now = self.register.tick(&*self.clock)?;
        self.register.requests(None, 50)?.into_iter().map(|row| self.show(row, &now)).collect()
    }

    /// One request.
    ///
    /// # Errors
    /// [`Refusal::UnknownRequest`].
    pub fn shown(&self, request: u64) -> Result<Shown> {
        let now = self.register.tick(&*self.clock)?;
        self.show(self.row(request)?, &now)
    }

    fn row(&self, request: u64) -> Result<RequestRow> {
        let row = self.register.requests(Some(request), 1)?.pop();
        row.ok_or_else(|| Refusal::UnknownRequest(request).into())
    }

    fn show(&self, row: RequestRow, now: &Time) -> Result<Shown> {
        let (valid, ready_s) = self.valid(&row)?;
        Ok(Shown {
            short_code: row.proposal.short_code(),
            needed: QUORUM,
            expired: now.accumulated_s > row.proposal.expiry,
            wait_s: ready_s.map(|ready| ready.saturating_sub(now.accumulated_s)),
            valid,
            row,
        })
    }

    /// Officers whose yes counts, judged anew each time: enrolled now, not the proposer, the signature verified
    /// against the key that is enrolled *now*. And when it may be carried out, once there are enough.
    fn valid(&self, row: &RequestRow) -> Result<(Vec<String>, Option<u64>)> {
        let officers = self.active()?;
        let canonical = row.proposal.canonical();
        let (mut valid, mut times, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for given in &row.approvals {
            let Some((_, key)) = officers.iter().find(|(name, _)| *name == given.officer) else { continue };
            let counts = match (&given.signature, key) {
                (Some(signature), Some(key)) => key.verifies(&canonical, signature) && !keys.contains(key),
                (Some(_), None) => false,
                (None, _) => self.register.used_a_code(row.request, &given.officer)?,
            };
            if counts && given.officer != row.proposal.proposer {
                keys.extend(*key);
                valid.push(given.officer.clone());
                times.push(given.at_s);
            }
        }
        times.sort_unstable();
        let ready = times.get(QUORUM - 1).map(|at| at.saturating_add(row.proposal.action.delay_s()));
        Ok((valid, ready))
    }

    /// Officers who are not retired, with their keys.
    pub(crate) fn active(&self) -> Result<Vec<(String, Option<VerifyingKey>)>> {
        let officers = self.register.officers()?;
        Ok(officers
            .into_iter()
            .filter(|one| one.retired_s.is_none())
            .map(|one| (one.name, one.key))
            .collect())
    }

    /// Takes an officer's yes.
    ///
    /// # Errors
    /// [`Error::Approval`] with the reason; a wrong signature or code is also an alarm.
    pub fn approve(&self, request: u64, officer: &str, proof: &Proof) -> Result<Shown> {
        let now = self.register.tick(&*self.clock)?;
        let row = self.row(request)?;
        let done = self.take(&row, officer, proof, &now);
        if let Err(Error::Approval(refusal)) = &done {
            self.note(
                "approval.refused",
                &serde_json::json!({ "request": request, "officer": officer, "code": refusal.code() }),
            )?;
            if matches!(refusal, Refusal::Signature(_) | Refusal::Code(_) | Refusal::CodeUsed { .. }) {
                let finding = Finding::new("vault.wrong-approval", Severity::Alarm, "look-at-vault");
                let finding = finding.about(officer).with("why", refusal.to_string());
                self.settle(&[], &[finding], &now)?;
            }
        }
        done?;
        let way = if matches!(proof, Proof::Signature(_)) { "key" } else { "paper" };
        self.note(
            "approval.given",
            &serde_json::json!({
                "request": request, "officer": officer, "way": way, "hash": hex::encode(row.proposal.hash()),
                "signature": if let Proof::Signature(signature) = proof { Some(signature) } else { None },
            }),
        )?;
        self.shown(request)
    }

    fn take(&self, row: &RequestRow, officer: &str, proof: &Proof, now: &Time) -> Result<()> {
        open(row, now)?;
        let officers = self.active()?;
        let Some((_, key)) = officers.iter().find(|(name, _)| name == officer) else {
            return Err(Refusal::UnknownOfficer(officer.to_owned()).into());
        };
        if row.proposal.proposer == officer {
            return Err(Refusal::OwnProposal(officer.to_owned()).into());
        }
        if row.approvals.iter().any(|given| given.officer == officer) {
            return Err(Refusal::Twice(officer.to_owned()).into());
        }
        let (signature, code) = match proof {
            Proof::Signature(signature) => {
                let canonical = row.proposal.canonical();
                if !key.is_some_and(|key| key.verifies(&canonical, signature)) {
                    return Err(Refusal::Signature(officer.to_owned()).into());
                }
                (Some(signature), None)
            }
            Proof::Paper { short_code, code } => {
                let heard = kuramori_model::approval::heard;
                // First: a line must not be used up for what the officer did not mean.
                if heard(short_code) != heard(&row.proposal.short_code()) {
                    return Err(Refusal::ShortCode.into());
                }
                (None, Some(self.find_code(officer, code)?))
            }
        };
        if self.register.approve(row.request, officer, signature, code.as_ref(), now)? {
            Ok(())
        } else {
            Err(Refusal::Twice(officer.to_owned()).into())
        }
    }

    /// Takes a request back. Needs nobody: it only makes less possible.
    ///
    /// # Errors
    /// [`Refusal::UnknownRequest`].
    pub fn withdraw(&self, request: u64, who: &str) -> Result<Shown> {
        self.row(request)?;
        let ended = self.register.end_request(request, RequestState::Withdrawn)?;
        self.note(
            "approval.withdrawn",
            &serde_json::json!({ "request": request, "who": who, "was_open": ended }),
        )?;
        self.shown(request)
    }

    /// Uses a request up for exactly what is wanted now.
    ///
    /// # Errors
    /// [`Error::Approval`] with the reason; then nothing was used up.
    pub fn grant(&self, request: Option<u64>, wanted: &Wanted) -> Result<Grant> {
        let grant = self.may(request, wanted)?;
        // Durable before the deed: what comes after a kill has to be asked for anew.
        if !self.register.end_request(grant.request, RequestState::Used)? {
            return Err(Refusal::Replayed(grant.request).into());
        }
        self.note("approval.used", &grant)?;
        Ok(grant)
    }

    /// Whether a request allows exactly this now. Uses nothing up.
    ///
    /// # Errors
    /// [`Error::Approval`] with the reason.
    pub fn may(&self, request: Option<u64>, wanted: &Wanted) -> Result<Grant> {
        let now = self.register.tick(&*self.clock)?;
        let number = request.ok_or(Refusal::NotAsked)?;
        let row = self.row(number)?;
        open(&row, &now)?;
        let proposal = &row.proposal;
        let same = proposal.action == wanted.action
            && proposal.target == wanted.target
            && proposal.params == wanted.params
            && proposal.window == wanted.window
            && proposal.vault == self.config.vault.name;
        if !same {
            return Err(Refusal::Changed(number).into());
        }
        let (officers, ready) = self.valid(&row)?;
        let Some(ready) = ready else {
            return Err(Refusal::NotEnough { request: number, have: officers.len(), need: QUORUM }.into());
        };
        if now.accumulated_s < ready {
            return Err(Refusal::TooEarly { request: number, left_s: ready - now.accumulated_s }.into());
        }
        Ok(Grant { request: number, officers, window: proposal.window })
    }

    /// What a request asks for, to carry it out by its number alone.
    ///
    /// # Errors
    /// [`Refusal::UnknownRequest`]; [`Refusal::Changed`] if it asks for another action.
    pub(crate) fn asked(&self, request: u64, action: Action) -> Result<Proposal> {
        let row = self.row(request)?;
        if row.proposal.action == action { Ok(row.proposal) } else { Err(Refusal::Changed(request).into()) }
    }

    /// Enrols an officer. Free for the first three; then it needs a request.
    ///
    /// # Errors
    /// [`Error::Approval`]; [`Error::Invalid`] if the key is another officer's.
    pub fn add_officer(&self, officer: &str, key: Option<VerifyingKey>, request: Option<u64>) -> Result<()> {
        let officer = name(officer)?;
        let taken = |one: &(String, Option<VerifyingKey>)| one.0 != officer && key.is_some() && one.1 == key;
        if let Some((other, _)) = self.active()?.iter().find(|one| taken(one)) {
            return Err(Error::Invalid(format!(
                "`{other}` has this key already; each officer has their own"
            )));
        }
        self.change_officers(&change(&officer, "add", key), request)?;
        let now = self.register.tick(&*self.clock)?;
        self.note("officer.enrolled", &serde_json::json!({ "officer": officer, "key": key }))?;
        self.register.enrol(&officer, key.as_ref(), &now)
    }

    /// Retires an officer.
    ///
    /// # Errors
    /// [`Error::Approval`].
    pub fn retire_officer(&self, officer: &str, request: Option<u64>) -> Result<()> {
        if !self.active()?.iter().any(|(name, _)| name == officer) {
            return Err(Refusal::UnknownOfficer(officer.to_owned()).into());
        }
        self.change_officers(&change(officer, "retire", None), request)?;
        let now = self.register.tick(&*self.clock)?;
        self.note("officer.retired", &serde_json::json!({ "officer": officer }))?;
        self.register.retire(officer, &now)
    }

    /// Nobody is asked until three were enrolled once.
    fn change_officers(&self, wanted: &Wanted, request: Option<u64>) -> Result<()> {
        if self.register.officers()?.len() < OFFICERS {
            Ok(())
        } else {
            self.grant(request, wanted).map(drop)
        }
    }

    /// Prints a new sheet; the one before ends. Free until the officers are three and each has had one.
    ///
    /// # Errors
    /// [`Error::Approval`].
    pub fn new_sheet(&self, officer: &str, request: Option<u64>) -> Result<sheet::Printed> {
        if !self.active()?.iter().any(|(name, _)| name == officer) {
            return Err(Refusal::UnknownOfficer(officer.to_owned()).into());
        }
        // The first sheet of somebody who was enrolled before the three were complete; later ones are asked for.
        if self.register.sheets(officer)? > 0 || self.register.officers()?.len() > OFFICERS {
            self.grant(request, &change(officer, "sheet", None))?;
        }
        self.print_sheet(officer)
    }
}

/// A change of who may approve.
pub fn change(officer: &str, what: &str, key: Option<VerifyingKey>) -> Wanted {
    let mut params = BTreeMap::from([("change".to_owned(), what.to_owned())]);
    if let Some(key) = key {
        params.insert("key".to_owned(), key.to_string());
    }
    Wanted { action: Action::KeyChange, target: officer.to_owned(), params, window: None }
}

fn open(row: &RequestRow, now: &Time) -> Result<()> {
    match row.state {
        RequestState::Used => Err(Refusal::Replayed(row.request).into()),
        RequestState::Withdrawn => Err(Refusal::Withdrawn(row.request).into()),
        RequestState::Open if now.accumulated_s > row.proposal.expiry => {
            Err(Refusal::Expired(row.request).into())
        }
        RequestState::Open => Ok(()),
    }
}

/// A person's name: one line, not empty.
fn name(text: &str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 60 || text.chars().any(char::is_control) {
        return Err(Error::Invalid("a name has 1 to 60 characters in one line".to_owned()));
    }
    Ok(text.to_owned())
}
