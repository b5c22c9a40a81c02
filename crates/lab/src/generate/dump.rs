//! The nightly dump of an ophthalmology system: what its vendor's program leaves in a folder.
//!
//! Every file's name, size and content follow from the seed, its number and the night in which it last
//! changed, so that any night can be written again without remembering the others.

use kuramori_model::clock::{Random, SeededRandom};

use super::{decide, names::patient, pick};

/// How large a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Where everything comes from.
    pub seed: u64,
    /// Files in the first night, the large ones among them.
    pub files: u64,
    /// Videos among them.
    pub large: u64,
    /// The smallest and largest video in bytes.
    pub large_bytes: (u64, u64),
}

/// Per cent of the files that change from one night to the next.
const CHANGED: u64 = 3;

impl Plan {
    /// The numbers of the files that exist in a night. Each night adds one per cent and loses a few.
    pub fn alive(&self, night: u64) -> impl Iterator<Item = u64> + use<> {
        let plan = *self;
        let added = (self.files / 100).max(1) * night;
        (0..self.files + added).filter(move |id| {
            let dies = decide(plan.seed, 41, *id) % 400;
            // Videos stay; of the rest about one in 400 goes each night.
            *id < plan.large || dies == 0 || dies > night
        })
    }

    /// The last night up to `night` in which the file was written.
    pub fn version(&self, id: u64, night: u64) -> u64 {
        let step = (self.files / 100).max(1);
        let born = if id < self.files { 0 } else { (id - self.files) / step + 1 };
        let changes = |n: &u64| decide(self.seed, 42 + (n << 8), id) % 100 < CHANGED;
        (born + 1..=night).rev().find(changes).unwrap_or(born)
    }

    /// The file's path inside the dump, with all that Japanese file names bring.
    pub fn path(&self, id: u64) -> String {
        let of = |what| decide(self.seed, what, id);
        if id < self.large {
            return format!("手術動画/2026年/TEST手術_{id:03}（右眼）.mp4");
        }
        let who = patient(self.seed, id / 9);
        let month = 1 + decide(self.seed, 51, id / 9) % 12;
        let eye = pick(&["右", "左", "両眼"], of(52));
        let name = match id % 6 {
            0 => format!("眼底写真_{eye}_{id:06}.jpg"),
            1 => format!("OCT黄斑部①_{eye} {id}.img"),
            2 => format!("視力・眼圧〜経過_{id}.csv"),
            3 => format!("ｶﾞﾝｱﾂ_{eye}_{id}.csv"),
            4 => format!("所見レポート（{eye}）_{id}.xml"),
            _ => format!("ハンフリー視野_{eye}_{id}.xml"),
        };
        format!("検査データ/2026年/{month:02}月/{}_{}/{name}", who.id, who.name)
    }

    /// The file's size in bytes.
    pub fn size(&self, id: u64, version: u64) -> u64 {
        let of = decide(self.seed, 61 + (version << 8), id);
        if id < self.large {
            let (least, most) = self.large_bytes;
            least + of % (most - least).max(1)
        } else {
            1024 + of % (39 << 10)
        }
    }

    /// Gives the file's content piece by piece to `sink`.
    pub fn content<E>(
        &self,
        id: u64,
        version: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let random = SeededRandom::new(decide(self.seed, 71 + (version << 8), id));
        let mut left = usize::try_from(self.size(id, version)).unwrap_or(0);
        let text = id >= self.large && id % 6 >= 2;
        while left > 0 {
            let mut piece =
                if text { lines(&random, id, left.min(1 << 20)) } else { vec![0; left.min(1 << 20)] };
            if !text {
                random.fill(&mut piece);
            }
            sink(&piece)?;
            left -= piece.len();
        }
        Ok(())
    }
}

/// Measurements as vendors export them: much the same on every line, hence easy to compress.
fn lines(random: &SeededRandom, id: u64, bytes: usize) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes + 128);
    while text.len() < bytes {
        let (tens, whole, minute) = (random.below(20), 8 + random.below(20), random.below(60));
        let _ = writeln!(
            text,
            "TEST{id:06},2026-11-{:02},09:{minute:02},視力,0.{tens:02},眼圧,{whole}.0,mmHg,異常なし",
            1 + tens
        );
    }
    let mut end = text.into_bytes();
    // May cut a letter in two, as a vendor's buffer of a fixed length does.
    end.truncate(bytes);
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { seed: 3, files: 2_000, large: 2, large_bytes: (5 << 20, 6 << 20) };

    #[test]
    fn paths_differ_and_contents_have_the_promised_size() {
        let paths: std::collections::BTreeSet<_> = PLAN.alive(0).map(|id| PLAN.path(id)).collect();
        assert_eq!(paths.len(), 2_000);
        for id in [0, 5, 6, 7, 8, 9] {
            let mut size = 0;
            PLAN.content(id, 0, |piece| {
                size += piece.len() as u64;
                Ok::<_, ()>(())
            })
            .unwrap();
            assert_eq!(size, PLAN.size(id, 0), "file {id}");
        }
    }

    #[test]
    fn a_night_changes_adds_and_removes_a_few() {
        let first: Vec<u64> = PLAN.alive(0).collect();
        let second: Vec<u64> = PLAN.alive(1).collect();
        let changed = second.iter().filter(|id| PLAN.version(**id, 1) == 1).count();
        assert!((40..160).contains(&changed), "{changed}");
        assert!(first.iter().any(|id| !second.contains(id)), "one goes");
        assert!(second.contains(&2_000) && PLAN.version(2_000, 1) == 1, "one comes");
    }
}
