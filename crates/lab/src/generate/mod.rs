//! Invented data with a seed: the same seed gives the same bytes, and every person in it is marked TEST.

pub mod clean;
pub mod dicom;
pub mod dump;
pub mod names;
pub mod pixels;
pub mod pool;
pub mod staff;

/// A number that `seed`, `what` and `which` decide, without any order of asking (SplitMix64's finish).
pub(crate) fn decide(seed: u64, what: u64, which: u64) -> u64 {
    let mut z = seed
        ^ what.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ which.wrapping_add(0x51_7C_C1_B7_27_22_0A_95).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    for factor in [0xBF58_476D_1CE4_E5B9_u64, 0x94D0_49BB_1331_11EB] {
        z = (z ^ (z >> 30)).wrapping_mul(factor);
    }
    z ^ (z >> 31)
}

/// One of a list.
pub(crate) fn pick<'a, T: ?Sized>(list: &[&'a T], number: u64) -> &'a T {
    list[usize::try_from(number % list.len() as u64).unwrap_or(0)]
}
