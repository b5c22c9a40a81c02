//! What can go wrong between a restore point and a working system.

use std::path::PathBuf;

use kuramori_model::{
    fault::{Exit, Fault, Kind},
    units::Bytes,
};

/// What every function here returns.
pub type Result<T> = std::result::Result<T, DrillError>;

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The engine.
    #[error(transparent)]
    Repository(#[from] kuramori_repo::Error),
    /// The archive that is to get its studies back.
    #[error(transparent)]
    Archive(#[from] kuramori_source::Error),
    /// No restore point fits what was asked for.
    #[error("`{system}` has no restore point that fits: {why}")]
    NoPoint {
        /// Which system.
        system: String,
        /// What was looked for.
        why: String,
    },
    /// The point that was asked for is not trusted, and nobody said why it shall be used all the same.
    #[error("the restore point seq-{sequence} is {state}; using it needs a reason")]
    NeedsReason {
        /// The receiver's number.
        sequence: u64,
        /// `suspect`, `corrupt`, `incomplete` or `behind a bad one`.
        state: &'static str,
    },
    /// The copy that was chosen is not here.
    #[error(
        "the chosen restore point seq-{sequence} of `{system}` lies in the vault, which nobody can read from here"
    )]
    NotAtHand {
        /// Which system.
        system: String,
        /// The vault's number.
        sequence: u64,
    },
    /// The system keeps no log.
    #[error(
        "no restore point of `{system}` has a log with it: only its restore points' own times can be reached"
    )]
    NoLog {
        /// Which system.
        system: String,
    },
    /// The time cannot be reached.
    #[error("`{system}` cannot be brought to {wanted}; the latest reachable time before it: {}, the earliest after it: {}", shown(before.as_ref()), shown(after.as_ref()))]
    Moment {
        /// Which system.
        system: String,
        /// What was wished.
        wanted: jiff::Timestamp,
        /// The latest time before it that can be reached.
        before: Option<jiff::Timestamp>,
        /// The earliest time after it that can be reached.
        after: Option<jiff::Timestamp>,
    },
    /// The target cannot be used.
    #[error("the target `{}` cannot be used: {why}", path.display())]
    Target {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Not enough room.
    #[error("`{}` has {} free and the restore needs {}", path.display(), Bytes(*have), Bytes(*need))]
    Space {
        /// The folder whose file system is too small.
        path: PathBuf,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are free.
        have: u64,
    },
    /// Another restore writes there.
    #[error("another restore works in `{}`", .0.display())]
    Busy(PathBuf),
    /// Items could not be restored, so nothing was put into the original place.
    #[error("{count} items could not be restored; what could be lies in `{}`", staging.display())]
    Short {
        /// How many.
        count: usize,
        /// Where the rest is.
        staging: PathBuf,
        /// Whether stored data is damaged.
        damaged: bool,
    },
    /// A place without a way out could not be made.
    #[error("no isolated place can be made here: {0}")]
    Isolation(String),
    /// A program could not be started or failed.
    #[error("`{program}` {how}")]
    Program {
        /// Its name.
        program: String,
        /// What it did, with the end of what it said.
        how: String,
    },
    /// A profile that cannot be used.
    #[error("the recovery profile cannot be used: {0}")]
    Profile(String),
    /// A file of ours.
    #[error("cannot {action}")]
    File {
        /// The verb with its object.
        action: &'static str,
        /// What the system said; names the path.
        #[source]
        source: std::io::Error,
    },
}

fn shown(time: Option<&jiff::Timestamp>) -> String {
    time.map_or_else(|| "none".to_owned(), jiff::Timestamp::to_string)
}

impl DrillError {
    /// Wraps an I/O error; `fs_err` has put the path into it.
    pub fn file(action: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::File { action, source }
    }
}

impl Fault for DrillError {
    fn code(&self) -> &'static str {
        match self {
            Self::Repository(error) => error.code(),
            Self::Archive(error) => error.code(),
            Self::NoPoint { .. } => "drill.no-point",
            Self::NeedsReason { .. } => "drill.needs-reason",
            Self::NotAtHand { .. } => "drill.not-at-hand",
            Self::NoLog { .. } => "drill.no-log",
            Self::Moment { .. } => "drill.time-unreachable",
            Self::Target { .. } => "drill.target",
            Self::Space { .. } => "drill.space",
            Self::Busy(_) => "drill.busy",
            Self::Short { .. } => "drill.short",
            Self::Isolation(_) => "drill.not-isolated",
            Self::Program { .. } => "drill.program",
            Self::Profile(_) => "drill.profile",
            Self::File { .. } => "drill.file",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::NeedsReason { .. } => Kind::Refused,
            Self::Busy(_) => Kind::Retry,
            Self::Short { damaged: true, .. } => Kind::Damaged,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Repository(error) => return error.hint(),
            Self::Archive(error) => return error.hint(),
            Self::NoPoint { system, .. } => format!("see `kuramori backup points {system}`"),
            Self::NeedsReason { .. } => "give `--reason \"…\"`; it is logged with your name".to_owned(),
            Self::NotAtHand { system, .. } => format!(
                "at the vault: `kuramori vault restore --receiver NAME --system {system} --yes`, or carry its disk; then give the folder with `--from`"
            ),
            Self::NoLog { .. } => {
                "choose a restore point with `--before`; to keep the log, add `wal` to its source (docs/sources.md)"
                    .to_owned()
            }
            Self::Moment { .. } => "name one of these times with `--to-time`".to_owned(),
            Self::Target { .. } => "name an absent or empty folder with `--to`".to_owned(),
            Self::Space { .. } => "free some room or name another folder".to_owned(),
            Self::Busy(_) => "wait for it, or end it first".to_owned(),
            Self::Short { .. } => {
                "choose an older restore point, or take it as it is with `--accept-missing`".to_owned()
            }
            Self::Isolation(_) => {
                "run it as root, or allow unprivileged user namespaces; a drill without isolation is refused"
                    .to_owned()
            }
            Self::Profile(_) => "see `kuramori drill profile --example`".to_owned(),
            Self::Program { .. } | Self::File { .. } => return None,
        })
    }

    fn exit(&self) -> Exit {
        match (self, self.kind()) {
            (Self::Repository(error), _) => error.exit(),
            (Self::Archive(error), _) => error.exit(),
            (Self::Busy(_), _) => Exit::Locked,
            (Self::Short { damaged: false, .. }, _) => Exit::Partial,
            (_, Kind::Retry | Kind::Fix) => Exit::Fix,
            (_, Kind::Refused) => Exit::Refused,
            (_, Kind::Damaged) => Exit::Damaged,
            (_, Kind::Bug) => Exit::Unexpected,
        }
    }
}
