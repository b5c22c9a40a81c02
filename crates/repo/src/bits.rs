//! One bit for each entry of an index: what a walk has seen.

/// A set of positions.
#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// Room for `length` positions, none of them set.
    pub(crate) fn new(length: usize) -> Self {
        Self(vec![0; length.div_ceil(64)])
    }

    /// Sets a position. Gives whether it was free before; a position outside the set never is.
    pub(crate) fn insert(&mut self, position: usize) -> bool {
        let Some(word) = self.0.get_mut(position / 64) else { return false };
        let bit = 1 << (position % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Whether the position is set.
    pub(crate) fn contains(&self, position: usize) -> bool {
        self.0.get(position / 64).is_some_and(|word| word & (1 << (position % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_fresh_once() {
        let mut bits = Bits::new(70);
        assert!(bits.insert(69) && !bits.insert(69) && bits.contains(69));
        assert!(!bits.contains(68) && !bits.contains(1000) && !bits.insert(1000));
    }
}
