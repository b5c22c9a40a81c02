//! The registry of ids. Each kind is its own type, so that a window's number never names a system.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that cannot serve as an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{name}` cannot be a {what}: use 1 to 40 of a-z, 0-9 and `-`, beginning with a letter")]
pub struct BadName {
    name: String,
    what: &'static str,
}

/// The short name of a departmental system: `billing`, `pacs`. Also its login and its repository's folder,
/// hence the narrow alphabet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SystemId(String);

/// The repository of the catalog's own exports. Starts with `_`, which no system's name can.
pub const CONTROL_REPOSITORY: &str = "_control";

impl SystemId {
    /// Checks the alphabet and length.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let fits = (1..=40).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadName { name: name.to_owned(), what: "system's name" })
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SystemId {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        Self::new(name)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{}"), self.0)
            }
        }
    };
}

number_id! {
    /// One opening of the gate. Counted by the vault, never reused.
    WindowId, "window"
}
number_id! {
    /// One run of a backup job. Counted by the server.
    RunId, "run"
}
number_id! {
    /// The order in which a receiver (server or vault) committed restore points; the sender has no say.
    Sequence, "seq"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_name_is_safe_as_folder_and_login() {
        assert!(SystemId::new("billing-2").is_ok());
        for bad in ["", "-a", "1a", "Billing", "a/b", "..", "_control", "医事", &"a".repeat(41)] {
            assert!(SystemId::new(bad).is_err(), "{bad}");
        }
    }
}
