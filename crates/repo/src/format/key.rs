//! Key files: the master key under a password.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{
    Flaw,
    crypto::{Cipher, KeyBytes},
};

/// restic's usual cost.
pub const COST: Cost = Cost { n: 32_768, r: 8, p: 1 };
/// scrypt uses 128 * N * r bytes; a forged key file must not choose more than this.
const MEMORY_MAX: u64 = 512 << 20;
const SALT: usize = 64;

/// scrypt's cost parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Rounds; a power of two.
    pub n: u64,
    /// Block size.
    pub r: u32,
    /// Parallelism.
    pub p: u32,
}

/// The content of a key file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// When it was made.
    pub created: Timestamp,
    /// By whom.
    #[serde(default)]
    pub username: String,
    /// Where.
    #[serde(default)]
    pub hostname: String,
    /// Always `scrypt`; restic aborts on anything else.
    pub kdf: String,
    /// scrypt's N.
    #[serde(rename = "N")]
    pub n: u64,
    /// scrypt's r.
    pub r: u32,
    /// scrypt's p.
    pub p: u32,
    /// 64 bytes in base64.
    pub salt: String,
    /// The sealed master key in base64.
    pub data: String,
}

#[derive(Serialize, Deserialize)]
struct Master {
    mac: Mac,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct Mac {
    k: String,
    r: String,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.mac.k.zeroize();
        self.mac.r.zeroize();
    }
}

/// Reads the JSON of a key file.
pub fn decode(json: &[u8]) -> Result<KeyFile, Flaw> {
    let file: KeyFile = serde_json::from_slice(json)?;
    if file.kdf != "scrypt" {
        return Err(Flaw::new(format!("it uses `{}` instead of `scrypt`", file.kdf)));
    }
    Ok(file)
}

/// Writes the JSON of a key file.
pub fn encode(file: &KeyFile) -> Result<Vec<u8>, Flaw> {
    Ok(serde_json::to_vec(file)?)
}

fn derive(password: &[u8], salt: &[u8], cost: Cost) -> Result<Cipher, Flaw> {
    let memory = cost.n.checked_mul(128 * u64::from(cost.r)).filter(|bytes| *bytes <= MEMORY_MAX);
    if !cost.n.is_power_of_two() || cost.n < 2 || memory.is_none() || !(1..=64).contains(&cost.p) {
        return Err(Flaw::new(format!("its scrypt cost N={} r={} p={} is refused", cost.n, cost.r, cost.p)));
    }
    let log_n = u8::try_from(cost.n.trailing_zeros()).unwrap_or(u8::MAX);
    let params = scrypt::Params::new(log_n, cost.r, cost.p)
        .map_err(|_| Flaw::new("its scrypt cost does not fit together"))?;
    let mut derived = Zeroizing::new([0; 64]);
    scrypt::scrypt(password, salt, &params, derived.as_mut()).map_err(|_| Flaw::new("scrypt refused"))?;
    Cipher::new(&KeyBytes::from_slice(&derived))
}

/// Opens the master key; `None` if the password is another one.
pub fn open(file: &KeyFile, password: &[u8]) -> Result<Option<KeyBytes>, Flaw> {
    let bytes = |text: &str, what: &str| {
        STANDARD.decode(text).map_err(|_| Flaw::new(format!("its {what} is not base64")))
    };
    let salt = bytes(&file.salt, "salt")?;
    if salt.len() != SALT {
        return Err(Flaw::new(format!("its salt has {} bytes instead of {SALT}", salt.len())));
    }
    let user = derive(password, &salt, Cost { n: file.n, r: file.r, p: file.p })?;
    let mut sealed = Zeroizing::new(bytes(&file.data, "data")?);
    let Ok(plain) = user.open(&mut sealed) else { return Ok(None) };
    let master: Master = serde_json::from_slice(plain)?;
    let mut key = KeyBytes { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
    for (part, text) in [
        (&mut key.encrypt[..], &master.encrypt),
        (&mut key.mac_k[..], &master.mac.k),
        (&mut key.mac_r[..], &master.mac.r),
    ] {
        let decoded = Zeroizing::new(bytes(text, "master key")?);
        if decoded.len() != part.len() {
            return Err(Flaw::new("a part of its master key has the wrong length"));
        }
        part.copy_from_slice(&decoded);
    }
    if key.is_valid() { Ok(Some(key)) } else { Err(Flaw::new("a part of its master key is all zero")) }
}

/// Who makes a key file, and when.
#[derive(Debug, Clone)]
pub struct Maker {
    /// When.
    pub created: Timestamp,
    /// User.
    pub username: String,
    /// Machine.
    pub hostname: String,
}

/// Puts the master key under a password. `salt` and `iv` must be fresh random bytes.
pub fn seal(
    master: &KeyBytes,
    password: &[u8],
    cost: Cost,
    salt: &[u8; SALT],
    iv: [u8; 16],
    maker: &Maker,
) -> Result<KeyFile, Flaw> {
    let user = derive(password, salt, cost)?;
    let content = Master {
        mac: Mac { k: STANDARD.encode(master.mac_k), r: STANDARD.encode(master.mac_r) },
        encrypt: STANDARD.encode(master.encrypt),
    };
    let plain = Zeroizing::new(serde_json::to_vec(&content)?);
    Ok(KeyFile {
        created: maker.created,
        username: maker.username.clone(),
        hostname: maker.hostname.clone(),
        kdf: "scrypt".to_owned(),
        n: cost.n,
        r: cost.r,
        p: cost.p,
        salt: STANDARD.encode(salt),
        data: STANDARD.encode(user.seal(iv, &plain)?),
    })
}
