//! Which blocks lie in the overlay: one bit each in memory (32 MiB for a disk of 1 TiB), and which pages of bits
//! are not written yet.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::layout::PAGE;

/// Bits of one word, words of one page.
const WORD: u64 = 64;
const WORDS: usize = PAGE / 8;

#[derive(Debug)]
pub(super) struct Marks {
    words: Vec<AtomicU64>,
    dirty: Vec<AtomicBool>,
    count: AtomicU64,
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Marks {
    /// Reads all pages by `read`, which gets each page's place behind the header.
    pub(super) fn load(
        blocks: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let pages = index(blocks.div_ceil(8).div_ceil(PAGE as u64));
        let mut marks = Self {
            words: Vec::with_capacity(pages * WORDS),
            dirty: (0..pages).map(|_| AtomicBool::new(false)).collect(),
            count: AtomicU64::new(0),
        };
        let mut page = [0; PAGE];
        let mut count = 0;
        for number in 0..pages {
            read((number * PAGE) as u64, &mut page)?;
            for bytes in page.chunks_exact(8) {
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                let word = u64::from_le_bytes(word);
                count += u64::from(word.count_ones());
                marks.words.push(AtomicU64::new(word));
            }
        }
        *marks.count.get_mut() = count;
        Ok(marks)
    }

    /// Blocks that are marked.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn has(&self, block: u64) -> bool {
        self.words[index(block / WORD)].load(Ordering::Acquire) >> (block % WORD) & 1 == 1
    }

    /// From `block` to at most `end`: where the run of equal marks ends, and what they are.
    pub(super) fn run(&self, block: u64, end: u64) -> (u64, bool) {
        let present = self.has(block);
        let mut at = block + 1;
        while at < end {
            let word = self.words[index(at / WORD)].load(Ordering::Acquire);
            let differing = if present { !word } else { word } >> (at % WORD);
            if differing == 0 {
                at = (at / WORD + 1) * WORD;
            } else {
                at += u64::from(differing.trailing_zeros());
                break;
            }
        }
        (at.min(end), present)
    }

    /// Marks the blocks from `first` to before `end`.
    pub(super) fn set(&self, first: u64, end: u64) {
        let mut at = first;
        while at < end {
            let low = at % WORD;
            let high = (low + end - at).min(WORD);
            let bits = (u64::MAX >> (WORD - (high - low))) << low;
            let number = index(at / WORD);
            let before = self.words[number].fetch_or(bits, Ordering::AcqRel);
            let fresh = bits & !before;
            if fresh != 0 {
                self.count.fetch_add(u64::from(fresh.count_ones()), Ordering::Relaxed);
                // After the bits: whoever takes the page now sees them, or finds it dirty once more.
                self.dirty[number / WORDS].store(true, Ordering::Release);
            }
            at += high - low;
        }
    }

    /// Copies of at most `most` pages that are not written yet, from page `from` on; and where to go on, if there
    /// may be more.
    pub(super) fn take_dirty(&self, from: usize, most: usize) -> (Vec<(u64, Vec<u8>)>, Option<usize>) {
        let mut pages = Vec::new();
        for (number, dirty) in self.dirty.iter().enumerate().skip(from) {
            if pages.len() == most {
                return (pages, Some(number));
            }
            if dirty.swap(false, Ordering::AcqRel) {
                let words = &self.words[number * WORDS..(number + 1) * WORDS];
                let page = words.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect();
                pages.push((number as u64, page));
            }
        }
        (pages, None)
    }
}
