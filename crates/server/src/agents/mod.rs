//! Agents: who they are, who may come in, what they send.
//!
//! *In* come connections of agents and an administrator's orders on the admin socket. *Out* go certificates, orders
//! that name a unit, and restore points. The door is threads and blocking sockets: few long connections, all of
//! whose work (hashing, sealing, packing) blocks anyway.
//!
//! **Invariant:** an agent's name comes from its certificate alone, and each connection asks the register whether
//! that certificate still counts. Nothing that an agent sends names a repository.

mod authority;
mod desk;
mod door;
mod intake;
mod places;
mod record;

pub(crate) use desk::Desk;
pub(crate) use door::open;
pub(crate) use intake::read;
pub use record::{Invitation, Record};

use kuramori_model::fault::{Exit, Fault, Kind};

/// What only agents can get wrong.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// The connection, or what came over it.
    #[error(transparent)]
    Wire(#[from] kuramori_wire::Error),
    /// It is not connected.
    #[error("the agent `{agent}` is not connected; waited {seconds} s")]
    Away {
        /// Which.
        agent: String,
        /// How long.
        seconds: u64,
    },
    /// It said no.
    #[error("the agent `{agent}` declined ({code}): {why}")]
    Declined {
        /// Which.
        agent: String,
        /// Its code.
        code: String,
        /// Its words.
        why: String,
    },
    /// It was started again while it sent.
    #[error(
        "the agent `{agent}` was started again in the middle; what it sent is not sent twice by the next run"
    )]
    Restarted {
        /// Which.
        agent: String,
    },
    /// Nobody of this name was ever invited.
    #[error("there is no agent `{0}`")]
    NoSuch(String),
    /// A name that cannot stand in a certificate and a register.
    #[error("`{0}` cannot be an agent's name; use letters a-z, digits and `-`")]
    BadName(String),
    /// Agents cannot come in.
    #[error("this server has no door for agents")]
    NoDoor,
    /// The older authority is still needed.
    #[error("{} agents still have a certificate of the older authority: {}", .0.len(), .0.join(", "))]
    StillNeeded(Vec<String>),
}

impl Fault for AgentsError {
    fn code(&self) -> &'static str {
        match self {
            Self::Wire(error) => error.code(),
            Self::Away { .. } => "agent.away",
            Self::Declined { .. } => "agent.declined",
            Self::Restarted { .. } => "agent.restarted",
            Self::NoSuch(_) => "agent.no-such",
            Self::BadName(_) => "agent.bad-name",
            Self::NoDoor => "agent.no-door",
            Self::StillNeeded(_) => "agent.still-needed",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Wire(error) => error.kind(),
            Self::Away { .. } | Self::Declined { .. } | Self::Restarted { .. } => Kind::Retry,
            Self::StillNeeded(_) => Kind::Refused,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Wire(error) => return error.hint(),
            Self::Away { .. } => {
                "see on the departmental server whether `kuramori agent` runs and reaches this server"
                    .to_owned()
            }
            Self::Declined { .. } => "compare the unit with the agent's own file".to_owned(),
            Self::NoDoor => "set `agents.listen` in the server's configuration".to_owned(),
            Self::StillNeeded(_) => {
                "wait until they have connected, or add `--force` and enrol them again later".to_owned()
            }
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Wire(error) => error.exit(),
            Self::StillNeeded(_) => Exit::Refused,
            _ => Exit::Fix,
        }
    }
}
