//! Checkpoints across the gate: this server cosigns each vault's log, and each vault cosigns this server's.
//!
//! **In** comes, with a vault's signed report, its checkpoint and the proof that it continues the one that was
//! cosigned before. **Out** goes a small document, `vault-report/index/<sha256>`, which the vault fetches in
//! its window like any other file: the cosigned checkpoint, and the newest checkpoint of this server's own log
//! with the proof from what that vault has seen. The server's log (`DATA/audit`) holds every event that
//! the catalog shows; who later cuts or rewrites it is found by the vault.
//!
//! A vault whose log does not continue what was cosigned is an alarm, and gets shown what was.

use std::{path::Path, sync::PoisonError};

use kuramori_audit::{Consistency, SignedNote, Verifier, Witness};
use serde::{Deserialize, Serialize};

use crate::{
    App, ServerError,
    app::{AUDIT, audit_signer, blocking},
    error::Result,
    logins::REPORTS,
};

/// Documents that stay; a vault fetches those that it does not know.
const KEPT: usize = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proof {
    old: u64,
    consistency: Consistency,
}

/// What a report says about checkpoints.
#[derive(Debug, Clone, Default, Deserialize)]
struct Carried {
    #[serde(default)]
    proofs: Vec<Proof>,
    #[serde(default)]
    server_seen: u64,
    #[serde(default)]
    server_cosigned: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Document {
    vault: String,
    cosigned: Option<String>,
    seen: Option<String>,
    checkpoint: String,
    proof: Option<Proof>,
}

#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` wants")]
fn wrong(error: kuramori_audit::Error) -> ServerError {
    ServerError::Report(kuramori_model::fault::chain(&error))
}

impl App {
    /// Answers the checkpoints of a report. `true` if the vault's log is not what was cosigned before.
    pub(crate) async fn exchange(&self, vault: &str, key: &str, report: &serde_json::Value) -> Result<bool> {
        let Some(text) = report["checkpoint"].as_str().map(str::to_owned) else { return Ok(false) };
        let carried: Carried = serde_json::from_value(report["witness"].clone()).unwrap_or_default();
        let key: Verifier = key.parse().map_err(wrong)?;
        let (signer, own, clock) = (audit_signer(&self.config)?, self.audit.clone(), self.clock.clone());
        let (data, vault) = (self.config.data.clone(), vault.to_owned());
        let index = self.repository_folder(REPORTS).join("index");
        blocking(move || {
            let witness = Witness::open(&data.join("witness"), signer).map_err(wrong)?;
            let seen = witness.seen(key.name()).map_err(wrong)?;
            let note = SignedNote::parse(&text).map_err(wrong)?;
            let old = seen.as_ref().map_or(0, |note| note.checkpoint.size);
            let proof = carried.proofs.iter().find(|proof| proof.old == old).map(|proof| &proof.consistency);
            let mut document = Document { vault, ..Document::default() };
            let mut forked = false;
            match witness.cosign(&note, &key, proof, clock.as_ref()) {
                Ok(cosigned) => document.cosigned = Some(cosigned.text()),
                Err(error) => {
                    forked = matches!(error, kuramori_audit::Error::Forked { .. });
                    tracing::error!(
                        "a vault's checkpoint is not cosigned: {}",
                        kuramori_model::fault::chain(&error)
                    );
                    document.seen = seen.map(|note| note.text());
                }
            }
            let mut log = own.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(note) = carried.server_cosigned.and_then(|text| SignedNote::parse(&text).ok()) {
                let newer = note.checkpoint.size > newest_cosigned(&data.join(AUDIT.0).join("cosigned"));
                if newer && log.keep_cosigned(&note, &key).is_err() {
                    tracing::error!("a vault's cosignature does not fit this server's log");
                }
            }
            document.checkpoint = log.note().text();
            if (1..=log.size()).contains(&carried.server_seen) {
                let consistency = log.prove(carried.server_seen).map_err(wrong)?;
                document.proof = Some(Proof { old: carried.server_seen, consistency });
            }
            put(&index, &serde_json::to_vec(&document).unwrap_or_default())?;
            Ok(forked)
        })
        .await
    }
}

/// The size of the newest cosigned checkpoint that lies beside the log.
fn newest_cosigned(folder: &Path) -> u64 {
    let names = fs_err::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.split('.').next()?.parse().ok()).max().unwrap_or(0)
}

/// Puts a document under its hash, and takes the oldest ones away.
fn put(folder: &Path, bytes: &[u8]) -> Result<()> {
    let failed = ServerError::file("answer a vault's checkpoint");
    fs_err::create_dir_all(folder).map_err(&failed)?;
    let name = crate::enrol::sha256(bytes);
    let early = folder.with_file_name(format!(".{name}.new"));
    fs_err::write(&early, bytes).map_err(&failed)?;
    fs_err::rename(&early, folder.join(&name)).map_err(&failed)?;
    let mut here = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let written = entry.metadata().and_then(|meta| meta.modified()).map_err(&failed)?;
        here.push((written, entry.path()));
    }
    here.sort();
    for (_, path) in here.iter().rev().skip(KEPT) {
        fs_err::remove_file(path).map_err(&failed)?;
    }
    Ok(())
}
