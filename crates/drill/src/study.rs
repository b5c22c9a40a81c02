//! Studies back into a picture archive: each study's files are restored into a work folder, given to the archive
//! instance by instance, read back, compared, and removed again. So the room that is needed is that of the
//! largest study, not of the archive.
//!
//! Nothing in the archive is overwritten or removed: an instance that is there already is compared, and one that
//! is there with other content is told. The same command goes on after an interruption.

use std::path::{Path, PathBuf};

use kuramori_model::tree::TreePath;
use kuramori_repo::{
    Cancel, Indexed, Repository,
    format::node::NodeKind,
    progress::Progress,
    restore::{RestoreOptions, Shortfall},
    walk::Descend,
};
use kuramori_source::{Control, config::DicomConfig, dicom::restore::Giver};
use serde::Serialize;

use crate::{DrillError, Result, plan::snapshot_id};

/// The folder of a restore point that holds its studies.
pub const FOLDER: &str = "studies";
/// Names of wrong instances that are listed.
const LISTED: usize = 100;

/// Which studies, from where, to where.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The opened repository of an archive.
    pub repository: &'a Repository<Indexed>,
    /// The snapshot's id.
    pub snapshot: &'a str,
    /// Study Instance UIDs; empty for all.
    pub studies: &'a [String],
    /// The archive that gets them.
    pub archive: &'a DicomConfig,
    /// The folder below which one study at a time is restored; what is made there is removed again.
    pub work: &'a Path,
}

/// What was given back.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Given {
    /// Studies.
    pub studies: u64,
    /// Instances that the archive holds now, identical to the byte.
    pub identical: u64,
    /// Among them those that it held already.
    pub already: u64,
    /// Instances that it holds with every element and pixel, written in another way.
    pub rewritten: u64,
    /// Older ones that another picture had replaced; not given back.
    pub older: u64,
    /// Bytes of instances.
    pub bytes: u64,
    /// Instances that it does not hold as they were.
    pub wrong_count: u64,
    /// The first of them, with the reason.
    pub wrong: Vec<(String, String)>,
    /// Items of the repository that could not be restored.
    pub shortfalls: Vec<Shortfall>,
}

/// The studies of a restore point.
///
/// # Errors
/// The tree cannot be read, or has no studies.
pub fn list(repository: &Repository<Indexed>, snapshot: &str) -> Result<Vec<String>> {
    let snapshot = repository.snapshot(snapshot_id(snapshot)?)?;
    let folder = repository.find_node(&snapshot.tree, &path(FOLDER)?)?;
    let mut studies = Vec::new();
    let Some(tree) = folder.subtree else { return Ok(studies) };
    repository.walk(&tree, &Cancel::default(), &mut |path, node| {
        if node.kind == NodeKind::Dir {
            studies.push(path.to_string());
        }
        Ok(Descend::Past)
    })?;
    Ok(studies)
}

fn path(text: &str) -> Result<TreePath> {
    TreePath::new(text.as_bytes()).map_err(|error| {
        DrillError::Repository(kuramori_repo::Error::Invalid {
            what: error.to_string(),
            hint: "look with `kuramori repo ls`".to_owned(),
        })
    })
}

/// Gives studies back. `tell` hears each study's name and number before it begins. `cancel` stops it between two
/// files of a study, and `control.cancel` between two pictures and while the archive is waited for.
///
/// # Errors
/// A study is not in the restore point, the archive is not there or refuses, or the work was cancelled. What
/// differs or is missing is no error but in the answer.
pub fn give_back(
    wanted: &Wanted<'_>,
    control: &Control,
    progress: &Progress,
    cancel: &Cancel,
    tell: &mut dyn FnMut(&str, usize, usize),
) -> Result<Given> {
    let there = list(wanted.repository, wanted.snapshot)?;
    let studies = if wanted.studies.is_empty() { &there } else { wanted.studies };
    if let Some(missing) = studies.iter().find(|study| !there.contains(study)) {
        return Err(DrillError::NoPoint {
            system: missing.clone(),
            why: "the restore point has no study of this name".to_owned(),
        });
    }
    // Before anything is restored: an archive that is not there costs nothing.
    let mut giver = Giver::new(wanted.archive, control)?;
    let snapshot = wanted.repository.snapshot(snapshot_id(wanted.snapshot)?)?;
    fs_err::create_dir_all(wanted.work).map_err(DrillError::file("make the work folder"))?;
    let mut given = Given::default();
    for (number, study) in studies.iter().enumerate() {
        tell(study, number + 1, studies.len());
        let place = Place::new(wanted.work.join(format!("study-{}", std::process::id())))?;
        let mut options = RestoreOptions::to(&place.0);
        options.subpath = Some(path(&format!("{FOLDER}/{study}"))?);
        let restored = wanted.repository.restore(&snapshot, &options, progress, cancel)?;
        given.shortfalls.extend(restored.shortfalls);
        let mut bundles = Vec::new();
        for entry in fs_err::read_dir(&place.0).map_err(DrillError::file("list a study"))? {
            bundles.push(entry.map_err(DrillError::file("list a study"))?.path());
        }
        bundles.sort_unstable();
        for bundle in bundles {
            cancel.check().map_err(DrillError::Repository)?;
            let mut file = fs_err::File::open(&bundle).map_err(DrillError::file("read a study"))?;
            let back = giver.give_back(&mut file)?;
            given.identical += back.identical;
            given.already += back.already;
            given.rewritten += back.rewritten;
            given.older += back.older;
            given.bytes += back.bytes;
            given.wrong_count += back.wrong.len() as u64;
            let room = LISTED.saturating_sub(given.wrong.len());
            given.wrong.extend(back.wrong.into_iter().take(room));
        }
        given.studies += 1;
    }
    Ok(given)
}

/// A folder that goes when the study is given back, whatever happens.
struct Place(PathBuf);

impl Place {
    fn new(path: PathBuf) -> Result<Self> {
        let wrong = DrillError::file("make a study's folder");
        fs_err::create_dir(&path).map_err(&wrong)?;
        let place = Self(path);
        // Pictures are nobody else's business.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(&place.0, mode).map_err(&wrong)?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.0);
    }
}
