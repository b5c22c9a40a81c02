//! Cutting content into chunks.
//!
//! Two constant sets, recorded in the tag `kuramori.chunk` and never tuned: whoever changes a number changes
//! every cut point, and nothing is found again.
//!
//! | set | for | cuts |
//! |---|---|---|
//! | `cdc-1` | files, dumps, streams | FastCDC (Xia et al. 2020), 512 KiB to 8 MiB, normal size 1 MiB |
//! | `fixed-1` | disks, page files | every 1 MiB |
//!
//! Where content is cut must not tell a reader of sizes what the content is. So FastCDC's gear table is
//! secret: derived one-way from the repository's master key, it needs no state of its own, and who holds
//! the table (an agent) learns nothing about the key.

use std::{cell::Cell, io::Read};

use aws_lc_rs::hmac;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::format::crypto::KeyBytes;

/// Which set of constants cuts the content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chunking {
    /// FastCDC: finds equal content again after insertions.
    #[default]
    Content,
    /// Every 1 MiB: for data that changes in place.
    Fixed,
}

impl Chunking {
    /// The value after `kuramori.chunk=`.
    pub const fn set(self) -> &'static str {
        match self {
            Self::Content => "cdc-1",
            Self::Fixed => "fixed-1",
        }
    }

    /// The tag that a snapshot carries.
    pub fn tag(self) -> String {
        format!("kuramori.chunk={}", self.set())
    }
}

const MIN: usize = 512 << 10;
const NORMAL: usize = 1 << 20;
const MAX: usize = 8 << 20;
const FIXED: usize = 1 << 20;
/// How far to read ahead before the first look for a cut: most are found here, while the bytes are still
/// in the processor's cache.
const AHEAD: usize = 2 << 20;

/// Lengths that pieces of a long run of zeros can have: of the largest size by content, of a fixed size, and what
/// restic's cutter makes of them.
pub(crate) const ZERO_LENGTHS: [u64; 3] = [MAX as u64, FIXED as u64, MIN as u64];

/// Bytes that a reader of content holds at most besides the chunks it hands on.
pub const BUFFER_MAX: usize = 2 * MAX;

/// The secret table and the masks.
pub struct Cutter {
    chunking: Chunking,
    gear: [u64; 256],
    shifted: [u64; 256],
    masks: (u64, u64),
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("chunking", &self.chunking).finish_non_exhaustive()
    }
}

/// Why cutting ended early.
#[derive(Debug)]
pub enum CutError<E> {
    /// The content could not be read to its end.
    Read(std::io::Error),
    /// The receiver of chunks refused one.
    Emit(E),
}

thread_local! {
    // One large buffer for each thread that reads large files; small ones never touch it.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Cutter {
    /// Derives the table: HMAC-SHA-256 in counter mode under the master key, with a label of its own.
    pub fn new(chunking: Chunking, master: &KeyBytes) -> Self {
        let mut key = zeroize::Zeroizing::new(Vec::with_capacity(64));
        key.extend_from_slice(&master.encrypt);
        key.extend_from_slice(&master.mac_k);
        key.extend_from_slice(&master.mac_r);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let mut gear = [0; 256];
        for (block, numbers) in (0_u32..).zip(gear.chunks_mut(4)) {
            let mut context = hmac::Context::with_key(&key);
            context.update(b"kuramori chunk table cdc-1");
            context.update(&block.to_be_bytes());
            for (number, bytes) in numbers.iter_mut().zip(context.sign().as_ref().chunks_exact(8)) {
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                *number = u64::from_le_bytes(word);
            }
        }
        Self::with_table(chunking, gear)
    }

    /// With a table that was derived elsewhere: an agent cuts as its repository does, without its key.
    pub fn with_table(chunking: Chunking, gear: [u64; 256]) -> Self {
        Self {
            chunking,
            gear,
            shifted: gear.map(|number| number << 1),
            masks: select_masks(NORMAL, Normalization::Level1),
        }
    }

    /// The table.
    pub fn table(&self) -> &[u64; 256] {
        &self.gear
    }

    /// The length of the first chunk of `bytes`. Only `bytes.len()` itself may change when more follows.
    fn cut(&self, bytes: &[u8]) -> usize {
        match self.chunking {
            Chunking::Fixed => bytes.len().min(FIXED),
            Chunking::Content => {
                let (strict, loose) = self.masks;
                let (_, length) = cut_gear(
                    bytes,
                    MIN,
                    NORMAL,
                    MAX,
                    strict,
                    loose,
                    strict << 1,
                    loose << 1,
                    &self.gear,
                    &self.shifted,
                );
                length
            }
        }
    }

    /// Content up to this size is one chunk, uncut.
    pub const fn whole(&self) -> usize {
        match self.chunking {
            Chunking::Content => MIN,
            Chunking::Fixed => FIXED,
        }
    }

    /// Reads `content` to its end and emits its chunks in order. `hint` is the size that was announced.
    /// Gives the number of bytes.
    pub fn cut_all<E>(
        &self,
        content: &mut dyn Read,
        hint: u64,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<u64, CutError<E>> {
        let whole = self.whole();
        let expected = usize::try_from(hint).unwrap_or(usize::MAX).min(whole) + 1;
        let mut head = Vec::with_capacity(expected);
        content.take(whole as u64 + 1).read_to_end(&mut head).map_err(CutError::Read)?;
        if head.len() <= whole {
            let length = head.len() as u64;
            if length > 0 {
                emit(head).map_err(CutError::Emit)?;
            }
            return Ok(length);
        }
        let mut buffer = BUFFER.take();
        buffer.clear();
        buffer.extend_from_slice(&head);
        drop(head);
        let outcome = self.cut_long(content, &mut buffer, emit);
        BUFFER.set(buffer);
        outcome
    }

    fn cut_long<E>(
        &self,
        content: &mut dyn Read,
        buffer: &mut Vec<u8>,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<u64, CutError<E>> {
        let (mut start, mut total, mut ended) = (0, 0, false);
        let mut fill = |buffer: &mut Vec<u8>, start: usize, ended: &mut bool, want: usize| {
            let have = buffer.len() - start;
            if !*ended && have < want {
                let read = content.take((want - have) as u64).read_to_end(buffer).map_err(CutError::Read)?;
                *ended = read < want - have;
            }
            Ok(())
        };
        loop {
            fill(buffer, start, &mut ended, AHEAD)?;
            let mut length = self.cut(&buffer[start..]);
            if length == buffer.len() - start && !ended {
                fill(buffer, start, &mut ended, MAX)?;
                length = self.cut(&buffer[start..]);
            }
            if length == 0 {
                return Ok(total);
            }
            emit(buffer[start..start + length].to_vec()).map_err(CutError::Emit)?;
            total += length as u64;
            start += length;
            if start >= AHEAD {
                buffer.drain(..start);
                start = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Random, SeededRandom};
    use proptest::prelude::*;

    use super::*;

    fn cutter(chunking: Chunking, key: u8) -> Cutter {
        Cutter::new(chunking, &KeyBytes::from_slice(&[key; 64]))
    }

    /// Gives at most `step` bytes at once, as a network does.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.read(&mut buffer[..step])
        }
    }

    fn pieces(cutter: &Cutter, content: &mut dyn Read, hint: u64) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let total = cutter
            .cut_all(content, hint, &mut |piece| {
                pieces.push(piece);
                Ok::<_, ()>(())
            })
            .unwrap();
        assert_eq!(total, pieces.iter().map(Vec::len).sum::<usize>() as u64);
        pieces
    }

    fn random(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        SeededRandom::new(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn cuts_where_the_whole_view_cuts_and_within_the_bounds() {
        let content = random(1, 40 << 20);
        let cutter = cutter(Chunking::Content, 3);
        let found = pieces(&cutter, &mut &content[..], 0);
        let mut rest = &content[..];
        for piece in &found {
            let length = cutter.cut(rest);
            assert_eq!(piece.len(), length);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        let (_, inner) = found.split_last().unwrap();
        assert!(inner.iter().all(|piece| (MIN..=MAX).contains(&piece.len())));
        let average = content.len() / found.len();
        assert!((800 << 10..1600 << 10).contains(&average), "{average}");
    }

    #[test]
    fn an_insertion_leaves_most_chunks_as_they_were() {
        let content = random(2, 30 << 20);
        let cutter = cutter(Chunking::Content, 3);
        let before = pieces(&cutter, &mut &content[..], 0);
        let mut changed = content;
        changed.splice(5_000_000..5_000_000, *b"inserted");
        let after = pieces(&cutter, &mut &changed[..], 0);
        let same = after.iter().filter(|piece| before.contains(piece)).count();
        assert!(same + 3 >= before.len(), "{same} of {}", before.len());
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let content = random(4, 12 << 20);
        let cuts = |key| {
            pieces(&cutter(Chunking::Content, key), &mut &content[..], 0)
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(cuts(1), cuts(1));
        assert_ne!(cuts(1), cuts(2));
    }

    #[test]
    fn uniform_content_is_cut_at_the_largest_size() {
        let zeros = vec![0; 20 << 20];
        let lengths: Vec<_> =
            pieces(&cutter(Chunking::Content, 1), &mut &zeros[..], 0).iter().map(Vec::len).collect();
        assert!(lengths.iter().all(|length| *length <= MAX), "{lengths:?}");
        let fixed: Vec<_> = pieces(&cutter(Chunking::Fixed, 1), &mut &zeros[..(3 << 20) + 5], 0)
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(fixed, [FIXED, FIXED, FIXED, 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_pieces_are_the_content(seed in any::<u64>(), length in 0_usize..6 << 20, step in 1000_usize..3 << 20, hint in any::<u64>(), fixed in any::<bool>()) {
            let content = random(seed, length);
            let chunking = if fixed { Chunking::Fixed } else { Chunking::Content };
            let slow = pieces(&cutter(chunking, 9), &mut Slow(&content, step), hint);
            prop_assert_eq!(slow.concat(), content.clone());
            prop_assert_eq!(slow, pieces(&cutter(chunking, 9), &mut &content[..], length as u64));
        }
    }
}
