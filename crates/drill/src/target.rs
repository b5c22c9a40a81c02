//! Where a restore goes, and how it gets there without anything being deleted.
//!
//! ```text
//! <parent>/.<name>.restore-<snapshot>     staging: grows here, is found again after an interruption
//! <parent>/<name>                         the target: gets its name in one step, when everything is there
//! <parent>/<name>.before-restore-<time>   what stood there before: kept for whoever investigates
//! ```
//! All three lie in the same folder, so that each step is a rename within one file system.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{DrillError, Result};

/// What stands at the target now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// Nothing.
    Absent,
    /// An empty folder.
    Empty,
    /// Something: it is put aside, not overwritten.
    Occupied {
        /// Files, counted up to a million.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Whether the count stopped early.
        more: bool,
        /// Where it will be kept.
        kept: PathBuf,
    },
}

/// A target that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The folder that will hold the restored data.
    pub path: PathBuf,
    /// Whether it is the system's original place.
    pub original: bool,
    /// What stands there.
    pub standing: Standing,
    /// Where the data grows until everything is there.
    pub staging: PathBuf,
    /// Whether staging holds the beginning of the same restore.
    pub resumes: bool,
    /// Bytes free on its file system.
    pub free: u64,
}

const COUNT_MAX: u64 = 1_000_000;

impl Target {
    /// Looks at a target; changes nothing.
    ///
    /// # Errors
    /// It is a file, a mount point, a link, or its parent is not there.
    pub fn look(path: &Path, snapshot: &str, original: bool, now: Timestamp) -> Result<Self> {
        let bad = |why: String| DrillError::Target { path: path.to_owned(), why };
        let path = &std::path::absolute(path).map_err(|error| bad(error.to_string()))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(bad("it has no name of its own".to_owned()));
        };
        let parent_of = existing(parent).ok_or_else(|| bad("its parent is not there".to_owned()))?;
        let standing = match fs_err::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Standing::Absent,
            Err(error) => return Err(bad(error.to_string())),
            Ok(about) if about.is_symlink() => {
                return Err(bad("it is a link; name the folder itself".to_owned()));
            }
            Ok(about) if !about.is_dir() => return Err(bad("it is not a folder".to_owned())),
            Ok(about) => {
                use std::os::unix::fs::MetadataExt;
                let above = fs_err::metadata(parent).map_err(|error| bad(error.to_string()))?;
                if above.dev() != about.dev() {
                    return Err(bad("it is a mount point; name a folder inside it".to_owned()));
                }
                let (files, bytes, more) = count(path);
                let any = files > 0 || fs_err::read_dir(path).is_ok_and(|mut all| all.next().is_some());
                if any {
                    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ");
                    let mut kept = name.to_owned();
                    kept.push(format!(".before-restore-{time}"));
                    Standing::Occupied { files, bytes, more, kept: parent.join(kept) }
                } else {
                    Standing::Empty
                }
            }
        };
        let mut staging = std::ffi::OsString::from(".");
        staging.push(name);
        staging.push(format!(".restore-{}", snapshot.get(..16).unwrap_or(snapshot)));
        let staging = parent.join(staging);
        Ok(Self {
            path: path.clone(),
            original,
            standing,
            resumes: staging.is_dir(),
            staging,
            free: free(&parent_of)?,
        })
    }

    /// Puts the finished staging folder into the target's place. Gives where the original is kept.
    ///
    /// # Errors
    /// A rename failed; then everything is still there under one of its names.
    pub fn put(&self) -> Result<Option<PathBuf>> {
        let wrong = DrillError::file("put the restored data into its place");
        let kept = match &self.standing {
            Standing::Absent => None,
            // Fails if somebody put something there meanwhile, and nothing is lost.
            Standing::Empty => {
                fs_err::remove_dir(&self.path).map_err(&wrong)?;
                None
            }
            Standing::Occupied { kept, .. } => {
                if fs_err::symlink_metadata(kept).is_ok() {
                    let why = "the name for the original is taken".to_owned();
                    return Err(DrillError::Target { path: kept.clone(), why });
                }
                fs_err::rename(&self.path, kept).map_err(&wrong)?;
                Some(kept.clone())
            }
        };
        if fs_err::symlink_metadata(&self.path).is_ok() {
            let why = "something appeared there during the restore".to_owned();
            return Err(DrillError::Target { path: self.path.clone(), why });
        }
        fs_err::rename(&self.staging, &self.path).map_err(&wrong)?;
        if let Some(parent) = self.path.parent() {
            // The new name must survive a power cut as the data does.
            fs_err::File::open(parent).and_then(|folder| folder.sync_all()).map_err(&wrong)?;
        }
        Ok(kept)
    }
}

/// The nearest folder above that exists.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
}

/// Bytes that we may still write there.
pub(crate) fn free(folder: &Path) -> Result<u64> {
    let about = rustix::fs::statvfs(folder)
        .map_err(|error| DrillError::file("look at the file system")(error.into()))?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

fn count(folder: &Path) -> (u64, u64, bool) {
    let (mut files, mut bytes, mut open) = (0, 0, vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs_err::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                open.push(entry.path());
            } else {
                files += 1;
                bytes += about.len();
                if files >= COUNT_MAX {
                    return (files, bytes, true);
                }
            }
        }
    }
    (files, bytes, false)
}
