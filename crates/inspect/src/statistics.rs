//! What a file's bytes look like, counted while they stream by.
//!
//! Rule D4 works on pieces of 1 KiB. Measured on SQL text of which every fifth 4 KiB block is encrypted, such
//! pieces are found always, pieces of 2 to 8 KiB never: a larger piece mixes text with cipher text.

/// Bytes of a piece.
pub(crate) const PIECE: usize = 1024;
/// Pieces in a row that look uniform before it counts.
pub(crate) const RUN: u64 = 3;
/// Chi-square over 256 values with 4 expected each: uniform bytes give 255 +- 23; text gives thousands.
const UNIFORM: u64 = 350;
/// Control bytes in a piece that no text has. Uniform bytes have about 90.
const CONTROLS: usize = 24;
/// Bytes kept from the end.
const TAIL: usize = 4096;

/// Counters over a whole file.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    counts: [u16; 256],
    filled: usize,
    bytes: u64,
    /// Pieces that were full.
    pub(crate) pieces: u64,
    /// Pieces that look like cipher text.
    pub(crate) uniform: u64,
    /// The longest run of such pieces.
    pub(crate) longest: u64,
    /// Where that run begins.
    pub(crate) longest_at: u64,
    run: u64,
    run_at: u64,
    /// Pieces with more control bytes than text has, and where the first one is.
    pub(crate) controls: u64,
    /// Where the first of them begins.
    pub(crate) controls_at: u64,
    /// Pieces of zeros.
    pub(crate) zeros: u64,
    /// Where the first of them begins.
    pub(crate) zeros_at: u64,
    tail: Vec<u8>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            counts: [0; 256],
            filled: 0,
            bytes: 0,
            pieces: 0,
            uniform: 0,
            longest: 0,
            longest_at: 0,
            run: 0,
            run_at: 0,
            controls: 0,
            controls_at: 0,
            zeros: 0,
            zeros_at: 0,
            tail: Vec::new(),
        }
    }
}

impl Statistics {
    /// Takes the next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        if bytes.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - TAIL..]);
        } else {
            self.tail.extend_from_slice(bytes);
            if self.tail.len() > 2 * TAIL {
                self.tail.drain(..self.tail.len() - TAIL);
            }
        }
        while !bytes.is_empty() {
            let part = bytes.len().min(PIECE - self.filled);
            for byte in &bytes[..part] {
                self.counts[usize::from(*byte)] += 1;
            }
            self.filled += part;
            self.bytes += part as u64;
            bytes = &bytes[part..];
            if self.filled == PIECE {
                self.close();
            }
        }
    }

    /// Judges what is left of the last piece.
    pub(crate) fn end(&mut self) {
        if self.filled >= 64 {
            let controls = self.count_controls();
            if controls * PIECE > CONTROLS * self.filled && controls >= 4 {
                self.note_controls(self.bytes - self.filled as u64);
            }
        }
        self.filled = 0;
        self.counts = [0; 256];
    }

    /// The last bytes, at most 4 KiB.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.tail[self.tail.len().saturating_sub(TAIL)..]
    }

    fn count_controls(&self) -> usize {
        (0_u8..=255)
            .filter(|byte| is_control(*byte))
            .map(|byte| usize::from(self.counts[usize::from(byte)]))
            .sum()
    }

    fn note_controls(&mut self, at: u64) {
        if self.controls == 0 {
            self.controls_at = at;
        }
        self.controls += 1;
    }

    fn close(&mut self) {
        let at = self.bytes - PIECE as u64;
        let expected = PIECE as u64 / 256;
        let square: u64 = self
            .counts
            .iter()
            .map(|count| {
                let off = u64::from(*count).abs_diff(expected);
                off * off
            })
            .sum();
        self.pieces += 1;
        if square / expected < UNIFORM {
            self.uniform += 1;
            if self.run == 0 {
                self.run_at = at;
            }
            self.run += 1;
            if self.run > self.longest {
                (self.longest, self.longest_at) = (self.run, self.run_at);
            }
        } else {
            self.run = 0;
        }
        if usize::from(self.counts[0]) == PIECE {
            if self.zeros == 0 {
                self.zeros_at = at;
            }
            self.zeros += 1;
        } else if self.count_controls() > CONTROLS {
            self.note_controls(at);
        }
        self.filled = 0;
        self.counts = [0; 256];
    }
}

/// Bytes that no text has. The separators of HL7 v2 (0x0b, 0x1c), form feed, escape (ISO 2022) and the
/// like are text.
pub(crate) const fn is_control(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0e..=0x1a | 0x7f)
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Random, SeededRandom};

    use super::*;

    fn noise(seed: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        SeededRandom::new(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn cipher_text_is_uniform_and_text_is_not() {
        let mut random = Statistics::default();
        random.take(&noise(1, 200 * PIECE));
        random.end();
        assert!(random.uniform >= 199 && random.longest >= 100, "{}", random.uniform);
        assert_eq!(random.controls, 200);
        let mut text = Statistics::default();
        text.take(
            "INSERT INTO kanja VALUES (1, '試験 太郎');\r\n\u{b}MSH|^~\\&|\u{1c}\r".repeat(9000).as_bytes(),
        );
        text.end();
        assert_eq!((text.uniform, text.controls), (0, 0));
    }

    #[test]
    fn pieces_do_not_depend_on_how_the_bytes_come() {
        let bytes = noise(2, 100_003);
        let mut whole = Statistics::default();
        whole.take(&bytes);
        whole.end();
        let mut parts = Statistics::default();
        for part in bytes.chunks(777) {
            parts.take(part);
        }
        parts.end();
        assert_eq!(
            (whole.uniform, whole.longest, whole.controls),
            (parts.uniform, parts.longest, parts.controls)
        );
        assert_eq!(whole.tail(), parts.tail());
    }

    #[test]
    fn a_few_wild_bytes_at_the_end_of_a_text_are_found() {
        let mut text = "血圧,120,80\n".repeat(1000).into_bytes();
        text.extend_from_slice(&noise(3, 300));
        let mut statistics = Statistics::default();
        statistics.take(&text);
        statistics.end();
        assert!(statistics.controls >= 1 && statistics.uniform == 0);
    }
}
