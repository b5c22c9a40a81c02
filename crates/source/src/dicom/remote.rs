//! Copies an archive that tells no sizes and shows no changes: DICOMweb, or C-FIND and C-GET.
//!
//! The story of a run: list all studies; list each study's instances; where the list is that of the previous
//! restore point and the study was read not too long ago, its files are kept unread; else all its instances are
//! fetched into a [`Spool`], compared with the list and with what was there before, and written as bundles.
//!
//! What an archive lists and does not give, what it gives under another name, a list that it ends early, and a
//! number of instances that it states and does not list are faults of the restore point: it is incomplete, holds
//! what came, and goes on holding what the restore point before had of it. Only a whole answer takes a picture away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};

use super::{
    Tally,
    archive::{Archive, Listed, Listing, Spool, Spooled},
    bundle::{self, Content, Feed, Instance, PART, Part},
    dimse::Dimse,
    prior::{self, Prior, part_path},
    studies,
    web::Web,
};
use crate::{
    Control, Error, Phase, Progress, Report,
    config::{DicomBy, DicomConfig},
    control::Bucket,
    report::DicomOrigin,
};

/// Names of missing instances that a fault's sentence holds.
const NAMED: usize = 3;

/// Opens the archive that is configured.
pub(super) fn open(
    config: &DicomConfig,
    control: &Control,
    bucket: &Arc<Bucket>,
) -> Result<Box<dyn Archive>, Error> {
    Ok(match config.by {
        DicomBy::Dimse => Box::new(Dimse::connect(config, control, bucket)?),
        DicomBy::Dicomweb | DicomBy::Orthanc => Box::new(Web::connect(config, control, bucket)?),
    })
}

/// Reads the whole archive.
pub(super) fn read(config: &DicomConfig, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
    let (begun, started) = (control.clock.now(), control.clock.boot());
    let say = |phase: Phase, tally: &Tally, path: &str| {
        let (items, bytes) = (tally.items, tally.bytes);
        (control.progress)(&Progress { phase, items, bytes, total: None, path });
    };
    let mut tally = Tally::default();
    say(Phase::Connecting, &tally, "");
    let bucket = Arc::new(Bucket::new(control));
    let mut archive = open(config, control, &bucket)?;
    let (name, version) = archive.about()?;
    say(Phase::Looking, &tally, "studies");
    let (studies, limited) = studies::all(archive.as_mut())?;
    let mut run = Run {
        config,
        archive: archive.as_mut(),
        sink,
        control,
        bucket: &bucket,
        spool: Spool::new()?,
        read_at: FileTime { seconds: begun.as_second(), nanos: 0 },
        tally,
        bare: 0,
    };
    let all = TreePath::new("studies").map_err(|error| Error::Config(error.to_string()))?;
    if limited && !config.all_dated {
        let why = "the archive does not name all its studies in one answer: one without a date may be missing \
                   (raise its limit, or say `all_dated = true` if it has none)";
        run.fault(&all, why.to_owned());
    }
    for study in &studies {
        if control.cancel.is_cancelled() {
            return Err(Error::Cancelled(study.uid.clone()));
        }
        run.study(&all, study)?;
    }
    if run.bare > 0 && run.tally.instances == 0 {
        let why = format!("the archive lists {} studies and no picture of any", studies.len());
        run.fault(&all, why);
    }
    run.sink.seal(&all)?;
    tally = run.tally;
    say(Phase::Finishing, &tally, "");
    let origin = DicomOrigin {
        server: format!("{}:{}", config.server, config.port),
        name,
        version,
        ..DicomOrigin::default()
    };
    Ok(tally.report(
        begun,
        control.clock.boot().saturating_sub(started),
        super::consistency(config.by),
        origin,
    ))
}

struct Run<'a> {
    config: &'a DicomConfig,
    archive: &'a mut dyn Archive,
    sink: &'a mut dyn Sink,
    control: &'a Control,
    bucket: &'a Bucket,
    spool: Spool,
    read_at: FileTime,
    tally: Tally,
    /// Studies without a picture and without a number of pictures.
    bare: u64,
}

impl Run<'_> {
    fn study(&mut self, all: &TreePath, study: &Listed) -> Result<(), Error> {
        let folder = all.join(study.uid.as_bytes()).map_err(|error| Error::Config(error.to_string()))?;
        self.say(&folder);
        let mut listing = self.archive.instances(&study.uid)?;
        let mut said = study.said;
        if odd(said, &listing) {
            // Pictures may arrive while we ask, or the study may go: the second answer counts.
            let again = self.archive.study(&study.uid)?;
            listing = self.archive.instances(&study.uid)?;
            match again {
                // A number that it knew once is not forgotten because it leaves it out now.
                Some(again) => said = again.said.or(said),
                None if listing.instances.is_empty() && listing.cut.is_none() => return Ok(()),
                None => {}
            }
        }
        let prior = Prior::load(self.sink, &folder)?;
        let empty = listing.instances.is_empty() && listing.cut.is_none();
        if empty && (said == Some(0) || (said.is_none() && prior.is_none())) {
            // Without pictures.
            self.bare += u64::from(said.is_none());
            return Ok(());
        }
        self.tally.studies += 1;
        if let Some(why) = incomplete(said, &listing) {
            if said.is_none_or(|said| said >= listing.instances.len() as u64) {
                listing.cut = Some(why.clone());
            }
            self.fault(&folder, why);
        }
        let kept = match &prior {
            Some(prior) if holds(prior, &listing) && !self.due(prior, &study.uid) => {
                self.keep(&folder, prior)?
            }
            _ => false,
        };
        if !kept {
            self.read(&folder, &study.uid, &listing, prior.as_ref())?;
        }
        Ok(self.sink.seal(&folder)?)
    }

    /// Whether the study is to be read again though its list is the same. Spread over half the time, so that not
    /// all fall on one night.
    fn due(&self, prior: &Prior, uid: &str) -> bool {
        let every = self.config.recheck.0.as_secs();
        let spread = digest(&SHA256, uid.as_bytes());
        let spread = u64::from(u16::from_le_bytes([spread.as_ref()[0], spread.as_ref()[1]]));
        let after = every - every / 2 * spread / u64::from(u16::MAX);
        let oldest = prior.parts.iter().map(|(earlier, ..)| earlier.meta.mtime.seconds).min().unwrap_or(0);
        let age = self.read_at.seconds.saturating_sub(oldest);
        // A clock that went back says nothing about age.
        u64::try_from(age).map_or(true, |age| age >= after)
    }

    /// Keeps all files of a study; false if the sink cannot.
    fn keep(&mut self, folder: &TreePath, prior: &Prior) -> Result<bool, Error> {
        let mut entries = Vec::new();
        for ((earlier, table, _), number) in prior.parts.iter().zip(0..) {
            let kind = EntryKind::File { size: earlier.size };
            let entry = Entry { path: part_path(folder, number)?, kind, meta: earlier.meta.clone() };
            if !self.sink.known(&entry) {
                return Ok(false);
            }
            entries.push((entry, earlier.size, table.instances.iter().filter(|row| !row.was).count()));
        }
        for (entry, size, instances) in entries {
            self.sink.keep(entry)?;
            self.tally.kept += 1;
            self.tally.count(size, instances);
        }
        Ok(true)
    }

    fn read(
        &mut self,
        folder: &TreePath,
        uid: &str,
        listing: &Listing,
        prior: Option<&Prior>,
    ) -> Result<(), Error> {
        self.spool.clear()?;
        let missing = if listing.instances.is_empty() {
            BTreeSet::new()
        } else {
            self.archive.fetch(uid, listing, &mut self.spool)?
        };
        for (sop, why) in std::mem::take(&mut self.spool.wrong) {
            self.fault(folder, format!("`{sop}`: {why}"));
        }
        let came: BTreeMap<String, Spooled> = self.spool.have.clone();
        let mut instances: Vec<Instance> = came
            .iter()
            .map(|(sop, spooled)| Instance {
                id: sop.clone(),
                sop: sop.clone(),
                series: listing.instances.get(sop).cloned().unwrap_or_default(),
                size: spooled.size,
                content: spooled.sha256.clone(),
                marked: false,
                spooled: Some(spooled.offset),
                was: None,
                carried: false,
            })
            .collect();
        let mut held = 0;
        if let Some(prior) = prior {
            // What is not named by a list that was cut may be there as well as what is listed and did not come.
            let lost = |sop: &str| {
                !came.contains_key(sop) && (listing.cut.is_some() || listing.instances.contains_key(sop))
            };
            held = prior.hold(&lost, self.sink, &mut instances, &mut self.spool)?;
            prior.carry(self.sink, &mut instances, &mut self.spool)?;
            let replaced = prior::replaced(prior, uid, &came, &mut self.spool, self.sink, &mut instances)?;
            self.tally.replaced(replaced);
        }
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().take(NAMED).map(String::as_str).collect();
            let more = if missing.len() > NAMED { " …" } else { "" };
            let old =
                if held > 0 { format!("; {held} stay from the restore point before") } else { String::new() };
            let why = format!(
                "the archive lists {} instances and gave {}; missing: {}{more}{old}",
                listing.instances.len(),
                listing.instances.len() - missing.len(),
                names.join(", ")
            );
            self.fault(folder, why);
        }
        for (part, number) in bundle::plan(uid, instances, PART).iter().zip(0..) {
            self.part(&part_path(folder, number)?, part)?;
        }
        Ok(())
    }

    fn part(&mut self, path: &TreePath, part: &Part) -> Result<(), Error> {
        let meta = Meta { mode: 0o600, mtime: self.read_at, inode: part.mark, ..Meta::default() };
        let entry = Entry { path: path.clone(), kind: EntryKind::File { size: part.size }, meta };
        let feed = Feed { site: None, spool: &self.spool, bucket: self.bucket, control: self.control };
        let mut content = Content::new(feed, part);
        let taken = self.sink.put(entry, &mut content);
        if let Some(error) = content.failed.take() {
            return Err(error);
        }
        taken?;
        self.tally.count(part.size, part.instances.iter().filter(|i| i.was.is_none()).count());
        self.say(path);
        Ok(())
    }

    fn say(&self, path: &TreePath) {
        (self.control.progress)(&Progress {
            phase: Phase::Reading,
            items: self.tally.items,
            bytes: self.tally.bytes,
            total: None,
            path: &path.to_string(),
        });
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.sink.fault(path, why.clone());
        self.tally.fault(path, why);
    }
}

/// Whether what the archive says of a study and what it lists do not fit.
fn odd(said: Option<u64>, listing: &Listing) -> bool {
    let listed = listing.instances.len() as u64;
    listing.cut.is_some() || listed == 0 || said.is_some_and(|said| said != listed)
}

/// Why the list cannot be all of the study.
fn incomplete(said: Option<u64>, listing: &Listing) -> Option<String> {
    let listed = listing.instances.len() as u64;
    let says =
        said.filter(|said| *said != listed).map(|said| format!("says that the study has {said} instances"));
    match (&listing.cut, says) {
        (Some(cut), Some(says)) => {
            Some(format!("the archive's list is not whole: {cut}; it lists {listed} instances and {says}"))
        }
        (Some(cut), None) => {
            Some(format!("the archive's list is not whole: {cut}; it lists {listed} instances"))
        }
        (None, Some(says)) => Some(format!("the archive {says} and lists {listed}")),
        (None, None) if listed == 0 => Some("the archive lists the study and no picture of it".to_owned()),
        (None, None) => None,
    }
}

/// Whether the previous restore point holds what the archive lists. A list that may be short takes nothing away.
fn holds(prior: &Prior, listing: &Listing) -> bool {
    let listed = |sop: &str, series: &str| {
        prior.now.get(sop).is_some_and(|known| known.row.series == series && !known.row.carried)
    };
    (listing.cut.is_some() || prior.now.len() == listing.instances.len())
        && listing.instances.iter().all(|(sop, series)| listed(sop, series))
}
