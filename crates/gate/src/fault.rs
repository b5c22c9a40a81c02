//! What the gate refuses, and what its layers fail with.

use kuramori_model::{
    fault::{Exit, Fault, Kind},
    gate::BadToken,
};

/// Why a request changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Signature or form.
    #[error("the token is not valid")]
    Token(#[source] BadToken),
    /// Too late, or from before the last boot.
    #[error("the token has expired or belongs to another boot of this machine")]
    Expired,
    /// Its window number was used, or a newer one was.
    #[error("window {asked} was already used: the last one was {last}")]
    Used {
        /// In the token.
        asked: u64,
        /// The last one taken.
        last: u64,
    },
    /// The opener has been replaced.
    #[error("the token is of epoch {asked}, but epoch {last} has opened since")]
    Epoch {
        /// In the token.
        asked: u64,
        /// The highest one taken.
        last: u64,
    },
    /// No such flow in the configuration.
    #[error("the flow {0} is not one that this gate may open")]
    Flow(String),
    /// Nothing left of the day.
    #[error("the daily budget of {0} s is used up")]
    Budget(u64),
    /// The state does not allow it.
    #[error("the gate is `{0}`: only a gate that is proven closed can open")]
    NotClosed(&'static str),
    /// Latched.
    #[error("the gate is locked: {0}")]
    Locked(String),
    /// Nothing to drain.
    #[error("no window is open")]
    NoWindow,
    /// Closed is not proven at this moment.
    #[error("closed is not proven: {0}")]
    NotProven(String),
    /// The observer does not say ok.
    #[error("the observer does not say ok: {0}")]
    Observer(String),
    /// Nothing to release.
    #[error("there is nothing to release")]
    NothingToRelease,
    /// Unsigned, too few signatures, wrong incident, expired.
    #[error("the release is not valid: {0}")]
    Release(String),
    /// Locked and closed, but only as long as this process lives.
    #[error(
        "the gate is closed and locked, but the lock is not on the disk and a restart would forget it: {0}"
    )]
    NotKept(String),
    /// Not one of `allowed_uids`.
    #[error("the user with the number {0} may not speak with the gate")]
    Caller(u32),
    /// The line was not one of the verbs.
    #[error("the request is not one of the verbs: {0}")]
    Request(String),
}

impl Fault for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Token(_) => "gate.token-invalid",
            Self::Expired => "gate.token-expired",
            Self::Used { .. } => "gate.token-used",
            Self::Epoch { .. } => "gate.token-epoch",
            Self::Flow(_) => "gate.flow-not-allowed",
            Self::Budget(_) => "gate.budget",
            Self::NotClosed(_) => "gate.not-closed",
            Self::Locked(_) => "gate.locked",
            Self::NoWindow => "gate.no-window",
            Self::NotProven(_) => "gate.not-proven",
            Self::Observer(_) => "gate.observer",
            Self::NothingToRelease => "gate.nothing-to-release",
            Self::Release(_) => "gate.release-invalid",
            Self::NotKept(_) => "gate.lock-not-kept",
            Self::Caller(_) => "gate.caller",
            Self::Request(_) => "gate.request",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Request(_) | Self::Caller(_) | Self::NoWindow | Self::NothingToRelease | Self::Flow(_) => {
                Kind::Fix
            }
            Self::NotClosed(_)
            | Self::NotProven(_)
            | Self::Observer(_)
            | Self::Expired
            | Self::NotKept(_) => Kind::Retry,
            _ => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Locked(_) => "officers release it with `kuramori gate release`",
            Self::Observer(_) => "see whether `kuramori-observed` runs and reaches its targets",
            Self::Caller(_) => "run it as a user in `allowed_uids` of gated's configuration, or add this one",
            Self::NotKept(_) => "make room on the disk of gated's `state_dir`, then order the lockdown again",
            Self::Expired => "ask `status` for boot id and boot time, and sign a new token",
            Self::Flow(_) => "add the flow under `[[flow]]` in gated's configuration",
            Self::NotProven(_) | Self::NotClosed(_) => "`kuramori gate status` shows which layer is missing",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Why a layer did not do what it was told. Never decides anything: the read-back does.
#[derive(Debug, thiserror::Error)]
pub enum ActuatorFault {
    /// A program could not be started.
    #[error("cannot run `{program}`")]
    Run {
        /// The program.
        program: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A program did not end in time and was ended.
    #[error("`{program}` did not end within {seconds} s")]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        seconds: u64,
    },
    /// A program said no.
    #[error("`{program}` failed: {stderr}")]
    Program {
        /// The program.
        program: String,
        /// Its words.
        stderr: String,
    },
    /// The kernel's packet filter did not take a change of its sets.
    #[error("the kernel's packet filter refused the change")]
    Kernel(#[source] std::io::Error),
    /// The switch could not be asked, or said no.
    #[error("the switch {address}: {what}")]
    Switch {
        /// Its address.
        address: String,
        /// What happened.
        what: String,
    },
    /// The switch shows another host key than the pinned ones.
    #[error(
        "the switch {address} shows the host key {found}, which is not pinned: somebody may stand between; compare \
         it at the switch's own console before changing `host_keys`"
    )]
    HostKey {
        /// Its address.
        address: String,
        /// The key's fingerprint.
        found: String,
    },
    /// The management controller could not be asked, or said no.
    #[error("the management controller {address}: {what}")]
    Controller {
        /// Its address.
        address: String,
        /// What happened.
        what: String,
    },
    /// An interface of this host did not do what it was told.
    #[error("interface {interface} {what}")]
    Interface {
        /// Its name.
        interface: String,
        /// What happened.
        what: String,
    },
    /// It is not the device or port that we were told to control.
    #[error("this is not the port that was configured: {0}")]
    Identity(String),
    /// It is configured and cannot be used at all.
    #[error("the layer cannot be used: {0}")]
    Unusable(String),
}

impl Fault for ActuatorFault {
    fn code(&self) -> &'static str {
        match self {
            Self::Run { .. } => "gate.program-missing",
            Self::Timeout { .. } => "gate.program-timeout",
            Self::Program { .. } => "gate.program-failed",
            Self::Kernel(_) => "gate.packet-filter",
            Self::Switch { .. } => "gate.switch",
            Self::HostKey { .. } => "gate.switch-host-key",
            Self::Controller { .. } => "gate.controller",
            Self::Interface { .. } => "gate.interface",
            Self::Identity(_) => "gate.switch-identity",
            Self::Unusable(_) => "gate.layer-unusable",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Timeout { .. } | Self::Switch { .. } | Self::Controller { .. } => Kind::Retry,
            _ => Kind::Fix,
        }
    }

    fn exit(&self) -> Exit {
        Exit::Fix
    }
}
