//! What watching fails with. None of these is ever taken for "closed".

use kuramori_model::fault::{Fault, Kind};

/// Why something could not be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveFault {
    /// The namespace that the probes start from cannot be entered.
    #[error("cannot probe from namespace `{path}`")]
    Namespace {
        /// Its path.
        path: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A counter of the interface cannot be read.
    #[error("cannot read the counters of interface `{interface}`")]
    Counters {
        /// The interface.
        interface: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The switch did not answer or said something else than asked.
    #[error("the switch {address}: {what}")]
    Switch {
        /// Its address.
        address: String,
        /// What happened.
        what: String,
    },
}

impl Fault for ObserveFault {
    fn code(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => "observe.namespace",
            Self::Counters { .. } => "observe.counters",
            Self::Switch { .. } => "observe.switch",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Switch { .. } => Kind::Retry,
            _ => Kind::Fix,
        }
    }
}
