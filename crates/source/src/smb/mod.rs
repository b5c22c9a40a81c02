//! Reads a vendor's nightly dump folder from a Windows or Samba share: no agent, a read-only account.
//!
//! The story of a run: log in and make sure that it is the registered server; wait for the vendor's
//! [`marker`] and see that the dump is still; walk the folder depth first with many small files in flight
//! ([`walk`], [`fetch`]); in the end see that the marker is still the same. What cannot be read is a fault
//! of that item; a dump that changes as a whole, or a server that does not come back, ends the run.
//!
//! **Invariant:** every open asks for reading only and refuses nobody else's access, so the department's
//! own programs never fail because of us.

mod content;
mod fetch;
mod io;
mod link;
mod marker;
pub(crate) mod names;
mod walk;
mod wire;

pub(crate) use marker::{later, named, timestamp};

use kuramori_model::tree::Sink;

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    config::SmbConfig,
    report::{Origin, Statement},
};

/// A dump folder on a share.
#[derive(Debug)]
pub struct SmbSource {
    config: SmbConfig,
}

impl SmbSource {
    /// Contacts nobody yet.
    pub fn new(config: SmbConfig) -> Self {
        Self { config }
    }

    fn consistency(&self) -> Statement {
        if self.config.marker.is_some() {
            Statement {
                ja: "ベンダーの完了マーカーで確定した夜間ダンプ。マーカーより新しいファイルはなく、読み取り中の変更もない。".into(),
                en: "A nightly dump that the vendor's marker declared finished; no file was newer than the marker or \
                     changed while it was read."
                    .into(),
            }
        } else {
            Statement {
                ja: "ファイルごとに読み取り時点の内容。各ファイルは読み取り中に変化していないが、ファイル間の整合性は保証されない。".into(),
                en: "Each file as it was when it was read, unchanged meanwhile; nothing is promised between files.".into(),
            }
        }
    }
}

/// A file's name and its content.
pub(crate) type NamedContent = (String, Vec<u8>);

/// Reads the newest file that fits `pattern` in the configured folder, and nothing else: a result file of
/// another product. The origin says from where.
pub(crate) fn read_one(
    config: &SmbConfig,
    pattern: &str,
    control: &Control,
) -> Result<(crate::report::SmbOrigin, Option<NamedContent>), Error> {
    let io = io::Io::start(config, control)?;
    let (origin, _) = io.origin()?;
    let found = marker::newest_content(&io, &names::wide_path(&config.folder), pattern)?;
    Ok((origin, found))
}

impl Source for SmbSource {
    fn describe(&self) -> Description {
        let c = &self.config;
        let folder = c.folder.trim_matches('/');
        let slash = if folder.is_empty() { "" } else { "/" };
        Description {
            kind: "smb",
            server: format!("{}:{}", c.server, c.port),
            address: format!("//{}/{}{slash}{folder}", c.server, c.share),
            consistency: self.consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        (control.progress)(&Progress { phase: Phase::Connecting, items: 0, bytes: 0, total: None, path: "" });
        let io = io::Io::start(&self.config, control)?;
        let (mut origin, _) = io.origin()?;
        let root = names::wide_path(&self.config.folder);
        let filter = walk::Filter::new(&self.config.exclude, &root);
        let vouched = match &self.config.marker {
            Some(marker) => Some(marker::await_vouched(&io, &root, &filter, marker)?),
            None => None,
        };
        let waited = control.clock.boot().saturating_sub(started);
        let limit = vouched.as_ref().map(|(vouched, _)| vouched.limit);
        let total = vouched.as_ref().map(|(_, survey)| (survey.items, survey.bytes));
        let tally = walk::Walk::new(&io, sink, &filter, limit, total).run(root.clone())?;
        (control.progress)(&Progress {
            phase: Phase::Finishing,
            items: tally.items,
            bytes: tally.bytes,
            total,
            path: "",
        });
        if let (Some(marker), Some((vouched, _))) = (&self.config.marker, &vouched) {
            marker::still_vouched(&io, &root, marker, vouched)?;
        }
        let (_, reconnects) = io.origin()?;
        origin.marker = vouched.map(|(vouched, _)| vouched.seen);
        Ok(Report {
            items: tally.items,
            files: tally.files,
            bytes: tally.bytes,
            kept: tally.kept,
            newest: tally.newest.map(marker::timestamp),
            begun,
            seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
            waited_seconds: waited.as_secs_f64(),
            fault_count: tally.fault_count,
            felt: None,
            faults: tally.faults,
            reconnects,
            consistency: self.consistency(),
            origin: Origin::Smb(origin),
        })
    }
}

/// What it means that the folder we start from cannot be listed.
fn folder_error(io: &io::Io, folder: &[u16], failure: link::Failure) -> Error {
    let shown = names::shown(folder);
    let server = io.server().to_owned();
    match failure {
        link::Failure::Fatal => io.fatal(&shown),
        link::Failure::Item(link::Trouble::Gone) => Error::FolderMissing { server, folder: shown },
        link::Failure::Item(link::Trouble::Denied) => {
            Error::AccessDenied { server, user: io.user().to_owned(), what: shown }
        }
        link::Failure::Item(trouble) => {
            Error::Server { server, code: "smb".into(), message: format!("`{shown}`: {}", trouble.text()) }
        }
    }
}
