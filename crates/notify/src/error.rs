//! What can go wrong with telling, by stable codes.

use std::path::PathBuf;

use kuramori_model::fault::{Fault, Kind};

/// Why a notice did not go.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// A sender or reader is no mail address.
    #[error("`{address}` of target `{target}` is not a mail address")]
    BadAddress {
        /// The target.
        target: String,
        /// As configured.
        address: String,
        /// Why.
        #[source]
        source: lettre::address::AddressError,
    },
    /// There is nobody to tell.
    #[error("target `{0}` names no reader")]
    NoReader(String),
    /// The zone of the times is unknown.
    #[error("`{0}` is not a time zone; write for example `Asia/Tokyo`")]
    BadZone(String),
    /// The CA's file cannot be used.
    #[error("the CA file `{}` of target `{target}` holds no certificate in PEM", path.display())]
    BadCa {
        /// The target.
        target: String,
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("a file of target `{target}` cannot be read")]
    File {
        /// The target.
        target: String,
        /// Why, with the path.
        #[source]
        source: std::io::Error,
    },
    /// The mail could not be put together.
    #[error("the mail cannot be put together")]
    Letter(#[source] lettre::error::Error),
    /// The certificate is not believed, or TLS failed.
    #[error("no trusted connection to the mail server `{host}`")]
    Tls {
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: lettre::transport::smtp::Error,
    },
    /// The server does not answer.
    #[error("the mail server `{host}` does not answer")]
    Away {
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: lettre::transport::smtp::Error,
    },
    /// The server did not answer in time.
    #[error("the mail server `{host}` did not take the mail within {seconds} s")]
    Slow {
        /// The server.
        host: String,
        /// How long we waited.
        seconds: u64,
    },
    /// The server says: not now.
    #[error("the mail server `{host}` takes nothing at the moment")]
    Later {
        /// The server.
        host: String,
        /// Its words.
        #[source]
        source: lettre::transport::smtp::Error,
    },
    /// The server says no.
    #[error("the mail server `{host}` refused the mail")]
    Refused {
        /// The server.
        host: String,
        /// Its words.
        #[source]
        source: lettre::transport::smtp::Error,
    },
}

impl NotifyError {
    /// Whether trying again soon cannot help.
    pub fn permanent(&self) -> bool {
        !matches!(self, Self::Away { .. } | Self::Slow { .. } | Self::Later { .. })
    }
}

impl Fault for NotifyError {
    fn code(&self) -> &'static str {
        match self {
            Self::BadAddress { .. } => "notify.bad-address",
            Self::NoReader(_) => "notify.no-reader",
            Self::BadZone(_) => "notify.bad-zone",
            Self::BadCa { .. } => "notify.bad-ca",
            Self::File { .. } => "notify.file",
            Self::Letter(_) => "notify.letter",
            Self::Tls { .. } => "notify.tls",
            Self::Away { .. } => "notify.away",
            Self::Slow { .. } => "notify.slow",
            Self::Later { .. } => "notify.later",
            Self::Refused { .. } => "notify.refused",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Away { .. } | Self::Slow { .. } | Self::Later { .. } => Kind::Retry,
            Self::Letter(_) => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Tls { .. } => "set `ca` to the CA of the mail server, or `certificate_name` to its name",
            Self::Away { .. } | Self::Slow { .. } => "check host, port and the network; it is tried again",
            Self::Refused { .. } => "check sender, readers and login with the mail server's operator",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
