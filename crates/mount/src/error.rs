//! Why restore points cannot be mounted.

use std::{io, path::PathBuf};

use kuramori_model::fault::{Exit, Fault, Kind};

/// The result of this room's work.
pub type Result<T> = std::result::Result<T, Error>;

/// Why restore points cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel offers no FUSE here.
    #[error("this machine has no usable `/dev/fuse`")]
    NoDevice(#[source] io::Error),
    /// The kernel refuses.
    #[error("cannot mount on `{}`", .place.display())]
    Mount {
        /// The folder.
        place: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The restore points cannot be read.
    #[error("the restore points cannot be listed")]
    Repository(#[from] kuramori_repo::Error),
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::NoDevice(_) => "mount.no-device",
            Self::Mount { .. } => "mount.refused",
            Self::Repository(error) => error.code(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Repository(error) => error.kind(),
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoDevice(_) => {
                "load the kernel's module with `modprobe fuse`; in a container, hand in the device; `kuramori repo \
                 restore` works without it"
                    .to_owned()
            }
            Self::Mount { .. } => {
                "see that it is an empty folder; as another user than root, install `fuse3` (fusermount3)".to_owned()
            }
            Self::Repository(error) => return error.hint(),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Repository(error) => error.exit(),
            _ => Exit::Fix,
        }
    }
}
