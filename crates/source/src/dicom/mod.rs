//! Copies a picture archive study by study while it goes on working: Orthanc over its REST interface, no agent,
//! one account.
//!
//! The story of a run: note where the archive's list of changes stands; list the studies; for each, list its
//! instances (one request) and plan its files ([`bundle`]); a file whose plan is the same as in the previous
//! restore point is kept unread; the others are filled instance by instance, several under way ([`site`]). In
//! the end the list of changes says how much came meanwhile: that is the next run's.
//!
//! Whether a study is the same is decided by which instances it has, their sizes and the archive's own marks
//! of their content, not by its "last update": a deletion does not move that one.
//!
//! An instance that vanishes while its study is read makes that study's file a fault of this restore point. A
//! line that breaks is tried again request by request; an archive that stays away ends the run.
//!
//! **Invariant:** reading sends GET requests and nothing else. Only [`restore`], which is called to give a
//! backup back to the archive that is named for it, sends anything to an archive.

pub mod bundle;
pub mod restore;
mod site;

use std::collections::VecDeque;

use crossbeam_channel::Receiver;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};
use serde::Deserialize;

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    config::DicomConfig,
    control::Bucket,
    report::{DicomOrigin, ItemFault, LISTED, Origin, Statement},
};
use bundle::{Content, Instance, PART, Part};
use site::{Lanes, Site};

/// Studies whose instances are listed ahead.
const AHEAD: usize = 8;

/// A picture archive.
#[derive(Debug)]
pub struct DicomSource {
    config: DicomConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct System {
    #[serde(default)]
    name: String,
    version: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Changes {
    last: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Study {
    #[serde(default)]
    last_update: String,
    main_dicom_tags: StudyTags,
}

#[derive(Debug, Deserialize)]
struct StudyTags {
    #[serde(rename = "StudyInstanceUID", default)]
    uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(rename = "ID")]
    id: String,
    file_size: u64,
    #[serde(default)]
    file_uuid: String,
    parent_series: String,
    main_dicom_tags: InstanceTags,
}

#[derive(Debug, Deserialize)]
struct InstanceTags {
    #[serde(rename = "SOPInstanceUID")]
    uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Series {
    #[serde(rename = "ID")]
    id: String,
    main_dicom_tags: SeriesTags,
}

#[derive(Debug, Deserialize)]
struct SeriesTags {
    #[serde(rename = "SeriesInstanceUID", default)]
    uid: String,
}

/// A study as it is to be read; none if it is gone meanwhile.
type Planned = Option<(String, FileTime, Vec<Part>)>;

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
}

impl DicomSource {
    /// Contacts nobody yet.
    pub fn new(config: DicomConfig) -> Self {
        Self { config }
    }
}

fn consistency() -> Statement {
    Statement {
        ja: "検査(Study)ごとに、読み取り時点でアーカイブにあったインスタンス全部。各インスタンスはアーカイブが返したそのままの内容で、\
             SHA-256を記録。読み取り中に届いた画像は次回。"
            .into(),
        en: "Study by study, all instances that the archive had when the study was read, each exactly as the archive \
             gave it, with its SHA-256. Pictures that arrived meanwhile come with the next run."
            .into(),
    }
}

/// A UID as a name in a tree; what is none (PS3.5, 9.1) is not used as one.
fn is_uid(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && !text.split('.').any(str::is_empty)
}

/// Orthanc's `20261122T184609`, in UTC.
fn time(text: &str) -> FileTime {
    let parsed =
        DateTime::strptime("%Y%m%dT%H%M%S", text).ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
    FileTime { seconds: parsed.map_or(0, |at| at.timestamp().as_second()), nanos: 0 }
}

/// Lists a study and plans its files.
fn plan(site: &Site, id: &str, most: u64) -> Result<Planned, Error> {
    let gone = |error: Error| match error {
        Error::Server { code, .. } if code == "404" => Ok(None),
        other => Err(other),
    };
    let study: Study = match site.json(&format!("/studies/{id}")) {
        Ok(study) => study,
        Err(error) => return gone(error),
    };
    let series: Vec<Series> = match site.json(&format!("/studies/{id}/series")) {
        Ok(series) => series,
        Err(error) => return gone(error),
    };
    let listed: Vec<Listed> = match site.json(&format!("/studies/{id}/instances")) {
        Ok(listed) => listed,
        Err(error) => return gone(error),
    };
    let name = |uid: &str, id: &str| if is_uid(uid) { uid.to_owned() } else { id.to_owned() };
    let instances = listed
        .into_iter()
        .map(|instance| {
            let series = series.iter().find(|series| series.id == instance.parent_series);
            Instance {
                sop: name(&instance.main_dicom_tags.uid, &instance.id),
                series: series
                    .map_or_else(|| instance.parent_series.clone(), |s| name(&s.main_dicom_tags.uid, &s.id)),
                size: instance.file_size,
                content: instance.file_uuid,
                id: instance.id,
            }
        })
        .collect();
    let uid = name(&study.main_dicom_tags.uid, id);
    let parts = bundle::plan(&uid, instances, most);
    Ok(Some((uid, time(&study.last_update), parts)))
}

impl Source for DicomSource {
    fn describe(&self) -> Description {
        let c = &self.config;
        let scheme = if c.ca_file.is_some() { "https" } else { "http" };
        Description {
            kind: "dicom",
            server: format!("{}:{}", c.server, c.port),
            address: format!("{scheme}://{}@{}:{}{}", c.user, c.server, c.port, c.path),
            consistency: consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        (control.progress)(&Progress { phase: Phase::Connecting, items: 0, bytes: 0, total: None, path: "" });
        let site = Site::new(&self.config, control)?;
        let system: System = site.json("/system")?;
        if self.config.expect.name.as_ref().is_some_and(|name| *name != system.name) {
            return Err(Error::WrongInstance {
                server: site.server().to_owned(),
                what: "the archive's name",
                expected: self.config.expect.name.clone().unwrap_or_default(),
                found: system.name,
            });
        }
        let before: Changes = site.json("/changes?last")?;
        (control.progress)(&Progress {
            phase: Phase::Looking,
            items: 0,
            bytes: 0,
            total: None,
            path: "studies",
        });
        let mut ids: Vec<String> = site.json("/studies")?;
        ids.sort_unstable();
        let lanes = Lanes::start(&site, self.config.lanes)?;
        let bucket = Bucket::new(control);
        let mut run =
            Run { site: &site, lanes: &lanes, bucket: &bucket, sink, control, tally: Tally::default() };
        run.studies(ids)?;
        let tally = run.tally;
        (control.progress)(&Progress {
            phase: Phase::Finishing,
            items: tally.items,
            bytes: tally.bytes,
            total: None,
            path: "",
        });
        let after: Changes = site.json("/changes?last")?;
        if after.last < before.last {
            return Err(Error::DumpChanged(
                "the archive's list of changes began anew: it was replaced".into(),
            ));
        }
        let newest = tally.newest.and_then(|at| Timestamp::from_second(at.seconds).ok());
        Ok(Report {
            items: tally.items,
            files: tally.files,
            bytes: tally.bytes,
            kept: tally.kept,
            newest,
            begun,
            seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
            waited_seconds: 0.0,
            fault_count: tally.fault_count,
            felt: None,
            faults: tally.faults,
            reconnects: 0,
            consistency: consistency(),
            origin: Origin::Dicom(DicomOrigin {
                server: site.server().to_owned(),
                name: system.name,
                version: system.version,
                studies: tally.studies,
                instances: tally.instances,
                changes_before: before.last,
                changes_after: after.last,
            }),
        })
    }
}

struct Run<'a> {
    site: &'a Site,
    lanes: &'a Lanes,
    bucket: &'a Bucket,
    sink: &'a mut dyn Sink,
    control: &'a Control,
    tally: Tally,
}

impl Run<'_> {
    fn studies(&mut self, ids: Vec<String>) -> Result<(), Error> {
        let mut wanted = ids.into_iter();
        let mut planned: VecDeque<(String, Receiver<Result<Planned, Error>>)> = VecDeque::new();
        let studies = TreePath::new("studies").map_err(|error| Error::Config(error.to_string()))?;
        loop {
            while planned.len() < AHEAD
                && let Some(id) = wanted.next()
            {
                let asked = id.clone();
                planned.push_back((id, self.lanes.ask(move |site| plan(site, &asked, PART))));
            }
            let Some((id, answer)) = planned.pop_front() else { break };
            // Deleted since it was listed: it is not part of the archive any more.
            let Some((uid, updated, parts)) = self.lanes.wait(&answer, &id)? else { continue };
            let folder = studies.join(uid.as_bytes()).map_err(|error| Error::Protocol {
                server: self.site.server().to_owned(),
                why: error.to_string(),
            })?;
            self.tally.studies += 1;
            self.tally.newest = self.tally.newest.max(Some(updated));
            for (part, number) in parts.iter().zip(0..) {
                self.part(&folder, number, updated, part)?;
            }
            self.sink.seal(&folder)?;
        }
        Ok(self.sink.seal(&studies)?)
    }

    fn part(&mut self, folder: &TreePath, number: u32, updated: FileTime, part: &Part) -> Result<(), Error> {
        let name = format!("part-{number:03}.tar");
        let path = folder.join(name.as_bytes()).map_err(|error| Error::Config(error.to_string()))?;
        let meta = Meta { mode: 0o600, mtime: updated, inode: part.mark, ..Meta::default() };
        let entry = Entry { path: path.clone(), kind: EntryKind::File { size: part.size }, meta };
        (self.control.progress)(&Progress {
            phase: Phase::Reading,
            items: self.tally.items,
            bytes: self.tally.bytes,
            total: None,
            path: &path.to_string(),
        });
        if self.sink.known(&entry) {
            self.sink.keep(entry)?;
            self.tally.kept += 1;
            self.count(part);
            return Ok(());
        }
        let mut content = Content::new(self.site, self.lanes, self.bucket, part);
        let taken = self.sink.put(entry, &mut content);
        match content.failed.take() {
            None => {
                taken?;
                self.count(part);
                Ok(())
            }
            // Deleted or replaced while it was read; everything else is the archive's own trouble.
            Some(Error::Server { code, .. }) if code == "404" => {
                taken?;
                self.fault(&path, "an instance was deleted while the study was read".into());
                Ok(())
            }
            Some(Error::Protocol { why, .. }) if why.contains("were listed") => {
                taken?;
                self.fault(&path, why);
                Ok(())
            }
            Some(error) => Err(error),
        }
    }

    fn count(&mut self, part: &Part) {
        self.tally.items += 1;
        self.tally.files += 1;
        self.tally.bytes += part.size;
        self.tally.instances += part.instances.len() as u64;
    }

    /// The sink has recorded the fault itself when the content broke.
    fn fault(&mut self, path: &TreePath, why: String) {
        self.tally.fault_count += 1;
        if self.tally.faults.len() < LISTED {
            self.tally.faults.push(ItemFault { path: path.to_string(), why });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uids_become_names_and_times_are_utc() {
        assert!(is_uid("2.25.1") && is_uid("1.2.840.10008"));
        for bad in ["", "..", "1..2", ".1", "1.", "1/2", "1.2a", &"1".repeat(65)] {
            assert!(!is_uid(bad), "{bad}");
        }
        assert_eq!(time("20261122T184609").seconds, 1_795_373_169);
        assert_eq!(time("yesterday").seconds, 0);
    }
}
