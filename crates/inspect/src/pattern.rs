//! Patterns of paths: `*` and `?` inside of a name, `**` over folders. Matches the whole path or, without a
//! leading part, any end of it that begins at a name.

use crate::error::{Error, Result};

/// A checked pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Vec<u8>>,
}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error::Pattern`] for an empty one or empty parts.
    pub fn new(text: &str) -> Result<Self> {
        let bad = |why| Error::Pattern { pattern: text.to_owned(), why };
        let trimmed = text.trim_start_matches('/');
        if trimmed.is_empty() {
            return Err(bad("it is empty"));
        }
        let mut parts: Vec<Vec<u8>> = trimmed.split('/').map(|part| part.as_bytes().to_vec()).collect();
        if parts.iter().any(Vec::is_empty) {
            return Err(bad("it has an empty part"));
        }
        if !text.starts_with('/') && parts[0] != b"**" {
            parts.insert(0, b"**".to_vec());
        }
        Ok(Self { parts })
    }

    /// Whether a path fits.
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        fits(&self.parts, &names)
    }
}

fn fits(parts: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == b"**" => {
            fits(rest, names) || names.split_first().is_some_and(|(_, below)| fits(parts, below))
        }
        (Some((first, rest)), Some((name, below))) => fits_name(first, name) && fits(rest, below),
        _ => false,
    }
}

/// Greedy with one step back, so that no pattern takes more than pattern times name.
fn fits_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut place, mut back) = (0, 0, None);
    while place < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                back = Some((at, place));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[place] => {
                at += 1;
                place += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (at, place) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        let fits = |pattern: &str, path: &str| Pattern::new(pattern).unwrap().matches(path.as_bytes());
        assert!(fits("reports/**/*.pdf", "srv/reports/2026/04/a.pdf"));
        assert!(fits("reports/**/*.pdf", "reports/a.pdf"));
        assert!(!fits("reports/**/*.pdf", "reports/a.pdf.locked"));
        assert!(fits("/reports/*", "reports/a") && !fits("/reports/*", "x/reports/a"));
        assert!(fits("*.c?a", "x/y.cda") && !fits("*.c?a", "x/y.ca"));
        assert!(fits("確定/*", "所見/確定/1.xml"));
        assert!(Pattern::new("").is_err() && Pattern::new("a//b").is_err());
        let long = "a".repeat(5000);
        assert!(!fits("*a*a*a*a*a*a*a*b", &long), "no pattern takes for ever");
    }
}
