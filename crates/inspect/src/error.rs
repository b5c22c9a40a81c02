//! Why an inspection gives no verdict at all.

use kuramori_model::fault::{Fault, Kind};

/// The result of an inspection.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an inspection gives no verdict at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository could not be read.
    #[error("the restore point cannot be read for inspection")]
    Repository(#[source] kuramori_repo::Error),
    /// A pattern of the policy is not one.
    #[error("`{pattern}` is not a pattern: {why}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A stored profile that this version cannot read.
    #[error("the stored profile cannot be read: {0}")]
    Profile(String),
}

impl From<kuramori_repo::Error> for Error {
    fn from(error: kuramori_repo::Error) -> Self {
        Self::Repository(error)
    }
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Repository(_) => "inspect.repository",
            Self::Pattern { .. } => "inspect.pattern",
            Self::Profile(_) => "inspect.profile",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Pattern { .. } | Self::Profile(_) => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Repository(error) => error.hint(),
            Self::Pattern { .. } => {
                Some("write a path with `*`, `**` and `?`, such as `reports/**/*.pdf`".into())
            }
            Self::Profile(_) => {
                Some("move it away; the next inspection learns a new one from the oldest clean point".into())
            }
        }
    }
}
