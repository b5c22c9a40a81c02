//! Any room's error, on its way to the person or program that started the command.

use std::fmt;

use kuramori_model::fault::{Exit, Fault, Kind};

/// An error with its code, kind and hint; see [`Fault`].
pub(crate) struct Failure(Box<dyn Fault + Send + Sync>);

impl Failure {
    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.0.code()
    }

    /// What the reader can do.
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// What to do next, if we know.
    pub(crate) fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.0.exit()
    }

    /// The sentence with all causes.
    pub(crate) fn text(&self) -> String {
        kuramori_model::fault::chain(&*self.0)
    }
}

impl<E: Fault + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What only the command line can get wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// An argument that clap could not judge.
    #[error("{0}")]
    Argument(String),
    /// A file that the command line names.
    #[error("cannot use the file")]
    File(#[source] std::io::Error),
    /// A child command of ours failed.
    #[error("the command `{command}` ended with {status}; nothing was stored")]
    Command {
        /// As given.
        command: String,
        /// Its exit status in words.
        status: String,
    },
}

impl Fault for CliError {
    fn code(&self) -> &'static str {
        match self {
            Self::Argument(_) => "cli.argument",
            Self::File(_) => "cli.file",
            Self::Command { .. } => "cli.command-failed",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Fix
    }
}
