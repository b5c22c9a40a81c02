//! What can go wrong with escrow, by stable codes.

use kuramori_model::fault::{Exit, Fault, Kind};

/// Why a secret could not be wrapped, opened, split or joined.
#[derive(Debug, thiserror::Error)]
pub enum EscrowError {
    /// Not the text of an identity.
    #[error("this is not an age identity (`AGE-SECRET-KEY-1…`)")]
    BadIdentity,
    /// Not the text of a recipient.
    #[error("`{0}` is not an age recipient (`age1…`)")]
    BadRecipient(String),
    /// A secret for nobody is lost.
    #[error("a secret must be wrapped to at least one recipient")]
    NoRecipient,
    /// The age library failed.
    #[error("the secret cannot be wrapped")]
    Wrap(#[source] age::EncryptError),
    /// Wrapped to others.
    #[error("the secret is not wrapped to this identity ({0})")]
    NotForUs(String),
    /// Changed or cut since it was wrapped.
    #[error("the wrapped secret is damaged")]
    Damaged(#[source] age::DecryptError),
    /// Numbers that make no sense.
    #[error("{needed} of {of} shares cannot be made; use at least 2, and at most 255 in all")]
    BadSplit {
        /// How many join.
        needed: u8,
        /// How many there are.
        of: u8,
    },
    /// Not enough different shares.
    #[error("{given} different shares were given, {needed} are needed")]
    TooFewShares {
        /// Given.
        given: usize,
        /// Needed.
        needed: u8,
    },
    /// They join to nonsense.
    #[error("these shares do not belong together, or one of them is wrong")]
    SharesDoNotFit,
    /// A line of a sheet was misread.
    #[error("line {line} of the sheet does not fit its check letters")]
    BadLine {
        /// Counted from 1.
        line: usize,
    },
    /// Not a sheet of ours.
    #[error("this is not a share's sheet: {0}")]
    BadSheet(String),
}

impl Fault for EscrowError {
    fn code(&self) -> &'static str {
        match self {
            Self::BadIdentity => "escrow.bad-identity",
            Self::BadRecipient(_) => "escrow.bad-recipient",
            Self::NoRecipient => "escrow.no-recipient",
            Self::Wrap(_) => "escrow.cannot-wrap",
            Self::NotForUs(_) => "escrow.not-for-us",
            Self::Damaged(_) => "escrow.damaged",
            Self::BadSplit { .. } => "escrow.bad-split",
            Self::TooFewShares { .. } => "escrow.too-few-shares",
            Self::SharesDoNotFit => "escrow.shares-do-not-fit",
            Self::BadLine { .. } => "escrow.bad-line",
            Self::BadSheet(_) => "escrow.bad-sheet",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Damaged(_) => Kind::Damaged,
            Self::Wrap(_) | Self::NoRecipient => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotForUs(_) => "use the vault's identity, or join three sheets of the recovery identity",
            Self::Damaged(_) => "take the copy that lies in the vault or beside another repository",
            Self::TooFewShares { .. } => "fetch a further sheet",
            Self::SharesDoNotFit => "compare the set's fingerprint on every sheet, then read them once more",
            Self::BadLine { .. } => "read that line once more; 0, 1, 8 and 9 do not occur",
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::NotForUs(_) => Exit::Authentication,
            Self::Damaged(_) => Exit::Damaged,
            Self::Wrap(_) | Self::NoRecipient => Exit::Unexpected,
            _ => Exit::Fix,
        }
    }
}
