//! Judges whether a restore point was poisoned: encrypted, emptied, swapped or slowly spoilt.
//!
//! **In** come a restore point of a repository, the last point that was found clean, the oldest clean one that
//! is still kept, and the system's [`Profile`]: what is normal there. **Out** come a [`Report`]: a verdict
//! with the files, offsets, the last good version and the first bad sequence, and the profile as it is to be
//! stored. Only what differs from the last clean point is read, each file once, as a stream.
//!
//! The rules, each named in the report:
//!
//! | rule | asks |
//! |---|---|
//! | D1 | did an object change or vanish that never does (a DICOM instance's pixels, configured paths)? |
//! | D2 | does a file still have the structure of its kind, to its end, with every checksum? |
//! | D3 | is a file still what it was, or what such files are in this system? |
//! | D4 | are there runs of pieces that look like cipher text inside of text? |
//! | D5 | did the source behave as never before: renames, deletions, everything rewritten? |
//! | D6 | are the planted files untouched? |
//! | D7 | do ransom notes and extensions support it? They never decide. |
//! | D8 | does little by little add up, and is what the oldest clean point holds still so? |
//!
//! **What can go wrong:** a store that cannot be read (an error, never a verdict), a budget that ends before
//! the data do (no verdict, and it says so), a forged tree (the engine refuses it), a file that is made to
//! exhaust a parser (all of them stream in constant memory and have limits).
//!
//! **Invariant:** decides nothing but the verdict; writes nothing; no verdict rests on entropy or on a file's
//! extension alone. Must only run while the gate is closed: it parses what the other side wrote.

pub mod canary;
pub mod class;
mod content;
mod diff;
pub mod error;
mod file;
mod inspect;
mod judge;
pub mod pattern;
pub mod policy;
pub mod profile;
pub mod report;
mod statistics;
mod structure;
mod tally;

pub use class::Class;
pub use error::{Error, Result};
pub use inspect::{Inspection, Point};
pub use policy::Policy;
pub use profile::Profile;
pub use report::{Evidence, Report, Rule, Verdict};
pub use structure::{Flaw, FlawKind, Structure, examine};
