//! Rule D2: does a file have the structure of its kind, to its end, with every checksum?
//!
//! Each parser reads a stream once, forward, in constant memory, and stops at the first thing that cannot be.
//! What a parser cannot judge it leaves alone: an unknown method is no flaw.

mod archive;
mod bits;
mod database;
mod dicom;
mod document;
mod image;
mod input;

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use crate::class::Class;

pub(crate) use input::Input;

/// How a structure fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlawKind {
    /// It ends too early, or goes over into zeros: what a torn copy or a full disk leaves.
    Cut,
    /// Bytes that cannot be there.
    Garbled,
    /// Whole, and then more bytes.
    Trailing,
}

/// Where and how a structure fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// Byte offset in the file.
    pub at: u64,
    /// How.
    pub kind: FlawKind,
    /// In words.
    pub why: String,
}

/// What a parser says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    /// Right to its end.
    Whole,
    /// Its frame is right; the content cannot be checked without decoding it.
    Framed,
    /// Wrong.
    Flawed(Flaw),
    /// Nothing can be said about this kind.
    Unchecked,
}

impl Structure {
    /// The flaw, if there is one.
    pub const fn flaw(&self) -> Option<&Flaw> {
        match self {
            Self::Flawed(flaw) => Some(flaw),
            _ => None,
        }
    }
}

/// What a parser learnt besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learnt {
    /// DICOM: the SOP instance UID.
    pub instance: Option<String>,
    /// DICOM: SHA-256 of the pixel data as stored.
    pub pixels: Option<[u8; 32]>,
    /// Of a compressed stream: the kind of what is inside.
    pub inside: Option<Class>,
}

/// Judges a stream that [`Class::detect`] has classed. `length` is the file's size in bytes, `segment` the
/// number behind the dot of a PostgreSQL relation's file.
pub fn examine(class: Class, content: &mut dyn BufRead, length: u64, segment: u32) -> (Structure, Learnt) {
    let mut learnt = Learnt::default();
    let mut input = Input::new(content, length);
    let judged = match class {
        Class::Dicom => dicom::check(&mut input, &mut learnt),
        Class::Png => image::png(&mut input),
        Class::Jpeg => image::jpeg(&mut input),
        Class::Jpeg2000 => image::jpeg2000(&mut input),
        Class::Gzip => archive::gzip(&mut input, &mut learnt),
        Class::Zip => archive::zip(&mut input),
        Class::Xz => archive::xz(&mut input),
        Class::SevenZip => archive::seven_zip(&mut input),
        Class::Zstd => archive::zstd(&mut input, &mut learnt),
        Class::Sqlite => database::sqlite(&mut input),
        Class::PostgresPages => database::postgres(&mut input, segment),
        Class::Mp4 => document::mp4(&mut input),
        Class::Sealed => document::sealed(&mut input),
        _ => return (Structure::Unchecked, learnt),
    };
    let structure = match judged {
        Ok(structure) => structure,
        Err(flaw) => Structure::Flawed(flaw),
    };
    (structure, learnt)
}

pub(crate) use document::{Ends, tail_flaw};
