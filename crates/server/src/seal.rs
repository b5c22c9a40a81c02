//! Secrets at rest: escrow's wrapping, spoken in the texts that lie in files and in the catalog.

use kuramori_escrow::{Identity, Recipient};
use kuramori_model::clock::Random;

use crate::error::Result;

/// A fresh identity as text, and its public recipient.
pub fn generate() -> (String, String) {
    let identity = Identity::generate();
    (identity.text().to_string(), identity.recipient().to_string())
}

/// The recipient that belongs to an identity's text.
pub fn recipient(identity: &str) -> Result<String> {
    Ok(Identity::read(identity)?.recipient().to_string())
}

/// Whether a text is a recipient.
pub fn check_recipient(text: &str) -> Result<()> {
    text.parse::<Recipient>()?;
    Ok(())
}

/// Seals to one holder.
pub fn wrap(secret: &[u8], recipient: &str) -> Result<Vec<u8>> {
    Ok(kuramori_escrow::wrap(secret, &[recipient.parse()?])?)
}

/// Seals so that each of several holders can open it alone.
pub fn wrap_all(secret: &[u8], recipients: &[String]) -> Result<Vec<u8>> {
    let recipients =
        recipients.iter().map(|text| text.parse()).collect::<std::result::Result<Vec<Recipient>, _>>()?;
    Ok(kuramori_escrow::wrap(secret, &recipients)?)
}

/// Opens what was sealed to this identity.
pub fn unwrap(sealed: &[u8], identity: &str) -> Result<Vec<u8>> {
    Ok(kuramori_escrow::unwrap(sealed, &Identity::read(identity)?)?.to_vec())
}

/// A random password that a person can type from paper.
pub fn password(random: &dyn Random) -> String {
    kuramori_escrow::random_password(random).to_string()
}
