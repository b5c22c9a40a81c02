//! A study as one file, or as a few: a plain tar archive with an offset table.
//!
//! ```text
//! offsets.json                      instances with place and size; places count from this member's end
//! <SeriesInstanceUID>/<SOPInstanceUID>.dcm      one member each, exactly as the archive gives it
//! <SeriesInstanceUID>/<SOPInstanceUID>.was-<12 digits>.dcm    what the archive had under this UID before
//! digests.json                      SHA-256 of each instance
//! two empty blocks
//! ```
//!
//! Millions of small files would make a repository's index larger than its use; one file per study keeps it
//! small, and `tar` alone unpacks it. The table lets a single instance be read without the rest. Everything
//! but the digests is known before the first instance is asked for, so the file's size is announced exactly.

use std::{collections::VecDeque, io::Read};

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::{Buf, Bytes};
use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};

use super::{
    archive::Spool,
    site::{Lanes, Site, piece},
};
use crate::{Control, Error, control::Bucket};

/// The form of both tables.
pub const FORMAT: &str = "kuramori.dicom-bundle/1";
/// A study's file is begun anew beyond this many bytes.
pub(super) const PART: u64 = 128 << 20;
/// Larger instances are not held in memory.
const LARGE: u64 = 8 << 20;
/// Bytes of instances that may be held or under way.
const AHEAD: u64 = 32 << 20;
pub(super) const BLOCK: u64 = 512;
/// Bytes after which the pace is looked at again.
const STEP: u64 = 64 << 10;

/// One instance as the archive lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    /// The archive's own name for it.
    pub(super) id: String,
    pub(super) sop: String,
    pub(super) series: String,
    pub(super) size: u64,
    /// Changes when its content is replaced.
    pub(super) content: String,
    /// `content` is the archive's own mark, known before the content is read; else it is the digest.
    pub(super) marked: bool,
    /// Where it lies in the spool, if it is there already.
    pub(super) spooled: Option<u64>,
    /// The digest, if this is what the archive had under the UID before.
    pub(super) was: Option<String>,
    /// The archive did not give it this time: it is the one of the previous restore point.
    pub(super) carried: bool,
}

impl Instance {
    /// Its member's name.
    fn name(&self) -> String {
        match &self.was {
            Some(sha256) => format!("{}.was-{}.dcm", self.sop, sha256.get(..12).unwrap_or_default()),
            None => format!("{}.dcm", self.sop),
        }
    }
}

/// A row of the offset table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// SOP Instance UID.
    pub sop: String,
    /// Series Instance UID.
    pub series: String,
    /// Where its content begins, counted from the end of `offsets.json` with its padding.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The archive's own mark of its content, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mark: String,
    /// The archive had this under the UID before; it is not given back unless somebody asks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was: bool,
    /// The archive lists it, or may have it, and did not give it: this is the one of the restore point before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub carried: bool,
}

/// `offsets.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// [`FORMAT`].
    pub format: String,
    /// Study Instance UID.
    pub study: String,
    /// Which file of the study, from 0.
    pub part: u32,
    /// The instances in the order of the archive.
    pub instances: Vec<Row>,
}

/// `digests.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// [`FORMAT`].
    pub format: String,
    /// SHA-256 of each instance in hexadecimal, in the order of the table.
    pub sha256: Vec<String>,
}

/// One file of a study, planned.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) instances: Vec<Instance>,
    table: Vec<u8>,
    /// Bytes of the whole file.
    pub(super) size: u64,
    /// Stands for what is in it: changes when an instance comes, goes or is replaced.
    pub(super) mark: u64,
}

pub(super) fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK)
}

/// Cuts a study's instances into files, in an order that does not depend on the archive.
pub(super) fn plan(study: &str, mut instances: Vec<Instance>, most: u64) -> Vec<Part> {
    instances
        .sort_unstable_by(|a, b| (&a.series, &a.sop, &a.was, &a.id).cmp(&(&b.series, &b.sop, &b.was, &b.id)));
    let mut parts: Vec<Vec<Instance>> = Vec::new();
    let mut filled = 0;
    for instance in instances {
        let more = BLOCK + padded(instance.size);
        if parts.is_empty() || filled + more > most {
            parts.push(Vec::new());
            filled = 0;
        }
        filled += more;
        if let Some(part) = parts.last_mut() {
            part.push(instance);
        }
    }
    parts.into_iter().zip(0..).map(|(instances, number)| part(study, number, instances)).collect()
}

/// One file of a study.
pub(super) fn part(study: &str, number: u32, instances: Vec<Instance>) -> Part {
    let (mut rows, mut offset, mut mark) = (Vec::new(), 0, Context::new(&SHA256));
    for instance in &instances {
        offset += BLOCK;
        rows.push(Row {
            sop: instance.sop.clone(),
            series: instance.series.clone(),
            offset,
            size: instance.size,
            mark: if instance.marked { instance.content.clone() } else { String::new() },
            was: instance.was.is_some(),
            carried: instance.carried,
        });
        offset += padded(instance.size);
        let was = match (instance.was.is_some(), instance.carried) {
            (true, _) => "was",
            (false, true) => "carried",
            (false, false) => "",
        };
        let was = was.to_owned();
        for text in [&instance.sop, &instance.series, &instance.content, &instance.size.to_string(), &was] {
            mark.update(text.as_bytes());
            mark.update(b"\0");
        }
    }
    let table = Table { format: FORMAT.to_owned(), study: study.to_owned(), part: number, instances: rows };
    // A table of strings and numbers always serialises.
    let table = serde_json::to_vec(&table).unwrap_or_default();
    let digests = digests(&vec!["0".repeat(64); instances.len()]);
    let size = 2 * BLOCK + padded(table.len() as u64) + offset + padded(digests.len() as u64) + 2 * BLOCK;
    let mark = mark.finish();
    let mark = u64::from_le_bytes(mark.as_ref()[..8].try_into().unwrap_or([1; 8])) | 1;
    Part { instances, table, size, mark }
}

fn digests(sha256: &[String]) -> Vec<u8> {
    let digests = Digests { format: FORMAT.to_owned(), sha256: sha256.to_vec() };
    serde_json::to_vec(&digests).unwrap_or_default()
}

/// A member's header (POSIX 1003.1-1988 `ustar`): owner root, mode 0600, no time, so that equal content gives
/// equal bytes.
fn header(folder: &str, name: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(345, &folder.as_bytes()[..folder.len().min(155)]);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What is under way of one instance.
enum Coming {
    Whole(Receiver<Result<Bytes, Error>>),
    /// It lies in the spool.
    Spooled,
    /// Too large for memory: asked for when its turn comes.
    Streamed,
}

/// Where the content of a part comes from.
#[derive(Clone, Copy)]
pub(super) struct Feed<'a> {
    /// The archive, for what is not in the spool.
    pub(super) site: Option<(&'a Site, &'a Lanes)>,
    pub(super) spool: &'a Spool,
    pub(super) bucket: &'a Bucket,
    pub(super) control: &'a Control,
}

/// A large instance that is under way.
struct Stream {
    /// None: out of the spool, from here on.
    response: Option<reqwest::blocking::Response>,
    at: u64,
    sum: Context,
    left: u64,
}

/// A part as the sink reads it.
pub(super) struct Content<'a> {
    feed: Feed<'a>,
    part: &'a Part,
    asked: usize,
    held: u64,
    coming: VecDeque<(usize, Coming)>,
    stream: Option<Stream>,
    now: VecDeque<Bytes>,
    sha256: Vec<String>,
    closed: bool,
    pub(super) failed: Option<Error>,
}

impl<'a> Content<'a> {
    pub(super) fn new(feed: Feed<'a>, part: &'a Part) -> Self {
        let mut content = Self {
            feed,
            part,
            asked: 0,
            held: 0,
            coming: VecDeque::new(),
            stream: None,
            now: VecDeque::new(),
            sha256: Vec::new(),
            closed: false,
            failed: None,
        };
        content.member("", "offsets.json", part.table.clone().into());
        content
    }

    /// How many instances were given whole; the next one is where it failed, if it did.
    pub(super) fn given(&self) -> usize {
        self.sha256.len()
    }

    /// A small member, whole.
    fn member(&mut self, folder: &str, name: &str, content: Bytes) {
        let size = content.len() as u64;
        self.now.push_back(header(folder, name, size).into());
        self.now.push_back(content);
        self.pad(size);
    }

    fn pad(&mut self, size: u64) {
        let rest = usize::try_from(padded(size) - size).unwrap_or(0);
        self.now.push_back(vec![0; rest].into());
    }

    /// Asks ahead, as far as memory allows.
    fn ask_ahead(&mut self) {
        while let Some(instance) = self.part.instances.get(self.asked) {
            let room = self.held + instance.size <= AHEAD || self.coming.is_empty();
            if !room || self.coming.len() >= 64 {
                return;
            }
            let coming = match self.feed.site {
                _ if instance.spooled.is_some() => Coming::Spooled,
                Some((_, lanes)) if instance.size <= LARGE => {
                    self.held += instance.size;
                    let (path, size) = (format!("/instances/{}/file", instance.id), instance.size);
                    Coming::Whole(lanes.ask(move |site| site.get(&path, size)))
                }
                _ => Coming::Streamed,
            };
            self.coming.push_back((self.asked, coming));
            self.asked += 1;
        }
    }

    fn server(&self) -> String {
        self.feed.site.map_or_else(|| "the spool".to_owned(), |(site, _)| site.server().to_owned())
    }

    fn short(&self, instance: &Instance, came: u64) -> Error {
        Error::Protocol {
            server: self.server(),
            why: format!("instance `{}` has {came} bytes where {} were listed", instance.sop, instance.size),
        }
    }

    /// Slows down for so many bytes, in small steps, so that a pace that changes is followed soon.
    fn brake(&self, bytes: u64) -> Result<(), Error> {
        let control = self.feed.control;
        let mut left = bytes;
        while left > 0 {
            let step = left.min(STEP);
            left -= step;
            let wait = self.feed.bucket.take(step);
            if !wait.is_zero() {
                control.clock.sleep(wait);
            }
            if control.cancel.is_cancelled() {
                return Err(Error::Cancelled("the archive".into()));
            }
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), Error> {
        if let Some(stream) = &mut self.stream {
            let instance = &self.part.instances[self.sha256.len()];
            let came = match &mut stream.response {
                Some(response) => piece(response, 256 << 10),
                None => {
                    let length = usize::try_from(stream.left.min(256 << 10)).unwrap_or(0);
                    let mut bytes = vec![0; length];
                    self.feed.spool.read(&mut bytes, stream.at).map(|()| bytes.into())
                }
            };
            let came = came.map_err(|error| Error::ConnectionLost {
                server: self.feed.site.map_or_else(String::new, |(site, _)| site.server().to_owned()),
                what: instance.sop.clone(),
                why: error.to_string(),
            })?;
            if came.len() as u64 > stream.left || (came.is_empty() && stream.left > 0) {
                let came = instance.size - stream.left + came.len() as u64;
                return Err(self.short(instance, came));
            }
            let bytes = came.len() as u64;
            (stream.left, stream.at) = (stream.left - bytes, stream.at + bytes);
            stream.sum.update(&came);
            // What lies in the spool was paid for when it came.
            let (over, paid) = (stream.left == 0, stream.response.is_none());
            if !paid {
                self.brake(bytes)?;
            }
            self.now.push_back(came);
            if over && let Some(stream) = self.stream.take() {
                self.sha256.push(hex::encode(stream.sum.finish()));
                self.pad(instance.size);
            }
            return Ok(());
        }
        self.ask_ahead();
        let Some((number, coming)) = self.coming.pop_front() else {
            if !self.closed {
                self.closed = true;
                let sums = digests(&self.sha256);
                self.member("", "digests.json", sums.into());
                self.now.push_back(vec![0; 1024].into());
            }
            return Ok(());
        };
        let instance = &self.part.instances[number];
        let head = header(&instance.series, &instance.name(), instance.size);
        match (coming, self.feed.site) {
            (Coming::Whole(answer), Some((_, lanes))) => {
                let content = lanes.wait(&answer, &instance.sop)?;
                self.held -= instance.size;
                if content.len() as u64 != instance.size {
                    return Err(self.short(instance, content.len() as u64));
                }
                self.sha256.push(hex::encode(digest(&SHA256, &content)));
                self.brake(instance.size)?;
                self.now.push_back(head.into());
                self.now.push_back(content);
                self.pad(instance.size);
            }
            (Coming::Streamed, Some((site, _))) => {
                let response = site.open(&format!("/instances/{}/file", instance.id), instance.size)?;
                self.now.push_back(head.into());
                let sum = Context::new(&SHA256);
                self.stream = Some(Stream { response: Some(response), at: 0, sum, left: instance.size });
            }
            _ => {
                self.now.push_back(head.into());
                let (at, sum) = (instance.spooled.unwrap_or(0), Context::new(&SHA256));
                self.stream = Some(Stream { response: None, at, sum, left: instance.size });
            }
        }
        Ok(())
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            while self.now.front().is_some_and(Bytes::is_empty) {
                self.now.pop_front();
            }
            if let Some(front) = self.now.front_mut() {
                let length = buffer.len().min(front.len());
                front.copy_to_slice(&mut buffer[..length]);
                return Ok(length);
            }
            if self.closed {
                return Ok(0);
            }
            if self.failed.is_some() {
                return Err(std::io::Error::other("the study's content ended early"));
            }
            if let Err(error) = self.advance() {
                let text = error.to_string();
                self.failed = Some(error);
                return Err(std::io::Error::other(text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(series: &str, sop: &str, size: u64) -> Instance {
        Instance {
            id: format!("id-{sop}"),
            sop: sop.into(),
            series: series.into(),
            size,
            content: "c".into(),
            marked: true,
            spooled: None,
            was: None,
            carried: false,
        }
    }

    #[test]
    fn a_study_is_cut_by_size_in_an_order_of_its_own_and_every_change_changes_its_mark() {
        let all: Vec<Instance> =
            (0..10).map(|n| instance(&format!("1.{}", n % 2), &format!("9.{n}"), 1000)).collect();
        let whole = plan("7", all.clone(), PART);
        assert_eq!(whole.len(), 1);
        let mut turned = all.clone();
        turned.reverse();
        assert_eq!(
            (plan("7", turned, PART)[0].mark, whole[0].instances[0].sop.as_str()),
            (whole[0].mark, "9.0")
        );
        let cut = plan("7", all.clone(), 4000);
        assert_eq!(cut.iter().map(|part| part.instances.len()).collect::<Vec<_>>(), [2; 5]);
        let mark = |change: fn(&mut Vec<Instance>)| {
            let mut changed = all.clone();
            change(&mut changed);
            plan("7", changed, PART)[0].mark
        };
        for change in [
            (|all| drop(all.pop())) as fn(&mut Vec<Instance>),
            |all| all[3].content = "d".into(),
            |all| all[3].size = 1001,
            |all| all.push(instance("1.0", "9.99", 1)),
        ] {
            assert_ne!(mark(change), whole[0].mark);
        }
        // One that is larger than a part stands alone.
        let large = plan("7", vec![instance("1", "1", 9000), instance("1", "2", 10)], 4000);
        assert_eq!(large.len(), 2);
    }

    #[test]
    fn a_header_has_the_sum_that_tar_wants() {
        let block = header("1.2", "3.dcm", 8);
        let mut blank = block.clone();
        blank[148..156].copy_from_slice(b"        ");
        let sum: u32 = blank.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(&block[148..154], format!("{sum:06o}").as_bytes());
        assert_eq!((&block[124..135], &block[257..265]), (&b"00000000010"[..], &b"ustar\x0000"[..]));
    }
}
