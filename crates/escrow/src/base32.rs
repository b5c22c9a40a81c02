//! Base32 as in RFC 4648 section 6, so that `base32 -d` of any Linux reads what we print.

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Without padding; five bytes give eight letters.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[(bits >> count & 31) as usize]));
        }
    }
    if count > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - count) & 31) as usize]));
    }
    text
}

/// Letters in any case. People read `0` for `O`, `1` for `I` and `8` for `B`; none of these digits is in the
/// alphabet, so they are taken as meant.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let letter = match letter.to_ascii_uppercase() {
            b'0' => b'O',
            b'1' => b'I',
            b'8' => b'B',
            other => other,
        };
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        bits = (bits << 5) | u32::try_from(value).ok()?;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 255).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648_hold() {
        for (plain, text) in
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(&text.to_lowercase()).unwrap(), plain.as_bytes());
        }
        assert_eq!(decode("M9"), None);
        assert_eq!(decode("0"), decode("O"));
    }
}
