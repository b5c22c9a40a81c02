//! The register of agents: invited, enrolled, renewed, revoked. One setting of the catalog.

use std::time::Duration;

use aws_lc_rs::constant_time;
use jiff::{SignedDuration, Timestamp};
use kuramori_source::config::is_plain_name;
use kuramori_wire::{identity::Holder, message::Unit, token::Token};
use serde::{Deserialize, Serialize};

use super::{AgentsError, authority};
use crate::{App, enrol::sha256, error::Result};

const SETTING: &str = "agents";

/// An agent as the register knows it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Its name: that of the departmental server.
    pub name: String,
    /// Certificates that count, the newest last.
    pub certificates: Vec<Certificate>,
    /// Since when none counts any more.
    pub revoked: Option<Timestamp>,
    /// The invitation that was not used yet.
    pub invitation: Option<Pending>,
    /// When and as what it came last.
    pub seen: Option<Seen>,
    /// Whether it is connected to this server now; not kept.
    pub connected: bool,
}

/// A certificate that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// When.
    pub issued: Timestamp,
    /// Until when it is valid.
    pub until: Timestamp,
    /// Which authority signed it.
    pub authority: String,
}

/// An invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pending {
    /// SHA-256 of the token's secret.
    pub secret: String,
    /// Until when it may be used.
    pub until: Timestamp,
}

/// A visit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// When, by our clock.
    pub at: Timestamp,
    /// Its program's version.
    pub program: String,
    /// Its clock minus ours, in seconds.
    pub skew: i64,
    /// What its own file declares.
    pub units: Vec<(String, String)>,
}

/// What an administrator carries to the departmental server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Invitation {
    /// The agent's name.
    pub name: String,
    /// The token; said once and kept nowhere.
    pub token: String,
    /// Until when it may be used.
    pub until: Timestamp,
    /// Where the door listens.
    pub server: String,
}

/// Why a certificate does not open the door: a code and words.
pub(super) type Refusal = (&'static str, String);

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(by).unwrap_or_default()).unwrap_or(now)
}

impl App {
    async fn records(&self) -> Result<Vec<Record>> {
        Ok(self.catalog.setting(SETTING).await?.unwrap_or_default())
    }

    /// All agents, with who is connected.
    pub async fn agents_list(&self) -> Result<Vec<Record>> {
        let mut all = self.records().await?;
        for record in &mut all {
            record.connected = self.agents.is_connected(&record.name);
        }
        Ok(all)
    }

    /// Changes one record, made if it is missing and `make` says so.
    async fn change<T>(&self, name: &str, make: bool, change: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let _one = self.agents.register.lock().await;
        let mut all = self.records().await?;
        let place = match all.iter().position(|record| record.name == name) {
            Some(place) => place,
            None if make => {
                all.push(Record { name: name.to_owned(), ..Record::default() });
                all.len() - 1
            }
            None => return Err(AgentsError::NoSuch(name.to_owned()).into()),
        };
        let outcome = change(&mut all[place]);
        all[place].connected = false;
        self.catalog.set_setting(SETTING, &all).await?;
        Ok(outcome)
    }

    /// Makes a token with which an agent of this name can be enrolled, once; also one that was there before and
    /// whose certificate ended or was revoked. Until it is used nothing changes for it.
    pub async fn invite_agent(&self, name: &str, valid: Duration) -> Result<Invitation> {
        if !is_plain_name(name) {
            return Err(AgentsError::BadName(name.to_owned()).into());
        }
        let Some(listen) = self.config.agents.listen else { return Err(AgentsError::NoDoor.into()) };
        let authorities = self.authorities().await?;
        let newest = authorities.first().ok_or(AgentsError::NoDoor)?;
        let token = Token::new(newest.fingerprint()?, self.random.as_ref());
        let until = later(self.clock.now(), valid);
        let pending = Pending { secret: sha256(&token.secret), until };
        self.change(name, true, |record| record.invitation = Some(pending)).await?;
        self.event("admin", "agent.invited", None, &serde_json::json!({ "agent": name, "until": until }))
            .await?;
        Ok(Invitation {
            name: name.to_owned(),
            token: token.text().to_string(),
            until,
            server: listen.to_string(),
        })
    }

    /// Spends a token. Gives a certificate and the authorities.
    pub(super) async fn enrol_agent(
        &self,
        secret: [u8; 16],
        request: &[u8],
    ) -> Result<std::result::Result<(String, String, String), Refusal>> {
        let hash = sha256(&secret);
        let now = self.clock.now();
        let found = self.records().await?.into_iter().find(|record| {
            record.invitation.as_ref().is_some_and(|pending| {
                constant_time::verify_slices_are_equal(pending.secret.as_bytes(), hash.as_bytes()).is_ok()
            })
        });
        let Some(record) = found else {
            return Ok(Err(("bad-token", "this token was used before, or was never made here".to_owned())));
        };
        let until = record.invitation.as_ref().map_or(now, |pending| pending.until);
        if now > until {
            let why = format!("the token could be used until {until}; the server's clock says {now}");
            return Ok(Err(("token-over", why)));
        }
        let name = record.name;
        let (certificate, bundle, issued) = self.certify(&name, request).await?;
        // Spent only if nobody else spent it meanwhile.
        let spent = self
            .change(&name, false, |record| {
                let ours = record.invitation.as_ref().is_some_and(|pending| pending.secret == hash);
                if ours {
                    record.invitation = None;
                    record.revoked = None;
                    record.certificates = vec![issued];
                }
                ours
            })
            .await?;
        if !spent {
            return Ok(Err(("bad-token", "this token was used before".to_owned())));
        }
        self.event(&name, "agent.enrolled", None, &serde_json::json!({ "agent": name })).await?;
        self.agents.drop_control(&name);
        self.export_control().await?;
        Ok(Ok((name, certificate, bundle)))
    }

    async fn certify(&self, name: &str, request: &[u8]) -> Result<(String, String, Certificate)> {
        let authorities = self.authorities().await?;
        let newest = authorities.first().ok_or(AgentsError::NoDoor)?;
        let (now, valid) = (self.clock.now(), self.config.agents.certificate);
        let certificate = kuramori_wire::identity::issue_agent(
            &newest.pair(),
            request,
            name,
            now,
            valid,
            self.random.as_ref(),
        )?;
        let der = kuramori_wire::identity::certificates(&certificate)?;
        let holder = kuramori_wire::identity::read(der.first().map_or(&[][..], AsRef::as_ref))?;
        let issued =
            Certificate { serial: holder.serial, issued: now, until: holder.until, authority: holder.issuer };
        Ok((certificate, authority::bundle(&authorities), issued))
    }

    /// A new certificate for an admitted agent. The present one counts until the new one is shown.
    pub(super) async fn renew_agent(&self, name: &str, request: &[u8]) -> Result<(String, String)> {
        let (certificate, bundle, issued) = self.certify(name, request).await?;
        self.change(name, false, |record| {
            // One that was asked for and never shown is forgotten.
            record.certificates.truncate(1);
            record.certificates.push(issued);
        })
        .await?;
        self.event(name, "agent.renewed", None, &serde_json::json!({ "agent": name })).await?;
        Ok((certificate, bundle))
    }

    /// Whether this certificate opens the door now.
    pub(super) async fn admit(&self, holder: &Holder) -> Result<std::result::Result<(), Refusal>> {
        let all = self.records().await?;
        let Some(record) = all.iter().find(|record| record.name == holder.name) else {
            return Ok(Err(("unknown", format!("`{}` is not in the register", holder.name))));
        };
        if let Some(since) = record.revoked {
            return Ok(Err(("revoked", format!("the agent `{}` was revoked at {since}", holder.name))));
        }
        let Some(place) = record.certificates.iter().position(|known| known.serial == holder.serial) else {
            let why = format!("the certificate {} was replaced by a newer one", holder.serial);
            return Ok(Err(("superseded", why)));
        };
        let now = self.clock.now();
        if !holder.valid_at(now, self.config.agents.tolerance) {
            let why = format!(
                "the certificate is valid from {} until {}; the server's clock says {now} (tolerance {} s)",
                holder.from,
                holder.until,
                self.config.agents.tolerance.as_secs()
            );
            return Ok(Err(("expired", why)));
        }
        if place > 0 {
            self.change(&holder.name, false, |record| {
                record.certificates.retain(|known| known.serial == holder.serial);
            })
            .await?;
        }
        Ok(Ok(()))
    }

    /// Takes down when and as what an agent came.
    pub(super) async fn note_agent(&self, name: &str, program: &str, now: i64, units: &[Unit]) -> Result<()> {
        let at = self.clock.now();
        let text = |text: &str| text.chars().filter(|c| !c.is_control()).take(60).collect::<String>();
        let seen = Seen {
            at,
            program: text(program),
            skew: now.saturating_sub(at.as_second()),
            units: units.iter().take(200).map(|unit| (text(&unit.name), text(&unit.kind))).collect(),
        };
        self.change(name, false, |record| record.seen = Some(seen)).await
    }

    /// From now on no certificate of this agent counts; its connections end.
    pub async fn revoke_agent(&self, name: &str) -> Result<()> {
        let now = self.clock.now();
        self.change(name, false, |record| {
            record.revoked = Some(now);
            record.certificates.clear();
            record.invitation = None;
        })
        .await?;
        self.agents.drop_control(name);
        self.agents.end_sessions(name);
        self.event("admin", "agent.revoked", None, &serde_json::json!({ "agent": name })).await?;
        self.export_control().await?;
        Ok(())
    }

    /// A new authority beside the present ones: agents learn it with their next connection and get certificates
    /// from it.
    pub async fn rotate_authority(&self) -> Result<u32> {
        let _one = self.agents.register.lock().await;
        let mut all = self.authorities().await?;
        let number = all.iter().map(|authority| authority.number).max().unwrap_or(0) + 1;
        all.insert(0, self.new_authority(number)?);
        self.keep_authorities(&all).await?;
        self.agents.forget_tls();
        self.agents.drop_controls();
        self.event("admin", "agent.authority-rotated", None, &serde_json::json!({ "number": number }))
            .await?;
        self.export_control().await?;
        Ok(number)
    }

    /// Ends the trust in all authorities but the newest. Without `force` only when no agent needs them.
    pub async fn retire_authorities(&self, force: bool) -> Result<usize> {
        let _one = self.agents.register.lock().await;
        let mut all = self.authorities().await?;
        let Some(newest) = all.first().map(authority::Authority::name) else { return Ok(0) };
        let needed: Vec<String> = self
            .records()
            .await?
            .into_iter()
            .filter(|record| {
                record.revoked.is_none()
                    && !record.certificates.is_empty()
                    && record.certificates.iter().any(|certificate| certificate.authority != newest)
            })
            .map(|record| record.name)
            .collect();
        if !needed.is_empty() && !force {
            return Err(AgentsError::StillNeeded(needed).into());
        }
        let gone = all.len() - 1;
        all.truncate(1);
        self.keep_authorities(&all).await?;
        self.agents.forget_tls();
        self.agents.drop_controls();
        self.event("admin", "agent.authority-retired", None, &serde_json::json!({ "gone": gone })).await?;
        self.export_control().await?;
        Ok(gone)
    }

    /// Whether an agent should ask for a new certificate because its authority is no longer the newest.
    pub(super) async fn should_renew(&self, holder: &Holder) -> Result<bool> {
        let all = self.authorities().await?;
        Ok(all.first().is_some_and(|newest| newest.name() != holder.issuer))
    }
}
