//! Names that come from the network, and the only forms in which they go further.
//!
//! A path is taken as it stands, without percent-decoding: every name of the protocol is plain ASCII, so a
//! `%`, a `.` or a backslash has no business in it.

use std::{fmt, path::PathBuf, str::FromStr};

use kuramori_model::ids::{CONTROL_REPOSITORY, SystemId};
use serde::{Deserialize, Serialize};

/// A repository's folder: a system's name or `_control`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RepositoryName(String);

/// A name that cannot be a repository's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` cannot be a repository's name: use a system's name or `_control`")]
pub struct BadRepositoryName(String);

impl RepositoryName {
    /// Checks that it is a system's name or `_control`.
    pub fn new(name: &str) -> Result<Self, BadRepositoryName> {
        if name == CONTROL_REPOSITORY || SystemId::new(name).is_ok() {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadRepositoryName(name.chars().take(80).collect()))
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepositoryName {
    type Err = BadRepositoryName;

    fn from_str(name: &str) -> Result<Self, BadRepositoryName> {
        Self::new(name)
    }
}

impl<'de> Deserialize<'de> for RepositoryName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The kinds of files in restic's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The one `config` file, which has no further name.
    Config,
    /// Packs; on disk one level deeper, by the first two digits of the name.
    Data,
    /// Which pack holds what.
    Index,
    /// Key files.
    Keys,
    /// Locks, the only kind that can be deleted.
    Locks,
    /// Restore points.
    Snapshots,
}

impl Kind {
    /// The kinds that are folders.
    pub const FOLDERS: [Self; 5] = [Self::Data, Self::Index, Self::Keys, Self::Locks, Self::Snapshots];

    /// The folder's name, on disk and in URLs.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Data => "data",
            Self::Index => "index",
            Self::Keys => "keys",
            Self::Locks => "locks",
            Self::Snapshots => "snapshots",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// A file's name: the SHA-256 of its bytes, 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(pub [u8; 32]);

impl FileName {
    /// Reads 64 lowercase hexadecimal digits and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut name = [0; 32];
        (lower && text.len() == 64 && hex::decode_to_slice(text, &mut name).is_ok()).then_some(Self(name))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for FileName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which file of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    Config,
    Named(Kind, FileName),
}

impl File {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Config => Kind::Config,
            Self::Named(kind, _) => kind,
        }
    }

    pub(crate) fn name(self) -> Option<FileName> {
        match self {
            Self::Config => None,
            Self::Named(_, name) => Some(name),
        }
    }

    /// Where it lies below the repository's folder.
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Config => PathBuf::from("config"),
            Self::Named(kind, name) => {
                let name = name.to_string();
                let mut path = PathBuf::from(kind.folder());
                if kind == Kind::Data {
                    path.push(&name[..2]);
                }
                path.push(name);
                path
            }
        }
    }
}

/// What a URL's path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/`: the repositories.
    Root,
    /// `/<repository>/`.
    Repository(RepositoryName),
    /// `/<repository>/<kind>/`.
    Folder(RepositoryName, Kind),
    /// `/<repository>/config` or `/<repository>/<kind>/<name>`.
    File(RepositoryName, File),
}

impl Target {
    /// Reads a raw URL path; `None` for everything that the protocol does not know.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix('/')?;
        if rest.is_empty() {
            return Some(Self::Root);
        }
        let (repository, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let repository = RepositoryName::new(repository).ok()?;
        match rest {
            "" => return Some(Self::Repository(repository)),
            "config" => return Some(Self::File(repository, File::Config)),
            _ => {}
        }
        let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
        let kind = Kind::FOLDERS.into_iter().find(|k| k.folder() == kind)?;
        if name.is_empty() {
            return Some(Self::Folder(repository, kind));
        }
        Some(Self::File(repository, File::Named(kind, FileName::parse(name)?)))
    }

    pub(crate) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Root => None,
            Self::Repository(repository) | Self::Folder(repository, _) | Self::File(repository, _) => {
                Some(repository)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn reads_what_restic_asks_for() {
        let pacs = RepositoryName::new("pacs").unwrap();
        assert_eq!(Target::parse("/"), Some(Target::Root));
        assert_eq!(Target::parse("/pacs/"), Some(Target::Repository(pacs.clone())));
        assert_eq!(Target::parse("/pacs/config"), Some(Target::File(pacs.clone(), File::Config)));
        assert_eq!(Target::parse("/pacs/data/"), Some(Target::Folder(pacs.clone(), Kind::Data)));
        let file = Target::parse(&format!("/pacs/data/{ID}"));
        let Some(Target::File(repository, file)) = file else { panic!("{file:?}") };
        assert_eq!(repository, pacs);
        assert_eq!(file.path().to_str(), Some(format!("data/00/{ID}").as_str()));
        assert!(Target::parse("/_control/locks/").is_some());
    }

    #[test]
    fn nothing_else_becomes_a_path() {
        let upper = ID.to_uppercase();
        let longer = format!("{ID}0");
        for bad in [
            "",
            "pacs",
            "//",
            "/..",
            "/../",
            "/pacs/..",
            "/pacs/../billing/config",
            "/pacs/%2e%2e/",
            "/pacs/data/..",
            "/pacs/data/00/x",
            "/pacs/config/",
            "/pacs/config/x",
            "/pacs/incoming/",
            "/pacs/.incoming/1",
            "/pacs/data//",
            "/Pacs/",
            "/pacs\\x/",
            "/_other/",
            "/pacs/data/\0",
            &format!("/pacs/data/{upper}"),
            &format!("/pacs/data/{longer}"),
            &format!("/pacs/data/{ID}/"),
            &format!("/pacs/data/00/{ID}"),
            &format!("/pacs//data/{ID}"),
            &format!("/pacs/keys/../data/{ID}"),
        ] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }
}
