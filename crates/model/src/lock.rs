//! The protocol of `kuramori-lockd`: one JSON object per line on a unix socket, a fixed list of verbs.
//!
//! A caller names files by repository, kind and id, never by a path. Retention is in days of the *receiver's
//! accumulated time*; a sender's clock has no place in it.

use serde::{Deserialize, Serialize};

use crate::gate::{Countersignature, Nonce, SigningKey};

/// Longest line.
pub const LINE_LIMIT: usize = 1 << 20;
/// Most files in one request.
pub const FILES_LIMIT: usize = 4096;

/// What kind of file, in restic's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `data/ab/<id>`
    Data,
    /// `index/<id>`
    Index,
    /// `snapshots/<id>`
    Snapshots,
    /// `keys/<id>`
    Keys,
    /// `config`; its id is 64 zeros.
    Config,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Data, Self::Index, Self::Snapshots, Self::Keys, Self::Config];

    /// The folder's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Index => "index",
            Self::Snapshots => "snapshots",
            Self::Keys => "keys",
            Self::Config => "config",
        }
    }
}

/// A file's id: SHA-256 in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub [u8; 32]);

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for FileId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| serde::de::Error::custom("an id has 64 hex digits"))?;
        // One form only: upper case would be another name on the disk.
        if hex::encode(bytes) == text {
            Ok(Self(bytes))
        } else {
            Err(serde::de::Error::custom("an id is in lower case"))
        }
    }
}

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: FileId,
}

/// What the officers sign so that retention may become shorter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shrink {
    /// Whose.
    pub repository: String,
    /// Nothing of it is kept longer than this many days from now on, by accumulated time.
    pub days: u32,
    /// Why, in their words.
    pub reason: String,
    /// Not taken a second time.
    pub nonce: Nonce,
}

impl Shrink {
    /// The bytes that are signed: as for the gate's tokens, a text that has only one form.
    pub fn canonical(&self) -> Vec<u8> {
        let (repository, reason) = (&self.repository, &self.reason);
        format!(
            "kuramori-lock-shrink-v1\nrepository={}:{repository}\ndays={}\nreason={}:{reason}\nnonce={}\n",
            repository.len(),
            self.days,
            reason.len(),
            self.nonce
        )
        .into_bytes()
    }
}

/// A shrink and the signatures under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedShrink {
    /// What is wanted.
    pub shrink: Shrink,
    /// By whom.
    pub signatures: Vec<Countersignature>,
}

impl SignedShrink {
    /// Nobody has signed yet.
    pub const fn new(shrink: Shrink) -> Self {
        Self { shrink, signatures: Vec::new() }
    }

    /// Adds one officer's signature.
    pub fn countersign(&mut self, key: &SigningKey) {
        let signature = key.sign(&self.shrink.canonical());
        self.signatures.push(Countersignature { key: key.public(), signature });
    }
}

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How things stand.
    Status {},
    /// Make the folders of a repository, owned and guarded by the lock.
    Prepare {
        /// Whose.
        repository: String,
    },
    /// Make files immutable for at least so many days. For files that are locked already: extend. Never
    /// shortens.
    Lock {
        /// Whose.
        repository: String,
        /// Which.
        files: Vec<Name>,
        /// How long, from now.
        days: u32,
    },
    /// Note what inspection found about a restore point. A point that was called clean counts for min-keep; a
    /// suspect one stops all removal in its repository.
    Mark {
        /// Whose.
        repository: String,
        /// The snapshot.
        snapshot: FileId,
        /// What was found.
        verdict: Mark,
    },
    /// Remove what has expired. Everything else in the plan is refused, one by one.
    Reap {
        /// Whose.
        repository: String,
        /// Which.
        files: Vec<Name>,
        /// Say only what would be done.
        dry: bool,
    },
    /// Shorten retention after a delay, on the officers' word.
    Shrink {
        /// Signed.
        order: SignedShrink,
    },
    /// A person has compared the clock with the world.
    ConfirmClock {
        /// Signed by the officers over the nonce that `status` shows.
        signatures: Vec<Countersignature>,
    },
}

/// What inspection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Nothing speaks against it.
    Clean,
    /// Removal stops.
    Suspect,
    /// A person has looked and it is well: removal goes on.
    Cleared,
}

/// Why one file of a plan stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stays {
    /// Which.
    pub file: Name,
    /// A stable code.
    pub code: String,
    /// In words.
    pub why: String,
}

/// How things stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the file system keeps immutable files. False: nothing is locked, whatever else is said.
    pub enforced: bool,
    /// If not: why.
    pub why: Option<String>,
    /// Locked files.
    pub files: u64,
    /// Accumulated running time in seconds.
    pub accumulated_s: u64,
    /// How far the wall clock ran away from it, in seconds.
    pub skew_s: i64,
    /// No removal until a person confirms the clock.
    pub frozen: bool,
    /// What a confirmation must sign: `kuramori-lock-clock-v1\nnonce=<this>\n`.
    pub nonce: String,
    /// Removed within the last day of accumulated time.
    pub removed_today: u32,
    /// At most so many.
    pub removals_per_day: u32,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// How things stand.
    Status(Status),
    /// Done: so many files.
    Done {
        /// How many.
        files: u64,
    },
    /// What was removed and what was not.
    Reaped {
        /// Gone, or would be.
        removed: Vec<Name>,
        /// Still there.
        stays: Vec<Stays>,
    },
    /// Not done.
    Refused {
        /// A stable code.
        code: String,
        /// In words.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form_and_holds_no_path() {
        let id = "ab".repeat(32);
        let name: Name = serde_json::from_str(&format!(r#"{{"kind":"data","id":"{id}"}}"#)).unwrap();
        assert_eq!(name.id.to_string(), id);
        for bad in [id.to_uppercase(), "../etc/passwd".into(), "ab".into(), String::new()] {
            let text = format!(r#"{{"kind":"data","id":"{bad}"}}"#);
            assert!(serde_json::from_str::<Name>(&text).is_err(), "{bad}");
        }
        for bad in [r#"{"verb":"remove"}"#, r#"{"verb":"status","x":1}"#, r#"{"verb":"reap"}"#, "{}"] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
