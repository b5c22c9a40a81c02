//! The other host's part: cosign what continues what was cosigned before, and remember it.

use std::path::{Path, PathBuf};

use kuramori_model::clock::Clock;

use crate::{
    error::{Error, Result},
    key::{Signer, Verifier},
    log::{file_name, write_durably},
    merkle::Consistency,
    note::SignedNote,
};

/// Cosigns other hosts' checkpoints. Its folder holds the newest cosigned note of each log: it is what finds
/// a log that was cut or rewritten on its own host.
#[derive(Debug)]
pub struct Witness {
    folder: PathBuf,
    signer: Signer,
}

impl Witness {
    /// Opens the folder of remembered notes, or makes it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(folder: &Path, signer: Signer) -> Result<Self> {
        fs_err::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), signer })
    }

    /// The public key of the cosignatures.
    pub fn verifier(&self) -> Verifier {
        self.signer.verifier()
    }

    /// The newest note of this log that was cosigned here.
    ///
    /// # Errors
    /// [`Error::BadNote`] if the remembered file is not what was written.
    pub fn seen(&self, origin: &str) -> Result<Option<SignedNote>> {
        match fs_err::read_to_string(self.folder.join(file_name(origin))) {
            Ok(text) => {
                let note = SignedNote::parse(&text)?;
                let ours = note.checkpoint.origin == origin && note.cosigned_by(&self.verifier()).is_some();
                if ours { Ok(Some(note)) } else { Err(Error::BadNote("the remembered note was changed")) }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Cosigns a note if it continues what was seen of this log before. The proof is from
    /// [`crate::Log::prove`] with the size of [`seen`](Self::seen), and may be left out the first time or
    /// when nothing was added.
    ///
    /// # Errors
    /// [`Error::Forked`] if the log was cut or rewritten, [`Error::BadNote`] if it is not signed by `log`.
    pub fn cosign(
        &self,
        note: &SignedNote,
        log: &Verifier,
        proof: Option<&Consistency>,
        clock: &dyn Clock,
    ) -> Result<SignedNote> {
        if note.checkpoint.origin != log.name() || !note.signed_by(log) {
            return Err(Error::BadNote("it is not signed by the log"));
        }
        if let Some(seen) = self.seen(log.name())? {
            let (old, new) = (&seen.checkpoint, &note.checkpoint);
            let continues = if old.size == new.size {
                old.root == new.root
            } else {
                proof.is_some_and(|proof| proof.links(old.size, &old.root, new.size, &new.root))
            };
            // An empty log continues into anything and has no proof.
            if !continues && old.size != 0 {
                return Err(Error::Forked { origin: log.name().to_owned(), seen: old.size });
            }
        }
        let mut note = note.clone();
        note.cosign(&self.signer, u64::try_from(clock.now().as_second()).unwrap_or(0));
        write_durably(&self.folder, &file_name(log.name()), note.text().as_bytes())?;
        Ok(note)
    }
}
