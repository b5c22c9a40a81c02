//! Copies a picture archive study by study while it goes on working: Orthanc over its REST interface, any archive
//! over DICOMweb or by C-FIND and C-GET. No agent, one account or one AE title.
//!
//! Each study becomes one file ([`bundle`]), or a few. Orthanc's own interface tells sizes and changes, so what
//! is new is known before it is read (module `orthanc`); the other ways tell names only, so a study that is new
//! waits in a spool until all of it is there, and one whose names stay the same is read again now and then
//! (module `remote`).
//!
//! A picture that was changed under its name is taken, the old one stays beside it, and the report says so
//! (module `prior`). What an archive lists and does not give is a fault of the restore point. A line that breaks
//! is tried again; an archive that stays away ends the run.
//!
//! **Invariant:** reading asks (GET, C-ECHO, C-FIND, C-GET) and nothing else. Only [`restore`], which is called to
//! give a backup back to the archive that is named for it, sends anything to an archive.

mod archive;
pub mod bundle;
mod classes;
mod dimse;
mod element;
mod get;
mod line;
mod message;
mod orthanc;
mod pdu;
mod prior;
mod remote;
pub mod restore;
mod site;
mod studies;
mod web;

use std::time::Duration;

use jiff::{Timestamp, civil::Date};
use kuramori_model::tree::{FileTime, Sink, TreePath};

use crate::{
    Control, Description, Error, Report, Source,
    config::{DicomBy, DicomConfig},
    report::{DicomOrigin, ItemFault, LISTED, Origin, Replaced, Statement},
};

/// A picture archive.
#[derive(Debug)]
pub struct DicomSource {
    config: DicomConfig,
}

#[derive(Debug, Default)]
struct Tally {
    items: u64,
    files: u64,
    bytes: u64,
    kept: u64,
    studies: u64,
    instances: u64,
    newest: Option<FileTime>,
    fault_count: u64,
    faults: Vec<ItemFault>,
    replaced_count: u64,
    replaced: Vec<Replaced>,
}

impl Tally {
    fn count(&mut self, bytes: u64, instances: usize) {
        self.items += 1;
        self.files += 1;
        self.bytes += bytes;
        self.instances += instances as u64;
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.fault_count += 1;
        if self.faults.len() < LISTED {
            self.faults.push(ItemFault { path: path.to_string(), why });
        }
    }

    fn replaced(&mut self, found: Vec<Replaced>) {
        self.replaced_count += found.len() as u64;
        let room = LISTED.saturating_sub(self.replaced.len());
        self.replaced.extend(found.into_iter().take(room));
    }

    fn report(self, begun: Timestamp, took: Duration, consistency: Statement, origin: DicomOrigin) -> Report {
        Report {
            items: self.items,
            files: self.files,
            bytes: self.bytes,
            kept: self.kept,
            newest: self.newest.and_then(|at| Timestamp::from_second(at.seconds).ok()),
            begun,
            seconds: took.as_secs_f64(),
            waited_seconds: 0.0,
            fault_count: self.fault_count,
            felt: None,
            faults: self.faults,
            reconnects: 0,
            consistency,
            origin: Origin::Dicom(DicomOrigin {
                studies: self.studies,
                instances: self.instances,
                replaced_count: self.replaced_count,
                replaced: self.replaced,
                ..origin
            }),
        }
    }
}

impl DicomSource {
    /// Contacts nobody yet.
    pub fn new(config: DicomConfig) -> Self {
        Self { config }
    }
}

fn consistency(by: DicomBy) -> Statement {
    let (ja, en) = match by {
        DicomBy::Orthanc | DicomBy::Dicomweb => ("", ""),
        DicomBy::Dimse => (
            "ファイルの先頭(group 2)は通信に含まれないため当方で付与。",
            " The head of each file (group 2) is ours, because it does not travel.",
        ),
    };
    Statement {
        ja: format!(
            "検査(Study)ごとに、読み取り時点でアーカイブにあったインスタンス全部。各インスタンスはアーカイブが返したそのままの内容で、\
             SHA-256を記録。読み取り中に届いた画像は次回。{ja}"
        ),
        en: format!(
            "Study by study, all instances that the archive had when the study was read, each exactly as the archive \
             gave it, with its SHA-256. Pictures that arrived meanwhile come with the next run.{en}"
        ),
    }
}

/// A UID as a name in a tree; what is none (PS3.5, 9.1) is not used as one.
fn is_uid(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && !text.split('.').any(str::is_empty)
}

/// Days as a question holds them (PS3.4, C.2.2.2.5).
fn range((from, to): (Date, Date)) -> String {
    format!("{}-{}", from.strftime("%Y%m%d"), to.strftime("%Y%m%d"))
}

fn too_many(server: &str, days: &str) -> Error {
    Error::Protocol {
        server: server.to_owned(),
        why: format!("it does not name all studies of {days}: raise its limit of answers"),
    }
}

impl Source for DicomSource {
    fn describe(&self) -> Description {
        let c = &self.config;
        let scheme = match (c.by, c.ca_file.is_some()) {
            (DicomBy::Dimse, false) => "dicom",
            (DicomBy::Dimse, true) => "dicoms",
            (_, false) => "http",
            (_, true) => "https",
        };
        let user = if c.by == DicomBy::Dimse { c.dimse().called } else { c.user.clone() };
        Description {
            kind: "dicom",
            server: format!("{}:{}", c.server, c.port),
            address: format!("{scheme}://{user}@{}:{}{}", c.server, c.port, c.path),
            consistency: consistency(c.by),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        match self.config.by {
            DicomBy::Orthanc => orthanc::read(&self.config, sink, control),
            DicomBy::Dicomweb | DicomBy::Dimse => remote::read(&self.config, sink, control),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uids_become_names() {
        assert!(is_uid("2.25.1") && is_uid("1.2.840.10008"));
        for bad in ["", "..", "1..2", ".1", "1.", "1/2", "1.2a", &"1".repeat(65)] {
            assert!(!is_uid(bad), "{bad}");
        }
    }
}
