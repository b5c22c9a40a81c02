//! Ed25519 keys with a name, in the forms of the C2SP signed-note specification.

use std::{fmt, io::Write, path::Path, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use fs_err::os::unix::fs::OpenOptionsExt;
use kuramori_model::clock::Random;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The algorithm byte of a plain signature and of a timed cosignature (C2SP signed-note, tlog-cosignature).
pub(crate) const SIGNATURE: u8 = 1;
pub(crate) const COSIGNATURE: u8 = 4;

/// A private key: signs checkpoints and reports under a name.
pub struct Signer {
    name: String,
    pair: Ed25519KeyPair,
}

/// A public key and the name that belongs to it. Its text form is `name+hash+base64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    public: [u8; 32],
}

fn checked(name: &str) -> Result<String> {
    let fits = (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'+');
    if fits { Ok(name.to_owned()) } else { Err(Error::BadKey(name.to_owned())) }
}

impl Signer {
    /// A key from its 32 secret bytes.
    ///
    /// # Errors
    /// [`Error::BadKey`] if the name has spaces or `+`.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Error::BadKey(name.to_owned()))?;
        Ok(Self { name: checked(name)?, pair })
    }

    /// Reads the key file (64 hex digits), or makes it with mode 0600 if there is none.
    ///
    /// # Errors
    /// [`Error::BadKey`] if the file holds something else.
    pub fn open(path: &Path, name: &str, random: &dyn Random) -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        match fs_err::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => hex::decode_to_slice(text.trim(), seed.as_mut_slice())
                .map_err(|_| Error::BadKey(path.display().to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                random.fill(seed.as_mut_slice());
                let mut file =
                    fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                file.write_all(Zeroizing::new(hex::encode(seed.as_slice())).as_bytes())?;
                file.sync_all()?;
            }
            Err(error) => return Err(error.into()),
        }
        Self::from_seed(name, &seed)
    }

    /// The name in the notes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public half.
    pub fn verifier(&self) -> Verifier {
        let mut public = [0; 32];
        public.copy_from_slice(self.pair.public_key().as_ref());
        Verifier { name: self.name.clone(), public }
    }

    /// Signs any message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier())
    }
}

impl Verifier {
    /// A public key under a name.
    ///
    /// # Errors
    /// [`Error::BadKey`] if the name has spaces or `+`.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self> {
        Ok(Self { name: checked(name)?, public })
    }

    /// The name in the notes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of the public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Whether the signature over the message is of this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(message, signature).is_ok()
    }

    /// The four bytes that name this key in a note.
    pub(crate) fn key_hash(&self, algorithm: u8) -> [u8; 4] {
        let mut text = self.name.clone().into_bytes();
        text.extend([b'\n', algorithm]);
        text.extend(self.public);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
        let mut hash = [0; 4];
        hash.copy_from_slice(&digest.as_ref()[..4]);
        hash
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[SIGNATURE], self.public.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.key_hash(SIGNATURE)), STANDARD.encode(key))
    }
}

impl FromStr for Verifier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadKey(text.to_owned());
        // The base64 part may hold `+` itself, so only the first two separate.
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        let key = STANDARD.decode(key).map_err(|_| bad())?;
        let [SIGNATURE, public @ ..] = key.as_slice() else { return Err(bad()) };
        let verifier = Self::new(name, public.try_into().map_err(|_| bad())?)?;
        if hex::encode(verifier.key_hash(SIGNATURE)) == hash { Ok(verifier) } else { Err(bad()) }
    }
}

impl serde::Serialize for Verifier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Verifier {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn a_public_key_survives_its_text_form_and_no_change_of_it() {
        // The example key of the signed-note specification.
        let example = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: Verifier = example.parse().unwrap();
        assert_eq!(key.to_string(), example);
        assert!(example.replace("c74f", "c74e").parse::<Verifier>().is_err());
        assert!(example.replace("Peter", "Petra").parse::<Verifier>().is_err());
        assert!("".parse::<Verifier>().is_err());
        assert!(Verifier::new("two words", [0; 32]).is_err());
    }

    #[test]
    fn a_key_file_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = Signer::open(&path, "vault", &SeededRandom::new(1)).unwrap();
        let again = Signer::open(&path, "vault", &SeededRandom::new(2)).unwrap();
        assert_eq!(first.verifier(), again.verifier());
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(again.verifier().verifies(b"x", &first.sign(b"x")));
        assert!(!again.verifier().verifies(b"y", &first.sign(b"x")));
        fs_err::write(&path, "zz").unwrap();
        assert!(matches!(Signer::open(&path, "vault", &SeededRandom::new(2)), Err(Error::BadKey(_))));
    }
}
