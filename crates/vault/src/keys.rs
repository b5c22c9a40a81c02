//! What the vault can open, and who it is.
//!
//! Repository passwords lie in one folder: `<repository>` as plain text (mode 0600), or `<repository>.age`
//! wrapped to the vault's own identity. The identity is made at the first start and never leaves; people
//! compare the fingerprint of its public half when the vault is enrolled.
//!
//! The password of `_control` is brought by hand at enrolment. Those of systems that come later are found in
//! it: the control export holds each repository's password, wrapped to the vault among others. Such a
//! password is taken once. Whoever owns the primary can offer a wrong one, which opens nothing and is seen.

use std::{
    io::{BufRead, Write},
    path::Path,
};

use fs_err::os::unix::fs::OpenOptionsExt;
use kuramori_audit::{Signer, Verifier};
use kuramori_escrow::{Identity, unwrap};
use kuramori_model::{
    clock::Random,
    gate::{SigningKey, VerifyingKey},
    ids::CONTROL_REPOSITORY,
};
use kuramori_repo::{
    Indexed, Repository,
    format::{
        blob::BlobKind,
        node::{Node, NodeKind},
    },
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    config::{Config, is_repository, secret},
    error::{Error, Result},
    folder::write_small,
    register::PointState,
    vault::Vault,
};

/// Largest control export that is looked through.
const EXPORT: u64 = 1 << 30;
/// Largest line of one.
const LINE: usize = 1 << 20;

/// What others must know of a vault: compared by eye at its enrolment.
#[derive(Debug, Clone, Serialize)]
pub struct Public {
    /// For the gate's configuration: signs window tokens.
    pub token_key: VerifyingKey,
    /// For everybody else: signs reports and the log.
    pub verifier: Verifier,
    /// Repository passwords are wrapped to this.
    pub recipient: String,
    /// What two people read to each other.
    pub fingerprint: String,
}

/// The vault's public keys; made at the first call.
///
/// # Errors
/// [`Error::Config`] if a key file is damaged or open to others.
pub fn public(config: &Config, random: &dyn Random) -> Result<Public> {
    fs_err::create_dir_all(&config.vault.state).map_err(Error::io("make the vault's state folder"))?;
    let (key, signer) = signing(config, random)?;
    let recipient = identity(config)?.recipient();
    Ok(Public {
        token_key: key.public(),
        verifier: signer.verifier(),
        fingerprint: recipient.fingerprint().to_string(),
        recipient: recipient.to_string(),
    })
}

/// The vault's one signing key, in the two forms in which it is used.
pub(crate) fn signing(config: &Config, random: &dyn Random) -> Result<(SigningKey, Signer)> {
    let path = config.vault.state.join("vault.key");
    let name = format!("kuramori/{}", config.vault.name);
    let signer = Signer::open(&path, &name, random)?;
    let mut seed = Zeroizing::new([0; 32]);
    let text = secret(&path)?;
    let bad = || Error::Config { file: path.clone(), what: "it is not a key".to_owned() };
    hex::decode_to_slice(text.trim(), seed.as_mut_slice()).map_err(|_| bad())?;
    Ok((SigningKey::from_seed(&seed).map_err(|_| bad())?, signer))
}

fn identity(config: &Config) -> Result<Identity> {
    let path = config.vault.state.join("vault.identity");
    let bad = |what: String| Error::Config { file: path.clone(), what };
    if !path.exists() {
        let failed = || Error::io("keep the vault's identity");
        let mut file = fs_err::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed())?;
        file.write_all(Identity::generate().text().as_bytes()).map_err(failed())?;
        file.sync_all().map_err(failed())?;
    }
    Identity::read(&secret(&path)?).map_err(|error| bad(error.to_string()))
}

/// The password of a repository.
///
/// # Errors
/// [`Error::NoKey`] if the vault has none.
pub fn password(config: &Config, repository: &str) -> Result<Zeroizing<Vec<u8>>> {
    let plain = config.vault.passwords.join(repository);
    if plain.is_file() {
        return Ok(Zeroizing::new(secret(&plain)?.as_bytes().to_vec()));
    }
    let wrapped = config.vault.passwords.join(format!("{repository}.age"));
    let Ok(bytes) = fs_err::read(&wrapped) else { return Err(Error::NoKey(repository.to_owned())) };
    unwrap(&bytes, &identity(config)?)
        .map_err(|error| Error::Config { file: wrapped, what: kuramori_model::fault::chain(&error) })
}

/// One line of a control export, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    table: Option<String>,
    row: Option<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: Option<String>,
    sealed: Option<Sealed>,
}

#[derive(Deserialize)]
struct Sealed {
    hex: String,
}

impl Vault {
    /// Takes passwords that the newest proven control export holds and the vault does not have yet.
    pub(crate) fn learn_passwords(&self) -> Result<Vec<String>> {
        let points = self.register().points(Some(CONTROL_REPOSITORY))?;
        let Some(newest) = points.into_iter().rev().find(|point| point.state == PointState::Complete) else {
            return Ok(Vec::new());
        };
        let opened = crate::proof::open(self.folder(), self.config(), CONTROL_REPOSITORY)?;
        let control = opened.index().map_err(Error::repository(CONTROL_REPOSITORY))?;
        let identity = identity(self.config())?;
        let mut learned = Vec::new();
        let mut files = Vec::new();
        let mut visit = |_: &kuramori_model::tree::TreePath, node: &Node| {
            let export = std::path::Path::new(std::str::from_utf8(&node.name).unwrap_or_default());
            if node.kind == NodeKind::File
                && node.size <= EXPORT
                && export.extension().is_some_and(|extension| extension == "jsonl")
            {
                files.push(node.clone());
            }
            Ok(kuramori_repo::walk::Descend::Into)
        };
        control
            .walk(&newest.tree, &kuramori_repo::Cancel::default(), &mut visit)
            .map_err(Error::repository(CONTROL_REPOSITORY))?;
        for node in files {
            each_line(&control, &node, &mut |line| {
                let Ok(Line {
                    table: Some(table),
                    row: Some(Row { name: Some(name), sealed: Some(sealed) }),
                }) = serde_json::from_slice(line)
                else {
                    return Ok(());
                };
                let Some(repository) = name.strip_prefix("repository/").filter(|name| is_repository(name))
                else {
                    return Ok(());
                };
                let known = password(self.config(), repository).is_ok();
                let Ok(wrapped) = hex::decode(&sealed.hex) else { return Ok(()) };
                if table == "secrets" && !known && unwrap(&wrapped, &identity).is_ok() {
                    take(&self.config().vault.passwords, repository, &wrapped)?;
                    learned.push(repository.to_owned());
                }
                Ok(())
            })?;
        }
        if !learned.is_empty() {
            self.note("vault.passwords-learned", &learned)?;
        }
        Ok(learned)
    }
}

fn take(folder: &Path, repository: &str, wrapped: &[u8]) -> Result<()> {
    write_small(&folder.join(format!("{repository}.age")), wrapped)
}

/// Reads a file piece by piece and gives its lines; too long ones are left out.
fn each_line(
    repository: &Repository<Indexed>,
    node: &Node,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut rest: Vec<u8> = Vec::new();
    for id in node.content.iter().flatten() {
        let piece =
            repository.load_blob(BlobKind::Data, id).map_err(Error::repository(CONTROL_REPOSITORY))?;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if rest.len() <= LINE {
                rest.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                for line in rest.lines().map_while(std::result::Result::ok) {
                    each(line.as_bytes())?;
                }
                rest.clear();
            }
        }
    }
    each(&rest)
}
