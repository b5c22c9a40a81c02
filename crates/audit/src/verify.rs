//! Checking a log, with nothing but the file and public keys.

use std::{
    io::{BufRead, BufReader},
    path::Path,
};

use serde::Serialize;

use crate::{
    error::Result,
    key::Verifier,
    log::{COSIGNED, FILE, follow, parse},
    merkle::{Frontier, Hash},
    note::SignedNote,
};

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Entries that are proven to be what was written, from the beginning.
    pub entries: u64,
    /// Merkle root over them, hex.
    pub root: String,
    /// Size of the newest checkpoint that a witness cosigned; nothing before it can be missing.
    pub cosigned: Option<u64>,
    /// Everything that does not fit, in the order of the file.
    pub findings: Vec<Finding>,
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum Finding {
    /// This line was changed, moved, inserted, or follows a removed one. Nothing after it is proven.
    Changed {
        /// Which entry it should have been.
        number: u64,
        /// What does not fit.
        what: String,
        /// How many lines follow it, none of them proven.
        after: u64,
    },
    /// The file does not end with a complete line: a crash, or somebody cut it.
    TornLine {
        /// How many bytes there are after the last complete line.
        bytes: u64,
    },
    /// The log is shorter than a checkpoint that was cosigned.
    Truncated {
        /// Entries that the checkpoint had.
        cosigned: u64,
    },
    /// A cosigned checkpoint is of another history: the log was rewritten by somebody with its key.
    Forked {
        /// Entries that the checkpoint had.
        cosigned: u64,
    },
    /// A stored note is not a cosigned checkpoint of this log.
    BadNote {
        /// Its file, or what is known of it.
        note: String,
    },
}

impl Verification {
    /// Whether everything fits.
    pub fn clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks the log in `folder` against its key, against the cosigned checkpoints that lie beside it, and
/// against `elsewhere`: the notes that the other host remembers. Only the last are out of reach of whoever
/// owns this host.
///
/// # Errors
/// [`crate::Error::Io`] if the log cannot be read; everything else is a finding.
pub fn verify(
    folder: &Path,
    key: &Verifier,
    witnesses: &[Verifier],
    elsewhere: &[SignedNote],
) -> Result<Verification> {
    let mut findings = Vec::new();
    let mut notes = stored_notes(folder, key, witnesses, &mut findings)?;
    for note in elsewhere {
        if cosigned(note, key, witnesses) {
            notes.push(note.clone());
        } else {
            findings.push(Finding::BadNote {
                note: format!("{} of {}", note.checkpoint.size, note.checkpoint.origin),
            });
        }
    }
    notes.sort_by_key(|note| note.checkpoint.size);

    let mut frontier = Frontier::default();
    let mut last: Hash = [0; 32];
    let mut forked = Vec::new();
    let mut pending = notes.iter().peekable();
    let mut check = |frontier: &Frontier| {
        while let Some(note) = pending.next_if(|note| note.checkpoint.size == frontier.size()) {
            if note.checkpoint.root != frontier.root() {
                forked.push(Finding::Forked { cosigned: note.checkpoint.size });
            }
        }
    };
    check(&frontier);
    let mut reader = BufReader::new(fs_err::File::open(folder.join(FILE))?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            findings.push(Finding::TornLine { bytes: read as u64 });
            break;
        }
        if let Err(what) = parse(&line).and_then(|line| follow(&line, &mut frontier, &mut last, key)) {
            let after = reader.split(b'\n').count() as u64;
            findings.push(Finding::Changed { number: frontier.size(), what: what.to_owned(), after });
            break;
        }
        check(&frontier);
    }
    findings.extend(forked);
    findings.extend(
        notes
            .iter()
            .filter(|note| note.checkpoint.size > frontier.size())
            .map(|note| Finding::Truncated { cosigned: note.checkpoint.size }),
    );
    Ok(Verification {
        entries: frontier.size(),
        root: hex::encode(frontier.root()),
        cosigned: notes.last().map(|note| note.checkpoint.size),
        findings,
    })
}

fn cosigned(note: &SignedNote, key: &Verifier, witnesses: &[Verifier]) -> bool {
    note.checkpoint.origin == key.name()
        && note.signed_by(key)
        && witnesses.iter().any(|witness| note.cosigned_by(witness).is_some())
}

fn stored_notes(
    folder: &Path,
    key: &Verifier,
    witnesses: &[Verifier],
    findings: &mut Vec<Finding>,
) -> Result<Vec<SignedNote>> {
    let mut notes = Vec::new();
    let listing = match fs_err::read_dir(folder.join(COSIGNED)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(notes),
        other => other?,
    };
    for file in listing {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let note = fs_err::read(file.path())
            .ok()
            .and_then(|bytes| SignedNote::parse(&String::from_utf8(bytes).ok()?).ok());
        match note {
            Some(note)
                if cosigned(&note, key, witnesses)
                    && name.starts_with(&format!("{:012}.", note.checkpoint.size)) =>
            {
                notes.push(note);
            }
            _ => findings.push(Finding::BadNote { note: name }),
        }
    }
    Ok(notes)
}
