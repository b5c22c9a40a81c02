//! Examining one file: kind, structure, statistics.

use std::io::BufRead;

use kuramori_repo::format::node::Node;

use crate::{
    class::{Class, HEAD},
    content::{Content, Meter},
    error::Result,
    statistics::RUN,
    structure::{self, Flaw, FlawKind, Learnt, Structure, tail_flaw},
};

/// What is known of a file after it was read.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) class: Class,
    pub(crate) structure: Structure,
    pub(crate) learnt: Learnt,
    /// Rule D4: where cipher text begins inside of text.
    pub(crate) cipher: Option<u64>,
    /// The first bytes, at most 16.
    pub(crate) begins: Vec<u8>,
    /// Whether most of it looks like cipher text; never a reason of its own.
    pub(crate) uniform: bool,
}

impl Facts {
    /// The flaw, if its structure has one.
    pub(crate) const fn flaw(&self) -> Option<&Flaw> {
        self.structure.flaw()
    }

    /// Whether nothing vouches for the content: it could be cipher text and nobody would see it.
    pub(crate) const fn is_unverified(&self) -> bool {
        matches!(self.structure, Structure::Unchecked) && !self.class.is_text()
            || matches!(self.class, Class::Xz | Class::SevenZip | Class::Sealed)
    }

    /// Whether it is a dump, or holds one.
    pub(crate) fn is_dump(&self) -> bool {
        self.class == Class::SqlDump || self.learnt.inside == Some(Class::SqlDump)
    }
}

/// Reads a file whole. None if the byte budget ended inside of it.
pub(crate) fn examine(meter: &Meter<'_>, node: &Node) -> Result<Option<Facts>> {
    let blobs = node.content.as_deref().unwrap_or_default();
    let mut content = Content::new(meter, blobs);
    let head = beginning(&mut content);
    let class = Class::detect(&head, node.size);
    let (mut structure, learnt) = structure::examine(class, &mut content, node.size, segment(&node.name));
    content.drain();
    if let Some(fault) = content.fault() {
        return Err(fault.into());
    }
    if content.spent() {
        return Ok(None);
    }
    let seen = &content.statistics;
    let wide = head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]);
    let mut cipher = None;
    if class.is_text() {
        if seen.longest >= RUN {
            cipher = Some(seen.longest_at);
        }
        if seen.controls > 0 && !wide {
            structure = Structure::Flawed(Flaw {
                at: seen.controls_at,
                kind: FlawKind::Garbled,
                why: "bytes that no text has".into(),
            });
        } else if seen.zeros > 0 {
            structure = Structure::Flawed(Flaw {
                at: seen.zeros_at,
                kind: FlawKind::Cut,
                why: "it goes over into zeros".into(),
            });
        }
    }
    if structure.flaw().is_none() {
        let ends = structure::Ends { head: &head, tail: seen.tail(), length: node.size };
        if let Some(flaw) = tail_flaw(class, &ends) {
            structure = Structure::Flawed(flaw);
        }
    }
    let uniform = seen.pieces > 0 && seen.uniform * 10 >= seen.pieces * 9;
    let begins = head[..head.len().min(16)].to_vec();
    Ok(Some(Facts { class, structure, learnt, cipher, begins, uniform }))
}

/// The kind of a file, from its first blob alone.
pub(crate) fn kind(meter: &Meter<'_>, node: &Node) -> Result<Class> {
    let blobs = node.content.as_deref().unwrap_or_default();
    let mut content = Content::new(meter, blobs);
    let head = beginning(&mut content);
    if let Some(fault) = content.fault() {
        return Err(fault.into());
    }
    Ok(Class::detect(&head, node.size))
}

/// Whether a file has exactly these bytes.
pub(crate) fn equals(meter: &Meter<'_>, node: &Node, expected: &[u8]) -> Result<bool> {
    if node.size != expected.len() as u64 {
        return Ok(false);
    }
    let mut content = Content::new(meter, node.content.as_deref().unwrap_or_default());
    let mut bytes = Vec::with_capacity(expected.len());
    let read = std::io::Read::read_to_end(&mut content, &mut bytes);
    match content.fault() {
        Some(fault) => Err(fault.into()),
        None => Ok(read.is_ok() && bytes == expected),
    }
}

/// The first bytes, without taking them.
fn beginning(content: &mut Content<'_>) -> Vec<u8> {
    match content.fill_buf() {
        Ok(bytes) => bytes[..bytes.len().min(HEAD)].to_vec(),
        Err(_) => Vec::new(),
    }
}

/// The number of a PostgreSQL relation's segment: `16384.2` is the second after the first.
fn segment(name: &[u8]) -> u32 {
    let text = std::str::from_utf8(name).unwrap_or_default();
    match text.split_once('.') {
        Some((relation, number)) if relation.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().unwrap_or(0)
        }
        _ => 0,
    }
}
