//! Which piece holds a byte.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Error, Result,
    backup::zero_id,
    chunk, disk,
    format::{
        blob::{BlobId, BlobKind},
        node::{Node, NodeKind},
    },
    repository::{Indexed, Repository},
};

/// Segments of a disk whose lists stay in memory, 32 KiB each.
const SEGMENTS_HELD: usize = 256;

/// A piece of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) id: BlobId,
    /// Plain length.
    pub(super) length: u32,
    /// Its id says that it is all zeros.
    pub(super) zero: bool,
}

#[derive(Debug)]
enum Ends {
    /// All pieces but the last have this length.
    Every(u64),
    /// Where each piece ends.
    Listed(Vec<u64>),
}

/// The pieces of one file.
#[derive(Debug)]
pub(super) struct Content {
    ids: Vec<BlobId>,
    ends: Ends,
    size: u64,
    /// Ids of zeros in the lengths that pieces of zeros have.
    zeros: Vec<(u64, BlobId)>,
}

impl Content {
    fn of(repository: &Repository<Indexed>, node: &Node) -> Result<Self> {
        let name = || String::from_utf8_lossy(&node.name).into_owned();
        let (NodeKind::File, Some(ids)) = (node.kind, node.content.clone()) else {
            return Err(Error::Invalid {
                what: format!("`{}` is no file", name()),
                hint: "name a file, or a disk's folder of segments".to_owned(),
            });
        };
        let mut ends = Vec::with_capacity(ids.len());
        let mut end = 0;
        let mut refreshed = false;
        for id in &ids {
            let find = || repository.with_index(|index| index.plain_len(BlobKind::Data, id));
            let mut length = find();
            if length.is_none() && !refreshed {
                refreshed = true;
                repository.refresh()?;
                length = find();
            }
            let length = length.ok_or_else(|| Error::Missing {
                file: format!("data blob {id} of `{}` (no index file names it)", name()),
            })?;
            if length == 0 {
                return Err(Error::Damaged {
                    file: format!("data blob {id}"),
                    why: "it is empty".to_owned(),
                });
            }
            end += u64::from(length);
            ends.push(end);
        }
        if end != node.size {
            return Err(Error::Damaged {
                file: format!("file `{}`", name()),
                why: format!("its pieces have {end} bytes, its size is {}", node.size),
            });
        }
        let first = ends.first().copied().unwrap_or(1);
        let last = end - if ends.len() < 2 { 0 } else { ends[ends.len() - 2] };
        let regular = ends.iter().zip(1_u64..).all(|(end, number)| *end == (first * number).min(node.size));
        let lengths = if regular { vec![first, last] } else { chunk::ZERO_LENGTHS.to_vec() };
        let zeros = lengths
            .into_iter()
            .filter_map(|length| Some((length, zero_id(usize::try_from(length).ok()?))))
            .collect();
        let ends = if regular { Ends::Every(first) } else { Ends::Listed(ends) };
        Ok(Self { ids, ends, size: node.size, zeros })
    }

    /// The piece that holds the byte at `at`, and its first byte's place.
    fn piece(&self, at: u64) -> Option<(Piece, u64)> {
        let (number, begin, end) = match &self.ends {
            Ends::Every(length) => {
                let number = at / length;
                (usize::try_from(number).ok()?, number * length, ((number + 1) * length).min(self.size))
            }
            Ends::Listed(ends) => {
                let number = ends.partition_point(|end| *end <= at);
                let begin = number.checked_sub(1).map_or(0, |before| ends[before]);
                (number, begin, *ends.get(number)?)
            }
        };
        let id = *self.ids.get(number)?;
        let length = end.checked_sub(begin)?;
        let zero = self.zeros.contains(&(length, id));
        Some((Piece { id, length: u32::try_from(length).ok()?, zero }, begin))
    }
}

/// The pieces of a file or a disk.
#[derive(Debug)]
pub(super) enum Map {
    File(Content),
    Disk {
        size: u64,
        /// The tree of each segment's folder.
        segments: Vec<BlobId>,
        /// Those that were used last, the newest at the end.
        held: Mutex<Vec<(usize, Arc<Content>)>>,
    },
}

impl Map {
    pub(super) fn of_file(repository: &Repository<Indexed>, node: &Node) -> Result<Self> {
        Content::of(repository, node).map(Self::File)
    }

    pub(super) fn of_disk(repository: &Repository<Indexed>, folder: &BlobId) -> Result<Self> {
        let segments = disk::segments(&repository.load_tree(folder)?)?;
        let mut size = 0;
        let mut held = Vec::new();
        if let Some((last, before)) = segments.split_last() {
            let content = Arc::new(Content::of(repository, &disk::segment(repository, last)?)?);
            size = before.len() as u64 * disk::SEGMENT + content.size;
            held.push((before.len(), content));
        }
        Ok(Self::Disk { size, segments, held: Mutex::new(held) })
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File(content) => content.size,
            Self::Disk { size, .. } => *size,
        }
    }

    /// The same for the same pieces in the same order.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let (kind, ids) = match self {
            Self::File(content) => (b"file", &content.ids),
            Self::Disk { segments, .. } => (b"disk", segments),
        };
        digest.update(kind);
        for id in ids {
            digest.update(&id.0);
        }
        let mut out = [0; 32];
        out.copy_from_slice(digest.finish().as_ref());
        out
    }

    /// The piece that holds the byte at `at`, and its first byte's place.
    pub(super) fn piece(&self, repository: &Repository<Indexed>, at: u64) -> Result<(Piece, u64)> {
        let beyond = || Error::Bug { what: format!("nobody may look for a piece at {at}") };
        match self {
            Self::File(content) => content.piece(at).ok_or_else(beyond),
            Self::Disk { segments, held, .. } => {
                let number = usize::try_from(at / disk::SEGMENT).map_err(|_| beyond())?;
                let begin = at - at % disk::SEGMENT;
                let content = find(repository, segments, held, number)?;
                let (piece, inner) = content.piece(at - begin).ok_or_else(beyond)?;
                Ok((piece, begin + inner))
            }
        }
    }
}

fn find(
    repository: &Repository<Indexed>,
    segments: &[BlobId],
    held: &Mutex<Vec<(usize, Arc<Content>)>>,
    number: usize,
) -> Result<Arc<Content>> {
    let known = |held: &mut Vec<(usize, Arc<Content>)>| {
        let place = held.iter().rposition(|(known, _)| *known == number)?;
        let found = held.remove(place);
        let content = Arc::clone(&found.1);
        held.push(found);
        Some(content)
    };
    if let Some(content) = known(&mut held.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(content);
    }
    let tree =
        segments.get(number).ok_or_else(|| Error::Bug { what: format!("there is no segment {number}") })?;
    // Two who load the same one cost a little time; holding the list meanwhile would stop everybody.
    let content = Content::of(repository, &disk::segment(repository, tree)?)?;
    if content.size != disk::SEGMENT && number + 1 < segments.len() {
        return Err(Error::Damaged {
            file: format!("segment {number} of a disk"),
            why: format!("it has {} bytes instead of {}", content.size, disk::SEGMENT),
        });
    }
    let content = Arc::new(content);
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    if known(&mut held).is_none() {
        if held.len() >= SEGMENTS_HELD {
            held.remove(0);
        }
        held.push((number, Arc::clone(&content)));
    }
    Ok(content)
}
