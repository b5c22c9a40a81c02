//! Text as Go's `encoding/json` and `strconv.Quote` write it.
//!
//! Equal folders must become equal bytes, whoever writes them; so the escapes are Go's, one for one.

use super::Flaw;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a JSON string as Go does by default: `<`, `>`, `&`, U+2028 and U+2029 are escaped too.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut clean = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let (width, escape): (usize, Option<&[u8]>) = match byte {
            b'"' => (1, Some(b"\\\"")),
            b'\\' => (1, Some(b"\\\\")),
            b'\n' => (1, Some(b"\\n")),
            b'\r' => (1, Some(b"\\r")),
            b'\t' => (1, Some(b"\\t")),
            8 => (1, Some(b"\\b")),
            12 => (1, Some(b"\\f")),
            0..=0x1F | b'<' | b'>' | b'&' => (1, None),
            0xE2 if bytes[at..].starts_with(b"\xE2\x80\xA8") => (3, Some(b"\\u2028")),
            0xE2 if bytes[at..].starts_with(b"\xE2\x80\xA9") => (3, Some(b"\\u2029")),
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[clean..at]);
        match escape {
            Some(escape) => out.extend_from_slice(escape),
            None => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        at += width;
        clean = at;
    }
    out.extend_from_slice(&bytes[clean..]);
    out.push(b'"');
}

/// The body of Go's `strconv.Quote` for raw bytes: printable text stays, the rest is escaped, bytes that are
/// not UTF-8 become `\xNN`.
pub fn quote(raw: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0C' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0B' => out.push_str("\\v"),
                ' '..='~' => out.push(c),
                c if is_print(c) => out.push(c),
                // Writing to a String cannot fail.
                c if u32::from(c) < 0x80 => drop(write!(out, "\\x{:02x}", u32::from(c))),
                c if u32::from(c) > 0xFFFF => drop(write!(out, "\\U{:08x}", u32::from(c))),
                c => drop(write!(out, "\\u{:04x}", u32::from(c))),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Go's `strconv.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space.
///
/// The standard library keeps the same table for `escape_debug`, but escapes a mark at the start of a text;
/// hence the letter before it.
fn is_print(c: char) -> bool {
    let mut text = [0; 5];
    text[0] = b'a';
    let len = 1 + c.encode_utf8(&mut text[1..]).len();
    let text = std::str::from_utf8(&text[..len]).unwrap_or_default();
    let mut escaped = text.escape_debug().skip(1);
    escaped.next() == Some(c) && escaped.next().is_none()
}

/// Undoes [`quote`], as Go's `strconv.Unquote` does for the text between double quotes.
pub fn unquote(text: &str) -> Result<Vec<u8>, Flaw> {
    let bad = || Flaw::new(format!("the name `{}` is not quoted as it must be", text.escape_debug()));
    if !text.contains(['\\', '"', '\n']) {
        return Ok(text.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    let mut buffer = [0; 4];
    while let Some(c) = chars.next() {
        match c {
            '"' | '\n' => return Err(bad()),
            '\\' => {}
            c => {
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                continue;
            }
        }
        let kind = chars.next().ok_or_else(bad)?;
        let mut digits = |count: usize, first: u32, radix: u32| -> Result<u32, Flaw> {
            let mut value = first;
            for _ in 0..count {
                let digit = chars.next().and_then(|c| c.to_digit(radix)).ok_or_else(bad)?;
                value = value.checked_mul(radix).and_then(|v| v.checked_add(digit)).ok_or_else(bad)?;
            }
            Ok(value)
        };
        let byte = match kind {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '"' => b'"',
            'x' => u8::try_from(digits(2, 0, 16)?).map_err(|_| bad())?,
            '0'..='7' => {
                let first = kind.to_digit(8).ok_or_else(bad)?;
                u8::try_from(digits(2, first, 8)?).map_err(|_| bad())?
            }
            'u' | 'U' => {
                let value = digits(if kind == 'u' { 4 } else { 8 }, 0, 16)?;
                let c = char::from_u32(value).ok_or_else(bad)?;
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                continue;
            }
            _ => return Err(bad()),
        };
        out.push(byte);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_go() {
        // Expected values from Go 1.19's strconv.Quote.
        for (raw, quoted) in [
            (&b"plain name.txt"[..], r"plain name.txt"),
            (b"a\"b\\c", r#"a\"b\\c"#),
            (b"\x00\x07\x08\x0b\x0c\n\r\t\x1b\x7f", r"\x00\a\b\v\f\n\r\t\x1b\x7f"),
            (b"\xff\xfe\xe3\x81", r"\xff\xfe\xe3\x81"),
            ("患者　画像".as_bytes(), r"患者\u3000画像"),
            ("e\u{301}\u{a0}\u{ad}\u{200b}\u{feff}".as_bytes(), "e\u{301}\\u00a0\\u00ad\\u200b\\ufeff"),
            ("\u{301}".as_bytes(), "\u{301}"),
            ("'\u{1F600}\u{10FFFF}\u{E000}\u{FFFD}".as_bytes(), "'\u{1F600}\\U0010ffff\\ue000\u{FFFD}"),
        ] {
            assert_eq!(quote(raw), quoted);
            assert_eq!(unquote(quoted).unwrap(), raw);
        }
    }

    #[test]
    fn unquotes_what_go_accepts_and_refuses_the_rest() {
        assert_eq!(unquote(r"\101\x41\u0041\U00000041").unwrap(), b"AAAA");
        for bad in [r"\", r"\q", r"\x4", r"\400", r"\ud800", r"\U00110000", "\"", "a\nb", r"\'"] {
            assert!(unquote(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn escapes_json_like_go() {
        let mut out = Vec::new();
        string(&mut out, "<a>&\"\\\u{2028}\u{2029}\u{1}\u{7f}\n\u{20ac}é");
        let expected = "\"\\u003ca\\u003e\\u0026\\\"\\\\\\u2028\\u2029\\u0001\u{7f}\\n\u{20ac}é\"";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
