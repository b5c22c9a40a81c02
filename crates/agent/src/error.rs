//! What can go wrong on the agent's side.

use kuramori_model::fault::{Exit, Fault, Kind};

/// What every function here returns.
pub type Result<T> = std::result::Result<T, AgentError>;

/// Why the agent cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The connection or what came over it.
    #[error(transparent)]
    Wire(#[from] kuramori_wire::Error),
    /// A source, or the file that declares it.
    #[error(transparent)]
    Source(#[from] kuramori_source::Error),
    /// The agent's file cannot be understood.
    #[error("`{path}` cannot be used: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// This machine was never enrolled.
    #[error("there is no identity in `{0}`: this agent is not enrolled")]
    NotEnrolled(String),
    /// The server stored something else than what was sent: memory or line damaged it, or it lies.
    #[error("the server answered with another hash for a chunk than ours")]
    WrongHash,
    /// An item of which more is known than one message carries: attributes of a megabyte.
    #[error("what describes it takes more than the {most} bytes that one message carries")]
    TooLarge {
        /// How much fits.
        most: usize,
    },
    /// A file of the agent's own.
    #[error("cannot keep the agent's state")]
    State(#[source] std::io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Start(#[source] std::io::Error),
}

impl Fault for AgentError {
    fn code(&self) -> &'static str {
        match self {
            Self::Wire(error) => error.code(),
            Self::Source(error) => error.code(),
            Self::File { .. } => "agent.file",
            Self::NotEnrolled(_) => "agent.not-enrolled",
            Self::WrongHash => "agent.wrong-hash",
            Self::TooLarge { .. } => "agent.too-large",
            Self::State(_) => "agent.state",
            Self::Start(_) => "agent.start",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Wire(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::WrongHash => Kind::Damaged,
            Self::Start(_) => Kind::Retry,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Wire(error) => error.hint(),
            Self::Source(error) => error.hint(),
            Self::NotEnrolled(_) => Some(
                "on the server run `kuramori agent invite NAME`, then `kuramori agent enrol --token …` here"
                    .to_owned(),
            ),
            Self::File { .. } => Some("compare it with docs/agent.md".to_owned()),
            _ => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Wire(error) => error.exit(),
            Self::Source(error) => error.exit(),
            Self::NotEnrolled(_) => Exit::Authentication,
            Self::WrongHash => Exit::Damaged,
            _ => Exit::Fix,
        }
    }
}
