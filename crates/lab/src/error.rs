//! What can go wrong around the hospital.

use std::{io, path::PathBuf, time::Duration};

use kuramori_model::fault::{Fault, Kind};

/// An error of the lab. Each names the thing and, where we know it, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A file or folder could not be read or written; the path is in the source.
    #[error("a file of the lab could not be used")]
    File(#[from] io::Error),
    /// A program could not even be started.
    #[error("`{program}` cannot be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` ended with {status}: {stderr}")]
    Program {
        /// The whole command.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it said on stderr.
        stderr: String,
    },
    /// Something did not become true in time.
    #[error("waited {} s in vain until {what}", .waited.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
    },
    /// There is no lab at that place, or it is down.
    #[error("there is no lab up in {}", .0.display())]
    NotUp(PathBuf),
    /// A lab is up already at that place or under that prefix.
    #[error("a lab is up already: {0}")]
    AlreadyUp(String),
    /// A path is not where the lab may write, or the attack may not touch it.
    #[error("{} is refused: {why}", .path.display())]
    Outside {
        /// The path.
        path: PathBuf,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The record of the lab or a manifest cannot be understood.
    #[error("{} cannot be understood", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// A server answered something that its protocol does not allow or that means failure.
    #[error("{server} answered unexpectedly: {answer}")]
    Answer {
        /// Which server.
        server: &'static str,
        /// What it said.
        answer: String,
    },
    /// The network namespace of a host cannot be entered.
    #[error("the namespace `{name}` cannot be entered")]
    Namespace {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A service is asked for that this lab was not raised with.
    #[error("this lab was raised without {0}")]
    NoService(&'static str),
    /// A generated thing is not as large as promised.
    #[error("{what} has {have}, which is less than {want}")]
    TooSmall {
        /// What.
        what: &'static str,
        /// What it has.
        have: u64,
        /// What it must have.
        want: u64,
    },
}

impl Fault for LabError {
    fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "lab.file",
            Self::Start { .. } => "lab.program-missing",
            Self::Program { .. } => "lab.program-failed",
            Self::Timeout { .. } => "lab.timeout",
            Self::NotUp(_) => "lab.not-up",
            Self::AlreadyUp(_) => "lab.already-up",
            Self::Outside { .. } => "lab.outside",
            Self::Format { .. } => "lab.format",
            Self::Answer { .. } => "lab.answer",
            Self::Namespace { .. } => "lab.namespace",
            Self::NoService(_) => "lab.no-service",
            Self::TooSmall { .. } => "lab.too-small",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Timeout { .. } => Kind::Retry,
            Self::Outside { .. } => Kind::Refused,
            Self::TooSmall { .. } => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Start { .. } => {
                Some("`kuramori-lab needs` lists what is missing and how to get it".to_owned())
            }
            Self::NotUp(_) => Some("raise one with `kuramori-lab up`".to_owned()),
            Self::AlreadyUp(_) => Some("take it down with `kuramori-lab down`".to_owned()),
            Self::Outside { .. } => {
                Some("name a folder of a lab; for `up` an empty one that other users can enter".to_owned())
            }
            Self::Namespace { .. } => {
                Some("the lab needs root; `kuramori-lab status` shows if it is up".to_owned())
            }
            _ => None,
        }
    }
}

/// What the lab's functions give back.
pub type Result<T, E = LabError> = std::result::Result<T, E>;
