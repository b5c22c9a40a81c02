//! Keys that must outlive the server: wrapped to those who may open them, and one of them split on paper.
//!
//! **In** flows a secret: a repository's password, the server's sealing key, the agents' CA key. **Out**
//! comes the same secret wrapped as an [`age`](https://age-encryption.org/v1) file to several identities at
//! once: the server's, the vault's, and the hospital's recovery identity. The recovery identity is not kept
//! online anywhere: its text is split three of five (Shamir), and five sheets lie in five places.
//!
//! ```text
//! secret ──wrap──▶ age file ──▶ beside the repository, in the vault, as a page
//! recovery identity (75 bytes of text) ──split──▶ 5 shares of 75 bytes ──▶ 5 printed sheets
//! any 3 sheets ──join, or Debian's base32 + gfcombine + age──▶ every secret
//! ```
//! The last line needs nothing of ours: shares are computed in the field that libgfshare uses (GF(2⁸) with
//! the polynomial x⁸+x⁴+x³+x²+1), a share's number is the extension of its file's name, and the lines of a
//! sheet are plain base32. A test does exactly that with the distribution's own programs.
//!
//! **What can go wrong:** a sheet that was misread (each line has its own check and is named), shares of
//! different sets or too few (the result is not an identity, and nothing is given), a wrapped file that is
//! not for us or damaged. All are typed.
//!
//! **Invariant:** no I/O and no network. Opened secrets are wiped from memory when dropped and never appear
//! in `Debug`. The age library draws its own keys and nonces from the kernel; everything else takes the
//! injected random source.

mod base32;
mod error;
mod identity;
mod page;
mod share;
mod sheet;

pub use crate::{
    error::EscrowError,
    identity::{Fingerprint, Identity, Recipient, random_password, unwrap, wrap},
    page::{page, qr_svg},
    share::{Share, Split, join, split},
    sheet::{Language, Sheet, read_sheet},
};

/// What every function here returns.
pub type Result<T> = std::result::Result<T, EscrowError>;
