//! Restore points as a read-only file system, to look into and to take single files out of.
//!
//! ```text
//! by-system/SYSTEM/2026-11-23_02-14-07+0900/…     every restore point of a system, by its time
//! by-system/SYSTEM/latest                         a link to the newest one
//! by-id/1a2b3c4d/…                                the same by the start of their ids
//! ```
//!
//! **In** come the kernel's requests through `/dev/fuse`; **out** go folders and bytes of the restore points. A disk
//! that is stored in segments (`NAME.segments`) shows up as one file `NAME` as well. Owners and modes are those that
//! were backed up, and the kernel judges by them who may read what. Restore points that come while it is mounted
//! appear.
//!
//! **What can go wrong:** this machine has no `/dev/fuse` or does not let this user mount; a piece of a file is
//! damaged: reading it is an I/O error, and the log names the piece.
//!
//! **Invariant:** changes nothing, gives out no byte whose hash was not compared, and keeps in memory only what the
//! kernel has in its hands and a bounded number of folders.

mod browse;
mod error;
mod filesystem;
mod inodes;

use std::{path::Path, time::Duration};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use jiff::tz::TimeZone;
use kuramori_repo::reading::Reader;

pub use error::{Error, Result};

/// The kernel's way to a file system in a process.
pub const DEVICE: &str = "/dev/fuse";

/// How restore points are shown.
#[derive(Debug, Clone)]
pub struct Options {
    /// In which zone the folders' names tell the time.
    pub zone: TimeZone,
    /// Let other users in as well, each to what the stored modes allow.
    pub allow_other: bool,
}

/// A mounted file system. Dropping it takes it away, also while somebody still stands in it.
#[derive(Debug)]
pub struct Mounted {
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Whether somebody took it away from outside (`umount`).
    pub fn is_over(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            tracing::warn!("the file system did not end in order: {error}");
        }
    }
}

/// How long the kernel may believe what it was told of a stored item: it never changes.
const STORED: Duration = Duration::from_hours(1);
/// The same of folders in which new restore points appear.
const GROWING: Duration = Duration::from_secs(1);

/// Mounts all restore points of the reader's repository.
///
/// # Errors
/// [`Error::NoDevice`] and [`Error::Mount`]; [`Error::Repository`] if the restore points cannot be listed.
pub fn mount(reader: Reader, at: &Path, options: Options) -> Result<Mounted> {
    fs_err::metadata(DEVICE).map_err(Error::NoDevice)?;
    let view = filesystem::View::new(reader, options.zone)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName("kuramori".to_owned()),
        MountOption::Subtype("kuramori".to_owned()),
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(4);
    let failed = |source| Error::Mount { place: at.to_owned(), source };
    let session = fuser::spawn_mount(view, at, &config).map_err(failed)?;
    Ok(Mounted { session: Some(session) })
}
