//! Orthanc over its own REST interface: it tells each instance's size and marks each change of content.
//!
//! The story of a run: note where the archive's list of changes stands; list the studies; for each, list its
//! instances (one request) and plan its files ([`bundle`]); a file whose plan is the same as in the previous
//! restore point is kept unread; the others are filled instance by instance, several under way ([`super::site`]).
//! In the end the list of changes says how much came meanwhile: that is the next run's.

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use crossbeam_channel::Receiver;
use jiff::{civil::DateTime, tz::TimeZone};
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};
use serde::Deserialize;

use super::{
    Tally,
    archive::{Spool, Spooled},
    bundle::{self, Content, Feed, Instance, PART, Part},
    is_uid,
    prior::{self, Prior, part_path},
    site::{Lanes, Site},
};
use crate::{
    Control, Error, Phase, Progress, Report,
    config::{DicomBy, DicomConfig},
    control::Bucket,
    report::DicomOrigin,
};

/// Studies whose instances are listed ahead.
const AHEAD: usize = 8;
/// A picture that was changed is looked into up to this size.
const LOOKED_INTO: u64 = 256 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct System {
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
type Planned = Option<(String, FileTime, Vec<Instance>)>;

/// Orthanc's `20261122T184609`, in UTC.
fn time(text: &str) -> FileTime {
    let parsed =
        DateTime::strptime("%Y%m%dT%H%M%S", text).ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
    FileTime { seconds: parsed.map_or(0, |at| at.timestamp().as_second()), nanos: 0 }
}

/// Lists a study.
fn plan(site: &Site, id: &str) -> Result<Planned, Error> {
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
                spooled: None,
                was: None,
            }
        })
        .collect();
    let uid = name(&study.main_dicom_tags.uid, id);
    Ok(Some((uid, time(&study.last_update), instances)))
}

/// Finds out whether it is the archive that the register means.
pub(super) fn check(site: &Site, config: &DicomConfig) -> Result<System, Error> {
    let system: System = site.json("/system")?;
    if config.expect.name.as_ref().is_some_and(|name| *name != system.name) {
        return Err(Error::WrongInstance {
            server: site.server().to_owned(),
            what: "the archive's name",
            expected: config.expect.name.clone().unwrap_or_default(),
            found: system.name,
        });
    }
    Ok(system)
}

/// Reads the whole archive.
pub(super) fn read(config: &DicomConfig, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
    let (begun, started) = (control.clock.now(), control.clock.boot());
    let say = |phase: Phase, tally: &Tally, path: &str| {
        let (items, bytes) = (tally.items, tally.bytes);
        (control.progress)(&Progress { phase, items, bytes, total: None, path });
    };
    say(Phase::Connecting, &Tally::default(), "");
    let site = Site::new(config, control)?;
    let system = check(&site, config)?;
    let before: Changes = site.json("/changes?last")?;
    say(Phase::Looking, &Tally::default(), "studies");
    let mut ids: Vec<String> = site.json("/studies")?;
    ids.sort_unstable();
    let lanes = Lanes::start(&site, config.lanes)?;
    let bucket = Bucket::new(control);
    let spool = Spool::new()?;
    let mut run =
        Run { site: &site, lanes: &lanes, bucket: &bucket, sink, control, spool, tally: Tally::default() };
    run.studies(ids)?;
    let tally = run.tally;
    say(Phase::Finishing, &tally, "");
    let after: Changes = site.json("/changes?last")?;
    if after.last < before.last {
        return Err(Error::DumpChanged("the archive's list of changes began anew: it was replaced".into()));
    }
    let origin = DicomOrigin {
        server: site.server().to_owned(),
        name: system.name,
        version: system.version,
        changes_before: before.last,
        changes_after: after.last,
        ..DicomOrigin::default()
    };
    let seconds = control.clock.boot().saturating_sub(started);
    Ok(tally.report(begun, seconds, super::consistency(DicomBy::Orthanc), origin))
}

struct Run<'a> {
    site: &'a Site,
    lanes: &'a Lanes,
    bucket: &'a Bucket,
    sink: &'a mut dyn Sink,
    control: &'a Control,
    spool: Spool,
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
                planned.push_back((id, self.lanes.ask(move |site| plan(site, &asked))));
            }
            let Some((id, answer)) = planned.pop_front() else { break };
            // Deleted since it was listed: it is not part of the archive any more.
            let Some((uid, updated, instances)) = self.lanes.wait(&answer, &id)? else { continue };
            let folder = studies.join(uid.as_bytes()).map_err(|error| Error::Protocol {
                server: self.site.server().to_owned(),
                why: error.to_string(),
            })?;
            self.tally.studies += 1;
            self.tally.newest = self.tally.newest.max(Some(updated));
            let parts = self.parts(&folder, &uid, updated, instances)?;
            for (part, number) in parts.iter().zip(0..) {
                self.part(&part_path(&folder, number)?, updated, part)?;
            }
            self.sink.seal(&folder)?;
        }
        Ok(self.sink.seal(&studies)?)
    }

    /// Plans a study's files. Where they are not those of the previous restore point, pictures that were changed
    /// under their names are looked for, and the old ones planned beside the new.
    fn parts(
        &mut self,
        folder: &TreePath,
        uid: &str,
        updated: FileTime,
        mut instances: Vec<Instance>,
    ) -> Result<Vec<Part>, Error> {
        let parts = bundle::plan(uid, instances.clone(), PART);
        let mut known = true;
        for (part, number) in parts.iter().zip(0..) {
            known &= self.sink.known(&entry(&part_path(folder, number)?, updated, part));
        }
        if known {
            return Ok(parts);
        }
        let Some(prior) = Prior::load(self.sink, folder)? else { return Ok(parts) };
        self.spool.clear()?;
        prior.carry(self.sink, &mut instances, &mut self.spool)?;
        let mut came: BTreeMap<String, Spooled> = BTreeMap::new();
        for instance in instances.iter().filter(|instance| instance.was.is_none()) {
            let Some(known) = prior.now.get(&instance.sop) else { continue };
            let changed = !known.row.mark.is_empty() && known.row.mark != instance.content;
            if !changed || instance.size > LOOKED_INTO {
                continue;
            }
            // Read twice, because the old one has its place in the plan before the new one is read for good.
            let bytes = match self.site.get(&format!("/instances/{}/file", instance.id), instance.size) {
                Ok(bytes) => bytes,
                Err(Error::Server { code, .. }) if code == "404" => continue,
                Err(error) => return Err(error),
            };
            let sha256 = hex::encode(digest(&SHA256, &bytes));
            let offset = self.spool.add(&bytes)?;
            came.insert(instance.sop.clone(), Spooled { offset, size: bytes.len() as u64, sha256 });
        }
        let replaced = prior::replaced(&prior, uid, &came, &mut self.spool, self.sink, &mut instances)?;
        self.tally.replaced(replaced);
        Ok(bundle::plan(uid, instances, PART))
    }

    fn part(&mut self, path: &TreePath, updated: FileTime, part: &Part) -> Result<(), Error> {
        let entry = entry(path, updated, part);
        (self.control.progress)(&Progress {
            phase: Phase::Reading,
            items: self.tally.items,
            bytes: self.tally.bytes,
            total: None,
            path: &path.to_string(),
        });
        let instances = part.instances.iter().filter(|instance| instance.was.is_none()).count();
        if self.sink.known(&entry) {
            self.sink.keep(entry)?;
            self.tally.kept += 1;
            self.tally.count(part.size, instances);
            return Ok(());
        }
        let feed = Feed {
            site: Some((self.site, self.lanes)),
            spool: &self.spool,
            bucket: self.bucket,
            control: self.control,
        };
        let mut content = Content::new(feed, part);
        let taken = self.sink.put(entry, &mut content);
        match content.failed.take() {
            None => {
                taken?;
                self.tally.count(part.size, instances);
                Ok(())
            }
            // Deleted or replaced while it was read; everything else is the archive's own trouble. The sink has
            // recorded the fault itself when the content broke.
            Some(Error::Server { code, .. }) if code == "404" => {
                taken?;
                self.tally.fault(path, "an instance was deleted while the study was read".into());
                Ok(())
            }
            Some(Error::Protocol { why, .. }) if why.contains("were listed") => {
                taken?;
                self.tally.fault(path, why);
                Ok(())
            }
            Some(error) => Err(error),
        }
    }
}

fn entry(path: &TreePath, updated: FileTime, part: &Part) -> Entry {
    let meta = Meta { mode: 0o600, mtime: updated, inode: part.mark, ..Meta::default() };
    Entry { path: path.clone(), kind: EntryKind::File { size: part.size }, meta }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(time("20261122T184609").seconds, 1_795_373_169);
        assert_eq!(time("yesterday").seconds, 0);
    }
}
