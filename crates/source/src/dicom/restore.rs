//! Gives studies back to an archive: every instance of a bundle is compared with the bundle's digest, stored
//! (Orthanc's REST, STOW-RS, C-STORE), read back, and compared again.
//!
//! `tar xf part-000.tar` and DCMTK's `storescu` (or `curl --data-binary`) do the same without us.

use std::{io::Read, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::{
    archive::{Archive, Spool},
    bundle::{Digests, FORMAT, Row, Table},
    element, orthanc, remote,
    site::Site,
};
use crate::{
    Config, Control, Error,
    config::{DicomBy, DicomConfig},
    control::Bucket,
};

/// Instances of a bundle that are held until the digests at its end have come.
const LARGEST: u64 = 512 << 20;
/// A table is never larger.
const TABLE: u64 = 64 << 20;

/// What became of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct GivenBack {
    /// Study Instance UID.
    pub study: String,
    /// Instances that the archive holds now, identical.
    pub identical: u64,
    /// Among them those that it held already.
    pub already: u64,
    /// Instances that it holds, written in another way: every element and every pixel is the same.
    pub rewritten: u64,
    /// Older ones in the bundle that another picture had replaced; not given back.
    pub older: u64,
    /// Bytes of instances.
    pub bytes: u64,
    /// SOP Instance UIDs that differ, in the bundle or in the archive, with the reason.
    pub wrong: Vec<(String, String)>,
}

/// One member of an archive.
struct Member {
    name: String,
    content: Bytes,
}

/// Reads the next member; none at the archive's end.
fn member(from: &mut dyn Read) -> Result<Option<Member>, Error> {
    let broken = |why: &str| Error::Manifest(format!("the bundle cannot be read: {why}"));
    let mut block = [0; 512];
    from.read_exact(&mut block).map_err(|error| broken(&error.to_string()))?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let text = |from: usize, to: usize| {
        let field = &block[from..to];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let size = u64::from_str_radix(text(124, 136).trim(), 8).map_err(|_| broken("a size without sense"))?;
    if size > LARGEST {
        return Err(broken("a member is larger than any that we write"));
    }
    let length = usize::try_from(size).map_err(|_| broken("too large"))?;
    let mut content = Vec::new();
    (&mut *from).take(size).read_to_end(&mut content).map_err(|error| broken(&error.to_string()))?;
    if content.len() != length {
        return Err(broken("it ends in the middle of a member"));
    }
    let mut rest = [0; 512];
    let pad = length.next_multiple_of(512) - length;
    from.read_exact(&mut rest[..pad]).map_err(|error| broken(&error.to_string()))?;
    Ok(Some(Member { name: text(0, 100), content: content.into() }))
}

/// The archive that gets them back.
enum Target {
    Orthanc(Site),
    Other(Box<dyn Archive>, Spool),
}

/// How an instance stands in the archive.
enum Stands {
    Identical { already: bool },
    Rewritten,
    Wrong(String),
}

/// Gives bundles back to one archive.
pub struct Giver {
    target: Target,
    control: Control,
}

impl std::fmt::Debug for Giver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Giver").finish_non_exhaustive()
    }
}

impl Giver {
    /// Finds the archive that `target` names.
    ///
    /// # Errors
    /// It is not there, does not know us, or is another one than expected.
    pub fn new(target: &DicomConfig, control: &Control) -> Result<Self, Error> {
        Config::Dicom(target.clone()).check()?;
        let found = if target.by == DicomBy::Orthanc {
            let site = Site::new(target, control)?;
            orthanc::check(&site, target)?;
            Target::Orthanc(site)
        } else {
            let bucket = Arc::new(Bucket::new(control));
            Target::Other(remote::open(target, control, &bucket)?, Spool::new()?)
        };
        Ok(Self { target: found, control: control.clone() })
    }

    /// Stores all instances of a bundle, reads each back and compares. What the archive had before under a UID
    /// is not given back.
    ///
    /// # Errors
    /// The bundle is broken, or the archive refuses or goes away. What was given back until then is there, and
    /// doing it again finds it.
    pub fn give_back(&mut self, bundle: &mut dyn Read) -> Result<GivenBack, Error> {
        let broken = |why: String| Error::Manifest(format!("the bundle cannot be read: {why}"));
        let first = member(bundle)?
            .filter(|first| first.name == "offsets.json" && first.content.len() as u64 <= TABLE);
        let first = first.ok_or_else(|| broken("it does not begin with its table".into()))?;
        let table: Table =
            serde_json::from_slice(&first.content).map_err(|error| broken(error.to_string()))?;
        if table.format != FORMAT {
            return Err(broken(format!("its form is `{}`", table.format)));
        }
        let mut back = GivenBack { study: table.study.clone(), ..GivenBack::default() };
        let mut sums = Vec::new();
        for row in &table.instances {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(row.sop.clone()));
            }
            let found = member(bundle)?.filter(|found| found.content.len() as u64 == row.size);
            let found = found.ok_or_else(|| broken(format!("`{}` is not where the table says", row.sop)))?;
            sums.push(hex::encode(digest(&SHA256, &found.content)));
            if row.was {
                back.older += 1;
                continue;
            }
            back.bytes += row.size;
            match self.one(&table.study, row, found.content)? {
                Stands::Identical { already } => {
                    back.identical += 1;
                    back.already += u64::from(already);
                }
                Stands::Rewritten => back.rewritten += 1,
                Stands::Wrong(why) => back.wrong.push((row.sop.clone(), why)),
            }
        }
        let last = member(bundle)?.filter(|last| last.name == "digests.json");
        let last = last.ok_or_else(|| broken("it does not end with its digests".into()))?;
        let digests: Digests =
            serde_json::from_slice(&last.content).map_err(|error| broken(error.to_string()))?;
        for (number, row) in table.instances.iter().enumerate() {
            if digests.sha256.get(number) != sums.get(number) {
                let why = "its content is not what was read from the archive".to_owned();
                back.wrong.push((row.sop.clone(), why));
            }
        }
        Ok(back)
    }

    fn one(&mut self, study: &str, row: &Row, content: Bytes) -> Result<Stands, Error> {
        match &mut self.target {
            Target::Orthanc(site) => {
                let sum = digest(&SHA256, &content);
                let answer = site.store(content)?;
                let stored = answer["ID"].as_str().unwrap_or_default().to_owned();
                let there = site.get(&format!("/instances/{stored}/file"), row.size)?;
                Ok(if digest(&SHA256, &there).as_ref() == sum.as_ref() {
                    Stands::Identical { already: answer["Status"] == "AlreadyStored" }
                } else {
                    Stands::Wrong(OTHER.to_owned())
                })
            }
            Target::Other(archive, spool) => {
                let before = look(archive.as_mut(), spool, study, row)?;
                // An archive may keep the old or take the new of two; so nothing is sent over another one.
                if let Some(there) = &before {
                    return Ok(match compare(&content, there) {
                        Stands::Identical { .. } => Stands::Identical { already: true },
                        other => other,
                    });
                }
                archive.store(&row.sop, &content)?;
                Ok(match look(archive.as_mut(), spool, study, row)? {
                    Some(there) => compare(&content, &there),
                    None => Stands::Wrong("the archive took it and does not have it".to_owned()),
                })
            }
        }
    }
}

const OTHER: &str = "the archive holds something else under this UID";

/// What the archive has under a UID now.
fn look(
    archive: &mut dyn Archive,
    spool: &mut Spool,
    study: &str,
    row: &Row,
) -> Result<Option<Vec<u8>>, Error> {
    let mut wanted = archive.instances(study)?;
    wanted.instances.retain(|sop, _| *sop == row.sop);
    if wanted.instances.is_empty() {
        if wanted.cut.is_none() {
            return Ok(None);
        }
        // It may be there and not be listed: asked for by its name.
        wanted.instances.insert(row.sop.clone(), row.series.clone());
    }
    spool.clear()?;
    archive.fetch(study, &wanted, spool)?;
    spool.have.get(&row.sop).map(|spooled| spool.whole(spooled)).transpose()
}

/// Heads of files differ from archive to archive; the picture is what follows.
fn compare(ours: &[u8], theirs: &[u8]) -> Stands {
    let set = |file: &[u8]| element::file_meta(file).map(|(at, syntax)| (file[at..].to_vec(), syntax));
    match (set(ours), set(theirs)) {
        (Some(ours), Some(theirs)) if ours == theirs => return Stands::Identical { already: false },
        _ => {}
    }
    match (element::content(ours), element::content(theirs)) {
        (Some(ours), Some(theirs)) if ours == theirs => Stands::Rewritten,
        _ => Stands::Wrong(OTHER.to_owned()),
    }
}

/// Stores all instances of one bundle in the archive that `target` names.
///
/// # Errors
/// As [`Giver::new`] and [`Giver::give_back`].
pub fn give_back(bundle: &mut dyn Read, target: &DicomConfig, control: &Control) -> Result<GivenBack, Error> {
    Giver::new(target, control)?.give_back(bundle)
}
