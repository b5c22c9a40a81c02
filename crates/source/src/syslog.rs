//! One syslog message: RFC 5424, or the older form that RFC 3164 describes; and how they are framed on TCP
//! (RFC 6587).

use jiff::civil;

use crate::when::When;

/// What a message says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// When it says that it was written.
    pub at: When,
    /// Its text, without time, host and program.
    pub text: String,
}

/// Reads a message; none if it has no priority in front.
pub fn read(bytes: &[u8]) -> Option<Message> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n', '\0']);
    let (priority, rest) = text.strip_prefix('<')?.split_once('>')?;
    if !(1..=3).contains(&priority.len()) || priority.parse::<u16>().ok()? > 191 {
        return None;
    }
    match rest.strip_prefix("1 ") {
        Some(rest) => modern(rest),
        None => Some(older(rest)),
    }
}

/// `TIME HOST APP PROCID MSGID [data] text`.
fn modern(rest: &str) -> Option<Message> {
    let mut fields = rest.splitn(6, ' ');
    let at = fields.next()?.parse().map_or(When::Unsaid, When::At);
    for _ in 0..4 {
        fields.next()?;
    }
    let rest = fields.next()?;
    let (data, text) = if let Some(rest) = rest.strip_prefix('-') {
        ("", rest)
    } else {
        let end = data_end(rest)?;
        rest.split_at(end)
    };
    let text = text.trim_start().trim_start_matches('\u{FEFF}');
    // Some products put their words into the data alone.
    let text = if text.is_empty() { described(data).unwrap_or_default() } else { text.to_owned() };
    Some(Message { at, text })
}

/// Where the structured data ends: behind a bracket that no other follows, outside of quotes.
fn data_end(rest: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    let bytes = rest.as_bytes();
    if bytes.first() != Some(&b'[') {
        return None;
    }
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b']' if !quoted && bytes.get(at + 1) != Some(&b'[') => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The value of `Description` in structured data.
fn described(data: &str) -> Option<String> {
    let rest = data.split_once("Description=\"")?.1;
    let (mut out, mut escaped) = (String::new(), false);
    for letter in rest.chars() {
        match letter {
            _ if escaped => {
                out.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some(out),
            other => out.push(other),
        }
    }
    None
}

/// The names that RFC 3164, 4.1.2, has for months.
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Nov 22 02:00:00 `, the day padded with a space (or, by many, with a zero).
fn older_time(text: &str) -> Option<When> {
    let bytes = text.as_bytes().get(..16)?;
    if (bytes[3], bytes[6], bytes[9], bytes[12], bytes[15]) != (b' ', b' ', b':', b':', b' ') {
        return None;
    }
    let number = |from: usize| -> Option<i8> {
        std::str::from_utf8(bytes.get(from..from + 2)?).ok()?.trim_start().parse().ok()
    };
    let month = MONTHS.iter().position(|name| name.as_bytes().eq_ignore_ascii_case(&bytes[..3]))?;
    let month = i8::try_from(month + 1).ok()?;
    let time = civil::Time::new(number(7)?, number(10)?, number(13)?.min(59), 0).ok()?;
    let day = number(4)?;
    // In some year it is a day.
    civil::Date::new(2024, month, day).ok()?;
    Some(When::Wall { month, day, time })
}

/// `Nov 22 02:00:00 host program[1]: text`; every part but the text may be missing.
fn older(rest: &str) -> Message {
    let at = older_time(rest);
    let text = match at {
        Some(_) => rest[16..].split_once(' ').map_or("", |(_, text)| text),
        None => rest,
    };
    let program = |tag: &str| !tag.is_empty() && tag.len() <= 48 && !tag.contains(char::is_whitespace);
    let text = match text.split_once(": ") {
        Some((tag, text)) if program(tag) => text,
        _ => text,
    };
    Message { at: at.unwrap_or_default(), text: text.to_owned() }
}

/// The next message of a stream, and how many bytes it took; none if it is not whole yet. An error is a stream
/// that makes no sense.
#[expect(clippy::result_unit_err, reason = "there is nothing to say but that it makes no sense")]
pub fn next_frame(stream: &[u8], most: usize) -> Result<Option<(usize, &[u8])>, ()> {
    if stream.first().is_some_and(u8::is_ascii_digit) {
        let Some(space) = stream.iter().take(8).position(|byte| *byte == b' ') else {
            return if stream.len() >= 8 { Err(()) } else { Ok(None) };
        };
        let length =
            std::str::from_utf8(&stream[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let length = length.filter(|length| *length <= most).ok_or(())?;
        let end = space + 1 + length;
        return Ok(stream.get(space + 1..end).map(|message| (end, message)));
    }
    match stream.iter().position(|byte| *byte == b'\n') {
        Some(at) if at <= most => Ok(Some((at + 1, &stream[..at]))),
        None if stream.len() <= most => Ok(None),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_both_framings_are_read() {
        let text = |line: &str| read(line.as_bytes()).map(|message| message.text);
        let modern = read(
            "<14>1 2026-11-22T02:00:00+09:00 srv veeam 1 - [a x=\"]\\\"\"][b] \u{FEFF}成功 です".as_bytes(),
        )
        .unwrap();
        assert_eq!(
            (modern.text.as_str(), modern.at),
            ("成功 です", When::At("2026-11-21T17:00:00Z".parse().unwrap()))
        );
        let wall = |month, day, hour| When::Wall { month, day, time: civil::time(hour, 0, 9, 0) };
        let at = |line: &str| read(line.as_bytes()).unwrap().at;
        assert_eq!(at("<13>Nov 22 02:00:09 srv Backup[12]: it went well"), wall(11, 22, 2));
        assert_eq!(at("<13>Feb  9 22:00:09 srv x"), wall(2, 9, 22));
        assert_eq!(at("<13>feb 09 22:00:09 srv x"), wall(2, 9, 22));
        for none in [
            "<13>it went well",
            "<13>Nov 32 02:00:09 s x",
            "<13>Nox 22 02:00:09 s x",
            "<13>Nov 22 24:00:09 s x",
            "<13>Nov 22 02:00:0é s x",
            "<14>1 - h a - - - x",
            "<14>1 yesterday h a - - - x",
        ] {
            assert_eq!(at(none), When::Unsaid, "{none}");
        }
        assert_eq!(text("<14>1 - - - - - - hello").as_deref(), Some("hello"));
        assert_eq!(
            text("<14>1 - h a - - [v Description=\"Job \\\"x\\\" ok\"]").as_deref(),
            Some("Job \"x\" ok")
        );
        assert_eq!(
            text("<13>Nov 22 02:00:00 srv Backup[12]: it went well: yes\n").as_deref(),
            Some("it went well: yes")
        );
        assert_eq!(text("<13>it went well").as_deref(), Some("it went well"));
        for bad in ["", "hello", "<999>x", "<>x", "<14", "<14>1 2026", "<14>1 - - - - - [a"] {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert_eq!(next_frame(b"5 <1>ab<1>c\n", 100), Ok(Some((7, &b"<1>ab"[..]))));
        assert_eq!(next_frame(b"<1>c\nrest", 100), Ok(Some((5, &b"<1>c"[..]))));
        assert_eq!((next_frame(b"50 <1>", 100), next_frame(b"<1>", 100)), (Ok(None), Ok(None)));
        assert!(next_frame(b"999999 x", 100).is_err() && next_frame(&[b'x'; 200], 100).is_err());
        assert!(next_frame(b"123456789", 100).is_err());
    }
}
