//! The index in memory: from a blob's id to the places where it lies.
//!
//! One table per kind: entries of 48 bytes in one vector, found through a hash table of positions, so that
//! a blob costs about 56 bytes and a lookup two cache misses. The union of all index files counts; a blob
//! may lie in several packs, and the reader falls back from one to the next. Everything sits behind
//! [`Index`]'s methods, so that a mapped file can take this place when repositories outgrow memory.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use crate::{
    bits::Bits,
    format::{
        blob::{BlobId, BlobKind, PackedBlob},
        crypto,
        index::IndexedPack,
    },
    store::FileId,
};

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: FileId,
    /// The place in it.
    pub blob: PackedBlob,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: BlobId,
    pack: u32,
    offset: u32,
    length: u32,
    /// 0 if the blob lies raw.
    plain: u32,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    /// Positions in `entries`, plus one; 0 is free. Its length is a power of two.
    slots: Vec<u32>,
    // Seeded, so that nobody who writes index files can choose ids that all fall into one place.
    hasher: RandomState,
}

impl Table {
    fn chain(&self, id: &BlobId) -> impl Iterator<Item = &Entry> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = if self.slots.is_empty() { 0 } else { self.start(id, mask) };
        let id = *id;
        std::iter::from_fn(move || {
            loop {
                let position = *self.slots.get(at & mask)?;
                if position == 0 {
                    return None;
                }
                at += 1;
                let entry = &self.entries[position as usize - 1];
                if entry.id == id {
                    return Some(entry);
                }
            }
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits count")]
    fn start(&self, id: &BlobId, mask: usize) -> usize {
        self.hasher.hash_one(id) as usize & mask
    }

    fn insert(&mut self, entry: Entry) {
        if self.chain(&entry.id).any(|known| known.pack == entry.pack && known.offset == entry.offset) {
            return;
        }
        if (self.entries.len() + 1) * 4 > self.slots.len() * 3 {
            let size = (self.slots.len() * 2).max(1024);
            self.slots.clear();
            self.slots.resize(size, 0);
            for position in 0..self.entries.len() {
                self.link(position);
            }
        }
        self.entries.push(entry);
        self.link(self.entries.len() - 1);
    }

    fn link(&mut self, position: usize) {
        let mask = self.slots.len() - 1;
        let mut at = self.start(&self.entries[position].id, mask);
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = u32::try_from(position + 1).expect("an index in memory has fewer than 2^32 blobs");
    }
}

/// All that the index files say, and what this process added.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<FileId>,
    /// Of each pack the first byte after its last blob.
    ends: Vec<u64>,
    ordinals: HashMap<FileId, u32>,
    /// Packs that the store did not have when somebody looked: what they held is not there.
    absent: HashSet<u32>,
    data: Table,
    trees: Table,
}

impl Index {
    fn table(&self, kind: BlobKind) -> &Table {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    /// Takes in a pack; what is already known stays once.
    pub fn insert(&mut self, pack: &IndexedPack) {
        let next = u32::try_from(self.packs.len()).expect("an index in memory has fewer than 2^32 packs");
        let ordinal = *self.ordinals.entry(pack.id).or_insert_with(|| {
            self.packs.push(pack.id);
            self.ends.push(0);
            next
        });
        for blob in &pack.blobs {
            let end = &mut self.ends[ordinal as usize];
            *end = (*end).max(u64::from(blob.offset) + u64::from(blob.length));
            let entry = Entry {
                id: blob.id,
                pack: ordinal,
                offset: blob.offset,
                length: blob.length,
                plain: blob.plain_length.unwrap_or(0),
            };
            match blob.kind {
                BlobKind::Data => self.data.insert(entry),
                BlobKind::Tree => self.trees.insert(entry),
            }
        }
    }

    fn location(&self, kind: BlobKind, entry: &Entry) -> Location {
        Location {
            pack: self.packs[entry.pack as usize],
            blob: PackedBlob {
                id: entry.id,
                kind,
                offset: entry.offset,
                length: entry.length,
                plain_length: (entry.plain != 0).then_some(entry.plain),
            },
        }
    }

    /// Every place where the blob lies; those whose pack the store did not have come last.
    pub fn locations(&self, kind: BlobKind, id: &BlobId) -> Vec<Location> {
        let mut entries: Vec<_> = self.table(kind).chain(id).collect();
        entries.sort_by_key(|entry| self.absent.contains(&entry.pack));
        entries.into_iter().map(|entry| self.location(kind, entry)).collect()
    }

    /// Whether the blob lies anywhere, as far as the packs are there.
    pub fn contains(&self, kind: BlobKind, id: &BlobId) -> bool {
        self.table(kind).chain(id).any(|entry| self.absent.is_empty() || !self.absent.contains(&entry.pack))
    }

    /// Compares the packs with those that the store has, each with its size. What lies in a pack that is
    /// missing or cut short counts as not there from now on. Gives the names of such packs.
    pub fn compare(&mut self, stored: &mut dyn Iterator<Item = (FileId, u64)>) -> Vec<FileId> {
        let mut found = Bits::new(self.packs.len());
        for (id, size) in stored {
            if let Some(ordinal) = self.ordinals.get(&id)
                && size > self.ends[*ordinal as usize]
            {
                found.insert(*ordinal as usize);
            }
        }
        let missing = |position: &usize| !found.contains(*position);
        self.absent = (0..self.packs.len())
            .filter(missing)
            .filter_map(|position| u32::try_from(position).ok())
            .collect();
        (0..self.packs.len()).filter(missing).map(|position| self.packs[position]).collect()
    }

    /// The first byte after the pack's last blob; 0 for a pack that no index file names.
    pub fn end_of(&self, pack: &FileId) -> u64 {
        self.ordinals.get(pack).map_or(0, |ordinal| self.ends[*ordinal as usize])
    }

    /// Length of the blob's plain bytes, if it lies anywhere.
    pub fn plain_len(&self, kind: BlobKind, id: &BlobId) -> Option<u32> {
        self.table(kind).chain(id).next().map(|entry| {
            if entry.plain == 0 { entry.length.saturating_sub(crypto::OVERHEAD_U32) } else { entry.plain }
        })
    }

    /// Every pack that an index file names.
    pub fn packs(&self) -> &[FileId] {
        &self.packs
    }

    /// Whether an index file names the pack.
    pub fn has_pack(&self, pack: &FileId) -> bool {
        self.ordinals.contains_key(pack)
    }

    /// Number of entries of a kind; a blob in two packs counts twice.
    pub fn len(&self, kind: BlobKind) -> usize {
        self.table(kind).entries.len()
    }

    /// Whether no blob is known.
    pub fn is_empty(&self) -> bool {
        self.data.entries.is_empty() && self.trees.entries.is_empty()
    }

    /// Every entry of a kind, in the order of insertion: a stable position for marking what is in use.
    pub fn entries(&self, kind: BlobKind) -> impl Iterator<Item = Location> + '_ {
        self.table(kind).entries.iter().map(move |entry| self.location(kind, entry))
    }

    /// Positions (see [`entries`](Self::entries)) of every place where the blob lies.
    pub fn positions(&self, kind: BlobKind, id: &BlobId) -> Vec<usize> {
        let table = self.table(kind);
        let first = table.entries.as_ptr_range().start;
        table
            .chain(id)
            .map(|entry| (std::ptr::from_ref(entry).addr() - first.addr()) / size_of::<Entry>())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u32, offset: u32) -> PackedBlob {
        PackedBlob {
            id: BlobId::of(&number.to_le_bytes()),
            kind: BlobKind::Data,
            offset,
            length: 100,
            plain_length: None,
        }
    }

    #[test]
    fn finds_every_place_of_every_blob() {
        let mut index = Index::default();
        let packs: Vec<_> = (0..3_u8).map(|n| FileId([n; 32])).collect();
        for pack in &packs {
            let blobs = (0..5000).map(|n| blob(n, n * 100)).collect();
            let pack = IndexedPack { id: *pack, blobs };
            index.insert(&pack);
            index.insert(&pack);
        }
        assert_eq!(index.len(BlobKind::Data), 15_000, "twice the same index file adds nothing");
        for n in 0..5000 {
            let id = blob(n, 0).id;
            let found = index.locations(BlobKind::Data, &id);
            assert_eq!(found.iter().map(|l| l.pack).collect::<Vec<_>>(), packs);
            assert!(found.iter().all(|l| l.blob.offset == n * 100));
            if n % 1000 == 0 {
                let all: Vec<_> = index.entries(BlobKind::Data).collect();
                let again: Vec<_> = index.positions(BlobKind::Data, &id).iter().map(|p| all[*p]).collect();
                assert_eq!(again, found);
            }
        }
        assert!(!index.contains(BlobKind::Data, &blob(5000, 0).id));
        assert!(!index.contains(BlobKind::Tree, &blob(1, 0).id));
    }
}
