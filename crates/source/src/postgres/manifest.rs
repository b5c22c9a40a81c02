//! Compares a backup's manifest with what really came, while it streams by.
//!
//! The manifest (PostgreSQL documentation, "Backup Manifest Format") has one file per line and ends with
//! the SHA-256 of everything before its last line. Names and sizes of both sides go into a sum that does
//! not depend on the order, so memory stays flat. The checksums of the contents are `pg_verifybackup`'s
//! part, at each drill.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::Error;

/// Lines are a few hundred bytes; a name has at most 1,024.
const LONGEST: usize = 64 << 10;

/// A set of files, known only by count, size and a sum over names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) count: u64,
    pub(super) bytes: u64,
    sum: u64,
}

impl Files {
    /// Counts a file, unless it belongs to the write-ahead log, which no manifest covers.
    pub(super) fn add(&mut self, path: &[u8], size: u64) {
        if path.starts_with(b"pg_wal/") {
            return;
        }
        let mut hasher = DefaultHasher::new();
        (path, size).hash(&mut hasher);
        self.count += 1;
        self.bytes += size;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// Passes a manifest through and judges it.
pub(super) struct Checker<R> {
    from: R,
    hash: Context,
    line: Vec<u8>,
    listed: Files,
    stated: Option<String>,
    problem: Option<String>,
    size: u64,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
}

impl<R: Read> Checker<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            hash: Context::new(&SHA256),
            line: Vec::new(),
            listed: Files::default(),
            stated: None,
            problem: None,
            size: 0,
        }
    }

    /// The verdict after the last byte: the manifest's SHA-256 and its size.
    pub(super) fn finish(self, received: Files) -> Result<(String, u64), Error> {
        if let Some(problem) = self.problem {
            return Err(Error::Manifest(problem));
        }
        let Some(stated) = self.stated else {
            return Err(Error::Manifest("it has no checksum at its end: it was cut off".into()));
        };
        if !self.line.is_empty() {
            return Err(Error::Manifest("there is something after its checksum".into()));
        }
        let found = hex::encode(self.hash.finish());
        if stated != found {
            return Err(Error::Manifest(format!("its SHA-256 is {found}, it says {stated}")));
        }
        if self.listed != received {
            return Err(Error::Manifest(format!(
                "it lists {} files of {} bytes, {} files of {} bytes came",
                self.listed.count, self.listed.bytes, received.count, received.bytes
            )));
        }
        Ok((found, self.size))
    }

    fn eat(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() > LONGEST {
                self.problem = Some("it has an endless line".into());
                self.line.clear();
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.judge(&line);
            }
        }
    }

    fn judge(&mut self, line: &[u8]) {
        if self.stated.is_some() {
            self.problem = Some("there is something after its checksum".into());
            return;
        }
        let text = String::from_utf8_lossy(line);
        if let Some(rest) = text.strip_prefix("\"Manifest-Checksum\":") {
            self.stated = Some(rest.trim().trim_end_matches('}').trim_matches('"').to_ascii_lowercase());
            return;
        }
        self.hash.update(line);
        let text = text.trim();
        if !(text.starts_with("{ \"Path\"") || text.starts_with("{ \"Encoded-Path\"")) {
            return;
        }
        let parsed: Option<Line> = serde_json::from_str(text.trim_end_matches(',')).ok();
        let path = parsed.as_ref().and_then(|line| match (&line.path, &line.encoded_path) {
            (Some(path), _) => Some(path.clone().into_bytes()),
            (None, Some(encoded)) => hex::decode(encoded).ok(),
            (None, None) => None,
        });
        match (parsed, path) {
            (Some(line), Some(path)) => self.listed.add(&path, line.size),
            _ => self.problem = Some(format!("a line cannot be read: `{text}`")),
        }
    }
}

impl<R: Read> Read for Checker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.from.read(buffer)?;
        self.eat(&buffer[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> (Vec<u8>, Files) {
        let head = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
            { \"Path\": \"backup_label\", \"Size\": 225, \"Checksum\": \"00\" },\n\
            { \"Encoded-Path\": \"622fe3\", \"Size\": 0 },\n\
            { \"Path\": \"pg_wal/archive_status/0.done\", \"Size\": 0 }\n],\n\
            \"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2\", \"End-LSN\": \"0/3\" }\n],\n";
        let hash = aws_lc_rs::digest::digest(&SHA256, head.as_bytes());
        let mut files = Files::default();
        files.add(b"b/\xe3", 0);
        files.add(b"backup_label", 225);
        (format!("{head}\"Manifest-Checksum\": \"{}\"}}\n", hex::encode(hash)).into_bytes(), files)
    }

    fn judge(bytes: &[u8], files: Files) -> Result<(String, u64), Error> {
        let mut checker = Checker::new(bytes);
        io::copy(&mut checker, &mut io::sink()).unwrap();
        checker.finish(files)
    }

    #[test]
    fn only_the_whole_and_fitting_manifest_passes() {
        let (bytes, files) = manifest();
        assert_eq!(judge(&bytes, files).unwrap().1, bytes.len() as u64);
        for cut in 0..bytes.len() {
            assert!(judge(&bytes[..cut], files).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x04;
            assert!(judge(&flipped, files).is_err(), "flipped at {at}");
        }
        let mut more = files;
        more.add(b"base/1/2", 8192);
        assert!(matches!(judge(&bytes, more), Err(Error::Manifest(why)) if why.contains("lists 2 files")));
        assert!(judge(&[bytes, b"x\n".to_vec()].concat(), files).is_err());
    }
}
