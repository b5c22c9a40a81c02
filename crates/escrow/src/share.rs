//! The recovery identity in shares (Shamir 1979, byte by byte over GF(2⁸)).
//!
//! A share is as long as the secret: for each byte the value of a random polynomial at the share's number.
//! `blahaj` computes in the field of the polynomial 0x11d and deals the numbers 1, 2, 3 …; libgfshare
//! computes in the same field and takes the number from the file's extension, so that no conversion is
//! needed beyond taking blahaj's leading number byte into the name.

use kuramori_model::clock::Random;
use zeroize::{Zeroize, Zeroizing};

use crate::{EscrowError, Identity, Result};

/// How many shares there are and how many join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// How many join.
    pub needed: u8,
    /// How many there are.
    pub of: u8,
}

impl Default for Split {
    fn default() -> Self {
        Self { needed: 3, of: 5 }
    }
}

/// One share.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// Its number, from 1.
    pub number: u8,
    /// Its bytes, as many as the identity's text has: what a file for `gfcombine` holds.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl Share {
    /// The name that its file needs for `gfcombine`: `recovery.003`.
    pub fn file_name(&self, stem: &str) -> String {
        format!("{stem}.{:03}", self.number)
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Share({}, {} bytes)", self.number, self.bytes.len())
    }
}

/// The injected random source in the dealer's trait.
struct Dealer<'a>(&'a dyn Random);

impl rand_core::TryRng for Dealer<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> std::result::Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> std::result::Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> std::result::Result<(), Self::Error> {
        self.0.fill(buffer);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Dealer<'_> {}

/// Splits the text of an identity.
pub fn split(identity: &Identity, into: Split, random: &dyn Random) -> Result<Vec<Share>> {
    let Split { needed, of } = into;
    if needed < 2 || of < needed {
        return Err(EscrowError::BadSplit { needed, of });
    }
    let text = identity.text();
    let dealt = blahaj::Sharks(needed).dealer_rng(text.as_bytes(), &mut Dealer(random)).take(usize::from(of));
    let shares: Vec<Share> = dealt
        .map(|share| {
            let mut raw = Vec::from(&share);
            let made = Share { number: raw[0], bytes: Zeroizing::new(raw[1..].to_vec()) };
            raw.zeroize();
            made
        })
        .collect();
    // Paper is forever: what cannot be joined again must never be printed.
    let back = join(&shares[usize::from(of - needed)..], into)?;
    if back.text() == text { Ok(shares) } else { Err(EscrowError::SharesDoNotFit) }
}

/// Joins shares to the identity. More than needed are all used, so that a wrong one is noticed.
pub fn join(shares: &[Share], of: Split) -> Result<Identity> {
    let mut different: Vec<&Share> = shares.iter().collect();
    different.sort_by_key(|share| share.number);
    different.dedup_by(|a, b| a == b);
    let given = different.len();
    if different.windows(2).any(|pair| pair[0].number == pair[1].number)
        || different.iter().any(|share| share.number == 0 || share.bytes.is_empty())
    {
        return Err(EscrowError::SharesDoNotFit);
    }
    if given < usize::from(of.needed) {
        return Err(EscrowError::TooFewShares { given, needed: of.needed });
    }
    let mut points = Vec::with_capacity(given);
    for share in different {
        let raw = Zeroizing::new([&[share.number][..], share.bytes.as_slice()].concat());
        points.push(blahaj::Share::try_from(raw.as_slice()).map_err(|_| EscrowError::SharesDoNotFit)?);
    }
    let text = blahaj::Sharks(of.needed).recover(&points).map_err(|_| EscrowError::SharesDoNotFit)?;
    let text = Zeroizing::new(text);
    let text = std::str::from_utf8(&text).map_err(|_| EscrowError::SharesDoNotFit)?;
    Identity::read(text).map_err(|_| EscrowError::SharesDoNotFit)
}
