//! `config`: the version, the repository's id and restic's chunker polynomial.

use serde::{Deserialize, Serialize};

use super::Flaw;

/// The one version that we read and write.
pub const VERSION: u64 = 2;
/// restic's degree of the Rabin polynomial.
const DEGREE: u32 = 53;

/// The plain content of `config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Version of the format.
    pub version: u64,
    /// 64 hexadecimal digits that tell repositories apart.
    pub id: String,
    /// An irreducible polynomial over GF(2) in hexadecimal. We do not use it, but restic refuses to open a
    /// repository without one.
    pub chunker_polynomial: String,
}

/// Reads the opened `config`. Unknown keys are ignored, as restic does; the version is the caller's to judge.
pub fn decode(plain: &[u8]) -> Result<Config, Flaw> {
    let config: Config = serde_json::from_slice(plain)?;
    if crate::store::parse_hex_id(&config.id).is_err() {
        return Err(Flaw::new("its id is not 64 hexadecimal digits"));
    }
    Ok(config)
}

/// Writes `config` for a new repository.
pub fn encode(config: &Config) -> Result<Vec<u8>, Flaw> {
    Ok(serde_json::to_vec(config)?)
}

/// Turns random numbers into an irreducible polynomial of degree 53.
pub fn polynomial(mut next: impl FnMut() -> u64) -> u64 {
    loop {
        let candidate = (next() & ((1 << DEGREE) - 1)) | (1 << DEGREE) | 1;
        if is_irreducible(candidate) {
            return candidate;
        }
    }
}

/// Rabin's test; simple because 53 is prime: no linear factor, and `x^(2^53) = x` modulo the polynomial.
fn is_irreducible(polynomial: u64) -> bool {
    let linear_factor = polynomial & 1 == 0 || polynomial.count_ones().is_multiple_of(2);
    let mut power = 2_u64;
    for _ in 0..DEGREE {
        power = square_modulo(power, polynomial);
    }
    !linear_factor && power == 2
}

fn square_modulo(value: u64, polynomial: u64) -> u64 {
    let mut square = 0_u128;
    for bit in 0..DEGREE {
        square |= u128::from(value >> bit & 1) << (2 * bit);
    }
    for bit in (DEGREE..2 * DEGREE).rev() {
        if square >> bit & 1 == 1 {
            square ^= u128::from(polynomial) << (bit - DEGREE);
        }
    }
    u64::try_from(square).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_restics_own_polynomial_as_irreducible_and_products_as_not() {
        assert!(is_irreducible(0x3D_A335_8B4D_C173), "the one in restic's chunker tests");
        assert!(!is_irreducible(0x20_0000_0000_0001), "x^53 + 1 = (x + 1)(...)");
        let found = (0..2000_u64).filter(|low| is_irreducible(1 << 53 | low << 1 | 1)).count();
        assert!((20..150).contains(&found), "about one in 53 of the odd ones: {found}");
    }
}
