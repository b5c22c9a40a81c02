//! Rule D6: planted files that nobody has a reason to touch.
//!
//! Name and content follow from a secret seed, so that vault and planter share nothing but that. They look
//! like what the departments have; whoever encrypts by list or by folder takes them along.

use kuramori_model::clock::{Random, SeededRandom};
use serde::Deserialize;

/// The least number that a source should have.
pub const LEAST: u32 = 20;

/// A planted set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canaries {
    /// Where they lie, as a path in the restore point.
    pub folder: String,
    /// What names and contents follow from. Kept secret: whoever knows it can spare them.
    pub seed: u64,
    /// How many.
    #[serde(default = "least")]
    pub count: u32,
}

const fn least() -> u32 {
    LEAST
}

/// One planted file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Path in the restore point.
    pub path: String,
    /// All of it.
    pub content: Vec<u8>,
}

impl Canaries {
    /// Every planted file.
    pub fn files(&self) -> impl Iterator<Item = Canary> + '_ {
        (0..self.count).map(|number| {
            let random = SeededRandom::new(self.seed ^ u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let (kind, mark) = (random.below(4), random.below(1 << 40));
            let (extension, content) = match kind {
                0 => ("csv", table(&random)),
                1 => ("xml", document(&random)),
                2 => ("txt", table(&random)),
                _ => ("dat", {
                    let mut bytes = vec![0; 4096 + usize::try_from(random.below(8192)).unwrap_or(0)];
                    random.fill(&mut bytes);
                    bytes
                }),
            };
            // Spread over the alphabet: attacks that begin at either end meet one early.
            let first = char::from(b'a' + u8::try_from(number % 26).unwrap_or(0));
            Canary {
                path: format!("{}/{first}{mark:010x}.{extension}", self.folder.trim_matches('/')),
                content,
            }
        })
    }
}

fn table(random: &SeededRandom) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = "date,id,systolic,diastolic,note\r\n".to_owned();
    for _ in 0..60 + random.below(200) {
        let (day, id) = (1 + random.below(28), random.below(90_000));
        let _ = write!(
            text,
            "2026-03-{day:02},TEST{id:05},{},{},異常なし\r\n",
            100 + random.below(60),
            60 + random.below(40)
        );
    }
    text.into_bytes()
}

fn document(random: &SeededRandom) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<report>\n".to_owned();
    for number in 0..40 + random.below(80) {
        let _ = writeln!(
            text,
            "  <value code=\"{:04}\" unit=\"mmHg\">{}</value><!-- {number} -->",
            random.below(9999),
            random.below(300)
        );
    }
    text.push_str("</report>\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_twenty_files_with_names_of_their_own() {
        let set = Canaries { folder: "/share/".into(), seed: 9, count: LEAST };
        let files: Vec<_> = set.files().collect();
        assert_eq!(files, set.files().collect::<Vec<_>>());
        let names: std::collections::BTreeSet<_> = files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(names.len(), 20);
        assert!(names.iter().all(|name| name.starts_with("share/")));
        let other = Canaries { seed: 10, ..set };
        assert!(other.files().all(|file| !names.contains(&file.path)));
    }
}
