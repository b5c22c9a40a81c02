//! Patterns of what is left out.

use std::{os::unix::ffi::OsStrExt, path::Path};

use crate::{Error, Result};

/// Patterns, cut into parts. `*` and `?` match within a name, `**` matches any number of names. A pattern
/// with a leading `/` is matched from the root, any other at every place. A folder that matches is left out
/// with all that is in it.
#[derive(Debug, Default)]
pub(super) struct Excludes(Vec<(bool, Vec<Vec<u8>>)>);

impl Excludes {
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        let mut parsed = Vec::new();
        for pattern in patterns {
            let rooted = pattern.starts_with('/');
            let parts: Vec<Vec<u8>> = pattern
                .split('/')
                .filter(|part| !part.is_empty())
                .map(|part| part.as_bytes().to_vec())
                .collect();
            if parts.is_empty() {
                return Err(Error::Invalid {
                    what: format!("the pattern `{pattern}` names nothing that can be left out"),
                    hint: "write for example `*.tmp` or `/var/cache/**`".to_owned(),
                });
            }
            parsed.push((rooted, parts));
        }
        Ok(Self(parsed))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn matches(&self, path: &Path) -> bool {
        let names: Vec<&[u8]> = path.iter().skip(1).map(OsStrExt::as_bytes).collect();
        self.0.iter().any(|(rooted, parts)| {
            let last = if *rooted { 0 } else { names.len().saturating_sub(1) };
            (0..=last).any(|start| match_parts(parts, &names[start..]))
        })
    }
}

fn match_parts(parts: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((part, rest)), _) if part == b"**" => {
            match_parts(rest, names) || (!names.is_empty() && match_parts(parts, &names[1..]))
        }
        (Some((part, rest)), Some((name, below))) => match_name(part, name) && match_parts(rest, below),
        _ => false,
    }
}

/// Linear in practice: on a mismatch only the last `*` takes one more byte.
fn match_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        let matches = |pattern: &str, path: &str| {
            Excludes::new(&[pattern.to_owned()]).unwrap().matches(Path::new(path))
        };
        assert!(matches("*.tmp", "/a/b/c.tmp"));
        assert!(!matches("*.tmp", "/a/b.tmp/c"));
        assert!(matches("/var/cache/**", "/var/cache/x/y"));
        assert!(matches("/var/cache", "/var/cache"));
        assert!(!matches("/cache", "/var/cache"));
        assert!(matches("cache", "/var/cache"));
        assert!(matches("a/*/c", "/x/a/b/c"));
        assert!(!matches("a/*/c", "/x/a/b/b/c"));
        assert!(matches("a/**/c", "/x/a/b/b/c"));
        assert!(matches("a?c*e", "/abcdde"));
        assert!(!matches("a?c*e", "/abcdd"));
        assert!(Excludes::new(&["/".to_owned()]).is_err());
    }
}
