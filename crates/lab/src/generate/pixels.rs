//! Pictures that look enough like a section through a body: an outline, organs that change from slice to
//! slice, a bright ring of bone, and the detector's noise, which is what makes real images hard to compress.

use kuramori_model::clock::SeededRandom;

use super::decide;

/// Sixteen-bit pixels of which 12 bits are used, row by row, little-endian.
pub fn slice(seed: u64, study: u64, slice: u64, side: u16) -> Vec<u8> {
    let noise = SeededRandom::new(decide(seed, 0x7069_7865, study << 16 | slice));
    let half = i64::from(side) / 2;
    // (centre x, centre y, radius, grey), all relative to a half side of 1000.
    let organs: Vec<(i64, i64, i64, u16)> = (0..6_u16)
        .map(|organ| {
            let of =
                |what| i64::try_from(decide(seed, what, study * 8 + u64::from(organ)) % 700).unwrap_or(0);
            let wander = i64::try_from(slice * u64::from(organ + 1) * 5 % 220).unwrap_or(0);
            (of(11) - 350, of(12) - 350 + wander - 110, 60 + of(13) / 4 + wander / 3, 900 + organ * 130)
        })
        .collect();
    let mut bytes = Vec::with_capacity(usize::from(side) * usize::from(side) * 2);
    let (mut pool, mut left) = (0_u64, 0_u32);
    for row in 0..i64::from(side) {
        for column in 0..i64::from(side) {
            let (x, y) = ((column - half) * 1000 / half, (row - half) * 1000 / half);
            let outline = x * x * 10 / 9 + y * y * 14 / 9;
            let mut grey: u16 = match outline {
                0..=640_000 => 1040,
                640_001..=740_000 => 2300,
                740_001..=820_000 => 950,
                _ => 20,
            };
            if outline < 640_000 {
                for (cx, cy, radius, value) in &organs {
                    let (dx, dy) = (x - cx, y - cy);
                    if dx * dx + dy * dy < radius * radius {
                        grey = *value;
                    }
                }
            }
            if left == 0 {
                (pool, left) = (noise.next(), 12);
            }
            let value = (grey + (pool & 0x1f) as u16) & 0x0fff;
            (pool, left) = (pool >> 5, left - 1);
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}
