//! Measures inspection: how much of each attack it notices in each kind of file, whether a whole source raises
//! the alarm, and how often it cries wolf over clean days.
//!
//! Everything goes the real way: files through the engine into a repository, back out through
//! `kuramori-inspect`. The limits were fixed while looking at seeds 0 to 99 only; what is reported comes from
//! other seeds.

mod bench;
mod dwell;
mod figures;
mod paper;
mod rig;
mod source;

pub use bench::{Amount, measure};
pub use dwell::{Counts, DwellEvidence, Dwellings, dwell};
pub use figures::{Evidence, Rate};
pub use paper::{english, japanese};
pub use rig::Rig;
pub use source::{Department, Source};
