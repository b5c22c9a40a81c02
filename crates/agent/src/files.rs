//! Files and folders of this machine as a source.

use std::{path::Path, sync::Mutex};

use aws_lc_rs::digest;
use jiff::Timestamp;
use kuramori_model::tree::Sink;
use kuramori_repo::local::{GiveError, Hooks, Selection, give};
use kuramori_source::{
    Bucket, Control, Description, Error, Phase, Progress, Report, Source,
    config::FilesConfig,
    report::{FilesOrigin, ItemFault, LISTED, Origin, Statement},
};

/// Declared files.
#[derive(Debug)]
pub struct FilesSource {
    config: FilesConfig,
}

/// Opens declared files: what only an agent may do.
///
/// # Errors
/// None here; the type is the opener's.
pub fn open(config: &FilesConfig) -> Result<Box<dyn Source>, Error> {
    Ok(Box::new(FilesSource { config: config.clone() }))
}

impl FilesSource {
    fn consistency(&self) -> Statement {
        if self.config.snapshot.is_some() {
            Statement {
                ja: "ボリュームのスナップショットから読んだファイル。ある一時点の状態（電源断と同等）。"
                    .into(),
                en: "Files read from a snapshot of the volume: one moment, as after a power cut.".into(),
            }
        } else {
            Statement {
                ja: "各ファイルを見つけた時点のまま読む。ファイル間の一時点の一致は保証しない。".into(),
                en: "Each file as it was found; nothing is promised between files.".into(),
            }
        }
    }
}

/// The machine's own id, hashed: it must not be shown as it is (machine-id(5)).
fn machine() -> String {
    let id = fs_err::read_to_string("/etc/machine-id").unwrap_or_default();
    if id.trim().is_empty() {
        return String::new();
    }
    let text = format!("kuramori agent {}", id.trim());
    hex::encode(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16])
}

impl Source for FilesSource {
    fn describe(&self) -> Description {
        Description {
            kind: "files",
            server: "localhost".to_owned(),
            address: "files:".to_owned(),
            consistency: self.consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        let bucket = Bucket::new(control);
        let notes = Mutex::new(0_u64);
        let going = || !control.cancel.is_cancelled();
        let pace = |bytes: u64| {
            let mut wait = bucket.take(bytes);
            while !wait.is_zero() && going() {
                let turn = wait.min(std::time::Duration::from_millis(200));
                control.clock.sleep(turn);
                wait -= turn;
            }
        };
        let seen = |given: &kuramori_repo::local::Given, path: &str| {
            let (items, bytes) = (given.items, given.bytes);
            (control.progress)(&Progress { phase: Phase::Reading, items, bytes, total: None, path });
        };
        let note = |path: String, why: String| {
            tracing::info!(path, why, "noticed");
            *notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        };
        let hooks = Hooks { going: &going, pace: &pace, seen: &seen, note: &note };
        let selection = Selection {
            excludes: self.config.exclude.clone(),
            one_file_system: self.config.one_file_system,
            access_time: false,
        };
        if let Some(snapshot) = &self.config.snapshot
            && !is_mounted(snapshot)
        {
            return Err(Error::FolderMissing {
                server: "this machine".to_owned(),
                folder: format!("{} (no snapshot is mounted there)", snapshot.display()),
            });
        }
        let given = give(&self.config.paths, self.config.snapshot.as_deref(), &selection, sink, &hooks);
        let given = given.map_err(|error| match error {
            GiveError::Sink(error) => Error::Sink(error),
            GiveError::Local(kuramori_repo::Error::Cancelled) => Error::Cancelled("files".to_owned()),
            GiveError::Local(error) => Error::FolderMissing {
                server: "this machine".to_owned(),
                folder: kuramori_model::fault::chain(&error),
            },
        })?;
        Ok(Report {
            items: given.items,
            files: given.files,
            bytes: given.bytes,
            kept: given.kept,
            newest: Timestamp::new(given.newest.seconds, i32::try_from(given.newest.nanos).unwrap_or(0))
                .ok()
                .filter(|_| given.files > 0),
            begun,
            seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
            waited_seconds: 0.0,
            fault_count: given.faults,
            faults: given
                .listed
                .into_iter()
                .take(LISTED)
                .map(|(path, why)| ItemFault { path, why })
                .collect(),
            reconnects: 0,
            consistency: self.consistency(),
            origin: Origin::Files(FilesOrigin {
                machine: machine(),
                paths: self.config.paths.iter().map(|path| path.display().to_string()).collect(),
                snapshot: self.config.snapshot.as_ref().map(|path| path.display().to_string()),
                restless: given.restless,
            }),
            felt: None,
        })
    }
}

/// Whether a file system of its own begins there: a snapshot that was not mounted would be an empty folder.
fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).ok();
    let here = device(path);
    here.is_some() && here != path.parent().and_then(device)
}
