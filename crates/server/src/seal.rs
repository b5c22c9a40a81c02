//! Sealing small secrets to a holder, by age. Nothing here is kept.

use std::str::FromStr;

use age::{
    secrecy::ExposeSecret,
    x25519::{Identity, Recipient},
};
use kuramori_model::clock::Random;

use crate::{ServerError, error::Result};

/// A fresh identity as text, and its public recipient.
pub fn generate() -> (String, String) {
    let identity = Identity::generate();
    (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
}

/// The recipient that belongs to an identity's text; comment lines are left out, as `age` does.
pub fn recipient(identity: &str) -> Result<String> {
    Ok(parse(identity)?.to_public().to_string())
}

/// Whether a text is a recipient.
pub fn check_recipient(text: &str) -> Result<()> {
    Recipient::from_str(text).map(|_| ()).map_err(|_| ServerError::Identity { what: text.to_owned(), kind: "recipient" })
}

/// Seals to one holder.
pub fn wrap(secret: &[u8], recipient: &str) -> Result<Vec<u8>> {
    let holder = Recipient::from_str(recipient)
        .map_err(|_| ServerError::Identity { what: recipient.to_owned(), kind: "recipient" })?;
    age::encrypt(&holder, secret).map_err(|error| ServerError::Bug(error.to_string()))
}

/// Opens what was sealed to this identity.
pub fn unwrap(name: &str, sealed: &[u8], identity: &str) -> Result<Vec<u8>> {
    age::decrypt(&parse(identity)?, sealed)
        .map_err(|error| ServerError::Sealed { name: name.to_owned(), why: error.to_string() })
}

fn parse(identity: &str) -> Result<Identity> {
    identity
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .and_then(|line| Identity::from_str(line).ok())
        // The text may be half a secret, so it is not repeated.
        .ok_or_else(|| ServerError::Identity { what: "…".to_owned(), kind: "identity" })
}

/// A random password of 26 letters and digits (130 bits) that can be typed from paper: no `0`, `1`, `l`, `o`.
pub fn password(random: &dyn Random) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 26];
    random.fill(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn only_the_holder_opens_it() {
        let (identity, holder) = generate();
        let sealed = wrap(b"secret", &holder).unwrap();
        assert_eq!(unwrap("x", &sealed, &identity).unwrap(), b"secret");
        assert_eq!(unwrap("x", &sealed, &format!("# created\n{identity}\n")).unwrap(), b"secret");
        assert!(matches!(unwrap("x", &sealed, &generate().0), Err(ServerError::Sealed { .. })));
        assert!(check_recipient("age1nonsense").is_err() && wrap(b"", "age1nonsense").is_err());
        assert_eq!(recipient(&identity).unwrap(), holder);
    }

    #[test]
    fn a_password_has_only_letters_that_paper_keeps_apart() {
        let password = password(&SeededRandom::new(3));
        assert_eq!(password.len(), 26);
        assert!(password.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) && !password.contains(['0', '1', 'l', 'o']));
    }
}
