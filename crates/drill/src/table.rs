//! One table out of a whole database: the restore point is started in isolation, as in a drill, and only the
//! table leaves it, as a dump that a person looks at before anything is put into production.

use std::path::{Path, PathBuf};

use kuramori_model::clock::Clock;
use kuramori_repo::{Cancel, Indexed, Repository, progress::Progress, restore::RestoreOptions};

use crate::{
    DrillError, Result,
    cell::Cell,
    drill::Desk,
    moment::{self, Moment},
    plan::{root, snapshot_id},
    profile::Profile,
    service::{Stage, postgres_table},
};

/// Which table, from where, to where.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The opened repository of a PostgreSQL system.
    pub repository: &'a Repository<Indexed>,
    /// The snapshot's id.
    pub snapshot: &'a str,
    /// How the system is brought up.
    pub profile: &'a Profile,
    /// The cluster's administrator.
    pub superuser: &'a str,
    /// The database.
    pub database: &'a str,
    /// The table, with its schema if need be: `public.orders`.
    pub table: &'a str,
    /// The folder below which the cluster is restored and started; it is removed again.
    pub work: &'a Path,
    /// As of which moment; none for the restore point's own.
    pub moment: Option<&'a Moment>,
    /// The file to write; it must not be there.
    pub to: &'a Path,
}

/// Writes the table's dump and gives its path and bytes.
///
/// # Errors
/// The point cannot be restored whole, the place cannot be isolated, the server does not start, or there is
/// no such table.
pub fn extract(
    wanted: &Wanted<'_>,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(PathBuf, u64)> {
    if fs_err::symlink_metadata(wanted.to).is_ok() {
        let why = "it is already there".to_owned();
        return Err(DrillError::Target { path: wanted.to.to_owned(), why });
    }
    let desk = Desk::take(wanted.work)?;
    let cell = Cell::open(wanted.profile.memory)?;
    let snapshot = wanted.repository.snapshot(snapshot_id(wanted.snapshot)?)?;
    let mut options = RestoreOptions::to(&desk.data);
    options.subpath = root(wanted.repository, &snapshot)?;
    let restored = wanted.repository.restore(&snapshot, &options, progress, cancel)?;
    if !restored.shortfalls.is_empty() {
        return Err(DrillError::Short {
            count: restored.shortfalls.len(),
            staging: desk.data.clone(),
            damaged: restored.shortfalls.iter().any(|shortfall| shortfall.damaged),
        });
    }
    cell.admit("postgres", &desk.folder)?;
    if let Some(moment) = wanted.moment {
        moment::prepare(wanted.repository, moment, &desk.data, progress, cancel)?;
        moment::recover(moment, &desk.data, &desk.run, clock)?;
    }
    let stage = Stage {
        cell: &cell,
        clock,
        profile: wanted.profile,
        data: &desk.data,
        run: &desk.run,
        before: &[],
        answered: std::cell::Cell::new(None),
        probes: std::cell::RefCell::default(),
    };
    let dump = postgres_table(&stage, wanted.superuser, wanted.database, wanted.table)?;
    // Loaded where such a table stands, the dump stops at once and changes nothing: without this a client goes
    // on behind the first error, and adds the old rows to the new ones.
    let dump = format!("\\set ON_ERROR_STOP on\nBEGIN;\n{dump}\nCOMMIT;");
    let wrong = DrillError::file("write the table's dump");
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(options.options_mut(), 0o600);
    let mut file = options.open(wanted.to).map_err(&wrong)?;
    std::io::Write::write_all(&mut file, dump.as_bytes()).map_err(&wrong)?;
    std::io::Write::write_all(&mut file, b"\n").map_err(&wrong)?;
    file.sync_all().map_err(&wrong)?;
    Ok((wanted.to.to_owned(), dump.len() as u64 + 1))
}
