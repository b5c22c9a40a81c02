//! Identities, recipients, and secrets wrapped from one to several of the other.

use std::{fmt, str::FromStr};

use age::secrecy::ExposeSecret;
use kuramori_model::clock::Random;
use zeroize::Zeroizing;

use crate::{EscrowError, Result, base32};

/// A secret key that opens what is wrapped to its [`Recipient`]. Shows itself only by
/// [`text`](Identity::text).
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// A new one, from the kernel's random source (drawn by the age library itself).
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Reads `AGE-SECRET-KEY-1…`; comments and empty lines of an identity file are skipped.
    pub fn read(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.parse().map(Self).map_err(|_| EscrowError::BadIdentity),
            _ => Err(EscrowError::BadIdentity),
        }
    }

    /// The secret itself, one line with its newline: what `age -i` reads.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\n", self.0.to_string().expose_secret()))
    }

    /// Its public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

/// A public key to wrap to: `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl Recipient {
    /// What two people read to each other when a vault or server is enrolled.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.to_string().as_bytes())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.0)
    }
}

impl FromStr for Recipient {
    type Err = EscrowError;

    fn from_str(text: &str) -> Result<Self> {
        text.trim().parse().map(Self).map_err(|_| EscrowError::BadRecipient(text.to_owned()))
    }
}

/// 100 bits of a SHA-256 in five groups of four letters: `ABCD-EFGH-IJKL-MNOP-QRST`. For certificates, keys
/// and recipients that people compare by eye.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of any public bytes: a recipient's text, a certificate in DER.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let letters = base32::encode(&digest.as_ref()[..13]);
        let groups: Vec<&str> = (0..5).map(|n| &letters[n * 4..n * 4 + 4]).collect();
        Self(groups.join("-"))
    }

    /// The letters with their dashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Wraps a secret so that each of the recipients can open it alone.
pub fn wrap(secret: &[u8], to: &[Recipient]) -> Result<Vec<u8>> {
    if to.is_empty() {
        return Err(EscrowError::NoRecipient);
    }
    let recipients = to.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(EscrowError::Wrap)?;
    let mut wrapped = Vec::with_capacity(secret.len() + 512);
    let finished = encryptor.wrap_output(&mut wrapped).and_then(|mut writer| {
        std::io::Write::write_all(&mut writer, secret)?;
        writer.finish()
    });
    finished.map_err(|error| EscrowError::Wrap(error.into()))?;
    Ok(wrapped)
}

/// Opens a wrapped secret.
pub fn unwrap(wrapped: &[u8], identity: &Identity) -> Result<Zeroizing<Vec<u8>>> {
    match age::decrypt(&identity.0, wrapped) {
        Ok(secret) => Ok(Zeroizing::new(secret)),
        Err(age::DecryptError::NoMatchingKeys) => {
            Err(EscrowError::NotForUs(identity.recipient().to_string()))
        }
        Err(error) => Err(EscrowError::Damaged(error)),
    }
}

/// A password for a repository: 160 random bits as 32 letters, which a person can also type.
pub fn random_password(random: &dyn Random) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 20]);
    random.fill(bytes.as_mut());
    Zeroizing::new(base32::encode(bytes.as_ref()).to_ascii_lowercase())
}
