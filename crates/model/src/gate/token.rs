//! Permits: what the vault signs for a window, what officers sign for a release.
//!
//! **Canonical bytes.** What is signed is not the JSON but a text that has only one form: a first line that
//! names the kind and version, then `key=value` lines in the order of the fields, each ended by `\n`.
//! Numbers are decimal; addresses in their usual form; a nonce in lower-case hex; free text is preceded by
//! its length in bytes and a colon, so that no value can pretend to be another line.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{clock::Random, ids::WindowId};

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// The text is not what it should be.
    #[error("`{0}` is not {1}")]
    Form(String, &'static str),
    /// Not signed by a key that counts here.
    #[error("the signature is not by a key that this gate knows")]
    Signature,
    /// Fewer officers than needed signed.
    #[error("{have} valid signatures, {need} are needed")]
    Quorum {
        /// Valid ones by distinct known keys.
        have: usize,
        /// Needed.
        need: usize,
    },
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $length:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = BadToken;

            fn from_str(text: &str) -> Result<Self, BadToken> {
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| BadToken::Form(text.to_owned(), $what))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_bytes! {
    /// Makes two otherwise equal permits differ.
    Nonce, 16, "a nonce of 32 hex digits"
}
hex_bytes! {
    /// An Ed25519 signature (RFC 8032).
    Signature, 64, "a signature of 128 hex digits"
}
hex_bytes! {
    /// An Ed25519 public key (RFC 8032).
    VerifyingKey, 32, "a public key of 64 hex digits"
}

impl Nonce {
    /// Draws a new one.
    pub fn draw(random: &dyn Random) -> Self {
        let mut bytes = [0; 16];
        random.fill(&mut bytes);
        Self(bytes)
    }
}

impl VerifyingKey {
    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
    }
}

/// An Ed25519 private key. Made from a 32-byte seed, which is what a key file holds in hex.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {})", self.public)
    }
}

impl SigningKey {
    /// The key of this seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, BadToken> {
        use aws_lc_rs::signature::KeyPair as _;
        let bad = || BadToken::Form("(secret)".to_owned(), "a signing key's seed");
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| bad())?;
        let public = VerifyingKey(pair.public_key().as_ref().try_into().map_err(|_| bad())?);
        Ok(Self { pair, public })
    }

    /// A new key and the seed to keep.
    pub fn draw(random: &dyn Random) -> Result<(Self, [u8; 32]), BadToken> {
        let mut seed = [0; 32];
        random.fill(&mut seed);
        Ok((Self::from_seed(&seed)?, seed))
    }

    /// Its public half.
    pub const fn public(&self) -> VerifyingKey {
        self.public
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(bytes)
    }
}

/// One boot of one machine (`/proc/sys/kernel/random/boot_id`): boot times mean nothing without it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// Checks length and alphabet.
    pub fn new(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        let fits =
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadToken::Form(text.to_owned(), "a boot id")) }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a window is for. The two exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The vault fetches from the primary.
    Pull,
    /// The vault sends to a clean, empty receiver.
    Restore,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Restore => "restore",
        }
    }
}

/// What the vault approves: one window of one flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowToken {
    /// The window's number; higher than every one before.
    pub window: WindowId,
    /// The opener's fencing epoch; an opener that was replaced has a lower one.
    pub epoch: u64,
    /// What for.
    pub purpose: Purpose,
    /// The puller's address, the only one that may begin the flow.
    pub source: Ipv4Addr,
    /// The only address and TCP port that it may reach.
    pub peer: SocketAddrV4,
    /// The window's length at most, in seconds.
    pub max_seconds: u32,
    /// Bytes in both directions at most, by the guarded interface's counters.
    pub max_bytes: u64,
    /// What the vault's own daily budget still allows, in seconds.
    pub budget_left_s: u32,
    /// Makes the token unlike every other.
    pub nonce: Nonce,
    /// The boot that the next two belong to; from the gate's `status`.
    pub boot_id: BootId,
    /// Boot time of the signature in milliseconds.
    pub issued_boot_ms: u64,
    /// Not taken after this boot time in milliseconds. A few seconds after `issued_boot_ms`.
    pub expires_boot_ms: u64,
    /// Wall clock of the signature, for the record only.
    pub issued: Timestamp,
}

impl WindowToken {
    /// The bytes that are signed (see the module's text).
    pub fn canonical(&self) -> Vec<u8> {
        format!(
            "kuramori-window-token-v1\nwindow={}\nepoch={}\npurpose={}\nsource={}\npeer={}\nmax_seconds={}\n\
             max_bytes={}\nbudget_left_s={}\nnonce={}\nboot_id={}\nissued_boot_ms={}\nexpires_boot_ms={}\nissued={}\n",
            self.window.0,
            self.epoch,
            self.purpose.as_str(),
            self.source,
            self.peer,
            self.max_seconds,
            self.max_bytes,
            self.budget_left_s,
            self.nonce,
            self.boot_id,
            self.issued_boot_ms,
            self.expires_boot_ms,
            self.issued
        )
        .into_bytes()
    }

    /// SHA-256 of the canonical bytes in hex: how records name the token.
    pub fn hash(&self) -> String {
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.canonical()))
    }
}

/// A window token and the vault's signature over its canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedToken {
    /// What is approved.
    pub token: WindowToken,
    /// By the vault's key.
    pub signature: Signature,
}

impl SignedToken {
    /// Signs.
    pub fn sign(token: WindowToken, key: &SigningKey) -> Self {
        let signature = key.sign(&token.canonical());
        Self { token, signature }
    }

    /// The token, if one of the keys signed it.
    pub fn verify(&self, keys: &[VerifyingKey]) -> Result<&WindowToken, BadToken> {
        let bytes = self.token.canonical();
        if keys.iter().any(|key| key.verifies(&bytes, &self.signature)) {
            Ok(&self.token)
        } else {
            Err(BadToken::Signature)
        }
    }
}

/// What officers sign so that a locked or faulted gate may be used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseToken {
    /// The incident that `status` shows: a release fits one only.
    pub incident: u64,
    /// What was found, in the officers' words.
    pub reason: String,
    /// Makes the release unlike every other.
    pub nonce: Nonce,
    /// The boot that the next one belongs to; from the gate's `status`.
    pub boot_id: BootId,
    /// Not taken after this boot time in milliseconds.
    pub expires_boot_ms: u64,
}

impl ReleaseToken {
    /// The bytes that are signed (see the module's text).
    pub fn canonical(&self) -> Vec<u8> {
        format!(
            "kuramori-release-token-v1\nincident={}\nreason={}:{}\nnonce={}\nboot_id={}\nexpires_boot_ms={}\n",
            self.incident,
            self.reason.len(),
            self.reason,
            self.nonce,
            self.boot_id,
            self.expires_boot_ms
        )
        .into_bytes()
    }
}

/// One officer's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Countersignature {
    /// Whose.
    pub key: VerifyingKey,
    /// Over the release's canonical bytes.
    pub signature: Signature,
}

/// A release and the signatures under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRelease {
    /// What is released.
    pub release: ReleaseToken,
    /// By whom.
    pub signatures: Vec<Countersignature>,
}

impl SignedRelease {
    /// Nobody has signed yet.
    pub const fn new(release: ReleaseToken) -> Self {
        Self { release, signatures: Vec::new() }
    }

    /// Adds one officer's signature.
    pub fn countersign(&mut self, key: &SigningKey) {
        self.signatures
            .push(Countersignature { key: key.public(), signature: key.sign(&self.release.canonical()) });
    }

    /// The release, if at least `need` different known officers signed it; a key that signs twice counts once.
    pub fn verify(&self, officers: &[VerifyingKey], need: usize) -> Result<&ReleaseToken, BadToken> {
        let bytes = self.release.canonical();
        let mut signed: Vec<VerifyingKey> = Vec::new();
        for one in &self.signatures {
            if officers.contains(&one.key)
                && !signed.contains(&one.key)
                && one.key.verifies(&bytes, &one.signature)
            {
                signed.push(one.key);
            }
        }
        let need = need.max(1);
        if signed.len() >= need {
            Ok(&self.release)
        } else {
            Err(BadToken::Quorum { have: signed.len(), need })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandom;

    fn token() -> WindowToken {
        WindowToken {
            window: WindowId(7),
            epoch: 2,
            purpose: Purpose::Pull,
            source: Ipv4Addr::new(10, 77, 10, 2),
            peer: SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 2), 8443),
            max_seconds: 600,
            max_bytes: 1 << 40,
            budget_left_s: 900,
            nonce: Nonce([7; 16]),
            boot_id: BootId::new("b0071d").unwrap(),
            issued_boot_ms: 1000,
            expires_boot_ms: 31_000,
            issued: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_canonical_bytes_are_fixed() {
        let text = "kuramori-window-token-v1\nwindow=7\nepoch=2\npurpose=pull\nsource=10.77.10.2\n\
                    peer=10.77.1.2:8443\nmax_seconds=600\nmax_bytes=1099511627776\nbudget_left_s=900\n\
                    nonce=07070707070707070707070707070707\nboot_id=b0071d\nissued_boot_ms=1000\n\
                    expires_boot_ms=31000\nissued=1970-01-01T00:00:00Z\n";
        assert_eq!(String::from_utf8(token().canonical()).unwrap(), text);
    }

    #[test]
    fn a_signature_covers_every_field() {
        let (key, _) = SigningKey::draw(&SeededRandom::new(1)).unwrap();
        let (other, _) = SigningKey::draw(&SeededRandom::new(2)).unwrap();
        let signed = SignedToken::sign(token(), &key);
        assert!(signed.verify(&[other.public(), key.public()]).is_ok());
        assert_eq!(signed.verify(&[other.public()]), Err(BadToken::Signature));
        let mut json = serde_json::to_value(&signed).unwrap();
        let fields: Vec<String> = json["token"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields.len(), 13);
        for field in fields {
            let before = json["token"][&field].clone();
            json["token"][&field] = match (field.as_str(), &before) {
                ("purpose", _) => "restore".into(),
                ("source", _) => "10.77.10.3".into(),
                ("peer", _) => "10.77.1.2:8444".into(),
                ("nonce", _) => "08".repeat(16).into(),
                ("issued", _) => "1970-01-01T00:00:01Z".into(),
                (_, serde_json::Value::Number(number)) => (number.as_u64().unwrap() + 1).into(),
                _ => "other".into(),
            };
            let changed: SignedToken = serde_json::from_value(json.clone()).unwrap();
            assert!(changed.verify(&[key.public()]).is_err(), "{field} is not covered");
            json["token"][&field] = before;
        }
    }

    #[test]
    fn a_release_needs_different_officers() {
        let officers: Vec<SigningKey> =
            (10..13).map(|seed| SigningKey::draw(&SeededRandom::new(seed)).unwrap().0).collect();
        let known: Vec<VerifyingKey> = officers.iter().map(SigningKey::public).collect();
        let (stranger, _) = SigningKey::draw(&SeededRandom::new(99)).unwrap();
        let mut release = SignedRelease::new(ReleaseToken {
            incident: 4,
            reason: "checked on site".into(),
            nonce: Nonce([1; 16]),
            boot_id: BootId::new("b").unwrap(),
            expires_boot_ms: 5,
        });
        release.countersign(&officers[0]);
        release.countersign(&officers[0]);
        release.countersign(&stranger);
        assert_eq!(release.verify(&known, 2), Err(BadToken::Quorum { have: 1, need: 2 }));
        release.countersign(&officers[2]);
        assert!(release.verify(&known, 2).is_ok());
        release.release.incident = 5;
        assert!(release.verify(&known, 2).is_err());
    }

    #[test]
    fn text_cannot_pretend_to_be_another_line() {
        assert!(BootId::new("a\nissued_boot_ms=9").is_err());
        assert!(serde_json::from_str::<BootId>("\"a b\"").is_err());
        assert!("zz".parse::<Nonce>().is_err());
    }
}
