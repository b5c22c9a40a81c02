//! Orthanc over its own REST interface: it tells each instance's size and marks each change of content.
//!
//! The story of a run: note where the archive's list of changes stands; list the studies; for each, list its
//! instances (one request) and plan its files ([`bundle`]); a file whose plan is the same as in the previous
//! restore point is kept unread; the others are filled instance by instance, several under way ([`super::site`]).
//! In the end the list of changes says how much came meanwhile: that is the next run's.

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::digest::{Context, SHA256};
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
    site::{Lanes, Site, piece},
};
use crate::{
    Control, Error, Phase, Progress, Report,
    config::{DicomBy, DicomConfig},
    control::Bucket,
    report::DicomOrigin,
};

/// Studies whose instances are listed ahead.
const AHEAD: usize = 8;
/// Tries of a picture whose line breaks.
const TRIES: u32 = 3;
/// Bytes of a changed picture that are taken at once.
const PIECE: usize = 1 << 20;

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
                marked: true,
                id: instance.id,
                spooled: None,
                was: None,
                carried: false,
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

/// A file of which the archive did not give all; which instance it refused, and why.
struct Short {
    instances: Vec<Instance>,
    refused: Option<(usize, String)>,
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
            let (parts, prior) = self.parts(&folder, &uid, updated, instances)?;
            for (part, number) in parts.into_iter().zip(0..) {
                let path = part_path(&folder, number)?;
                if let Err(short) = self.part(&path, updated, part)? {
                    self.salvage(&path, (&uid, number, updated), short, prior.as_ref())?;
                }
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
    ) -> Result<(Vec<Part>, Option<Prior>), Error> {
        let parts = bundle::plan(uid, instances.clone(), PART);
        let mut known = true;
        for (part, number) in parts.iter().zip(0..) {
            known &= self.sink.known(&entry(&part_path(folder, number)?, updated, part));
        }
        if known {
            return Ok((parts, None));
        }
        self.spool.clear()?;
        let Some(prior) = Prior::load(self.sink, folder)? else { return Ok((parts, None)) };
        prior.carry(self.sink, &mut instances, &mut self.spool)?;
        let mut came: BTreeMap<String, Spooled> = BTreeMap::new();
        for instance in instances.iter().filter(|instance| instance.was.is_none()) {
            let Some(known) = prior.now.get(&instance.sop) else { continue };
            if !known.row.mark.is_empty() && known.row.mark != instance.content {
                // Read twice, because the old one has its place in the plan before the new one is read for good.
                came.extend(self.look(instance)?.ok().map(|spooled| (instance.sop.clone(), spooled)));
            }
        }
        let replaced = prior::replaced(&prior, uid, &came, &mut self.spool, self.sink, &mut instances)?;
        self.tally.replaced(replaced);
        Ok((bundle::plan(uid, instances, PART), Some(prior)))
    }

    /// Takes a picture into the spool, however large it is; the inner error says why the archive does not give it.
    fn look(&mut self, instance: &Instance) -> Result<Result<Spooled, String>, Error> {
        let path = format!("/instances/{}/file", instance.id);
        let mut tries = 0;
        loop {
            tries += 1;
            let mut response = match self.site.open(&path, instance.size) {
                Ok(response) => response,
                Err(Error::Server { code, message, .. }) if of_one(&code) => return Ok(Err(message)),
                Err(error) => return Err(error),
            };
            let (mut size, mut sum) = (0, Context::new(&SHA256));
            let offset = self.spool.add(&[])?;
            let broken = loop {
                if self.control.cancel.is_cancelled() {
                    return Err(Error::Cancelled(instance.sop.clone()));
                }
                match piece(&mut response, PIECE) {
                    Ok(bytes) if bytes.is_empty() => break None,
                    Ok(bytes) => {
                        size += bytes.len() as u64;
                        sum.update(&bytes);
                        self.spool.add(&bytes)?;
                        let wait = self.bucket.take(bytes.len() as u64);
                        if !wait.is_zero() {
                            self.control.clock.sleep(wait);
                        }
                    }
                    Err(error) => break Some(error.to_string()),
                }
            };
            let Some(why) = broken else {
                return Ok(Ok(Spooled { offset, size, sha256: hex::encode(sum.finish()) }));
            };
            if tries >= TRIES {
                let (server, what) = (self.site.server().to_owned(), instance.sop.clone());
                return Err(Error::ConnectionLost { server, what, why });
            }
        }
    }

    /// Gives a file to the sink. It comes back if the archive does not give all of it: the sink has recorded that
    /// as a fault and has nothing of it.
    fn part(&mut self, path: &TreePath, updated: FileTime, part: Part) -> Result<Result<(), Short>, Error> {
        let entry = entry(path, updated, &part);
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
            return Ok(Ok(()));
        }
        let feed = Feed {
            site: Some((self.site, self.lanes)),
            spool: &self.spool,
            bucket: self.bucket,
            control: self.control,
        };
        let mut content = Content::new(feed, &part);
        let taken = self.sink.put(entry, &mut content);
        let failed = content.failed.take();
        let at = content.given();
        drop(content);
        let refused = match failed {
            None => {
                taken?;
                self.tally.count(part.size, instances);
                return Ok(Ok(()));
            }
            // One picture was lost, deleted or replaced; everything else is the archive's own trouble.
            Some(Error::Server { code, message, .. }) if of_one(&code) => Some((at, message)),
            Some(Error::Protocol { why, .. }) if why.contains("were listed") => None,
            Some(error) => return Err(error),
        };
        taken?;
        Ok(Err(Short { instances: part.instances, refused }))
    }

    /// One picture that the archive does not give must not cost the others: takes what comes, and of what does not
    /// come what the previous restore point has.
    fn salvage(
        &mut self,
        path: &TreePath,
        (uid, number, updated): (&str, u32, FileTime),
        short: Short,
        prior: Option<&Prior>,
    ) -> Result<(), Error> {
        let (mut instances, mut lost) = (Vec::new(), 0);
        for (place, instance) in short.instances.into_iter().enumerate() {
            if instance.spooled.is_some() {
                instances.push(instance);
                continue;
            }
            let looked = match &short.refused {
                Some((at, why)) if *at == place => Err(why.clone()),
                _ => self.look(&instance)?,
            };
            let why = match looked {
                Ok(Spooled { offset, size, .. }) => {
                    instances.push(Instance { size, spooled: Some(offset), ..instance });
                    continue;
                }
                Err(why) => why,
            };
            let known = prior.and_then(|prior| prior.now.get(&instance.sop));
            let held = match known {
                Some(known) => known.spool(self.sink, &mut self.spool)?,
                None => None,
            };
            let old = if held.is_some() { "; the one of the restore point before stays" } else { "" };
            self.fault(path, format!("the archive lists {} and does not give it: {why}{old}", instance.sop));
            // With its old mark: if it comes back as another one, that is seen.
            let mark = known.map(|known| known.row.mark.clone()).unwrap_or_default();
            let (id, was) = (instance.id, None);
            instances.extend(held.map(|held| Instance {
                id,
                content: mark,
                marked: true,
                was,
                carried: true,
                ..held
            }));
            lost += 1;
        }
        if lost == 0 {
            // The sink has it as a fault, because it did not come whole at first.
            self.tally.fault(path, "an instance was replaced while the study was read".into());
        }
        if instances.is_empty() {
            return Ok(());
        }
        match self.part(path, updated, bundle::part(uid, number, instances))? {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Protocol {
                server: self.site.server().to_owned(),
                why: format!("`{path}` could not be written from the spool"),
            }),
        }
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.sink.fault(path, why.clone());
        self.tally.fault(path, why);
    }
}

/// Whether a refusal is about one picture: it was deleted, or its file is lost (Orthanc answers 500 then).
fn of_one(code: &str) -> bool {
    matches!(code, "404" | "410" | "500")
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
