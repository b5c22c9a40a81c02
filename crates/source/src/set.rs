//! Which files a backup product's own metadata names.
//!
//! Veeam's `.vbm` is an XML document in which each file of the chain stands as an attribute or element
//! (`FilePath="Ward2026-11-22T010000.vib"`, `<FileName>…</FileName>`), with a folder in front or without.
//! Its schema is not published and newer versions compress it; so names are taken wherever they stand, and a
//! document in which none can be read says nothing (the other rules then decide alone). A result file in our
//! own format names files with their sizes.

use kuramori_model::foreign::JobResult;

/// What Veeam's files are called: full, increment, reverse increment.
const ENDINGS: [&str; 3] = [".vbk", ".vib", ".vrb"];

/// Names without folders, and sizes where they are announced.
pub(crate) fn names(content: &[u8]) -> Vec<(String, Option<u64>)> {
    if let Ok(result) = JobResult::parse(content) {
        return result.files.into_iter().map(|file| (base(&file.name).to_owned(), file.bytes)).collect();
    }
    let text = text(content);
    let mut found: Vec<(String, Option<u64>)> = text
        .split(['"', '\'', '<', '>', '\n', '\r', '\t', '\0'])
        .map(|piece| base(piece.trim()))
        .filter(|name| {
            let lower = name.to_lowercase();
            ENDINGS.iter().any(|ending| lower.ends_with(ending) && lower.len() > ending.len())
        })
        .map(|name| (unescape(name), None))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The last part of a path with either separator.
fn base(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// UTF-8, or UTF-16 with its mark, as Windows programs write.
fn text(content: &[u8]) -> String {
    let wide = |from: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = from.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match content {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => String::from_utf8_lossy(content).into_owned(),
    }
}

fn unescape(name: &str) -> String {
    let mut name = name.to_owned();
    for (from, to) in [("&quot;", "\""), ("&apos;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")] {
        name = name.replace(from, to);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_attributes_elements_and_either_encoding() {
        let xml = "<BackupMeta><Storage FilePath=\"D:\\Backups\\病棟 A&amp;B.vbk\"/><S><FileName>x/Ward.VIB</FileName></S>\
                   <Storage FilePath='Ward.VIB'/><Note>.vbk</Note><Other>a.vbm</Other></BackupMeta>";
        let wanted = vec![("Ward.VIB".to_owned(), None), ("病棟 A&B.vbk".to_owned(), None)];
        assert_eq!(names(xml.as_bytes()), wanted);
        let wide: Vec<u8> =
            [0xFF, 0xFE].into_iter().chain(xml.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        assert_eq!(names(&wide), wanted);
        assert!(names(b"\x1f\x8b\x08 compressed").is_empty());
    }

    #[test]
    fn a_result_file_names_files_with_their_sizes() {
        let json = r#"{"format":"kuramori.job-result/1","system":"ward","product":"other","state":"success",
                       "ended":"2026-11-22T01:00:00Z","files":[{"name":"Backup 1\\c.vhdx","bytes":7}]}"#;
        assert_eq!(names(json.as_bytes()), [("c.vhdx".to_owned(), Some(7))]);
    }
}
