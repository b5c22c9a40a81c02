//! `SPECIFICATION.md` promises nothing that no test holds.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its own tree says where")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of all Rust files below a folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs_err::read_to_string(&path).unwrap());
        }
    }
}

/// Tests that the promises name: what stands in backticks in a row's last column.
fn named(specification: &str) -> Vec<String> {
    let rows = specification.lines().filter(|line| line.starts_with("| P-"));
    let last = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    last.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let specification = fs_err::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    let mut text = String::new();
    sources(&root().join("crates"), &mut text);
    let names = named(&specification);
    assert!(names.len() > 20, "the rows are found");
    let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_promise_has_a_number_of_its_own_and_a_test() {
    let specification = fs_err::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    let mut numbers = Vec::new();
    for row in specification.lines().filter(|line| line.starts_with("| P-")) {
        let number = row.split('|').nth(1).unwrap_or_default().trim().to_owned();
        assert!(!numbers.contains(&number), "{number} stands twice");
        assert!(!named(row).is_empty() || row.contains("[test pending]"), "{number} names no test");
        numbers.push(number);
    }
}
