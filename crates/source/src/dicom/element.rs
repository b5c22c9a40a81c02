//! Data sets, as far as a query and a check of identity need them (PS3.5, section 7): little endian, explicit or
//! implicit, flat. What is nested is stepped over.

use std::collections::BTreeMap;

/// Group and element as one number: `0x0020_000D`.
pub(super) type Tag = u32;

pub(super) const SOP_CLASS: Tag = 0x0008_0016;
pub(super) const SOP_INSTANCE: Tag = 0x0008_0018;
pub(super) const STUDY_DATE: Tag = 0x0008_0020;
pub(super) const LEVEL: Tag = 0x0008_0052;
pub(super) const MODALITY: Tag = 0x0008_0060;
pub(super) const STUDY: Tag = 0x0020_000D;
pub(super) const SERIES: Tag = 0x0020_000E;
pub(super) const STUDY_INSTANCES: Tag = 0x0020_1208;
const PIXELS: Tag = 0x7FE0_0010;
const META_CLASS: Tag = 0x0002_0002;
const META_SYNTAX: Tag = 0x0002_0010;
const ITEM: Tag = 0xFFFE_E000;
const ITEM_END: Tag = 0xFFFE_E00D;
const SEQUENCE_END: Tag = 0xFFFE_E0DD;

/// Explicit VR little endian.
pub(super) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
/// Implicit VR little endian: the one that everybody speaks.
pub(super) const IMPLICIT: &str = "1.2.840.10008.1.2";
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

/// Names this program in files that it writes (PS3.7, D.3.3.2).
pub(super) const IMPLEMENTATION: &str = "2.25.138247601862910356177204419086530127";

/// How deep sequences may stand in each other.
const DEEPEST: u32 = 32;

/// Elements with their values, padding taken off.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Elements(pub(super) BTreeMap<Tag, Vec<u8>>);

impl Elements {
    /// A value as text; empty if it is absent.
    pub(super) fn text(&self, tag: Tag) -> &str {
        let value = self.0.get(&tag).map_or(&[][..], Vec::as_slice);
        std::str::from_utf8(value).unwrap_or_default().trim_matches(['\0', ' '])
    }

    /// A number in binary form (`US`).
    pub(super) fn short(&self, tag: Tag) -> Option<u16> {
        self.0.get(&tag)?.get(..2)?.try_into().ok().map(u16::from_le_bytes)
    }
}

/// Group, then element, each little endian.
fn tag_bytes(tag: Tag) -> [u8; 4] {
    let [a, b, c, d] = tag.to_be_bytes();
    [b, a, d, c]
}

/// Appends an element in implicit little endian; odd values are padded as UIDs are if `uid`, else with a space.
pub(super) fn put(out: &mut Vec<u8>, tag: Tag, value: &[u8], uid: bool) {
    let odd = value.len() % 2;
    let length = u32::try_from(value.len() + odd).unwrap_or(u32::MAX);
    out.extend(tag_bytes(tag));
    out.extend(length.to_le_bytes());
    out.extend(value);
    if odd == 1 {
        out.push(if uid { 0 } else { b' ' });
    }
}

/// A place in a data set.
struct Cursor<'a> {
    bytes: &'a [u8],
    explicit: bool,
}

/// What stands next: tag, length (none: until its delimiter), and whether it is a sequence by its type.
struct Head {
    tag: Tag,
    length: Option<usize>,
    sequence: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn half(&mut self) -> Option<u32> {
        self.take(2).map(|two| u32::from(two[0]) | u32::from(two[1]) << 8)
    }

    fn head(&mut self) -> Option<Head> {
        let tag = self.half()? << 16 | self.half()?;
        // Items and delimiters have no type in either form.
        let mut sequence = false;
        let length = if self.explicit && tag >> 16 != 0xFFFE {
            let vr = self.take(2)?;
            sequence = vr == b"SQ";
            match vr {
                b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR"
                | b"UT" | b"UV" => {
                    self.take(2)?;
                    self.half()? | self.half()? << 16
                }
                _ => self.half()?,
            }
        } else {
            self.half()? | self.half()? << 16
        };
        let length = if length == u32::MAX { None } else { Some(usize::try_from(length).ok()?) };
        Some(Head { tag, length, sequence })
    }

    /// Steps over what has no announced length, up to and with its delimiter.
    fn skip(&mut self, depth: u32) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        loop {
            let head = self.head()?;
            match (head.tag, head.length) {
                (SEQUENCE_END | ITEM_END, _) => return Some(()),
                (_, Some(length)) => drop(self.take(length)?),
                (_, None) => self.skip(depth + 1)?,
            }
        }
    }
}

/// The elements of a data set up to `last`; none if it makes no sense. A set that is cut after `last` is fine.
pub(super) fn parse(bytes: &[u8], explicit: bool, last: Tag) -> Option<Elements> {
    let mut cursor = Cursor { bytes, explicit };
    let mut found = Elements::default();
    while !cursor.bytes.is_empty() {
        let head = cursor.head()?;
        if head.tag > last {
            break;
        }
        match head.length {
            Some(length) if head.sequence => drop(cursor.take(length)?),
            Some(length) => drop(found.0.insert(head.tag, cursor.take(length)?.to_vec())),
            None => cursor.skip(0)?,
        }
    }
    Some(found)
}

/// A file as PS3.10 says: where its data set begins, and in which transfer syntax it is.
pub(super) fn file_meta(file: &[u8]) -> Option<(usize, String)> {
    let (at, _, syntax) = meta(file)?;
    Some((at, syntax))
}

/// The class that a file names for itself.
pub(super) fn meta_class(file: &[u8]) -> Option<String> {
    meta(file).map(|(_, class, _)| class).filter(|class| !class.is_empty())
}

fn meta(file: &[u8]) -> Option<(usize, String, String)> {
    if file.get(128..132)? != b"DICM" {
        return None;
    }
    let mut cursor = Cursor { bytes: &file[132..], explicit: true };
    let (mut class, mut syntax) = (String::new(), String::new());
    loop {
        let at = file.len() - cursor.bytes.len();
        // The data set begins where group 2 ends; its first bytes may be in another form.
        if cursor.bytes.get(..2) != Some(&[2, 0]) {
            return (!syntax.is_empty()).then_some((at, class, syntax));
        }
        let head = cursor.head()?;
        let value = cursor.take(head.length?)?;
        let text = String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
        match head.tag {
            META_CLASS => class = text,
            META_SYNTAX => syntax = text,
            _ => {}
        }
    }
}

/// The beginning of a file (preamble and group 2) for a data set that came over the network. It names no time
/// and no peer, so that equal data sets give equal files.
pub(super) fn file_head(class: &str, sop: &str, syntax: &str) -> Vec<u8> {
    let explicit = |tag: Tag, vr: [u8; 2], value: &[u8]| {
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(0);
        }
        let mut out = tag_bytes(tag).to_vec();
        out.extend(vr);
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        if vr == *b"OB" {
            out.extend([0, 0]);
            out.extend(u32::from(length).to_le_bytes());
        } else {
            out.extend(length.to_le_bytes());
        }
        out.extend(value);
        out
    };
    let meta = [
        explicit(0x0002_0001, *b"OB", &[0, 1]),
        explicit(META_CLASS, *b"UI", class.as_bytes()),
        explicit(0x0002_0003, *b"UI", sop.as_bytes()),
        explicit(META_SYNTAX, *b"UI", syntax.as_bytes()),
        explicit(0x0002_0012, *b"UI", IMPLEMENTATION.as_bytes()),
    ]
    .concat();
    let length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
    [vec![0; 128], b"DICM".to_vec(), explicit(0x0002_0000, *b"UL", &length.to_le_bytes()), meta].concat()
}

/// Class and instance as the data set itself names them, from the beginning of a file. None where the transfer
/// syntax hides it (deflated, big endian) or the file makes no sense.
pub(super) fn identity(file: &[u8]) -> Option<(String, String)> {
    let (at, syntax) = file_meta(file)?;
    if syntax == BIG_ENDIAN || syntax == DEFLATED {
        return None;
    }
    // Cut in front of the pixels by whoever calls us: only what comes before the instance matters.
    let found = parse(&file[at..], syntax != IMPLICIT, SOP_INSTANCE)?;
    Some((found.text(SOP_CLASS).to_owned(), found.text(SOP_INSTANCE).to_owned()))
}

/// The data set of a file in a form that does not depend on how it was written: without types, group lengths,
/// announced lengths of sequences, and delimiters. Archives may write a set anew; what a picture is does not
/// change by that. None where it cannot be read (deflated, big endian, broken).
pub(super) fn content(file: &[u8]) -> Option<Vec<u8>> {
    let (at, syntax) = file_meta(file)?;
    if syntax == BIG_ENDIAN || syntax == DEFLATED {
        return None;
    }
    let explicit = syntax != IMPLICIT;
    // A picture that was compressed anew is another picture.
    let mut out = if syntax == EXPLICIT || syntax == IMPLICIT { Vec::new() } else { syntax.into_bytes() };
    set(&mut Cursor { bytes: &file[at..], explicit }, &mut out, 0, Some(0))?;
    Some(out)
}

/// Elements until so many bytes are left, or up to the end of the item.
fn set(cursor: &mut Cursor<'_>, out: &mut Vec<u8>, depth: u32, rest: Option<usize>) -> Option<()> {
    if depth > DEEPEST {
        return None;
    }
    while rest.is_none_or(|rest| cursor.bytes.len() > rest) {
        let head = cursor.head()?;
        if head.tag == ITEM_END {
            return rest.is_none().then_some(());
        }
        if head.tag.trailing_zeros() >= 16 {
            cursor.take(head.length?)?;
            continue;
        }
        out.extend(head.tag.to_le_bytes());
        let pixels = head.tag == PIXELS;
        let Some(length) = head.length else {
            items(cursor, out, depth, None, pixels)?;
            continue;
        };
        let value = cursor.bytes.get(..length)?;
        // Without types a sequence shows itself by its first item.
        if !pixels && (head.sequence || value.starts_with(&[0xFE, 0xFF, 0x00, 0xE0])) {
            let rest = cursor.bytes.len() - length;
            items(cursor, out, depth, Some(rest), false)?;
        } else if length > 0 {
            out.extend((length as u64).to_le_bytes());
            out.extend(cursor.take(length)?);
        }
    }
    Some(())
}

/// The items of a sequence, or the fragments of compressed pixels.
fn items(
    cursor: &mut Cursor<'_>,
    out: &mut Vec<u8>,
    depth: u32,
    rest: Option<usize>,
    fragments: bool,
) -> Option<()> {
    while rest.is_none_or(|rest| cursor.bytes.len() > rest) {
        let head = cursor.head()?;
        match head.tag {
            SEQUENCE_END => return rest.is_none().then_some(()),
            ITEM => {}
            _ => return None,
        }
        out.extend(ITEM.to_le_bytes());
        match head.length {
            Some(length) if fragments => {
                out.extend((length as u64).to_le_bytes());
                out.extend(cursor.take(length)?);
            }
            Some(length) => {
                let rest = cursor.bytes.len().checked_sub(length)?;
                set(cursor, out, depth + 1, Some(rest))?;
            }
            None => set(cursor, out, depth + 1, None)?,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: Tag, vr: [u8; 2], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, tag, value, true);
        let rest = out.split_off(4);
        out.extend(vr);
        if &vr == b"SQ" || &vr == b"OW" {
            out.extend([0, 0]);
            out.extend(rest);
        } else {
            out.extend(&rest[..2]);
            out.extend(&rest[4..]);
        }
        out
    }

    fn implicit(elements: &[(Tag, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in elements {
            put(&mut out, *tag, value, true);
        }
        out
    }

    #[test]
    fn one_picture_written_in_four_ways_is_one_and_a_changed_pixel_is_another() {
        let inner_explicit = element(0x0008_1155, *b"UI", b"1.2");
        let inner_implicit = implicit(&[(0x0008_1155, b"1.2".to_vec())]);
        let delimited = |tag: Tag, inner: &[u8], head: &[u8]| {
            let tag = tag_bytes(tag);
            let item = [&[0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF][..], inner].concat();
            let ends = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];
            [&tag[..], head, &[0xFF; 4], &item, &ends].concat()
        };
        let counted = |inner: &[u8]| {
            [&[0xFE, 0xFF, 0x00, 0xE0][..], &u32::try_from(inner.len()).unwrap().to_le_bytes(), inner]
                .concat()
        };
        let set = |pixel: u8, way: usize| -> Vec<u8> {
            let start = [(SOP_CLASS, b"1.2.3".to_vec()), (SOP_INSTANCE, b"4.5".to_vec())];
            let (explicit, sequence) = match way {
                0 => (true, element(0x0008_1140, *b"SQ", &counted(&inner_explicit))),
                1 => (true, delimited(0x0008_1140, &inner_explicit, b"SQ\0\0")),
                2 => (false, implicit(&[(0x0008_1140, counted(&inner_implicit))])),
                _ => (false, delimited(0x0008_1140, &inner_implicit, b"")),
            };
            let mut out = file_head("1.2.3", "4.5", if explicit { EXPLICIT } else { IMPLICIT });
            for (tag, value) in start {
                out.extend(if explicit { element(tag, *b"UI", &value) } else { implicit(&[(tag, value)]) });
            }
            out.extend(sequence);
            let pixels = [pixel, 2, 3, 4];
            out.extend(if explicit {
                element(PIXELS, *b"OW", &pixels)
            } else {
                implicit(&[(PIXELS, pixels.to_vec())])
            });
            out
        };
        for way in 0..4 {
            assert_eq!(identity(&set(1, way)), Some(("1.2.3".into(), "4.5".into())), "{way}");
            assert_eq!(content(&set(1, way)).unwrap(), content(&set(1, 0)).unwrap(), "{way}");
            assert_ne!(content(&set(2, way)).unwrap(), content(&set(1, way)).unwrap(), "{way}");
        }
        // What is cut never passes for the whole, and nothing panics.
        for way in 0..4 {
            let whole = set(1, way);
            for cut in 0..whole.len() {
                assert_ne!(content(&whole[..cut]), content(&whole), "{way} {cut}");
            }
        }
    }

    #[test]
    fn an_answer_to_a_question_is_read_and_sequences_are_stepped_over() {
        let mut bytes = Vec::new();
        put(&mut bytes, STUDY, b"2.25.1", true);
        put(&mut bytes, STUDY_INSTANCES, b"12", false);
        let found = parse(&bytes, false, Tag::MAX).unwrap();
        assert_eq!((found.text(STUDY), found.text(STUDY_INSTANCES)), ("2.25.1", "12"));
        assert_eq!(parse(&bytes[..5], false, Tag::MAX), None);
    }
}
