//! The attacker who also found the repository's password on the primary: everything that he invents carries
//! a valid name *and* a valid tag, and only a reader who hashes what he decrypts notices.
//!
//! Its own small reading of restic's repository format (version 2), not the product's engine: a mistake
//! there must not be forged here as well.
//!
//! ```text
//! sealed: | IV 16 | AES-256-CTR(plain) | Poly1305-AES tag 16 |      over the ciphertext, tied to no id
//! pack:   | sealed blob .. | sealed header | u32le length of the sealed header |
//! header: per raw data blob  | 0 | u32le sealed length | id 32 |
//! ```

use std::path::Path;

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aws_lc_rs::{
    cipher::{AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey},
    digest::{SHA256, digest},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use kuramori_model::clock::Random;
use poly1305::{Poly1305, universal_hash::UniversalHash};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::scope::files;
use crate::error::{LabError, Result};

/// Blobs whose content is replaced.
const VICTIMS: usize = 5;

/// What was invented with the repository's own key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Blobs of garbage under the id of a real one, in packs that verify by name and tag.
    pub blobs: u64,
    /// Index files that point real ids at that garbage.
    pub indexes: u64,
    /// Index files that point real ids at the wrong place of a real pack.
    pub shifted_indexes: u64,
    /// Snapshots from the far future, whose tree nobody has.
    pub snapshots: u64,
}

impl Sealed {
    pub(super) fn files(self) -> u64 {
        u64::from(self.blobs > 0) + self.indexes + self.shifted_indexes + self.snapshots
    }
}

struct Key {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

fn wrong(what: &str) -> LabError {
    LabError::Answer { server: "the attacked repository", answer: what.to_owned() }
}

impl Key {
    fn split(bytes: [u8; 64]) -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        key
    }

    fn tag(&self, iv: [u8; 16], ciphertext: &[u8]) -> [u8; 16] {
        let mut nonce = aes::Block::from(iv);
        aes::Aes128::new(&self.mac_k.into()).encrypt_block(&mut nonce);
        let mut key = poly1305::Key::default();
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&nonce);
        let (blocks, rest) = poly1305::Block::slice_as_chunks(ciphertext);
        let mut poly = Poly1305::new(&key);
        poly.update(blocks);
        poly.compute_unpadded(rest).into()
    }

    fn seal(&self, random: &dyn Random, plain: &[u8]) -> Result<Vec<u8>> {
        let refused = |_| wrong("the cipher refused");
        let mut iv = [0; 16];
        random.fill(&mut iv);
        let mut body = plain.to_vec();
        let cipher =
            UnboundCipherKey::new(&AES_256, &self.encrypt).and_then(EncryptingKey::ctr).map_err(refused)?;
        cipher.less_safe_encrypt(&mut body, EncryptionContext::Iv128(iv.into())).map_err(refused)?;
        let tag = self.tag(iv, &body);
        Ok([&iv[..], &body, &tag].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (iv, rest) = sealed.split_first_chunk::<16>()?;
        let (body, tag) = rest.split_last_chunk::<16>()?;
        (self.tag(*iv, body) == *tag).then_some(())?;
        let mut body = body.to_vec();
        let cipher = UnboundCipherKey::new(&AES_256, &self.encrypt).and_then(DecryptingKey::ctr).ok()?;
        cipher.decrypt(&mut body, DecryptionContext::Iv128((*iv).into())).ok()?;
        Some(body)
    }
}

/// The master key, if the password opens one of the key files.
fn master(repository: &Path, password: &[u8]) -> Result<Key> {
    for path in files(&repository.join("keys"))? {
        let Ok(file) = serde_json::from_slice::<Value>(&fs_err::read(&path)?) else { continue };
        if let Some(key) = unlock(&file, password) {
            return Ok(key);
        }
    }
    Err(wrong("the password opens none of its keys"))
}

fn unlock(file: &Value, password: &[u8]) -> Option<Key> {
    let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str()?).ok();
    let number = |name: &str| u32::try_from(file[name].as_u64()?).ok();
    let log_n = u8::try_from(file["N"].as_u64()?.trailing_zeros()).ok()?;
    let cost = scrypt::Params::new(log_n, number("r")?, number("p")?).ok()?;
    let mut derived = [0; 64];
    scrypt::scrypt(password, &bytes(&file["salt"])?, &cost, &mut derived).ok()?;
    let plain = Key::split(derived).open(&bytes(&file["data"])?)?;
    let parts: Value = serde_json::from_slice(&plain).ok()?;
    let all = [bytes(&parts["encrypt"])?, bytes(&parts["mac"]["k"])?, bytes(&parts["mac"]["r"])?].concat();
    Some(Key::split(all.try_into().ok()?))
}

/// Forges with the password in hand. The files that were there are left as they are.
pub(super) fn forge(repository: &Path, password: &[u8], random: &dyn Random) -> Result<Sealed> {
    let key = master(repository, password)?;
    let mut done = Sealed::default();
    let mut victims: Vec<(String, Value)> = Vec::new();
    for path in files(&repository.join("index"))? {
        let Some(plain) = key.open(&fs_err::read(&path)?) else { continue };
        let text = if plain.first() == Some(&2) { zstd::decode_all(&plain[1..])? } else { plain };
        let Ok(index) = serde_json::from_slice::<Value>(&text) else { continue };
        for pack in index["packs"].as_array().into_iter().flatten() {
            let id = pack["id"].as_str().unwrap_or_default();
            let blobs = pack["blobs"].as_array().into_iter().flatten();
            victims.extend(
                blobs.filter(|blob| blob["type"] == "data").map(|blob| (id.to_owned(), blob.clone())),
            );
        }
    }
    victims.truncate(VICTIMS);
    if !victims.is_empty() {
        let pack = garbage_pack(&key, &victims, random)?;
        plant(&repository.join("data"), &pack.bytes)?;
        done.blobs = victims.len() as u64;
        plant(&repository.join("index"), &key.seal(random, pack.index.to_string().as_bytes())?)?;
        done.indexes = 1;
        let shifted: Vec<Value> =
            victims.iter().map(|(pack, blob)| json!({ "id": pack, "blobs": [shift(blob)] })).collect();
        let text = json!({ "packs": shifted }).to_string();
        plant(&repository.join("index"), &key.seal(random, text.as_bytes())?)?;
        done.shifted_indexes = 1;
    }
    let mut tree = [0; 32];
    random.fill(&mut tree);
    let snapshot = json!({
        "time": "2099-12-31T23:59:59+09:00", "tree": hex::encode(tree), "paths": ["/"], "hostname": "srv",
        "username": "root",
    });
    plant(&repository.join("snapshots"), &key.seal(random, snapshot.to_string().as_bytes())?)?;
    done.snapshots = 1;
    Ok(done)
}

/// The same blob, sixteen bytes further on.
fn shift(blob: &Value) -> Value {
    let mut blob = blob.clone();
    blob["offset"] = json!(blob["offset"].as_u64().unwrap_or(0) + 16);
    blob
}

struct Pack {
    bytes: Vec<u8>,
    index: Value,
}

fn garbage_pack(key: &Key, victims: &[(String, Value)], random: &dyn Random) -> Result<Pack> {
    let (mut bytes, mut header, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
    for (_, blob) in victims {
        let name = blob["id"].as_str().unwrap_or_default();
        let id = hex::decode(name).map_err(|_| wrong("an index holds an id that is none"))?;
        let mut garbage = vec![0; 2_000];
        random.fill(&mut garbage);
        let sealed = key.seal(random, &garbage)?;
        let length = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
        blobs.push(json!({ "id": name, "type": "data", "offset": bytes.len(), "length": length }));
        header.push(0);
        header.extend_from_slice(&length.to_le_bytes());
        header.extend_from_slice(&id);
        bytes.extend_from_slice(&sealed);
    }
    let sealed = key.seal(random, &header)?;
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(&u32::try_from(sealed.len()).unwrap_or(u32::MAX).to_le_bytes());
    let index = json!({ "packs": [{ "id": hex::encode(digest(&SHA256, &bytes)), "blobs": blobs }] });
    Ok(Pack { bytes, index })
}

/// Writes a file under its own SHA-256; packs into the folder of its first two digits.
pub(super) fn plant(folder: &Path, bytes: &[u8]) -> Result<()> {
    let name = hex::encode(digest(&SHA256, bytes));
    let folder = if folder.ends_with("data") { folder.join(&name[..2]) } else { folder.to_owned() };
    fs_err::create_dir_all(&folder)?;
    Ok(fs_err::write(folder.join(name), bytes)?)
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;
    use crate::program::Program;

    /// restic itself says that names and tags are right, and `check --read-data` that the content is not.
    #[test]
    fn stock_restic_accepts_the_tags_and_finds_the_lie_only_by_hashing() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        let restic = |arguments: &[&str]| {
            let program = Program::new("restic").env("RESTIC_PASSWORD", "secret").env("HOME", folder.path());
            program.args(["--no-cache", "-r"]).arg(&repository).args(arguments).run_in(None).unwrap()
        };
        fs_err::write(folder.path().join("file"), vec![5; 3_000_000]).unwrap();
        restic(&["init"]);
        restic(&["backup", &folder.path().join("file").to_string_lossy()]);
        assert_eq!(restic(&["check", "--read-data"]).status, Some(0));
        let before = files(&repository.join("index")).unwrap();

        assert!(forge(&repository, b"wrong", &SeededRandom::new(1)).is_err());
        let done = forge(&repository, b"secret", &SeededRandom::new(1)).unwrap();
        assert!(
            done.blobs > 0 && done.indexes == 1 && done.shifted_indexes == 1 && done.snapshots == 1,
            "{done:?}"
        );
        for index in files(&repository.join("index")).unwrap().iter().filter(|path| !before.contains(path)) {
            let name = index.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(restic(&["cat", "index", &name]).status, Some(0), "the tag is valid");
        }
        assert!(restic(&["snapshots"]).text().contains("2099"));
        let check = restic(&["check", "--read-data"]);
        assert_ne!(check.status, Some(0));
    }
}
