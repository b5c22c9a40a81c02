//! Checkpoints across the gate: the server cosigns the vault's log, the vault cosigns the server's.
//!
//! ```text
//! vault ── signed report: checkpoint, proofs since what may have been cosigned, the server's log as seen ──▶ server
//! vault ◀── vault-report/index/<sha256>: cosigned checkpoint, the server's own checkpoint with its proof ── server
//! ```
//! While the window is open these are names, sizes and hashes like everything else; they are parsed when the
//! gate is closed again ([`Vault::take_checkpoints`]). What is cosigned cannot be cut off the log any more
//! without being found: here, by the notes that lie beside the log, and at the server, whose disk whoever owns
//! the vault does not own.
//!
//! What can go wrong: the server is owned (it can withhold; after three windows that is an alarm), it shows
//! another history of its own log than before (an alarm, and the note that proves it is kept), the vault's log
//! was cut or rewritten (found at the start and whenever the server shows what it cosigned).

use kuramori_audit::{Consistency, Error as AuditError, SignedNote, Verifier, Witness, verify};
use kuramori_escrow::{Language, page};
use kuramori_model::finding::{Finding, Severity, Value};
use kuramori_repo::store::{FileId, FileKind};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    keys::signing,
    pull::lock,
    puller::Source,
    vault::Vault,
};

/// Largest document of the exchange.
const DOCUMENT: u64 = 64 << 10;
/// Documents that one window takes.
const MOST: usize = 16;
/// Offered sizes whose proof is sent along: the server may have cosigned any of them.
const OFFERED: usize = 32;
/// Windows without a fresh cosignature before it is an alarm.
const PATIENCE: u32 = 3;
const STATE: &str = "witness";

/// The proof that the log now continues its first `old` entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proof {
    /// How many.
    pub old: u64,
    /// The proof.
    pub consistency: Consistency,
}

/// What a report carries of this.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Carried {
    /// Proofs from every size that the server may have cosigned.
    pub proofs: Vec<Proof>,
    /// Entries of the server's log as the vault has seen it.
    pub server_seen: u64,
    /// That checkpoint under the vault's cosignature.
    pub server_cosigned: Option<String>,
}

/// What the vault says about it to people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cosigned {
    /// Entries of the newest checkpoint that the server cosigned.
    pub size: Option<u64>,
    /// When it did, by its own clock, in seconds since 1970.
    pub at: Option<u64>,
    /// Entries of the server's log that the vault cosigned.
    pub server_size: Option<u64>,
    /// Windows since the last fresh cosignature.
    pub missed: u32,
    #[serde(default)]
    offered: Vec<u64>,
    #[serde(default)]
    taken: Vec<String>,
}

/// One document of the server.
#[derive(Debug, Deserialize)]
struct Document {
    vault: String,
    /// The vault's checkpoint under the server's cosignature.
    #[serde(default)]
    cosigned: Option<String>,
    /// What the server cosigned before, if it would not cosign this time.
    #[serde(default)]
    seen: Option<String>,
    /// The server's own checkpoint.
    checkpoint: String,
    /// Its proof from what the vault had seen.
    #[serde(default)]
    proof: Option<Proof>,
}

impl Vault {
    /// How far the exchange has come.
    ///
    /// # Errors
    /// [`Error::Register`].
    pub fn cosigned(&self) -> Result<Cosigned> {
        Ok(self.register.meta(STATE)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    fn keep_cosigned(&self, state: &Cosigned) -> Result<()> {
        self.register.set_meta(STATE, &serde_json::to_string(state).unwrap_or_default())
    }

    fn witness(&self) -> Result<Option<(Witness, &Verifier)>> {
        let Some(server) = &self.config.vault.witness else { return Ok(None) };
        let (_, signer) = signing(&self.config, &*self.random)?;
        Ok(Some((Witness::open(&self.config.vault.state.join("witness"), signer)?, server)))
    }

    /// What goes with a report.
    ///
    /// # Errors
    /// Log and register errors.
    pub(crate) fn carried(&self) -> Result<Carried> {
        let Some((witness, server)) = self.witness()? else { return Ok(Carried::default()) };
        let offered = self.cosigned()?.offered;
        let log = lock(&self.log);
        let mut proofs = Vec::new();
        for old in offered.into_iter().filter(|old| (1..=log.size()).contains(old)) {
            proofs.push(Proof { old, consistency: log.prove(old)? });
        }
        let seen = witness.seen(server.name())?;
        Ok(Carried {
            proofs,
            server_seen: seen.as_ref().map_or(0, |note| note.checkpoint.size),
            server_cosigned: seen.map(|note| note.text()),
        })
    }

    /// Remembers the size that the coming report offers: the server may cosign it, and the next report must
    /// prove that the log continues it.
    ///
    /// # Errors
    /// [`Error::Register`].
    pub(crate) fn offer(&self) -> Result<()> {
        let size = lock(&self.log).size();
        let mut state = self.cosigned()?;
        if state.offered.last() != Some(&size) {
            state.offered.push(size);
            let surplus = state.offered.len().saturating_sub(OFFERED);
            let (old, new) = state.offered.split_at(surplus);
            // What is known to be cosigned is always kept.
            let known = old.iter().copied().filter(|size| Some(*size) == state.size);
            state.offered = known.chain(new.iter().copied()).collect();
        }
        self.keep_cosigned(&state)
    }

    /// Fetches what the server has for us, within a window: by name, size and hash, unread.
    ///
    /// # Errors
    /// Network errors.
    pub(crate) fn fetch_checkpoints(&self, source: &mut dyn Source) -> Result<Vec<Vec<u8>>> {
        let Some(report) = self.config.report.as_ref().filter(|_| self.config.vault.witness.is_some()) else {
            return Ok(Vec::new());
        };
        let taken = self.cosigned()?.taken;
        let mut fresh = Vec::new();
        source.list(&report.repository, FileKind::Index, &mut |id, size| {
            if size <= DOCUMENT && fresh.len() < MOST && !taken.contains(&id.to_string()) {
                fresh.push(id);
            }
            Ok(())
        })?;
        let mut documents = Vec::new();
        for id in fresh {
            let mut bytes = Vec::new();
            let fetched = source.fetch(&report.repository, FileKind::Index, id, 0, DOCUMENT, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            });
            match fetched {
                Ok(()) if FileId::of(&bytes) == id => documents.push(bytes),
                // The server replaces its old ones.
                Ok(()) | Err(Error::Vanished(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(documents)
    }

    /// Reads what came, with the gate closed.
    ///
    /// # Errors
    /// Register and log errors. What is wrong with the documents is an alarm.
    pub(crate) fn take_checkpoints(&self, documents: &[Vec<u8>]) -> Result<()> {
        let Some((witness, server)) = self.witness()? else { return Ok(()) };
        let mut state = self.cosigned()?;
        let mut findings = Vec::new();
        let before = state.size;
        let mut own = Vec::new();
        for bytes in documents {
            state.taken.push(FileId::of(bytes).to_string());
            let Ok(document) = serde_json::from_slice::<Document>(bytes) else { continue };
            if document.vault != self.config.vault.name {
                continue;
            }
            if let Some(note) = document.cosigned.as_deref().and_then(|text| SignedNote::parse(text).ok()) {
                self.take_own(&note, server, &mut state)?;
            }
            for text in [&document.cosigned, &document.seen].into_iter().flatten() {
                own.extend(SignedNote::parse(text).ok().filter(|note| note.cosigned_by(server).is_some()));
            }
            if let Some(finding) = self.take_server(&witness, server, &document, &mut state)? {
                findings.push(finding);
            }
        }
        let surplus = state.taken.len().saturating_sub(4 * MOST);
        state.taken.drain(..surplus);
        findings.extend(self.check_log(server, &own)?);
        state.missed = if state.size > before { 0 } else { state.missed.saturating_add(1) };
        if state.missed >= PATIENCE {
            let windows = Value::Number(i64::from(state.missed));
            findings.push(
                Finding::new("vault.cosign-missing", Severity::Alarm, "check-primary")
                    .with("windows", windows),
            );
        }
        self.keep_cosigned(&state)?;
        let now = self.register.tick(&*self.clock)?;
        // A fork stays an alarm until a person has looked.
        self.settle(&["vault.cosign-missing"], &findings, &now)
    }

    fn take_own(&self, note: &SignedNote, server: &Verifier, state: &mut Cosigned) -> Result<()> {
        if state.size.is_some_and(|size| size >= note.checkpoint.size) {
            return Ok(());
        }
        match lock(&self.log).keep_cosigned(note, server) {
            Ok(time) => {
                state.size = Some(note.checkpoint.size);
                state.at = Some(time);
                Ok(())
            }
            Err(AuditError::BadNote(why)) => {
                tracing::warn!(why, "the server's cosignature does not count");
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Cosigns the server's checkpoint if it continues what was seen; a fork is a finding.
    fn take_server(
        &self,
        witness: &Witness,
        server: &Verifier,
        document: &Document,
        state: &mut Cosigned,
    ) -> Result<Option<Finding>> {
        let Ok(note) = SignedNote::parse(&document.checkpoint) else { return Ok(None) };
        let seen = witness.seen(server.name())?.map_or(0, |note| note.checkpoint.size);
        let old = document.proof.as_ref().map_or(0, |proof| proof.old);
        // Made for another state of ours: it says nothing now; the next one will.
        if seen != 0 && old != seen && note.checkpoint.size != seen {
            return Ok(None);
        }
        let proof = document.proof.as_ref().map(|proof| &proof.consistency);
        match witness.cosign(&note, server, proof, &*self.clock) {
            Ok(cosigned) => {
                state.server_size = Some(cosigned.checkpoint.size);
                Ok(None)
            }
            Err(AuditError::Forked { seen, .. }) => {
                self.note("audit.server-forked", &serde_json::json!({ "seen": seen, "note": note.text() }))?;
                let seen = Value::Number(i64::try_from(seen).unwrap_or(i64::MAX));
                Ok(Some(
                    Finding::new("vault.server-log-forked", Severity::Alarm, "investigate-primary")
                        .with("seen", seen),
                ))
            }
            Err(AuditError::BadNote(why)) => {
                tracing::warn!(why, "the server's checkpoint does not count");
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The log's root of today on paper: what lies in a drawer cannot be changed on any host. A camera reads the
    /// whole signed checkpoint.
    pub(crate) fn root_page(&self, note: &SignedNote, language: Language) -> Result<String> {
        let text = note.text();
        let (name, at) = (&self.config.vault.name, self.clock.now());
        let (heading, lead) = match language {
            Language::Japanese => (
                format!("蔵守 監査記録の根  {name}"),
                format!(
                    "{at} 現在、{} 件。\n\nこの紙を保管してください。後で記録を検証するとき、この根と一致しなければ\n\
                     記録は書き換えられています。QR コードは下の全文です。\n",
                    note.checkpoint.size
                ),
            ),
            Language::English => (
                format!("Kuramori audit root  {name}"),
                format!(
                    "{} entries as of {at}.\n\nKeep this paper. A log that does not lead to this root was changed.\n\
                     The QR code holds the whole text below.\n",
                    note.checkpoint.size
                ),
            ),
        };
        page(language, &heading, &format!("{lead}\n{text}"), &text)
            .map_err(|error| Error::Invalid(kuramori_model::fault::chain(&error)))
    }

    /// Holds the vault's own log against everything that was cosigned of it.
    pub(crate) fn check_log(&self, server: &Verifier, elsewhere: &[SignedNote]) -> Result<Option<Finding>> {
        let folder = self.config.vault.state.join("log");
        let found = verify(&folder, &self.signer.verifier(), std::slice::from_ref(server), elsewhere)?;
        if found.clean() {
            return Ok(None);
        }
        let what = serde_json::to_string(&found.findings).unwrap_or_default();
        tracing::error!(what, "the vault's own log is not what was cosigned");
        Ok(Some(Finding::new("vault.log-cut", Severity::Alarm, "investigate-vault").with("what", what)))
    }
}
