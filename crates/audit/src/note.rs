//! Checkpoints as signed notes (C2SP signed-note, tlog-checkpoint, tlog-cosignature v1): readable text that
//! other tools understand.
//!
//! ```text
//! kuramori/vault            origin: the log's name
//! 17                        number of entries
//! CsUYapGGPo4dkMgI…=        root, base64
//!
//! — kuramori/vault Az3grl…  the log's own signature: 4 bytes of key hash, 64 of signature
//! — kuramori/server jWbPP…  a cosignature: 4 bytes of key hash, 8 of time, 64 of signature
//! ```

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    error::{Error, Result},
    key::{COSIGNATURE, SIGNATURE, Signer, Verifier},
    merkle::Hash,
};

/// The state of a log at one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Merkle root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    fn parse(body: &str) -> Result<Self> {
        let mut lines = body.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(Error::BadNote("it has fewer than three lines"));
        };
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| Error::BadNote("the size is not a number"))?,
            root: root.ok_or(Error::BadNote("the root is not 32 bytes in base64"))?,
        };
        // One text for one checkpoint: no leading zeros, no further lines.
        if checkpoint.body() == body { Ok(checkpoint) } else { Err(Error::BadNote("it has another form")) }
    }
}

/// A checkpoint with its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    /// What is signed.
    pub checkpoint: Checkpoint,
    signatures: Vec<(String, Vec<u8>)>,
}

/// A note with more lines than this is nobody's honest note.
const MOST_SIGNATURES: usize = 16;

impl SignedNote {
    /// Signs a checkpoint with the log's own key.
    pub fn sign(checkpoint: Checkpoint, signer: &Signer) -> Self {
        let mut signature = signer.verifier().key_hash(SIGNATURE).to_vec();
        signature.extend(signer.sign(checkpoint.body().as_bytes()));
        Self { checkpoint, signatures: vec![(signer.name().to_owned(), signature)] }
    }

    /// Reads a note; says nothing about its signatures yet.
    ///
    /// # Errors
    /// [`Error::BadNote`] with what does not fit.
    pub fn parse(text: &str) -> Result<Self> {
        let (body, lines) = text.split_once("\n\n").ok_or(Error::BadNote("it has no signatures"))?;
        let checkpoint = Checkpoint::parse(&format!("{body}\n"))?;
        let mut signatures = Vec::new();
        for line in lines.lines() {
            let parts = line.strip_prefix("— ").and_then(|rest| rest.split_once(' '));
            let (name, value) = parts.ok_or(Error::BadNote("a signature line has another form"))?;
            let value = STANDARD.decode(value).map_err(|_| Error::BadNote("a signature is not base64"))?;
            signatures.push((name.to_owned(), value));
            if signatures.len() > MOST_SIGNATURES {
                return Err(Error::BadNote("it has too many signatures"));
            }
        }
        if signatures.is_empty() || !text.ends_with('\n') {
            return Err(Error::BadNote("it has no signatures"));
        }
        Ok(Self { checkpoint, signatures })
    }

    /// The text of the note.
    pub fn text(&self) -> String {
        let mut text = self.checkpoint.body();
        text.push('\n');
        for (name, value) in &self.signatures {
            let _ = writeln!(text, "— {name} {}", STANDARD.encode(value));
        }
        text
    }

    /// Adds a cosignature: "at this time I saw that the log continues what I saw before".
    pub(crate) fn cosign(&mut self, signer: &Signer, unix_seconds: u64) {
        let mut value = signer.verifier().key_hash(COSIGNATURE).to_vec();
        value.extend(unix_seconds.to_be_bytes());
        value.extend(signer.sign(cosigned(&self.checkpoint, unix_seconds).as_bytes()));
        self.signatures
            .retain(|(name, other)| name != signer.name() || other[..4.min(other.len())] != value[..4]);
        self.signatures.push((signer.name().to_owned(), value));
    }

    /// Whether the log's own signature is there and right.
    pub fn signed_by(&self, key: &Verifier) -> bool {
        self.values(key, SIGNATURE).any(|value| key.verifies(self.checkpoint.body().as_bytes(), value))
    }

    /// The time (seconds since 1970) of this key's valid cosignature, if there is one.
    pub fn cosigned_by(&self, key: &Verifier) -> Option<u64> {
        self.values(key, COSIGNATURE).find_map(|value| {
            let (time, signature) = value.split_first_chunk::<8>()?;
            let time = u64::from_be_bytes(*time);
            key.verifies(cosigned(&self.checkpoint, time).as_bytes(), signature).then_some(time)
        })
    }

    fn values<'a>(&'a self, key: &'a Verifier, algorithm: u8) -> impl Iterator<Item = &'a [u8]> {
        let hash = key.key_hash(algorithm);
        self.signatures
            .iter()
            .filter(|(name, _)| name == key.name())
            .filter_map(move |(_, value)| value.strip_prefix(&hash))
    }
}

fn cosigned(checkpoint: &Checkpoint, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{}", checkpoint.body())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::from_seed(name, &[seed; 32]).unwrap()
    }

    #[test]
    fn a_note_survives_its_text_with_both_signatures() {
        let (log, witness, other) = (signer("k/vault", 1), signer("k/server", 2), signer("k/server", 3));
        let checkpoint = Checkpoint { origin: "k/vault".into(), size: 17, root: [9; 32] };
        let mut note = SignedNote::sign(checkpoint, &log);
        note.cosign(&witness, 1_700_000_000);
        note.cosign(&witness, 1_700_000_001);
        let note = SignedNote::parse(&note.text()).unwrap();
        assert_eq!(note.text().lines().count(), 6);
        assert!(note.signed_by(&log.verifier()));
        assert!(!note.signed_by(&witness.verifier()));
        assert_eq!(note.cosigned_by(&witness.verifier()), Some(1_700_000_001));
        assert_eq!(note.cosigned_by(&other.verifier()), None);

        let text = note.text();
        let changed = SignedNote::parse(&text.replacen("17", "18", 1)).unwrap();
        assert!(!changed.signed_by(&log.verifier()));
        assert_eq!(changed.cosigned_by(&witness.verifier()), None);
    }

    #[test]
    fn the_cosignature_example_of_the_specification_parses() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
            — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
        let note = SignedNote::parse(text).unwrap();
        assert_eq!(note.checkpoint.size, 20_852_163);
        assert_eq!(note.text(), text);
    }

    #[test]
    fn other_forms_are_refused() {
        let note =
            SignedNote::sign(Checkpoint { origin: "a".into(), size: 7, root: [0; 32] }, &signer("a", 1))
                .text();
        for bad in [
            String::new(),
            note.replacen('7', "07", 1),
            note.replacen("\n\n", "\n", 1),
            note.replacen("a\n7", "a\n7\nmore", 1),
            note.replacen("— ", "- ", 1),
            note.trim_end().to_owned(),
        ] {
            assert!(SignedNote::parse(&bad).is_err(), "{bad:?}");
        }
    }
}
