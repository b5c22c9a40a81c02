//! Passwords of logins as scrypt hashes (RFC 7914) in the PHC text form.
//!
//! `$scrypt$ln=14,r=8,p=1$<salt>$<hash>`, salt and hash in base64 without padding. The default cost takes
//! 16 MiB and some 50 ms: a stolen login file cannot be tried at speed, and a door that is hammered does not
//! eat the server. Checked credentials are remembered in memory, so the cost comes once per login.

use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use kuramori_model::clock::Random;
use scrypt::Params;

use crate::ServeError;

/// N = 2^14.
const COST: u8 = 14;
/// Highest cost that is accepted from a login file: N = 2^17 with r = 8 takes 128 MiB per check.
const MAX_COST: u8 = 17;
const SALT: usize = 16;
const HASH: usize = 32;

/// A password's salted hash.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    cost: u8,
    block: u32,
    parallel: u32,
    salt: Vec<u8>,
    hash: [u8; HASH],
}

impl PasswordHash {
    /// Hashes a password with a fresh salt and the default cost.
    pub fn new(password: &str, random: &dyn Random) -> Self {
        let mut salt = vec![0; SALT];
        random.fill(&mut salt);
        let mut hash = Self { cost: COST, block: 8, parallel: 1, salt, hash: [0; HASH] };
        hash.hash = hash.derive(password).unwrap_or_default();
        hash
    }

    /// Whether the password is the right one, in constant time. Takes as long for a wrong one.
    pub fn verify(&self, password: &str) -> bool {
        self.derive(password).is_some_and(|hash| verify_slices_are_equal(&hash, &self.hash).is_ok())
    }

    /// A hash that no password has, with the default cost: an unknown login takes as long as a wrong password.
    pub(crate) fn nobody() -> Self {
        Self { cost: COST, block: 8, parallel: 1, salt: vec![0; SALT], hash: [0; HASH] }
    }

    fn derive(&self, password: &str) -> Option<[u8; HASH]> {
        let parameters = Params::new(self.cost, self.block, self.parallel).ok()?;
        let mut hash = [0; HASH];
        scrypt::scrypt(password.as_bytes(), &self.salt, &parameters, &mut hash).ok()?;
        Some(hash)
    }
}

impl std::fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cost, block, parallel, salt, hash } = self;
        write!(f, "$scrypt$ln={cost},r={block},p={parallel}${}${}", BASE64.encode(salt), BASE64.encode(hash))
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl FromStr for PasswordHash {
    type Err = ServeError;

    fn from_str(text: &str) -> Result<Self, ServeError> {
        parse(text).ok_or_else(|| {
            // A password that was put there in clear must not end in a log.
            ServeError::Hash(if text.starts_with("$scrypt$") { text.to_owned() } else { "…".to_owned() })
        })
    }
}

fn parse(text: &str) -> Option<PasswordHash> {
    let mut parts = text.strip_prefix("$scrypt$")?.split('$');
    let (parameters, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let mut numbers = parameters.split(',');
    let cost = numbers.next()?.strip_prefix("ln=")?.parse().ok()?;
    let block = numbers.next()?.strip_prefix("r=")?.parse().ok()?;
    let parallel = numbers.next()?.strip_prefix("p=")?.parse().ok()?;
    if parts.next().is_some() || numbers.next().is_some() {
        return None;
    }
    let salt = BASE64.decode(salt).ok()?;
    let hash = BASE64.decode(hash).ok()?.try_into().ok()?;
    let fits =
        (10..=MAX_COST).contains(&cost) && block == 8 && (1..=4).contains(&parallel) && salt.len() >= 8;
    fits.then_some(PasswordHash { cost, block, parallel, salt, hash })
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn a_hash_survives_its_text_and_knows_its_password() {
        let hash = PasswordHash::new("御蔵", &SeededRandom::new(1));
        let again: PasswordHash = hash.to_string().parse().unwrap();
        assert_eq!(again, hash);
        assert!(again.verify("御蔵"));
        assert!(!again.verify("御蔵 "));
        assert!(!PasswordHash::nobody().verify(""));
    }

    /// RFC 7914 section 12, third vector, first 32 bytes.
    #[test]
    fn agrees_with_the_rfc() {
        let hash = PasswordHash {
            cost: 14,
            block: 8,
            parallel: 1,
            salt: b"SodiumChloride".to_vec(),
            hash: hex::decode("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
                .unwrap()
                .try_into()
                .unwrap(),
        };
        assert!(hash.verify("pleaseletmein"));
    }

    #[test]
    fn refuses_other_texts_without_repeating_them() {
        for bad in ["", "secret", "$scrypt$ln=30,r=8,p=1$AAAAAAAAAAAAAAAA$AAAA", "$scrypt$ln=14,r=8,p=1$AA"] {
            assert!(bad.parse::<PasswordHash>().is_err(), "{bad}");
        }
        assert!(!"secret".parse::<PasswordHash>().unwrap_err().to_string().contains("secret"));
    }
}
