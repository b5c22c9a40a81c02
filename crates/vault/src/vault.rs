//! The vault as one thing: its folder, register, log, keys, and what is done with them.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use kuramori_audit::{Log, Signer};
use kuramori_model::{
    clock::{Clock, Random},
    finding::Finding,
    gate::SigningKey,
    ids::CONTROL_REPOSITORY,
};
use kuramori_repo::Cancel;
use serde::Serialize;

use crate::{
    config::Config,
    error::{Error, Result},
    folder::Folder,
    gate::Gate,
    inspect::Judged,
    keep::{Keep, Kept},
    keys::signing,
    locks::Locks,
    proof::{Proof, Proven},
    pull::{Pull, Pulled, Stop, lock},
    puller::Source,
    register::{Register, Time},
};

/// Findings that a new pull settles: raised if they are found again, cleared if not.
const OF_A_PULL: [&str; 17] = [
    "vault.bad-name",
    "vault.too-many-new",
    "vault.new-repository",
    "vault.repository-vanished",
    "vault.backlog",
    "vault.pull-failed",
    "vault.disk-full",
    "vault.disk-failed",
    "vault.primary-misbehaves",
    "vault.wrong-bytes",
    "vault.impossible-size",
    "vault.quota",
    "vault.no-config",
    "vault.odd-keys",
    "vault.config-missing",
    "vault.config-changed",
    "vault.keys-changed",
];

/// An open vault. One process.
#[derive(Debug)]
pub struct Vault {
    pub(crate) config: Config,
    pub(crate) folder: Folder,
    pub(crate) register: Register,
    pub(crate) log: Mutex<Log>,
    pub(crate) key: SigningKey,
    pub(crate) signer: Signer,
    pub(crate) gate: Option<Gate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) epoch: u64,
}

/// What was done after a window, with the gate closed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Work {
    /// Proof, repository by repository.
    pub proven: Vec<Proven>,
    /// Inspection, repository by repository.
    pub judged: Vec<Judged>,
    /// Retention, repository by repository.
    pub kept: Vec<Kept>,
    /// Repositories of which nothing could be proven, and why.
    pub failed: Vec<(String, String)>,
}

impl Vault {
    /// Opens the vault for the one process that may.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has it; [`Error::Log`] if the log was changed: then nothing is done.
    pub fn open(config: Config, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self> {
        let register = Register::open(&config.vault.state)?;
        let locks = config.lock.as_ref().map(|lock| Locks::new(&lock.socket));
        let folder = Folder::open(&config.vault.root)?.with_locks(locks);
        let (key, signer) = signing(&config, &*random)?;
        let (_, for_log) = signing(&config, &*random)?;
        crate::keys::public(&config, &*random)?;
        let log = Log::open(&config.vault.state.join("log"), for_log, clock.clone())?;
        let epoch = register.next_epoch(0)?;
        let gate = config.gate.as_ref().map(|gate| Gate::new(&gate.socket));
        let vault =
            Self { config, folder, register, log: Mutex::new(log), key, signer, gate, clock, random, epoch };
        if let Some(server) = vault.config.vault.witness.clone()
            && let Some(finding) = vault.check_log(&server, &[])?
        {
            let now = vault.register.tick(&*vault.clock)?;
            vault.settle(&[], &[finding], &now)?;
        }
        vault.note("vault.opened", &serde_json::json!({ "epoch": epoch, "gate": vault.gate.is_some() }))?;
        Ok(vault)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The register.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The public key that windows, reports and the log are signed with: hex for the gate's configuration, and
    /// as a note's key for everybody else.
    pub fn public_key(&self) -> (kuramori_model::gate::VerifyingKey, kuramori_audit::Verifier) {
        (self.key.public(), self.signer.verifier())
    }

    /// Writes to the log and returns when it is on the disk.
    pub(crate) fn note(&self, kind: &str, data: &(impl Serialize + ?Sized)) -> Result<()> {
        lock(&self.log).append(kind, data)?;
        Ok(())
    }

    /// Raises and clears alarms; each change goes to the log.
    pub(crate) fn settle(&self, codes: &[&str], findings: &[Finding], now: &Time) -> Result<()> {
        for finding in findings {
            if self.register.raise(finding, now)? {
                tracing::warn!(code = finding.code, subject = finding.subject, "alarm");
                self.note("alarm.raised", finding)?;
            }
        }
        for alarm in self.register.alarms()? {
            let gone = codes.contains(&alarm.finding.code.as_str())
                && !findings.iter().any(|f| f.key() == alarm.key);
            if gone && self.register.clear(&alarm.key, now)? {
                self.note("alarm.cleared", &alarm.finding)?;
            }
        }
        Ok(())
    }

    pub(crate) fn settle_pull(&self, pulled: &Pulled) -> Result<()> {
        let now = self.register.tick(&*self.clock)?;
        self.settle(&OF_A_PULL, &pulled.findings, &now)
    }

    /// Proves what is new and applies the retention, all with the gate closed. One repository that cannot be
    /// opened does not keep the others from being proven.
    ///
    /// # Errors
    /// Register and log errors.
    pub fn work(&self, cancel: &Cancel) -> Result<Work> {
        let proof = Proof {
            folder: &self.folder,
            register: &self.register,
            config: &self.config,
            clock: self.clock.clone(),
            cancel,
        };
        let keep = Keep {
            folder: &self.folder,
            register: &self.register,
            config: &self.config,
            retention: self.retention()?,
            clock: self.clock.clone(),
            cancel,
        };
        let mut work = Work::default();
        let mut findings = Vec::new();
        let mut rows = self.register.repositories()?;
        // First `_control`: it brings the passwords of the others.
        rows.sort_by_key(|row| row.name != CONTROL_REPOSITORY);
        for row in rows {
            if cancel.is_cancelled() {
                break;
            }
            let done = proof.repository(&row.name).and_then(|proven| {
                // What cannot be inspected or locked is an alarm, and keeps nothing from being kept.
                self.examine(&row.name, cancel, &mut work, &mut findings)?;
                Ok((proven, keep.repository(&row.name, false)?))
            });
            match done {
                Ok((mut proven, kept)) => {
                    findings.append(&mut proven.findings);
                    self.note("vault.proven", &proven)?;
                    if !kept.removed.is_empty() || kept.packs > 0 {
                        self.note("vault.removed", &kept)?;
                    }
                    work.proven.push(proven);
                    work.kept.push(kept);
                    if row.name == CONTROL_REPOSITORY
                        && let Err(error) = self.learn_passwords()
                    {
                        tracing::error!(
                            error = kuramori_model::fault::chain(&error),
                            "no passwords from the control export"
                        );
                    }
                }
                Err(error @ (Error::Register(_) | Error::Log(_))) => return Err(error),
                Err(error) => {
                    let text = kuramori_model::fault::chain(&error);
                    let code = match error {
                        Error::NoKey(_) => "vault.no-key",
                        Error::Lock(_) => "vault.lock-failed",
                        _ => "vault.proof-failed",
                    };
                    let finding = crate::pull::about(
                        code,
                        kuramori_model::finding::Severity::Alarm,
                        if code == "vault.no-key" { "bring-key" } else { "check-vault" },
                        &row.name,
                    );
                    findings.push(finding.with("why", text.clone()));
                    work.failed.push((row.name, text));
                }
            }
        }
        let now = self.register.tick(&*self.clock)?;
        if now.suspicious() {
            let severity = kuramori_model::finding::Severity::Alarm;
            let skew = kuramori_model::finding::Value::Seconds(now.skew_s);
            findings.push(Finding::new("vault.clock-jumped", severity, "confirm-clock").with("skew", skew));
        }
        findings.extend(self.retention_finding()?);
        // What was forged stays an alarm until a person has looked; the rest is judged anew each time.
        self.settle(
            &[
                "vault.no-key",
                "vault.proof-failed",
                "vault.inspection-failed",
                "vault.not-inspected",
                "vault.lock-failed",
                "vault.proof-unfinished",
                "vault.too-large-blob",
                "vault.point-incomplete",
                "vault.clock-jumped",
                crate::retention::WAITS,
            ],
            &findings,
            &now,
        )?;
        Ok(work)
    }

    /// First fill from a carried disk: a folder with one repository per folder. The gate must be closed, and
    /// stays so.
    ///
    /// # Errors
    /// [`Error::Preflight`] if the gate is not seen closed.
    pub fn seed(&self, from: &Path, cancel: &Cancel) -> Result<(Pulled, Work)> {
        if let Some(gate) = &self.gate
            && !gate.status()?.gate.is_verified_closed()
        {
            return Err(Error::Preflight(
                "the gate is not seen closed; a disk is read only behind a closed gate".into(),
            ));
        }
        let stop = Stop::default();
        let now = self.register.tick(&*self.clock)?;
        let window = self.register.next_window(0)?;
        self.note("vault.seed-began", &serde_json::json!({ "window": window, "from": from }))?;
        self.register.opening(window, "seed", &now)?;
        let begin = self.clock.boot();
        let mut pull = Pull::prepare(
            &self.folder,
            &self.register,
            &self.config,
            self.clock.clone(),
            Some(window.0),
            &stop,
        )?
        .from_disk();
        let disk = crate::seed::Disk::new(from, self.config.limits.repositories);
        let sources = || Ok(Box::new(disk.clone()) as Box<dyn Source>);
        let done = std::sync::atomic::AtomicBool::new(false);
        let pulled = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if cancel.is_cancelled() {
                        stop.abort();
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let pulled = pull.run(1, &sources);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            pulled
        })?;
        let seconds = self.clock.boot().saturating_sub(begin).as_secs_f64();
        self.settle_pull(&pulled)?;
        let record = serde_json::json!({ "seed": from, "pulled": &pulled });
        // The path was never open: no exposure.
        self.register.closed(window, 0.0, pulled.bytes, true, &record)?;
        self.note(
            "vault.seed-ended",
            &serde_json::json!({ "window": window, "seconds": seconds, "pulled": &pulled }),
        )?;
        Ok((pulled, self.work(cancel)?))
    }
}
