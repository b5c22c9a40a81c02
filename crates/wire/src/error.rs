//! What can go wrong between agent and server.

use kuramori_model::fault::{Exit, Fault, Kind};

/// What every function here returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the two could not work together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer sent what the protocol does not know or allow.
    #[error("the other side broke the protocol: {0}")]
    Protocol(String),
    /// The connection could not be made, broke or was closed.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing came for too long.
    #[error("nothing was heard for {seconds} s")]
    Silent {
        /// How long.
        seconds: u64,
    },
    /// The other side says no.
    #[error("refused ({code}): {why}")]
    Refused {
        /// Its stable code, such as `revoked`.
        code: String,
        /// Its words; names both times where they matter.
        why: String,
    },
    /// The other side is not who it has to be.
    #[error("the other side's certificate cannot be believed: {0}")]
    Untrusted(String),
    /// A certificate is not valid at this time.
    #[error("{whose} certificate is valid from {from} until {until}; this machine's clock says {now}")]
    Clock {
        /// `the server's` or `this agent's`.
        whose: &'static str,
        /// Begin of validity.
        from: jiff::Timestamp,
        /// End of validity.
        until: jiff::Timestamp,
        /// Our time.
        now: jiff::Timestamp,
    },
    /// A certificate, key or request cannot be made or read.
    #[error("cannot {action}: {why}")]
    Certificate {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        why: String,
    },
    /// The text is no enrolment token.
    #[error("this is not an enrolment token")]
    BadToken,
    /// Somebody ended it.
    #[error("cancelled")]
    Cancelled,
    /// The agent's own source failed.
    #[error("the agent could not read its source ({code}): {why}")]
    Source {
        /// The source's code.
        code: String,
        /// The source's words.
        why: String,
    },
    /// The store behind the receiving side failed.
    #[error("the store cannot take the data")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same session may go on over a new connection.
    pub fn is_line(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Silent { .. })
    }

    /// An I/O error of a connection.
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub fn broken(error: std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            // A server that does not believe our certificate says so only after the handshake.
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::Untrusted(format!("the other side says {alert:?}"))
            }
            Some(rustls::Error::InvalidCertificate(why)) => Self::Untrusted(why.to_string()),
            Some(other) => Self::Protocol(other.to_string()),
            None => Self::Broken(error.to_string()),
        }
    }
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Protocol(_) => "wire.protocol",
            Self::Broken(_) => "wire.broken",
            Self::Silent { .. } => "wire.silent",
            Self::Refused { .. } => "wire.refused",
            Self::Untrusted(_) => "wire.untrusted",
            Self::Clock { .. } => "wire.clock",
            Self::Certificate { .. } => "wire.certificate",
            Self::BadToken => "wire.bad-token",
            Self::Cancelled => "wire.cancelled",
            Self::Source { .. } => "wire.source",
            Self::Store(_) => "wire.store",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Broken(_)
            | Self::Silent { .. }
            | Self::Cancelled
            | Self::Source { .. }
            | Self::Store(_) => Kind::Retry,
            Self::Refused { .. } | Self::Untrusted(_) => Kind::Refused,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused { code, .. } if code == "expired" || code == "revoked" || code == "unknown" => {
                "on the server run `kuramori agent invite NAME`, then `kuramori agent enrol --token …` here; name \
                 and history stay"
                    .to_owned()
            }
            Self::Untrusted(_) => {
                "if the server's authority was changed while this agent was away, enrol it again with a new token"
                    .to_owned()
            }
            Self::Clock { .. } => "set this machine's clock; the tolerance is 24 hours".to_owned(),
            Self::BadToken => "copy the whole token, as `kuramori agent invite` printed it".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Refused { .. } | Self::Untrusted(_) | Self::BadToken => Exit::Authentication,
            Self::Cancelled => Exit::Interrupted,
            _ => Exit::Fix,
        }
    }
}
