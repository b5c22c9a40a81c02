//! Pages of SQLite and PostgreSQL.

use super::{
    Flaw, FlawKind, Input, Structure,
    bits::{be16, be32, le16},
};
use crate::{
    class::is_postgres_page,
    statistics::{RUN, Statistics},
};

/// Pages with a wrong checksum but a right header before it counts: a base backup of a running server may
/// hold torn pages that its log mends.
const TORN_MAX: u64 = 2;

/// The header's sizes, and for each page either a b-tree page or a pointer that stays inside the file
/// (`SQLite` file format, 1.3 to 1.6).
pub(super) fn sqlite(input: &mut Input<'_>) -> Result<Structure, Flaw> {
    let header = input.take::<100>()?;
    let size = match be16(&header[16..]) {
        1 => 65_536_usize,
        size if size.is_power_of_two() && size >= 512 => usize::from(size),
        _ => return Err(input.garbled("the page size is impossible")),
    };
    if header[21..24] != [64, 32, 32] || !matches!(header[18], 1 | 2) {
        return Err(input.garbled("the header's fixed values are wrong"));
    }
    let pages = input.length() / size as u64;
    let announced = u64::from(be32(&header[28..]));
    // The count is only valid if the change counter says so. A copy of a running database may be ahead of it.
    if header[24..28] == header[92..96] && announced > pages {
        return Err(input.cut(format!("{announced} pages are announced and {pages} are there")));
    }
    if !input.length().is_multiple_of(size as u64) {
        return Err(Flaw {
            at: pages * size as u64,
            kind: FlawKind::Trailing,
            why: "the last page is not whole".into(),
        });
    }
    let mut page = vec![0; size];
    page[..100].copy_from_slice(&header);
    input.fill(&mut page[100..])?;
    let lock_page = (1 << 30) / size as u64 + 1;
    for number in 1..=pages {
        if number > 1 {
            input.fill(&mut page)?;
        }
        let start = if number == 1 { 100 } else { 0 };
        let fits = b_tree(&page, start) || u64::from(be32(&page)) <= pages || number == lock_page;
        if !fits {
            let at = (number - 1) * size as u64;
            return Err(Flaw {
                at,
                kind: FlawKind::Garbled,
                why: format!("page {number} is no page of this file"),
            });
        }
    }
    Ok(Structure::Whole)
}

/// Kind, number of cells, and where their content begins.
fn b_tree(page: &[u8], start: usize) -> bool {
    let inner = match page.get(start) {
        Some(2 | 5) => 12,
        Some(10 | 13) => 8,
        _ => return false,
    };
    let (cells, content) = (usize::from(be16(&page[start + 3..])), usize::from(be16(&page[start + 5..])));
    let content = if content == 0 { 65_536 } else { content };
    content <= page.len() && start + inner + 2 * cells <= content
}

/// Every page of 8 KiB: zeros, or a header that can be, and the checksum where one is kept.
pub(super) fn postgres(input: &mut Input<'_>, segment: u32) -> Result<Structure, Flaw> {
    const SEGMENT: u32 = 131_072;
    let mut torn: Option<(u64, u64)> = None;
    let mut block = segment.saturating_mul(SEGMENT);
    let mut summed = true;
    while input.left() > 0 {
        let at = input.at();
        let page = input.take::<8192>()?;
        let sum = le16(&page[8..]);
        if page.iter().any(|byte| *byte != 0) {
            if !is_postgres_page(&page) {
                return Err(Flaw {
                    at,
                    kind: FlawKind::Garbled,
                    why: "a page has an impossible header".into(),
                });
            }
            if sum == 0 {
                summed = false;
            } else if page_sum(&page, block) != sum {
                // A torn page is made of two right halves; cipher text is not.
                let mut pieces = Statistics::default();
                pieces.take(&page);
                if pieces.longest >= RUN {
                    return Err(Flaw {
                        at,
                        kind: FlawKind::Garbled,
                        why: "a page does not have its checksum".into(),
                    });
                }
                let (first, count) = torn.unwrap_or((at, 0));
                torn = Some((first, count + 1));
            }
        }
        block = block.wrapping_add(1);
    }
    match torn {
        Some((at, count)) if count > TORN_MAX => Err(Flaw {
            at,
            kind: FlawKind::Garbled,
            why: format!("{count} pages do not have their checksum"),
        }),
        _ => Ok(if summed { Structure::Whole } else { Structure::Framed }),
    }
}

/// `pd_checksum` (storage/checksum.h): 32 parallel sums in the manner of FNV-1a over the page with the
/// checksum itself as zero, folded, mixed with the block's number, never 0.
pub(super) fn page_sum(page: &[u8; 8192], block: u32) -> u16 {
    const PRIME: u32 = 16_777_619;
    const START: [u32; 32] = [
        0x5B1F_36E9,
        0xB852_5960,
        0x02AB_50AA,
        0x1DE6_6D2A,
        0x79FF_467A,
        0x9BB9_F8A3,
        0x217E_7CD2,
        0x83E1_3D2C,
        0xF8D4_474F,
        0xE39E_B970,
        0x42C6_AE16,
        0x9932_16FA,
        0x7B09_3B5D,
        0x98DA_FF3C,
        0xF718_902A,
        0x0B1C_9CDB,
        0xE58F_764B,
        0x1876_36BC,
        0x5D7B_3BB1,
        0xE73D_E7DE,
        0x92BE_C979,
        0xCCA6_C0B2,
        0x304A_0979,
        0x85AA_43D4,
        0x7831_25BB,
        0x6CA8_EAA2,
        0xE407_EAC6,
        0x4B5C_FC3E,
        0x9FBF_8C76,
        0x15CA_20BE,
        0xF2CA_9FD3,
        0x959B_D756,
    ];
    let step = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    let mut sums = START;
    for (number, word) in page.chunks_exact(4).enumerate() {
        let mut value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        if number == 2 {
            value &= 0xffff_0000;
        }
        let sum = &mut sums[number % 32];
        *sum = step(*sum, value);
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = step(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(folded % 65_535).unwrap_or(0) + 1
}
