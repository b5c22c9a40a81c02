//! MariaDB's and MySQL's binary log beside a logical dump: places, file names, and the list that says which
//! times a restore point reaches.
//!
//! ```text
//! dump.sql                    the dump, which names its place in the log
//! binlog/bin.000007 …         the log's files as the server has them; the newest up to what was committed
//! binlog/index.json           an [`Index`]
//! ```

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The folder in the tree.
pub const FOLDER: &str = "binlog";
/// The list's name in that folder.
pub const INDEX: &str = "index.json";
/// The list's format.
pub const FORMAT: &str = "kuramori.binlog/1";

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// Bytes from its beginning.
    pub position: u64,
}

/// A place with the server's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where.
    pub at: Place,
    /// When, by the server's clock, in whole seconds.
    pub time: Timestamp,
}

/// What a restore point's log can do; stored as `binlog/index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// [`FORMAT`].
    pub format: String,
    /// Of which server.
    pub identity: String,
    /// Which log: another one after every hole, and after the server began to count anew.
    pub chain: String,
    /// The dump's place; no time before its time can be reached from it.
    pub dump: Mark,
    /// The log's end: whatever was committed before its time is in it.
    pub end: Mark,
    /// The log's files, in order.
    pub files: Vec<String>,
    /// Why an earlier log does not go on in this one; none if it does, or if this is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Seconds that the server's own zone (`SYSTEM`) was ahead of UTC all this time: statements in the log that
    /// ask for the local time mean it. None in an index of before it was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utc_offset: Option<i32>,
}

/// The number at the end of a log file's name.
pub fn number(file: &str) -> Option<u64> {
    let (name, digits) = file.rsplit_once('.')?;
    let fits = !name.is_empty() && !file.contains('/') && digits.len() >= 6;
    (fits && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

impl Index {
    /// Until when this log brings a dump (its own, or an older one of the same log).
    ///
    /// # Errors
    /// The name of the first file that is missing; empty for another log.
    pub fn reach(&self, of: &Self) -> Result<Timestamp, String> {
        if self.identity != of.identity || self.chain != of.chain {
            return Err(String::new());
        }
        let there: BTreeSet<u64> = self.files.iter().filter_map(|file| number(file)).collect();
        let (Some(first), Some(last)) = (number(&of.dump.at.file), number(&self.end.at.file)) else {
            return Err(of.dump.at.file.clone());
        };
        match (first..=last).find(|number| !there.contains(number)) {
            Some(missing) => Err(format!("{missing:06}")),
            None => Ok(self.end.time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_log_reaches_as_far_as_no_file_is_missing_and_only_its_own_dumps() {
        let mark = |file: &str, second| Mark {
            at: Place { file: file.to_owned(), position: 4 },
            time: Timestamp::from_second(second).unwrap(),
        };
        let index = Index {
            format: FORMAT.to_owned(),
            identity: "a".to_owned(),
            chain: "1".to_owned(),
            dump: mark("bin.000002", 10),
            end: mark("bin.000004", 90),
            files: ["bin.000002", "bin.000003", "bin.000004"].map(str::to_owned).to_vec(),
            lost: None,
            utc_offset: None,
        };
        assert_eq!(index.reach(&index).unwrap().as_second(), 90);
        for lost in 0..3 {
            let mut less = index.clone();
            less.files.remove(lost);
            assert!(less.reach(&index).is_err());
        }
        let older = Index { dump: mark("bin.000001", 5), ..index.clone() };
        assert_eq!(index.reach(&older), Err("000001".to_owned()));
        assert!(index.reach(&Index { chain: "2".to_owned(), ..index.clone() }).is_err());
        assert_eq!(number("bin.000010"), Some(10));
        assert!(
            number("bin.index").is_none() && number("../x.000001").is_none() && number(".000001").is_none()
        );
    }
}
