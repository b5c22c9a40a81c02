//! Spoils generated files in all the ways that ransomware does, to measure whether inspection notices.
//!
//! No program of an attacker is used or imitated beyond what it does to bytes and names. The key comes from
//! the caller's random source and is dropped.
//!
//! **Invariant:** writes only below a folder of its own making inside the system's temporary folder.

mod folder;

use kuramori_model::clock::Random;

pub use folder::Playground;

use crate::{attack::scramble, error::Result};

/// What intermittent attacks encrypt at a time, in bytes.
pub const BLOCK: usize = 4096;

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// All of it, under a new name.
    Full,
    /// Every fifth block of 4 KiB, the first block spared, under the old name.
    HeaderSpared,
    /// Every fifth block of 4 KiB from the first on, under the old name.
    EveryNth,
    /// The first block alone.
    HeadOnly,
    /// Nothing but the name.
    RenameOnly,
    /// Nothing but key material put behind it.
    Footer,
    /// All of it, then base64, so that entropy stays low.
    Base64,
    /// All of it, in place, under the old name and with the old time of change.
    Quiet,
}

impl Attack {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Full,
        Self::HeaderSpared,
        Self::EveryNth,
        Self::HeadOnly,
        Self::RenameOnly,
        Self::Footer,
        Self::Base64,
        Self::Quiet,
    ];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::HeaderSpared => "header_spared",
            Self::EveryNth => "every_nth",
            Self::HeadOnly => "head_only",
            Self::RenameOnly => "rename_only",
            Self::Footer => "footer",
            Self::Base64 => "base64",
            Self::Quiet => "quiet",
        }
    }

    /// What is put behind the name, if anything is.
    pub const fn ending(self) -> Option<&'static str> {
        match self {
            Self::Full | Self::RenameOnly => Some(".locked"),
            _ => None,
        }
    }

    /// Whether the time of change stays.
    pub const fn keeps_time(self) -> bool {
        matches!(self, Self::Quiet | Self::RenameOnly)
    }

    /// The bytes afterwards.
    ///
    /// # Errors
    /// If the cipher refuses.
    pub fn bytes(self, mut bytes: Vec<u8>, random: &dyn Random) -> Result<Vec<u8>> {
        use base64::Engine;
        let mut key = [0; 32];
        random.fill(&mut key);
        let each = |bytes: &mut [u8], spare: usize| {
            for block in bytes.chunks_mut(BLOCK).skip(spare).step_by(5) {
                scramble(&key, random, block)?;
            }
            Ok::<_, crate::LabError>(())
        };
        match self {
            Self::Full | Self::Quiet => scramble(&key, random, &mut bytes)?,
            Self::HeaderSpared => each(&mut bytes, 1)?,
            Self::EveryNth => each(&mut bytes, 0)?,
            Self::HeadOnly => {
                let end = bytes.len().min(BLOCK);
                scramble(&key, random, &mut bytes[..end])?;
            }
            Self::RenameOnly => {}
            Self::Footer => {
                let mut footer = [0; 512];
                random.fill(&mut footer);
                bytes.extend_from_slice(&footer);
            }
            Self::Base64 => {
                scramble(&key, random, &mut bytes)?;
                bytes = base64::engine::general_purpose::STANDARD.encode(bytes).into_bytes();
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn each_attack_changes_what_it_says() {
        let clean: Vec<u8> = (0..50_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for attack in Attack::ALL {
            let done = attack.bytes(clean.clone(), &SeededRandom::new(4)).unwrap();
            let same = done.iter().zip(&clean).filter(|(a, b)| a == b).count() * 100 / clean.len();
            let fits = match attack {
                Attack::Full | Attack::Quiet | Attack::Base64 => same <= 3,
                Attack::HeaderSpared => done[..BLOCK] == clean[..BLOCK] && (75..=85).contains(&same),
                Attack::EveryNth => done[..BLOCK] != clean[..BLOCK] && (75..=85).contains(&same),
                Attack::HeadOnly => done[BLOCK..] == clean[BLOCK..] && done[..BLOCK] != clean[..BLOCK],
                Attack::RenameOnly => done == clean,
                Attack::Footer => done.len() == clean.len() + 512 && done.starts_with(&clean),
            };
            assert!(fits, "{attack:?}: {same} % the same");
        }
    }
}
