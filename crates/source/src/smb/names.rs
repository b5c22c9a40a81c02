//! Names on the wire are UTF-16; names in a tree are bytes.
//!
//! Windows allows names with unpaired surrogates, which UTF-8 cannot say. They are written in the
//! generalised form that is known as WTF-8 (each unpaired half as its own three bytes), so that every
//! name has exactly one form and comes back unchanged. All other names are plain UTF-8.

/// A name as the wire carries it: UTF-16 code units.
pub(super) type Wide = Vec<u16>;

/// The tree's form of a name.
pub(super) fn narrow(name: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() * 3);
    for unit in char::decode_utf16(name.iter().copied()) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let unit = half.unpaired_surrogate();
                // Three-byte form: 1110xxxx 10xxxxxx 10xxxxxx; a surrogate's top four bits are 1101.
                bytes.extend_from_slice(&[0xED, 0x80 | low6(unit >> 6), 0x80 | low6(unit)]);
            }
        }
    }
    bytes
}

fn low6(bits: u16) -> u8 {
    u8::try_from(bits & 0x3F).unwrap_or(0)
}

/// The wire's form of text that a person wrote, `/` as separator.
pub(super) fn wide_path(text: &str) -> Wide {
    text.split('/')
        .filter(|part| !part.is_empty())
        .fold(Wide::new(), |path, part| join(&path, &part.encode_utf16().collect::<Wide>()))
}

/// The wire's path of `name` in `folder`; the share's root is empty.
pub(super) fn join(folder: &[u16], name: &[u16]) -> Wide {
    let mut path = Wide::with_capacity(folder.len() + name.len() + 1);
    path.extend_from_slice(folder);
    if !folder.is_empty() {
        path.push(u16::from(b'\\'));
    }
    path.extend_from_slice(name);
    path
}

/// Text for people: what cannot be shown becomes `�`.
pub(super) fn shown(path: &[u16]) -> String {
    String::from_utf16_lossy(path).replace('\\', "/")
}

/// Whether a name could mean another place than one item of its folder.
pub(super) fn is_treacherous(name: &[u16]) -> bool {
    name.is_empty() || name.iter().any(|unit| [0, u16::from(b'/'), u16::from(b'\\')].contains(unit))
}

/// Whether `pattern` (`*` any run, `?` one character) fits all of `name`, letter case aside.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: the last `*` takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn japanese_and_paired_surrogates_are_plain_utf8() {
        for name in ["眼底写真_令和８年.dcm", "①②ｶﾀｶﾅ", "𠮷野家.txt", "é"] {
            assert_eq!(narrow(&name.encode_utf16().collect::<Wide>()), name.as_bytes());
        }
    }

    #[test]
    fn unpaired_surrogates_keep_every_name_apart() {
        assert_eq!(narrow(&[0xD800]), [0xED, 0xA0, 0x80]);
        assert_eq!(narrow(&[0xDFFF]), [0xED, 0xBF, 0xBF]);
        assert_eq!(narrow(&[u16::from(b'a'), 0xDC00, u16::from(b'b')]), b"a\xED\xB0\x80b");
        let random = SeededRandom::new(20_261_122);
        let (mut wide, mut narrowed) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..20_000 {
            let name: Wide =
                (0..=random.below(3)).map(|_| 0xD7F0 + u16::try_from(random.below(0x820)).unwrap()).collect();
            narrowed.insert(narrow(&name));
            wide.insert(name);
        }
        assert_eq!(wide.len(), narrowed.len(), "two names must not fall together");
    }

    #[test]
    fn patterns_fit_whole_names() {
        assert!(fits("DUMP_OK_*.txt", "dump_ok_20261122.TXT"));
        assert!(fits("*", "") && fits("a*b*c", "aXbYbZc") && fits("完了?.flg", "完了１.flg"));
        assert!(!fits("a*b", "ab c") && !fits("?", "") && !fits("", "a") && !fits("*.ok", "x.ok.tmp"));
    }
}
