//! As much of a mail as says how a job ended: subject, date and text (RFC 5322, 2045 to 2047), in the character
//! sets that Japanese products use. What cannot be decoded is shown as it is and fits no sentence.

use base64::{
    Engine,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig},
};
use encoding_rs::Encoding;
use jiff::Timestamp;

/// Parts in parts.
const DEEPEST: u32 = 8;

/// What was read of a mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mail {
    /// Decoded.
    pub subject: String,
    /// When it says that it was written.
    pub date: Option<Timestamp>,
    /// The first text in it, without markup.
    pub text: String,
}

fn lenient() -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, config)
}

fn unbase64(text: &[u8]) -> Vec<u8> {
    let packed: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    lenient().decode(packed).unwrap_or_default()
}

fn unquote(text: &[u8], header: bool) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'_' if header => out.push(b' '),
            b'=' => {
                let hex = text.get(at..at + 2).and_then(|two| hex::decode(two).ok());
                if let Some(hex) = hex {
                    out.extend(hex);
                    at += 2;
                } else if text.get(at..at + 2) == Some(b"\r\n") {
                    at += 2;
                } else if text.get(at) == Some(&b'\n') {
                    at += 1;
                } else {
                    out.push(b'=');
                }
            }
            other => out.push(*other),
        }
    }
    out
}

fn decode(bytes: &[u8], charset: &str) -> String {
    let encoding = Encoding::for_label(charset.as_bytes()).unwrap_or(encoding_rs::UTF_8);
    encoding.decode(bytes).0.into_owned()
}

/// Words such as `=?iso-2022-jp?B?…?=`.
fn words(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut after_word = false;
    while let Some(at) = rest.find("=?") {
        let (before, word) = rest.split_at(at);
        let parts: Vec<&str> = word[2..].splitn(4, '?').collect();
        let known = match parts.as_slice() {
            [charset, kind, content, tail] if tail.starts_with('=') => {
                let bytes = match *kind {
                    "B" | "b" => Some(unbase64(content.as_bytes())),
                    "Q" | "q" => Some(unquote(content.as_bytes(), true)),
                    _ => None,
                };
                // A language may stand behind the character set.
                let charset = charset.split('*').next().unwrap_or_default();
                bytes.map(|bytes| (decode(&bytes, charset), &tail[1..]))
            }
            _ => None,
        };
        let Some((decoded, tail)) = known else {
            out.push_str(before);
            out.push_str("=?");
            rest = &word[2..];
            after_word = false;
            continue;
        };
        // Space between two words is only there to fold the line.
        if !(after_word && before.trim().is_empty()) {
            out.push_str(before);
        }
        out.push_str(&decoded);
        rest = tail;
        after_word = true;
    }
    out.push_str(rest);
    out
}

/// Header fields, unfolded, names in small letters; and where the body begins.
fn headers(mail: &[u8]) -> (Vec<(String, String)>, &[u8]) {
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut rest = mail;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, tail) = rest.split_at(end);
        rest = tail;
        let line = decode(line, "utf-8");
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    (fields, rest)
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.as_str())
}

/// A parameter of a field: `charset` of `text/plain; charset="utf-8"`.
fn parameter(value: &str, name: &str) -> String {
    let found = value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    });
    found.unwrap_or_default()
}

/// Without tags; each one parts words.
fn without_tags(html: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for letter in html.chars() {
        match letter {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                out.push(' ');
            }
            other if !inside => out.push(other),
            _ => {}
        }
    }
    out.replace("&nbsp;", " ").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
}

fn text(fields: &[(String, String)], body: &[u8], depth: u32) -> Option<String> {
    let kind = field(fields, "content-type");
    let lower = kind.to_ascii_lowercase();
    if lower.starts_with("multipart/") {
        let boundary = format!("--{}", parameter(kind, "boundary"));
        if depth >= DEEPEST || boundary.len() < 3 {
            return None;
        }
        let mut parts = Vec::new();
        let mut begun: Option<usize> = None;
        let mut at = 0;
        for line in body.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(boundary.as_bytes()) {
                if let Some(from) = begun {
                    parts.push(&body[from..at]);
                }
                begun = Some(at + line.len());
            }
            at += line.len();
        }
        return parts.into_iter().find_map(|part| {
            let (fields, body) = headers(part);
            text(&fields, body, depth + 1)
        });
    }
    if !lower.is_empty() && !lower.starts_with("text/") {
        return None;
    }
    let bytes = match field(fields, "content-transfer-encoding").to_ascii_lowercase().as_str() {
        "base64" => unbase64(body),
        "quoted-printable" => unquote(body, false),
        _ => body.to_vec(),
    };
    let charset = parameter(kind, "charset");
    let text = decode(&bytes, if charset.is_empty() { "utf-8" } else { &charset });
    Some(if lower.starts_with("text/html") { without_tags(&text) } else { text })
}

/// Reads a mail.
pub fn read(mail: &[u8]) -> Mail {
    let (fields, body) = headers(mail);
    Mail {
        subject: words(field(&fields, "subject")),
        date: jiff::fmt::rfc2822::parse(field(&fields, "date")).ok().map(|at| at.timestamp()),
        text: text(&fields, body, 0).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_and_texts_in_the_sets_of_japanese_products_are_read() {
        let (jis, _, _) = encoding_rs::ISO_2022_JP.encode("[失敗] 病棟 夜間");
        let subject = lenient().encode(&jis);
        let (sjis, _, _) = encoding_rs::SHIFT_JIS.encode("<p>バックアップ サイズ</p><td>12.5 GB</td>");
        let html = lenient().encode(&sjis);
        let mail = format!(
            "From: a@b\r\nSubject: =?iso-2022-jp?B?{subject}?=\r\n =?utf-8?Q?_=281=E4=BB=B6=29?=\r\n\
             Date: Sun, 22 Nov 2026 02:00:00 +0900\r\nContent-Type: multipart/mixed; boundary=\"x y\"\r\n\r\n\
             --x y\r\nContent-Type: image/png\r\n\r\nAAAA\r\n--x y\r\nContent-Type: text/html; charset=Shift_JIS\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{html}\r\n--x y--\r\n"
        );
        let read = read(mail.as_bytes());
        assert_eq!(read.subject, "[失敗] 病棟 夜間 (1件)");
        assert_eq!(read.date.unwrap().to_string(), "2026-11-21T17:00:00Z");
        assert_eq!(read.text.split_whitespace().collect::<Vec<_>>().join(" "), "バックアップ サイズ 12.5 GB");
        // Cut anywhere, it is read as what is there.
        for cut in 0..mail.len() {
            let _ = super::read(&mail.as_bytes()[..cut]);
        }
        assert_eq!(
            super::read(b"Subject: =?x?Z?y?= and =?open\n\nplain =C3").subject,
            "=?x?Z?y?= and =?open"
        );
        assert_eq!(unquote(b"a=3Db=\r\nc=ZZ", false), b"a=bc=ZZ");
    }
}
