//! The ward system (病棟): it already has a backup product of its own, which stays. Debian's borg plays it: its
//! nightly job writes a store of its own into a shared folder, and its post-job script, which is the one that we
//! ship, leaves a result file there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::{Random, SeededRandom};

use super::samba::Samba;
use crate::{
    error::Result,
    lab::{Host, Lab, Scale},
    manifest::Tree,
    program::Program,
    role::Role,
};

/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "smbd-ward";
/// The share with the product's store.
pub const SHARE: &str = "backups";
/// The read-only account.
pub const READER: &str = "kuramori";
/// The [secret](Lab::secret) with the reader's password.
pub const READER_SECRET: &str = "ward-kuramori";
/// The job's result, in the shared folder.
pub const RESULT: &str = "kuramori-result.json";

const SCRIPT: &str = include_str!("../../../../packaging/scripts/kuramori-job.sh");

/// The ward system of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Ward<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Ward<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::War)
    }

    /// The system's own files.
    pub fn data(self) -> PathBuf {
        self.host().folder().join("system")
    }

    /// The shared folder that the other product writes.
    pub fn store(self) -> PathBuf {
        self.host().folder().join("share")
    }

    pub(crate) fn create(self) -> Result<()> {
        let (files, largest) = match self.lab.what().scale {
            Scale::Full => (1_500, 60_000),
            Scale::Small => (100, 10_000),
        };
        for id in 0..files {
            let random = SeededRandom::new(self.lab.what().seed ^ 0x7761_7264 ^ (id << 24));
            let mut bytes = vec![0; usize::try_from(500 + random.below(largest)).unwrap_or(500)];
            random.fill(&mut bytes);
            let path = self.data().join(format!("看護記録/{:02}階/記録-{id:05}.xml", id % 8 + 1));
            fs_err::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs_err::write(path, bytes)?;
        }
        fs_err::create_dir_all(self.store())?;
        fs_err::write(self.host().folder().join("kuramori-job.sh"), SCRIPT)?;
        self.host()
            .run(&borg(self.host(), &self.store().join("borg")).args(["init", "--encryption=none"]))?;
        self.night()?;
        let samba = Samba { lab: self.lab, role: Role::War, process: PROCESS, domain: None };
        samba.create(
            &[(READER, 61_003, READER_SECRET)],
            &format!(
                "[{SHARE}]\n path = {}\n valid users = {READER}\n read only = yes\n force user = root\n",
                self.store().display()
            ),
        )?;
        let mut process = samba.serve()?;
        process.wait_until("the ward's Samba answers", Duration::from_mins(2), || {
            Ok(samba.ask(SHARE, READER, READER_SECRET, "ls").is_ok().then_some(()))
        })
    }

    /// The other product's nightly job, and its post-job script.
    ///
    /// # Errors
    /// The job or the script fails.
    pub fn night(self) -> Result<()> {
        let store = self.store();
        let job = borg(self.host(), &store.join("borg")).args(["create", "::{now:%Y%m%dT%H%M%S%f}", "."]);
        self.host().run(&job.folder(&self.data()))?;
        let script = Program::new("sh")
            .arg(self.host().folder().join("kuramori-job.sh"))
            .args([
                "post",
                "success",
                "--system",
                "ward",
                "--product",
                "other",
                "--job",
                "病棟 夜間",
                "--result",
            ])
            .arg(store.join(RESULT));
        self.host().run(&script).map(drop)
    }
}

fn borg(host: Host<'_>, repository: &Path) -> Program {
    Program::new("borg")
        .env("BORG_REPO", repository)
        .env("BORG_BASE_DIR", host.folder().join("borg-base"))
        .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
        .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")
}

/// Has the other product check its restored store and bring its newest archive back in a host.
///
/// # Errors
/// The product finds its store damaged.
pub fn tree_of_restored(lab: &Lab, role: Role, restored: &Path) -> Result<Tree> {
    let host = lab.host(role);
    let repository = restored.join("borg");
    host.run(&borg(host, &repository).args(["check", "--verify-data"]))?;
    let newest = host.text(&borg(host, &repository).args(["list", "--short", "--last", "1"]))?;
    let target = host.folder().join("ward-again");
    fs_err::create_dir_all(&target)?;
    let archive = format!("::{}", newest.trim());
    host.run(&borg(host, &repository).args(["extract", &archive]).folder(&target))?;
    Tree::of(&target)
}
