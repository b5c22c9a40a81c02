//! What another backup product says about one of its jobs: the small JSON document that a post-job script
//! writes beside the product's files or posts to the server.
//!
//! ```json
//! {
//!   "format": "kuramori.job-result/1",
//!   "system": "ward", "product": "veeam", "job": "Ward nightly",
//!   "state": "success", "started": "2026-11-22T01:00:00+09:00", "ended": "2026-11-22T01:42:10+09:00",
//!   "bytes": 107374182400,
//!   "files": [ { "name": "ward.vbk", "bytes": 107374182400 } ],
//!   "message": ""
//! }
//! ```
//!
//! The same document with `"state": "request"` asks that the gate be opened for this job. It is only ever a
//! request: the vault reads it in its own time and decides.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::SystemId;

/// The first and only form so far.
pub const FORMAT: &str = "kuramori.job-result/1";
/// More is not a result; unread.
pub const MOST_BYTES: u64 = 4 << 20;
/// Files that one result may name.
const MOST_FILES: usize = 20_000;
/// Characters that a message, a job's or a product's name may have.
const MOST_TEXT: usize = 4000;

/// How a job of another product ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The product says: good.
    Success,
    /// The product says: done, with something to look at.
    Warning,
    /// The product says: not done.
    Failed,
    /// A job is about to begin and asks for the gate.
    Request,
}

impl JobState {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Request => "request",
        }
    }
}

/// A file that belongs to the backup, as the product names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFile {
    /// Its name, or its path below the result file's folder, with `/` or `\`.
    pub name: String,
    /// Its size in bytes, if the product tells.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// One job of another product, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult {
    /// [`FORMAT`].
    pub format: String,
    /// Which registered system it protects.
    pub system: SystemId,
    /// `veeam`, `arcserve`, `windows-server-backup`, or the vendor's name.
    pub product: String,
    /// The job's name in the product.
    #[serde(default)]
    pub job: String,
    /// How it ended.
    pub state: JobState,
    /// When it began, by the product's clock.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// When it ended, by the product's clock.
    pub ended: Timestamp,
    /// What the product says it wrote, in bytes. None: it does not tell, which is not the same as nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What its backup consists of now, if it tells.
    #[serde(default)]
    pub files: Vec<JobFile>,
    /// The product's own words about it.
    #[serde(default)]
    pub message: String,
}

/// A document that is not a result.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a job result: {0}")]
pub struct BadResult(pub String);

impl JobResult {
    /// Reads a document; with or without the mark that Windows programs put in front of UTF-8.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadResult> {
        if bytes.len() as u64 > MOST_BYTES {
            return Err(BadResult(format!("it has {} bytes", bytes.len())));
        }
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let result: Self = serde_json::from_slice(bytes).map_err(|error| BadResult(error.to_string()))?;
        if result.format != FORMAT {
            return Err(BadResult(format!("its format is `{}`, not `{FORMAT}`", clip(&result.format, 80))));
        }
        for (what, text) in [("product", &result.product), ("job", &result.job), ("message", &result.message)]
        {
            if text.chars().count() > MOST_TEXT {
                return Err(BadResult(format!("`{what}` is longer than {MOST_TEXT} characters")));
            }
        }
        if result.files.len() > MOST_FILES {
            return Err(BadResult(format!("it names {} files", result.files.len())));
        }
        Ok(result)
    }

    /// Whether two documents tell of the same event of the product.
    pub fn same_event(&self, other: &Self) -> bool {
        self.product == other.product
            && self.job == other.job
            && self.ended == other.ended
            && self.state == other.state
    }

    /// How much the backup has, as far as the product tells: its own figure, else the sum of the files that
    /// it names with their sizes. None if it tells neither; 0 only if it says 0.
    pub fn told_bytes(&self) -> Option<u64> {
        let mut named = self.files.iter().filter_map(|file| file.bytes).peekable();
        let sum = named.peek().is_some().then(|| named.fold(0, u64::saturating_add));
        match self.bytes {
            // Some products leave the figure at 0 and name files.
            Some(0) | None => sum.or(self.bytes),
            told => told,
        }
    }

    /// Product and job as people read them.
    pub fn title(&self) -> String {
        if self.job.is_empty() { self.product.clone() } else { format!("{} `{}`", self.product, self.job) }
    }
}

fn clip(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"format":"kuramori.job-result/1","system":"ward","product":"veeam","job":"夜間",
        "state":"success","ended":"2026-11-22T01:42:10+09:00","bytes":7,"files":[{"name":"a.vbk","bytes":7}],"new":1}"#;

    #[test]
    fn a_result_is_read_with_windows_mark_and_unknown_keys() {
        let plain = JobResult::parse(GOOD.as_bytes()).unwrap();
        let marked = JobResult::parse(&[b"\xEF\xBB\xBF", GOOD.as_bytes()].concat()).unwrap();
        assert_eq!(plain, marked);
        assert_eq!(
            (plain.ended.to_string().as_str(), plain.files[0].bytes),
            ("2026-11-21T16:42:10Z", Some(7))
        );
        assert!(plain.same_event(&marked) && plain.title() == "veeam `夜間`");
    }

    #[test]
    fn a_size_that_is_not_told_is_not_a_size_of_zero() {
        let told = |from: &str, to: &str| {
            let text = GOOD.replace(r#""files":[{"name":"a.vbk","bytes":7}],"#, "").replace(from, to);
            let result = JobResult::parse(text.as_bytes()).unwrap();
            // Through the catalog and back it stays what it was.
            let again = serde_json::to_vec(&result).unwrap();
            assert_eq!(JobResult::parse(&again).unwrap(), result);
            result.told_bytes()
        };
        assert_eq!(told(r#""bytes":7,"#, r#""bytes":7,"#), Some(7));
        assert_eq!(told(r#""bytes":7,"#, ""), None);
        assert_eq!(told(r#""bytes":7,"#, r#""bytes":null,"#), None);
        assert_eq!(told(r#""bytes":7,"#, r#""bytes":0,"#), Some(0));
        assert_eq!(told(r#""bytes":7,"#, r#""files":[{"name":"a"},{"name":"b"}],"#), None);
        assert_eq!(
            told(r#""bytes":7,"#, r#""bytes":0,"files":[{"name":"a","bytes":5},{"name":"b"}],"#),
            Some(5)
        );
        assert_eq!(told(r#""bytes":7,"#, r#""files":[{"name":"a","bytes":0}],"#), Some(0));
        for bad in [r#""bytes":-1,"#, r#""bytes":"7","#, r#""bytes":1.5,"#] {
            assert!(JobResult::parse(GOOD.replace(r#""bytes":7,"#, bad).as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_a_result_is_refused() {
        for (from, to) in [
            ("job-result/1", "job-result/9"),
            ("success", "maybe"),
            ("\"ward\"", "\"../etc\""),
            ("2026-11-22T01:42:10+09:00", "yesterday"),
        ] {
            assert!(JobResult::parse(GOOD.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert!(JobResult::parse(&vec![b' '; 5 << 20]).is_err());
        assert!(JobResult::parse(GOOD.replace("夜間", &"あ".repeat(4001)).as_bytes()).is_err());
    }
}
