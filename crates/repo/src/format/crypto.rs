//! Sealing: AES-256-CTR with Poly1305-AES, as restic composes them.
//!
//! ```text
//! | IV, 16 random bytes | AES-256-CTR(plain) | Poly1305 tag, 16 bytes |
//! ```
//!
//! The IV is the starting value of a 128-bit big-endian counter. The tag's one-time key is
//! `r || AES-128_k(IV)`. The tag covers the ciphertext only: it says nothing about *which* blob this is, so
//! every reader hashes the plain bytes again.

use std::fmt;

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aws_lc_rs::{
    cipher::{AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey},
    iv::FixedLength,
};
use poly1305::{Poly1305, universal_hash::UniversalHash};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Flaw;

/// Bytes that sealing adds: IV and tag.
pub const OVERHEAD: usize = 32;
/// [`OVERHEAD`] as packs count.
pub const OVERHEAD_U32: u32 = 32;
/// Bytes of the IV, which comes first.
pub const IV: usize = 16;
const TAG: usize = 16;

/// A 64-byte key: the master key of a repository, or the key that a password yields.
#[derive(Clone, Zeroize, ZeroizeOnDrop, PartialEq, Eq)]
pub struct KeyBytes {
    /// AES-256 key.
    pub encrypt: [u8; 32],
    /// AES-128 key that turns the IV into the tag's nonce.
    pub mac_k: [u8; 16],
    /// Poly1305's `r`.
    pub mac_r: [u8; 16],
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(secret)")
    }
}

impl KeyBytes {
    /// Splits 64 bytes: encrypt, k, r.
    pub fn from_slice(bytes: &[u8; 64]) -> Self {
        let (mut encrypt, mut mac_k, mut mac_r) = ([0; 32], [0; 16], [0; 16]);
        encrypt.copy_from_slice(&bytes[..32]);
        mac_k.copy_from_slice(&bytes[32..48]);
        mac_r.copy_from_slice(&bytes[48..]);
        Self { encrypt, mac_k, mac_r }
    }

    /// No part may be all zero.
    pub fn is_valid(&self) -> bool {
        self.encrypt.iter().any(|b| *b != 0)
            && self.mac_k.iter().any(|b| *b != 0)
            && self.mac_r.iter().any(|b| *b != 0)
    }
}

/// A key made ready for work. Many threads may use one.
pub struct Cipher {
    seal: EncryptingKey,
    open: DecryptingKey,
    nonce: aes::Aes128,
    r: [u8; 16],
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(secret)")
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.r.zeroize();
    }
}

impl Cipher {
    /// Expands the key; refuses one with an all-zero part.
    pub fn new(key: &KeyBytes) -> Result<Self, Flaw> {
        if !key.is_valid() {
            return Err(Flaw::new("a part of the key is all zero"));
        }
        let unbound =
            || UnboundCipherKey::new(&AES_256, &key.encrypt).map_err(|_| Flaw::new("the key does not fit"));
        let seal = EncryptingKey::ctr(unbound()?).map_err(|_| Flaw::new("the key does not fit"))?;
        let open = DecryptingKey::ctr(unbound()?).map_err(|_| Flaw::new("the key does not fit"))?;
        Ok(Self { seal, open, nonce: aes::Aes128::new(&key.mac_k.into()), r: key.mac_r })
    }

    fn tag(&self, iv: [u8; IV], ciphertext: &[u8]) -> [u8; TAG] {
        let mut nonce = aes::Block::from(iv);
        self.nonce.encrypt_block(&mut nonce);
        let mut key = poly1305::Key::default();
        key[..16].copy_from_slice(&self.r);
        key[16..].copy_from_slice(&nonce);
        let mut poly = Poly1305::new(&key);
        key.zeroize();
        let (blocks, rest) = poly1305::Block::slice_as_chunks(ciphertext);
        poly.update(blocks);
        poly.compute_unpadded(rest).into()
    }

    /// Seals what lies in `buffer` behind 16 bytes of room for the IV, in place, and appends the tag.
    pub fn seal_in_place(&self, iv: [u8; IV], buffer: &mut Vec<u8>) -> Result<(), Flaw> {
        if iv == [0; IV] {
            return Err(Flaw::new("the IV is all zero"));
        }
        let Some((room, body)) = buffer.split_first_chunk_mut::<IV>() else {
            return Err(Flaw::new("there is no room for the IV"));
        };
        *room = iv;
        self.seal
            .less_safe_encrypt(body, EncryptionContext::Iv128(FixedLength::from(iv)))
            .map_err(|_| Flaw::new("the cipher refused to work"))?;
        let tag = self.tag(iv, body);
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    /// Appends the sealed form of `plain` to `out`. `iv` must be fresh random bytes.
    pub fn seal_into(&self, iv: [u8; IV], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Flaw> {
        if iv == [0; IV] {
            return Err(Flaw::new("the IV is all zero"));
        }
        let start = out.len();
        out.reserve(plain.len() + OVERHEAD);
        out.extend_from_slice(&iv);
        out.extend_from_slice(plain);
        let body = &mut out[start + IV..];
        self.seal
            .less_safe_encrypt(body, EncryptionContext::Iv128(FixedLength::from(iv)))
            .map_err(|_| Flaw::new("the cipher refused to work"))?;
        let tag = self.tag(iv, body);
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// The sealed form of `plain`.
    pub fn seal(&self, iv: [u8; IV], plain: &[u8]) -> Result<Vec<u8>, Flaw> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
        self.seal_into(iv, plain, &mut out)?;
        Ok(out)
    }

    /// Checks the tag, then decrypts in place; gives the plain part of the buffer.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], Flaw> {
        let Some(body) = sealed.len().checked_sub(OVERHEAD) else {
            return Err(Flaw::new("too short to be sealed"));
        };
        let mut iv = [0; IV];
        iv.copy_from_slice(&sealed[..IV]);
        if iv == [0; IV] {
            return Err(Flaw::new("its IV is all zero"));
        }
        let tag = self.tag(iv, &sealed[IV..IV + body]);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&tag, &sealed[IV + body..]).is_err() {
            return Err(Flaw::new("its seal does not hold (changed, or another key)"));
        }
        let body = &mut sealed[IV..IV + body];
        self.open
            .decrypt(body, DecryptionContext::Iv128(FixedLength::from(iv)))
            .map_err(|_| Flaw::new("the cipher refused to work"))
    }

    /// [`open`](Self::open) for an owned buffer, without another copy of the plain bytes.
    pub fn open_vec(&self, mut sealed: Vec<u8>) -> Result<Vec<u8>, Flaw> {
        let plain = self.open(&mut sealed)?.len();
        sealed.copy_within(IV..IV + plain, 0);
        sealed.truncate(plain);
        Ok(sealed)
    }
}
