//! What can be wrong with the list or the questionnaire.

use kuramori_model::fault::{Fault, Kind};

/// What every function here returns.
pub type Result<T> = std::result::Result<T, AssessError>;

/// Why it cannot be assessed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AssessError {
    /// Neither UTF-8 nor Shift_JIS.
    #[error("the list is neither UTF-8 nor Shift_JIS")]
    Encoding,
    /// No heading for the systems' names.
    #[error("no column holds the systems' names; headings found: {0}")]
    NoNames(String),
    /// A cell that cannot be read.
    #[error("line {line}: `{heading}`: `{cell}` {why}")]
    Cell {
        /// Line in the file.
        line: usize,
        /// The column's heading.
        heading: String,
        /// The cell.
        cell: String,
        /// What it should be.
        why: &'static str,
    },
    /// The questionnaire.
    #[error("the questionnaire cannot be read: {0}")]
    Answers(String),
}

impl Fault for AssessError {
    fn code(&self) -> &'static str {
        match self {
            Self::Encoding => "assess.encoding",
            Self::NoNames(_) => "assess.no-names",
            Self::Cell { .. } => "assess.cell",
            Self::Answers(_) => "assess.answers",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Fix
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Encoding => "save it from the spreadsheet as CSV (UTF-8)".to_owned(),
            Self::NoNames(_) => "name one column `システム名` or `name`".to_owned(),
            Self::Cell { .. } => "put the cell right, or leave it empty if it is not known".to_owned(),
            Self::Answers(_) => "see `kuramori assess --print-questions`".to_owned(),
        })
    }
}
