//! The Merkle tree of RFC 6962, section 2.1: leaves are prefixed with 0x00, inner nodes with 0x01, and a
//! tree of n leaves splits at the largest power of two below n.

use aws_lc_rs::digest::{Context, SHA256};

use crate::error::{Error, Result};

/// A SHA-256 value.
pub type Hash = [u8; 32];

fn digest(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The hash of a leaf.
pub fn leaf_hash(data: &[u8]) -> Hash {
    digest(&[&[0], data])
}

/// The hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    digest(&[&[1], left, right])
}

/// The root over leaves that are already hashed. Of an empty tree it is the hash of nothing.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// The right edge of a growing tree: one hash for each complete subtree, so that a log of any length
/// appends with a few dozen hashes in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Complete subtrees from the left (largest) to the right (smallest); one for each set bit of `size`.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds one leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one bit of the size is a complete subtree of the same height as what we carry.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root over everything pushed so far.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return digest(&[]) };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// A proof that one tree begins with another (RFC 6962, section 2.1.2).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Consistency {
    /// The nodes, in the order of the RFC.
    #[serde(with = "hashes")]
    pub path: Vec<Hash>,
}

/// Builds the proof that the tree over all `leaves` begins with the tree over the first `old`.
///
/// # Errors
/// [`Error::BadNote`] if `old` is 0 or more than there are leaves.
pub fn consistency(leaves: &[Hash], old: u64) -> Result<Consistency> {
    let old = usize::try_from(old).map_err(|_| Error::BadNote("the size is too large"))?;
    if old == 0 || old > leaves.len() {
        return Err(Error::BadNote("there is no proof between these sizes"));
    }
    let mut path = Vec::new();
    subproof(leaves, old, true, &mut path);
    Ok(Consistency { path })
}

fn subproof(leaves: &[Hash], old: usize, whole: bool, path: &mut Vec<Hash>) {
    if old == leaves.len() {
        if !whole {
            path.push(root(leaves));
        }
        return;
    }
    let split = leaves.len().next_power_of_two() / 2;
    if old <= split {
        subproof(&leaves[..split], old, whole, path);
        path.push(root(&leaves[split..]));
    } else {
        subproof(&leaves[split..], old - split, false, path);
        path.push(root(&leaves[..split]));
    }
}

impl Consistency {
    /// Whether the proof links the two trees (the algorithm of RFC 9162, section 2.1.4.2).
    pub fn links(&self, old: u64, old_root: &Hash, new: u64, new_root: &Hash) -> bool {
        if old == 0 || old > new {
            return false;
        }
        if old == new {
            return self.path.is_empty() && old_root == new_root;
        }
        let mut path = self.path.iter();
        let (mut node, mut last) = (old - 1, new - 1);
        while node & 1 == 1 {
            node >>= 1;
            last >>= 1;
        }
        // A complete old tree is its own first node and is left out of the proof.
        let first = if node == 0 { Some(old_root) } else { path.next() };
        let Some(first) = first else { return false };
        let (mut of_old, mut of_new) = (*first, *first);
        for hash in path {
            if last == 0 {
                return false;
            }
            if node & 1 == 1 || node == last {
                of_old = node_hash(hash, &of_old);
                of_new = node_hash(hash, &of_new);
                while node & 1 == 0 && node != 0 {
                    node >>= 1;
                    last >>= 1;
                }
            } else {
                of_new = node_hash(&of_new, hash);
            }
            node >>= 1;
            last >>= 1;
        }
        last == 0 && of_old == *old_root && of_new == *new_root
    }
}

mod hashes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::SerializeSeq};

    use super::Hash;

    pub(super) fn serialize<S: Serializer>(path: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(path.len()))?;
        for hash in path {
            sequence.serialize_element(&hex::encode(hash))?;
        }
        sequence.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hash>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() > 128 {
            return Err(D::Error::custom("a proof has at most 128 nodes"));
        }
        texts
            .iter()
            .map(|text| {
                let mut hash = [0; 32];
                hex::decode_to_slice(text, &mut hash).map_err(D::Error::custom)?;
                Ok(hash)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves and roots that the Certificate Transparency implementations share as test vectors.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves() -> Vec<Hash> {
        LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect()
    }

    /// Section 2.1 of the RFC, word for word, to judge the frontier by.
    fn recursive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => digest(&[]),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(&recursive(&leaves[..split]), &recursive(&leaves[split..]))
            }
        }
    }

    #[test]
    fn the_published_roots_come_out() {
        assert_eq!(
            hex::encode(root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for (size, expected) in ROOTS.iter().enumerate() {
            assert_eq!(hex::encode(root(&leaves()[..=size])), *expected, "{} leaves", size + 1);
        }
    }

    #[test]
    fn the_published_consistency_proofs_come_out() {
        let expected: [(u64, usize, &[&str]); 4] = [
            (1, 1, &[]),
            (
                1,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                6,
                8,
                &[
                    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (
                2,
                5,
                &[
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ];
        for (old, new, path) in expected {
            let proof = consistency(&leaves()[..new], old).unwrap();
            assert_eq!(proof.path.iter().map(hex::encode).collect::<Vec<_>>(), path, "{old} to {new}");
        }
    }

    #[test]
    fn every_proof_links_its_trees_and_no_others() {
        let leaves: Vec<Hash> = (0..40u8).map(|n| leaf_hash(&[n])).collect();
        for new in 1..=leaves.len() {
            assert_eq!(root(&leaves[..new]), recursive(&leaves[..new]));
            for old in 1..=new {
                let proof = consistency(&leaves[..new], old as u64).unwrap();
                let (before, after) = (root(&leaves[..old]), root(&leaves[..new]));
                let links = |old_root: &Hash, new_root: &Hash, proof: &Consistency| {
                    proof.links(old as u64, old_root, new as u64, new_root)
                };
                assert!(links(&before, &after, &proof), "{old} to {new}");
                assert!(!links(&leaf_hash(b"x"), &after, &proof));
                assert!(!links(&before, &leaf_hash(b"x"), &proof));
                let mut longer = proof.clone();
                longer.path.push([7; 32]);
                assert!(!links(&before, &after, &longer));
                for index in 0..proof.path.len() {
                    let mut changed = proof.clone();
                    changed.path[index][3] ^= 1;
                    assert!(!links(&before, &after, &changed));
                }
            }
        }
        assert!(consistency(&leaves, 0).is_err());
        assert!(consistency(&leaves, 41).is_err());
    }
}
