//! Enrolment tokens: a one-time secret, and which authority the agent is to believe.
//!
//! ```text
//! KA1- base64url( secret 16 bytes | SHA-256 of the authority's certificate 32 bytes )
//! ```
//!
//! So the agent knows the server before it says a word: nobody in between can take the token's place.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kuramori_model::clock::Random;
use zeroize::Zeroizing;

use crate::{Error, Result};

const PREFIX: &str = "KA1-";

/// A token in its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Spent with its first use.
    pub secret: [u8; 16],
    /// SHA-256 of the authority's certificate, DER.
    pub authority: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("authority", &hex::encode(self.authority)).finish_non_exhaustive()
    }
}

impl Token {
    /// A fresh secret for an authority.
    pub fn new(authority: [u8; 32], random: &dyn Random) -> Self {
        let mut secret = [0; 16];
        random.fill(&mut secret);
        Self { secret, authority }
    }

    /// The text that a person carries over.
    pub fn text(&self) -> Zeroizing<String> {
        let bytes = [&self.secret[..], &self.authority[..]].concat();
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads it back, with white space around or inside it.
    ///
    /// # Errors
    /// [`Error::BadToken`].
    pub fn read(text: &str) -> Result<Self> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let body = text.strip_prefix(PREFIX).ok_or(Error::BadToken)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| Error::BadToken)?;
        let (secret, authority) = bytes.split_first_chunk::<16>().ok_or(Error::BadToken)?;
        Ok(Self { secret: *secret, authority: authority.try_into().map_err(|_| Error::BadToken)? })
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn a_token_survives_a_mail_and_nothing_else_is_one() {
        let token = Token::new([7; 32], &SeededRandom::new(1));
        let text = token.text();
        assert_eq!(Token::read(&format!(" {}\n{} ", &text[..20], &text[20..])).unwrap(), token);
        for bad in ["", "KA1-", "KA1-AAAA", &text[1..], &text[..text.len() - 1]] {
            assert!(matches!(Token::read(bad), Err(Error::BadToken)), "{bad}");
        }
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret)));
    }
}
