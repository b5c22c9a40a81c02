//! Appending.

use std::{
    fmt::Debug,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kuramori_model::clock::Clock;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    key::{Signer, Verifier},
    merkle::{Consistency, Frontier, Hash, consistency, leaf_hash},
    note::{Checkpoint, SignedNote},
};

pub(crate) const FILE: &str = "log";
pub(crate) const COSIGNED: &str = "cosigned";

/// One event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Position from 0.
    #[serde(rename = "n")]
    pub number: u64,
    /// Leaf hash of the entry before, hex; all zeros at the beginning.
    pub prev: String,
    /// Wall clock at the writing host: for people, not for order.
    pub wall: Timestamp,
    /// Milliseconds since boot.
    pub boot_ms: u64,
    /// Which boot.
    pub boot_id: String,
    /// What happened, such as `window.opened`.
    pub kind: String,
    /// Everything else about it.
    pub data: serde_json::Value,
}

/// A log that is open for appending; one process at a time.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    file: fs_err::File,
    signer: Signer,
    clock: Arc<dyn Clock>,
    boot_id: String,
    frontier: Frontier,
    last: Hash,
    /// A write failed half way: the file may hold anything after `frontier`.
    broken: bool,
}

/// One line, read and checked against what came before it.
pub(crate) struct Line {
    pub(crate) entry: Entry,
    pub(crate) leaf: Hash,
    pub(crate) signature: Vec<u8>,
}

/// Splits a line (without its newline) into event and signature.
pub(crate) fn parse(line: &[u8]) -> Result<Line, &'static str> {
    let tab = line.iter().rposition(|b| *b == b'\t').ok_or("it has no signature")?;
    let (json, signature) = (&line[..tab], &line[tab + 1..]);
    let entry: Entry = serde_json::from_slice(json).map_err(|_| "it is not an event")?;
    let signature = STANDARD.decode(signature).map_err(|_| "its signature is not base64")?;
    Ok(Line { entry, leaf: leaf_hash(json), signature })
}

/// Whether the line continues the log that `frontier` and `last` describe. Adds it if so.
pub(crate) fn follow(
    line: &Line,
    frontier: &mut Frontier,
    last: &mut Hash,
    key: &Verifier,
) -> Result<(), &'static str> {
    if line.entry.number != frontier.size() {
        return Err("its number does not follow");
    }
    if line.entry.prev != hex::encode(*last) {
        return Err("it does not continue the entry before it");
    }
    let mut with = frontier.clone();
    with.push(line.leaf);
    if !key.verifies(checkpoint(key.name(), &with).body().as_bytes(), &line.signature) {
        return Err("its signature is wrong");
    }
    *frontier = with;
    *last = line.leaf;
    Ok(())
}

pub(crate) fn checkpoint(origin: &str, frontier: &Frontier) -> Checkpoint {
    Checkpoint { origin: origin.to_owned(), size: frontier.size(), root: frontier.root() }
}

impl Log {
    /// Opens the log in `folder`, or begins it. The signer's name is the log's origin. The whole file is
    /// checked; a torn last line is set aside in `torn-<n>` and named in the log.
    ///
    /// # Errors
    /// [`Error::Tampered`] if any complete line is not what was written, [`Error::Busy`] if another process
    /// appends.
    pub fn open(folder: &Path, signer: Signer, clock: Arc<dyn Clock>) -> Result<Self> {
        fs_err::create_dir_all(folder.join(COSIGNED))?;
        let path = folder.join(FILE);
        let file = fs_err::OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        rustix::fs::flock(file.file(), rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::Busy(path.clone()))?;
        sync_folder(folder)?;
        let boot_id =
            fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let mut log = Self {
            folder: folder.to_owned(),
            file,
            signer,
            clock,
            boot_id,
            frontier: Frontier::default(),
            last: [0; 32],
            broken: false,
        };
        let key = log.signer.verifier();
        let mut good = 0;
        let mut torn = Vec::new();
        let mut lost_newline = false;
        let mut reader = BufReader::new(fs_err::File::open(&path)?);
        loop {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                break;
            }
            let complete = line.pop_if(|byte| *byte == b'\n').is_some();
            let outcome = parse(&line).and_then(|line| follow(&line, &mut log.frontier, &mut log.last, &key));
            match outcome {
                Ok(()) => {
                    good += read;
                    lost_newline = !complete;
                }
                Err(_) if !complete => torn = line,
                Err(what) => {
                    let what = format!("entry {}: {what}", log.frontier.size());
                    return Err(Error::Tampered { path, what });
                }
            }
        }
        if lost_newline {
            // Everything but the newline got through: the entry counts.
            log.file.write_all(b"\n")?;
            log.file.sync_data()?;
        }
        if !torn.is_empty() {
            log.set_aside(good, &torn)?;
        }
        Ok(log)
    }

    fn set_aside(&mut self, good: u64, torn: &[u8]) -> Result<()> {
        let name = format!("torn-{}", self.frontier.size());
        let mut aside = fs_err::File::create(self.folder.join(&name))?;
        aside.write_all(torn)?;
        aside.sync_all()?;
        sync_folder(&self.folder)?;
        self.file.set_len(good)?;
        self.file.sync_all()?;
        let data =
            serde_json::json!({ "file": name, "bytes": torn.len(), "leaf": hex::encode(leaf_hash(torn)) });
        self.append("audit.torn-line-set-aside", &data)?;
        Ok(())
    }

    /// Appends one event and returns once it is on the disk, signed.
    ///
    /// # Errors
    /// [`Error::Io`]; from then on [`Error::Broken`], because nobody knows what reached the disk.
    pub fn append(&mut self, kind: &str, data: &(impl Serialize + ?Sized)) -> Result<Entry> {
        if self.broken {
            return Err(Error::Broken);
        }
        let entry = Entry {
            number: self.frontier.size(),
            prev: hex::encode(self.last),
            wall: self.clock.now(),
            boot_ms: u64::try_from(self.clock.boot().as_millis()).unwrap_or(u64::MAX),
            boot_id: self.boot_id.clone(),
            kind: kind.to_owned(),
            data: serde_json::to_value(data).map_err(Error::Event)?,
        };
        let mut line = serde_json::to_vec(&entry).map_err(Error::Event)?;
        let leaf = leaf_hash(&line);
        let mut frontier = self.frontier.clone();
        frontier.push(leaf);
        let signature = self.signer.sign(checkpoint(self.signer.name(), &frontier).body().as_bytes());
        line.push(b'\t');
        line.extend(STANDARD.encode(signature).as_bytes());
        line.push(b'\n');
        self.broken = true;
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.broken = false;
        self.frontier = frontier;
        self.last = leaf;
        Ok(entry)
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        self.signer.name()
    }

    /// The public key that the entries are signed with.
    pub fn verifier(&self) -> Verifier {
        self.signer.verifier()
    }

    /// The state of now, signed: what goes to the other host.
    pub fn note(&self) -> SignedNote {
        SignedNote::sign(checkpoint(self.signer.name(), &self.frontier), &self.signer)
    }

    /// The proof for a witness that saw `old` entries that this log continues them.
    ///
    /// # Errors
    /// [`Error::BadNote`] if the log is shorter.
    pub fn prove(&self, old: u64) -> Result<Consistency> {
        let mut leaves = Vec::new();
        for line in BufReader::new(fs_err::File::open(self.folder.join(FILE))?).split(b'\n') {
            if leaves.len() as u64 == self.frontier.size() {
                break;
            }
            let line = line?;
            let tab = line.iter().rposition(|b| *b == b'\t').unwrap_or(line.len());
            leaves.push(leaf_hash(&line[..tab]));
        }
        consistency(&leaves, old)
    }

    /// Keeps what the other host cosigned. Returns the time of its cosignature (seconds since 1970).
    ///
    /// # Errors
    /// [`Error::BadNote`] if it is not a checkpoint of this log with both signatures.
    pub fn keep_cosigned(&mut self, note: &SignedNote, witness: &Verifier) -> Result<u64> {
        if note.checkpoint.origin != self.origin() || !note.signed_by(&self.verifier()) {
            return Err(Error::BadNote("it is not of this log"));
        }
        let time = note.cosigned_by(witness).ok_or(Error::BadNote("the witness did not sign it"))?;
        let folder = self.folder.join(COSIGNED);
        write_durably(
            &folder,
            &format!("{:012}.{}", note.checkpoint.size, file_name(witness.name())),
            note.text().as_bytes(),
        )?;
        self.append(
            "audit.cosigned",
            &serde_json::json!({ "size": note.checkpoint.size, "witness": witness.name(), "time": time }),
        )?;
        Ok(time)
    }

    /// Every entry from number `from` on, oldest first, as it stands in the file; what was proven is
    /// [`verify`](crate::verify())'s to say. Nothing is kept in memory. Ends at a line that is no entry.
    ///
    /// # Errors
    /// [`Error::Io`], and what `take` gives.
    pub fn each<E: From<Error>>(
        folder: &Path,
        from: u64,
        take: &mut dyn FnMut(Entry) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut taken = 0;
        let file = fs_err::File::open(folder.join(FILE)).map_err(Error::from)?;
        for line in BufReader::new(file).split(b'\n') {
            let Ok(line) = parse(&line.map_err(Error::from)?) else { break };
            if line.entry.number >= from {
                take(line.entry)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// The newest entries, oldest first; at most `most`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tail(folder: &Path, most: usize) -> Result<Vec<Entry>> {
        let mut entries = std::collections::VecDeque::with_capacity(most.min(1024));
        let file = match fs_err::File::open(folder.join(FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        for line in BufReader::new(file).split(b'\n') {
            if let Ok(line) = parse(&line?) {
                if entries.len() == most {
                    entries.pop_front();
                }
                entries.push_back(line.entry);
            }
        }
        Ok(entries.into())
    }
}

/// A key's name as a file name: `kuramori/server` becomes `kuramori_server`.
pub(crate) fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    fs_err::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Temporary name, fsync, rename, fsync of the folder: the old or the new content, never a half.
pub(crate) fn write_durably(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let temporary = folder.join(format!(".{name}.new"));
    let mut file = fs_err::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs_err::rename(&temporary, folder.join(name))?;
    sync_folder(folder)
}
