//! Deterministic CBOR (RFC 8949 section 4.2.1), writing only: shortest heads, definite lengths, map keys in
//! the order of their encoded bytes. One value has one form, so a signature covers the value.

/// What an approval is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Number(u64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// UTF-8 text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A map with text keys, in any order; written in the one that counts.
    Map(Vec<(&'static str, Value)>),
}

impl Value {
    /// The only encoding of this value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(0xf6),
            Self::Number(number) => head(out, 0, *number),
            Self::Bytes(bytes) => {
                head(out, 2, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Self::Text(text) => write_text(out, text),
            Self::List(items) => {
                head(out, 4, items.len() as u64);
                for item in items {
                    item.write(out);
                }
            }
            Self::Map(entries) => {
                let mut sorted: Vec<(Vec<u8>, &Value)> = entries
                    .iter()
                    .map(|(key, value)| {
                        let mut bytes = Vec::new();
                        write_text(&mut bytes, key);
                        (bytes, value)
                    })
                    .collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                sorted.dedup_by(|a, b| a.0 == b.0);
                head(out, 5, sorted.len() as u64);
                for (key, value) in sorted {
                    out.extend(key);
                    value.write(out);
                }
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Major type and argument in the fewest bytes.
fn head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..24 => out.push(major | bytes[7]),
        24..0x100 => out.extend([major | 0x18, bytes[7]]),
        0x100..0x1_0000 => {
            out.push(major | 0x19);
            out.extend(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 0x1a);
            out.extend(&bytes[4..]);
        }
        _ => {
            out.push(major | 0x1b);
            out.extend(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_8949_hold() {
        // Appendix A.
        for (number, text) in [
            (0, "00"),
            (23, "17"),
            (24, "1818"),
            (100, "1864"),
            (1000, "1903e8"),
            (1_000_000, "1a000f4240"),
            (1_000_000_000_000, "1b000000e8d4a51000"),
            (u64::MAX, "1bffffffffffffffff"),
        ] {
            assert_eq!(hex::encode(Value::Number(number).encode()), text);
        }
        assert_eq!(hex::encode(Value::Null.encode()), "f6");
        assert_eq!(hex::encode(Value::from("\u{6c34}").encode()), "63e6b0b4");
        assert_eq!(hex::encode(Value::Bytes(vec![1, 2, 3, 4]).encode()), "4401020304");
        let list = Value::List(vec![Value::Number(1), Value::List(vec![Value::Number(2)])]);
        assert_eq!(hex::encode(list.encode()), "82018102");
        let map = Value::Map(vec![("b", Value::List(vec![Value::Number(2)])), ("a", Value::Number(1))]);
        assert_eq!(hex::encode(map.encode()), "a26161016162".to_owned() + "8102");
    }

    #[test]
    fn a_map_has_one_form_and_shorter_keys_come_first() {
        let entries = vec![("window", Value::Null), ("b", Value::Number(1)), ("aa", Value::Number(2))];
        let mut other = entries.clone();
        other.reverse();
        assert_eq!(Value::Map(entries.clone()).encode(), Value::Map(other).encode());
        assert!(hex::encode(Value::Map(entries).encode()).starts_with("a36162"));
    }
}
