//! Making register and folder agree: the folder is the truth about what lies here, the register about what
//! was proven.

use std::collections::HashSet;

use kuramori_repo::store::{FileId, FileKind};

use crate::{
    error::Result,
    folder::Folder,
    register::{FileState, Register, Time},
};

/// A proven pack is gone: every restore point is walked again.
pub(crate) fn doubt(register: &Register, repository: &str) -> Result<()> {
    let files = register.files(repository, FileKind::Snapshot)?;
    let proven: Vec<FileId> =
        files.into_iter().filter(|(_, file)| file.state == FileState::Verified).map(|(id, _)| id).collect();
    register.set_files(repository, FileKind::Snapshot, &proven, FileState::Fetched, None)
}

/// Makes the register agree with the folder about what lies here.
pub(super) fn reconcile(
    folder: &Folder,
    register: &Register,
    repository: &str,
    window: Option<u64>,
    now: &Time,
) -> Result<()> {
    for kind in [FileKind::Pack, FileKind::Index, FileKind::Snapshot] {
        let known = register.files(repository, kind)?;
        let here = folder.list(repository, kind)?;
        let names: HashSet<FileId> = here.iter().map(|(id, _)| *id).collect();
        let unknown: Vec<_> = here.into_iter().filter(|(id, _)| !known.contains_key(id)).collect();
        if !unknown.is_empty() {
            register.fetched(repository, kind, &unknown, window, now)?;
        }
        // A kill between the register and the move: what is forged lies aside, not among the packs.
        for id in &names {
            if known.get(id).is_some_and(|file| file.state == FileState::Quarantined) {
                folder.quarantine(repository, kind, *id)?;
            }
        }
        let lost: Vec<FileId> = known
            .iter()
            .filter(|(id, file)| {
                matches!(file.state, FileState::Fetched | FileState::Verified) && !names.contains(*id)
            })
            .map(|(id, _)| *id)
            .collect();
        if !lost.is_empty() {
            tracing::error!(repository, %kind, files = lost.len(), "files of the vault are gone; they are fetched again");
            register.forget_files(repository, kind, &lost)?;
            if kind == FileKind::Pack {
                doubt(register, repository)?;
            }
        }
    }
    Ok(())
}
