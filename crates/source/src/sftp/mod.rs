//! Reads a folder over SFTP: any Unix server, many appliances, Windows with OpenSSH; no agent, an account that
//! can read.
//!
//! The story of a run: start Debian's `ssh` with the registered host key and nothing else ([`link`]); speak
//! SFTP version 3 through it ([`wire`]); wait for the vendor's marker and see that the dump is still
//! ([`marker`], the same rule as for a share); walk the folder depth first with files on their way ahead of
//! time ([`walk`], [`fetch`]); in the end see that the marker is still the same. A broken line is brought back
//! a bounded number of times, and a big file is read on where it stopped if it is still the same file.
//!
//! Names are bytes: a server with Shift_JIS names gives them unchanged.
//!
//! **Invariant:** only requests that read are ever packed: there is no write, rename, remove or attribute
//! request in [`wire`].

mod fetch;
mod link;
mod marker;
mod walk;
mod wire;

use kuramori_model::tree::Sink;

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    config::SftpConfig,
    report::{Origin, SftpOrigin, Statement},
    smb::timestamp,
};

/// A folder on an SFTP server.
#[derive(Debug)]
pub struct SftpSource {
    config: SftpConfig,
}

impl SftpSource {
    /// Contacts nobody yet.
    pub fn new(config: SftpConfig) -> Self {
        Self { config }
    }

    /// Where reading starts, as the server takes it: `.` is the account's own folder.
    fn root(&self) -> Vec<u8> {
        match self.config.folder.trim_end_matches('/') {
            "" if self.config.folder.starts_with('/') => b"/".to_vec(),
            "" => b".".to_vec(),
            folder => folder.as_bytes().to_vec(),
        }
    }

    fn consistency(&self) -> Statement {
        if self.config.marker.is_some() {
            Statement {
                ja: "ベンダーの完了マーカーで確定した夜間ダンプ。マーカーより新しいファイルはなく、読み取り中の変更もない(時刻は秒単位)。".into(),
                en: "A nightly dump that the vendor's marker declared finished; no file was newer than the marker or \
                     changed while it was read (times in whole seconds)."
                    .into(),
            }
        } else {
            Statement {
                ja: "ファイルごとに読み取り時点の内容(時刻は秒単位)。ファイル間の整合性は保証されない。".into(),
                en: "Each file as it was when it was read (times in whole seconds); nothing is promised between files."
                    .into(),
            }
        }
    }
}

impl Source for SftpSource {
    fn describe(&self) -> Description {
        let c = &self.config;
        Description {
            kind: "sftp",
            server: format!("{}:{}", c.server, c.port),
            address: format!(
                "sftp://{}@{}:{}/{}",
                c.user,
                c.server,
                c.port,
                c.folder.trim_start_matches('/')
            ),
            consistency: self.consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        (control.progress)(&Progress { phase: Phase::Connecting, items: 0, bytes: 0, total: None, path: "" });
        let mut link = link::Link::new(&self.config, control)?;
        let root = self.root();
        let filter = walk::Filter { patterns: &self.config.exclude, root: root.len() };
        let vouched = match &self.config.marker {
            Some(marker) => Some(marker::await_vouched(&mut link, &root, &filter, marker)?),
            None => None,
        };
        let waited = control.clock.boot().saturating_sub(started);
        let limit = vouched.as_ref().map(|(vouched, _)| vouched.limit);
        let total = vouched.as_ref().map(|(_, survey)| (survey.items, survey.bytes));
        let walk = walk::Walk {
            link: &mut link,
            sink,
            filter,
            limit,
            total,
            retries: self.config.retries,
            pause: self.config.retry_pause.0,
            tally: walk::Tally::default(),
        };
        let tally = walk.run(&root)?;
        (control.progress)(&Progress {
            phase: Phase::Finishing,
            items: tally.items,
            bytes: tally.bytes,
            total,
            path: "",
        });
        if let (Some(marker), Some((vouched, _))) = (&self.config.marker, &vouched) {
            marker::still_vouched(&mut link, &root, marker, vouched)?;
        }
        let reconnects = link.reconnects;
        link.bye();
        Ok(Report {
            items: tally.items,
            files: tally.files,
            bytes: tally.bytes,
            kept: tally.kept,
            newest: tally.newest.map(timestamp),
            begun,
            seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
            waited_seconds: waited.as_secs_f64(),
            fault_count: tally.fault_count,
            felt: None,
            faults: tally.faults,
            reconnects,
            consistency: self.consistency(),
            origin: Origin::Sftp(SftpOrigin {
                server: format!("{}:{}", self.config.server, self.config.port),
                folder: self.config.folder.clone(),
                host_key: self.config.host_keys.first().cloned().unwrap_or_default(),
                marker: vouched.map(|(vouched, _)| vouched.seen),
            }),
        })
    }
}

/// What it means that the folder we start from cannot be listed.
fn root_error(link: &link::Link, folder: &[u8], trouble: link::Trouble) -> Error {
    let (server, folder) = (link.server(), marker::shown(folder));
    match trouble {
        link::Trouble::Gone => Error::FolderMissing { server, folder },
        link::Trouble::Denied => Error::AccessDenied { server, user: link.user().to_owned(), what: folder },
        other => {
            Error::Server { server, code: "sftp".into(), message: format!("`{folder}`: {}", other.text()) }
        }
    }
}
