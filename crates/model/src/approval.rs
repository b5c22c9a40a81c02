//! Approvals: what several people must say yes to before the vault does it.
//!
//! A [`Proposal`] says what is wanted; officers sign its canonical bytes (deterministic CBOR, [`cbor`]) with
//! Ed25519, or give a code of a sealed paper sheet for it. The vault alone judges: two officers, never the
//! proposer, before it expires, once, and for some actions only after a day of the vault's own running time.
//! Closing, locking and extending need nobody and are no [`Action`] at all.
//!
//! **What is signed** is a map of `action`, `target`, the SHA-256 of the parameters' own CBOR, the window's
//! seconds and bytes, `nonce`, `expiry`, the vault's name and the proposer: nothing of it can be changed
//! afterwards, and a signature for one vault is none for another.
//!
//! **The short code** is what people read to each other on the telephone: forty bits of the hash of the
//! canonical bytes in letters that are not mistaken for one another.

pub mod cbor;

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use self::cbor::Value;
use crate::{
    fault::Kind,
    gate::{Nonce, Signature, SigningKey},
};

/// How many officers must say yes.
pub const QUORUM: usize = 2;
/// How many must be enrolled before the first request; from then on each change of them needs a request.
pub const OFFICERS: usize = 3;
/// Seconds of the vault's running time between the last approval and a delayed action.
pub const DELAY_S: u64 = 86_400;

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A restore window to a receiver.
    Restore,
    /// A pull window that is longer than the configuration allows.
    LongWindow,
    /// Leaving a lockdown or a latched fault of the gate.
    GateRelease,
    /// Enrolling or retiring an officer, or a new sheet for one.
    KeyChange,
    /// Keeping less than until now.
    RetentionCut,
    /// Taking the lock off stored files before its time.
    Unlock,
    /// Any other change that weakens the vault: a pinned key, a longer budget.
    Policy,
}

impl Action {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::LongWindow => "long-window",
            Self::GateRelease => "gate-release",
            Self::KeyChange => "key-change",
            Self::RetentionCut => "retention-cut",
            Self::Unlock => "unlock",
            Self::Policy => "policy",
        }
    }

    /// How long it waits after the last approval, in seconds of the vault's running time.
    pub const fn delay_s(self) -> u64 {
        match self {
            Self::Restore | Self::LongWindow | Self::GateRelease => 0,
            Self::KeyChange | Self::RetentionCut | Self::Unlock | Self::Policy => DELAY_S,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a window may use, if one is asked for: the approval carries the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Seconds of open path at most.
    pub seconds: u32,
    /// Bytes in both directions at most.
    pub bytes: u64,
}

/// What is wanted, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// What.
    pub action: Action,
    /// On what: a receiver, an officer, an incident.
    pub target: String,
    /// Everything else that matters, by name.
    pub params: BTreeMap<String, String>,
    /// The window that it opens.
    pub window: Option<Budget>,
    /// Makes it unlike every other.
    pub nonce: Nonce,
    /// Not valid after this, in seconds of the vault's running time.
    pub expiry: u64,
    /// Which vault.
    pub vault: String,
    /// Who asked. If this is an officer, that one's approval does not count.
    pub proposer: String,
}

impl Proposal {
    /// SHA-256 over the parameters' CBOR: a list of pairs in the order of their names.
    pub fn params_hash(&self) -> [u8; 32] {
        let pairs = self
            .params
            .iter()
            .map(|(name, value)| Value::List(vec![Value::from(name.as_str()), Value::from(value.as_str())]));
        hash(&Value::List(pairs.collect()).encode())
    }

    /// The bytes that officers sign.
    pub fn canonical(&self) -> Vec<u8> {
        let window = self.window.map_or(Value::Null, |window| {
            Value::Map(vec![
                ("seconds", Value::Number(u64::from(window.seconds))),
                ("bytes", Value::Number(window.bytes)),
            ])
        });
        Value::Map(vec![
            ("kind", Value::from("kuramori-approval-v1")),
            ("action", Value::from(self.action.as_str())),
            ("target", Value::from(self.target.as_str())),
            ("params", Value::Bytes(self.params_hash().to_vec())),
            ("window", window),
            ("nonce", Value::Bytes(self.nonce.0.to_vec())),
            ("expiry", Value::Number(self.expiry)),
            ("vault", Value::from(self.vault.as_str())),
            ("proposer", Value::from(self.proposer.as_str())),
        ])
        .encode()
    }

    /// SHA-256 of the canonical bytes: how records name it.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.canonical())
    }

    /// What is read aloud: `ABCD-EFGH`.
    pub fn short_code(&self) -> String {
        let letters = spell(&self.hash()[..5]);
        format!("{}-{}", &letters[..4], &letters[4..])
    }

    /// An officer's signature.
    pub fn sign(&self, key: &SigningKey) -> Signature {
        key.sign(&self.canonical())
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Thirty-two letters and digits without `I`, `L`, `O` and `U` (Crockford's base 32).
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Bytes in letters that can be read aloud; five bits each, the rest of the last byte is dropped.
pub fn spell(bytes: &[u8]) -> String {
    let (mut bits, mut count, mut text) = (0_u32, 0, String::new());
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(LETTERS[(bits >> count & 31) as usize]));
        }
    }
    text
}

/// What somebody meant who typed such letters: without spaces and hyphens, in capitals, `O` for zero, `I` and
/// `L` for one.
pub fn heard(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect()
}

/// Why an approval does not count, or a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such request.
    #[error("there is no request {0}")]
    UnknownRequest(u64),
    /// Its time is over.
    #[error("request {0} has expired")]
    Expired(u64),
    /// It was carried out already.
    #[error("request {0} was carried out already; it counts once")]
    Replayed(u64),
    /// Somebody took it back.
    #[error("request {0} was withdrawn")]
    Withdrawn(u64),
    /// What is to be done is not what was approved.
    #[error("request {0} approves something else: its parameters were changed")]
    Changed(u64),
    /// The officers have not all said yes yet.
    #[error("request {request} has {have} of {need} approvals")]
    NotEnough {
        /// Which.
        request: u64,
        /// Valid ones by different officers.
        have: usize,
        /// Needed.
        need: usize,
    },
    /// The day of waiting is not over.
    #[error("request {request} waits for {left_s} s more of the vault's running time")]
    TooEarly {
        /// Which.
        request: u64,
        /// What is left.
        left_s: u64,
    },
    /// The proposer's own approval.
    #[error("`{0}` proposed it; a proposer's approval does not count")]
    OwnProposal(String),
    /// The same officer again.
    #[error("`{0}` has approved it already; each officer counts once")]
    Twice(String),
    /// No officer of that name, or one that was retired.
    #[error("there is no officer `{0}`")]
    UnknownOfficer(String),
    /// The signature is not of the officer's key over this request.
    #[error("the signature is not by the key of `{0}` over this request")]
    Signature(String),
    /// The short code that was read back is another request's.
    #[error("the short code that was read back is not that of this request")]
    ShortCode,
    /// The paper code is not one of the officer's sheet.
    #[error("the code is not on the sheet of `{0}`")]
    Code(String),
    /// The paper code was used before.
    #[error("code {number} of the sheet of `{officer}` was used before; each counts once")]
    CodeUsed {
        /// Whose.
        officer: String,
        /// Which line.
        number: u32,
    },
    /// Too few officers are enrolled.
    #[error("{have} officers are enrolled; {need} must be before anything can be approved")]
    NoOfficers {
        /// Enrolled and not retired.
        have: usize,
        /// Needed.
        need: usize,
    },
    /// Nobody has been asked yet.
    #[error("this needs the approval of two officers")]
    NotAsked,
}

impl Refusal {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownRequest(_) => "approval.unknown-request",
            Self::Expired(_) => "approval.expired",
            Self::Replayed(_) => "approval.replayed",
            Self::Withdrawn(_) => "approval.withdrawn",
            Self::Changed(_) => "approval.changed",
            Self::NotEnough { .. } => "approval.not-enough",
            Self::TooEarly { .. } => "approval.too-early",
            Self::OwnProposal(_) => "approval.own-proposal",
            Self::Twice(_) => "approval.twice",
            Self::UnknownOfficer(_) => "approval.unknown-officer",
            Self::Signature(_) => "approval.signature",
            Self::ShortCode => "approval.short-code",
            Self::Code(_) => "approval.code",
            Self::CodeUsed { .. } => "approval.code-used",
            Self::NoOfficers { .. } => "approval.no-officers",
            Self::NotAsked => "approval.not-asked",
        }
    }

    /// What the reader can do.
    pub const fn kind(&self) -> Kind {
        Kind::Refused
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownRequest(_) | Self::Replayed(_) | Self::Expired(_) | Self::Withdrawn(_) => {
                "see `kuramori vault requests`; ask anew with `kuramori vault request`"
            }
            Self::Changed(_) => "give the request alone, or ask anew for what is wanted now",
            Self::NotEnough { .. } | Self::NotAsked => {
                "two officers approve it with `kuramori vault approve`, with a key or with a paper sheet"
            }
            Self::TooEarly { .. } => {
                "wait; until then anybody can take it back with `kuramori vault withdraw`"
            }
            Self::OwnProposal(_) | Self::Twice(_) => "another officer must approve it",
            Self::UnknownOfficer(_) => "see `kuramori vault officer list`",
            Self::Signature(_) => "sign the request as `kuramori vault requests` shows it now",
            Self::ShortCode => "read the short code again, letter by letter: it may be about another request",
            Self::Code(_) | Self::CodeUsed { .. } => "take the next unused line of the newest sheet",
            Self::NoOfficers { .. } => "enrol them with `kuramori vault officer add`",
        }
        .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandom;

    fn proposal() -> Proposal {
        Proposal {
            action: Action::Restore,
            target: "clean".to_owned(),
            params: BTreeMap::from([
                ("point.billing".to_owned(), "41".to_owned()),
                ("address".to_owned(), "10.77.9.2:8443".to_owned()),
            ]),
            window: Some(Budget { seconds: 600, bytes: 1 << 30 }),
            nonce: Nonce([9; 16]),
            expiry: 4000,
            vault: "vault".to_owned(),
            proposer: "当直".to_owned(),
        }
    }

    #[test]
    fn every_field_is_covered_by_the_signature() {
        let (key, _) = SigningKey::draw(&SeededRandom::new(3)).unwrap();
        let good = proposal();
        let signature = good.sign(&key);
        assert!(key.public().verifies(&good.canonical(), &signature));
        let changes: [fn(&mut Proposal); 10] = [
            |p| p.action = Action::Policy,
            |p| p.target.push('x'),
            |p| drop(p.params.insert("point.billing".to_owned(), "42".to_owned())),
            |p| drop(p.params.remove("address")),
            |p| p.window = None,
            |p| p.window = Some(Budget { seconds: 601, bytes: 1 << 30 }),
            |p| p.nonce = Nonce([8; 16]),
            |p| p.expiry += 1,
            |p| p.vault.push('2'),
            |p| p.proposer.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = proposal();
            change(&mut other);
            assert!(!key.public().verifies(&other.canonical(), &signature), "change {number}");
            assert_ne!(other.short_code(), good.short_code(), "change {number}");
        }
    }

    #[test]
    fn a_name_cannot_pretend_to_be_its_value() {
        let mut a = proposal();
        a.params = BTreeMap::from([("ab".to_owned(), "c".to_owned())]);
        let mut b = proposal();
        b.params = BTreeMap::from([("a".to_owned(), "bc".to_owned())]);
        assert_ne!(a.params_hash(), b.params_hash());
    }

    #[test]
    fn a_short_code_can_be_read_aloud_and_heard() {
        let code = proposal().short_code();
        assert_eq!(code.len(), 9);
        assert_eq!(heard(&code.to_lowercase()), code.replace('-', ""));
        assert_eq!(heard(" o1-iL "), "0111");
        assert!(!code.contains(['I', 'L', 'O', 'U']));
    }

    #[test]
    fn what_weakens_the_vault_waits_a_day_and_the_way_back_does_not() {
        for action in [Action::RetentionCut, Action::Unlock, Action::Policy, Action::KeyChange] {
            assert_eq!(action.delay_s(), 86_400);
        }
        assert_eq!(Action::Restore.delay_s(), 0);
    }
}
