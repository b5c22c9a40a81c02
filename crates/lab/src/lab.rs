//! The hospital as a whole: raise it, find it again, use its hosts.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use kuramori_model::clock::{Random, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{
    down,
    error::{LabError, Result},
    fingerprint::HostFingerprint,
    network,
    process::{Process, ProcessRecord, StopBy},
    program::{Outcome, Program},
    register::{LabRecord, Register},
    role::Role,
    services,
};

/// The servers that a lab can be raised with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Samba as a domain controller in `dir`. With it, ophthalmology's server is a member of the domain.
    Directory,
    /// PostgreSQL in `bil`.
    Billing,
    /// Orthanc in `pac`.
    Pacs,
    /// Samba in `oph`.
    Ophthalmology,
    /// MariaDB in `lis`.
    Laboratory,
    /// OpenSSH in `pat`.
    Pathology,
    /// Another backup product and its Samba share in `war`.
    Ward,
    /// An SMTP server in `mai`.
    Mail,
    /// snmpd in `sw`.
    Switch,
    /// The witness in `vlt`.
    Witness,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Directory,
        Self::Billing,
        Self::Pacs,
        Self::Ophthalmology,
        Self::Laboratory,
        Self::Pathology,
        Self::Ward,
        Self::Mail,
        Self::Switch,
        Self::Witness,
    ];
}

/// How much data the departments have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// What the demonstration promises: a database of at least 500 MB, 520 DICOM instances, 20,000 files.
    #[default]
    Full,
    /// Some megabytes of each, for tests.
    Small,
}

impl Scale {
    /// [`Scale::Small`] if `KURAMORI_LAB_SMALL` is 1.
    pub fn from_environment() -> Self {
        if std::env::var("KURAMORI_LAB_SMALL").is_ok_and(|v| v == "1") { Self::Small } else { Self::Full }
    }
}

/// What a lab is raised with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct What {
    /// The servers.
    pub services: BTreeSet<Service>,
    /// How much data.
    pub scale: Scale,
    /// Where all generated data come from.
    pub seed: u64,
    /// The `kuramori-lab` program, which plays the witness in the vault's namespace.
    pub program: PathBuf,
}

impl What {
    /// All servers. `program` is `kuramori-lab` itself: `std::env::current_exe()` there, the path that Cargo
    /// gives in a test.
    pub fn everything(scale: Scale, seed: u64, program: impl Into<PathBuf>) -> Self {
        Self { services: Service::ALL.into(), scale, seed, program: program.into() }
    }

    /// Hosts and wires alone.
    pub fn network() -> Self {
        Self { services: BTreeSet::new(), scale: Scale::Small, seed: 1, program: PathBuf::new() }
    }

    /// Adds a server.
    #[must_use]
    pub fn with(mut self, service: Service) -> Self {
        self.services.insert(service);
        self
    }
}

/// A hospital that is up. Dropping it takes it down, unless [`keep`](Self::keep) was called or it was only
/// [found](Self::open).
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    root: PathBuf,
    what: What,
    guard: bool,
}

impl Lab {
    /// Raises hosts, wires and servers under `prefix` (at most 6 letters and digits and unique on the
    /// machine), with all their files under `root`.
    ///
    /// # Errors
    /// The root is neither empty nor an earlier lab's; a lab is up; a program is missing or fails. What was
    /// raised until then is taken down again.
    pub fn up(prefix: &str, root: &Path, what: What) -> Result<Self> {
        let root = prepare(prefix, root)?;
        let register = Register::at(&root);
        if let Some(old) = register.read()?.filter(|old| old.up) {
            return Err(LabError::AlreadyUp(format!("`{}` in {}", old.prefix, root.display())));
        }
        let before = HostFingerprint::take(prefix, &root)?;
        if let Some(name) = before.namespaces.first() {
            return Err(LabError::AlreadyUp(format!("the namespace `{name}` exists")));
        }
        register.write(&LabRecord {
            version: 1,
            prefix: prefix.to_owned(),
            up: true,
            what: what.clone(),
            namespaces: Vec::new(),
            processes: Vec::new(),
            mounts: Vec::new(),
            before,
        })?;
        // From here on the guard takes down whatever is there when a step fails.
        let lab = Self { prefix: prefix.to_owned(), root, what, guard: true };
        network::raise(prefix, |name| {
            register.update(|record| record.namespaces.push(name.to_owned())).map(drop)
        })?;
        services::start(&lab)?;
        Ok(lab)
    }

    /// Finds a lab that is up. Dropping this handle leaves it up.
    ///
    /// # Errors
    /// [`LabError::NotUp`].
    pub fn open(root: &Path) -> Result<Self> {
        let not_up = || LabError::NotUp(root.to_owned());
        let root = fs_err::canonicalize(root).map_err(|_| not_up())?;
        let record = Register::at(&root).read()?.filter(|record| record.up).ok_or_else(not_up)?;
        Ok(Self { prefix: record.prefix, root, what: record.what, guard: false })
    }

    /// Leaves the lab up when this handle is dropped.
    pub fn keep(&mut self) {
        self.guard = false;
    }

    /// Takes it down: see [`down`](crate::down::down).
    pub fn down(mut self, files: down::Files) -> Result<down::Down> {
        self.guard = false;
        down::down(&self.root, files)
    }

    /// The beginning of its namespaces' names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The folder of all its files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it was raised with.
    pub fn what(&self) -> &What {
        &self.what
    }

    /// The folder where manifests of the truth lie. No host of the lab is given it, and the attack refuses it.
    pub fn truth(&self) -> PathBuf {
        self.root.join("truth")
    }

    /// What the register says now.
    pub fn record(&self) -> Result<LabRecord> {
        Register::at(&self.root).read()?.ok_or_else(|| LabError::NotUp(self.root.clone()))
    }

    /// One of the hosts.
    pub fn host(&self, role: Role) -> Host<'_> {
        Host { lab: self, role }
    }

    /// The newest process of that name, if it runs.
    pub fn process(&self, name: &str) -> Result<Option<Process>> {
        let found = self.record()?.processes.into_iter().rev().find(|p| p.name == name && p.alive());
        Ok(found.map(Process::known))
    }

    /// The machine as it looks now; compare it with one taken before `up`.
    pub fn host_fingerprint(prefix: &str, root: &Path) -> Result<HostFingerprint> {
        HostFingerprint::take(prefix, root)
    }

    /// A password that belongs to this lab, made at random when first asked for, in a file that only root
    /// can read ([`secret_file`](Self::secret_file)).
    pub fn secret(&self, name: &str) -> Result<String> {
        let path = self.secret_file(name);
        if !path.exists() {
            let mut bytes = [0; 15];
            SystemRandom.fill(&mut bytes);
            private(&path, &hex::encode(bytes))?;
        }
        Ok(fs_err::read_to_string(&path)?)
    }

    /// The file of a [`secret`](Self::secret), without a line end.
    pub fn secret_file(&self, name: &str) -> PathBuf {
        self.root.join("secrets").join(name)
    }

    /// A disk of `mebibytes` of its own (a file with ext4, mounted through a loop device) at `folder`, which
    /// must be under the lab's root: for full disks, immutable files, carried media.
    pub fn mount_disk(&self, folder: &Path, mebibytes: u64) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        let folder = fs_err::canonicalize(folder)?;
        if folder == self.root || !folder.starts_with(&self.root) {
            return Err(LabError::Outside { path: folder, why: "it is not under the lab's root" });
        }
        let image = folder.with_extension("disk");
        fs_err::File::create(&image)?.set_len(mebibytes << 20)?;
        Program::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).run()?;
        Register::at(&self.root).update(|record| record.mounts.push(folder.clone()))?;
        Program::new("mount").args(["-o", "loop"]).arg(&image).arg(&folder).run().map(drop)
    }

    /// Unmounts a [disk](Self::mount_disk): it is carried away, its image remains beside the folder.
    pub fn unmount_disk(&self, folder: &Path) -> Result<()> {
        let folder = fs_err::canonicalize(folder)?;
        Program::new("umount").arg(&folder).run()?;
        Register::at(&self.root).update(|record| record.mounts.retain(|mounted| *mounted != folder))?;
        Ok(())
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.guard {
            // Whoever wants to know how it went calls `down`; here there is nobody left to tell.
            let _ = down::down(&self.root, down::Files::Keep);
        }
    }
}

/// Makes the root and its folders. All are traversable, because the servers run as users of their own;
/// what is secret is closed one by one.
fn prepare(prefix: &str, root: &Path) -> Result<PathBuf> {
    let fits = (2..=8).contains(&prefix.len())
        && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !fits {
        let why = "a prefix has 2 to 8 small letters and digits";
        return Err(LabError::Outside { path: prefix.into(), why });
    }
    fs_err::create_dir_all(root)?;
    let root = fs_err::canonicalize(root)?;
    if fs_err::read_dir(&root)?.next().is_some() && !root.join("lab.json").exists() {
        return Err(LabError::Outside { path: root, why: "it holds something that is no lab" });
    }
    let closed =
        |folder: &Path| fs_err::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 == 0);
    if root.ancestors().skip(1).any(closed) {
        let why = "a folder above it is closed to other users, and the servers run as users of their own";
        return Err(LabError::Outside { path: root, why });
    }
    let mode = |path: &Path, mode| -> Result<()> {
        Ok(fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
    };
    mode(&root, 0o711)?;
    for (name, bits) in [("secrets", 0o700), ("truth", 0o700), ("logs", 0o755)] {
        fs_err::create_dir_all(root.join(name))?;
        mode(&root.join(name), bits)?;
    }
    for role in Role::ALL {
        fs_err::create_dir_all(root.join(role.name()))?;
        mode(&root.join(role.name()), 0o755)?;
    }
    Ok(root)
}

/// A file that nobody else can read, not even for a moment.
pub(crate) fn private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;

    use fs_err::os::unix::fs::OpenOptionsExt;
    let mut file =
        fs_err::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// One host of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Host<'lab> {
    lab: &'lab Lab,
    role: Role,
}

impl Host<'_> {
    /// Which.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name of its namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> String {
        network::namespace(&self.lab.prefix, self.role)
    }

    /// Its folder under the lab's root: this host's disk, so to say.
    pub fn folder(&self) -> PathBuf {
        self.lab.root.join(self.role.name())
    }

    /// Runs a program there to its end; gives back its standard output.
    ///
    /// # Errors
    /// The program is missing, or ended with another status than 0.
    pub fn run(&self, program: &Program) -> Result<Vec<u8>> {
        self.try_run(program)?.ok(program)
    }

    /// [`run`](Self::run), as text.
    pub fn text(&self, program: &Program) -> Result<String> {
        self.run(program).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a program there to its end, whatever its exit status.
    pub fn try_run(&self, program: &Program) -> Result<Outcome> {
        program.run_in(Some(&self.namespace()))
    }

    /// A command for a caller who wants the terminal or the pipes himself.
    pub fn command(&self, program: &Program) -> std::process::Command {
        program.command(Some(&self.namespace()))
    }

    /// Starts a program there that runs on, its output in `log`; the lab's register ends it.
    pub fn spawn(&self, name: &str, program: &Program, log: &Path) -> Result<Process> {
        self.spawn_with(name, program, log, StopBy::Term)
    }

    /// [`spawn`](Self::spawn) with another way to be asked to end.
    pub fn spawn_with(&self, name: &str, program: &Program, log: &Path, stop_by: StopBy) -> Result<Process> {
        let process = Process::start(name, self.role, &self.namespace(), program, log, stop_by)?;
        let record: ProcessRecord = process.record().clone();
        Register::at(&self.lab.root).update(|lab| {
            // The dead of earlier starts would only make the list long.
            lab.processes.retain(ProcessRecord::alive);
            lab.processes.push(record);
        })?;
        Ok(process)
    }

    /// Runs `work` on a thread inside this host's network; files are the machine's.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        network::inside(&self.namespace(), work)
    }

    /// The ids of all processes that run there.
    pub fn processes(&self) -> Result<Vec<u32>> {
        network::processes_in(&self.namespace())
    }

    /// Kills everything that runs there, as a power cut does.
    pub fn kill_all(&self) -> Result<usize> {
        down::kill_in(&self.namespace())
    }

    /// Pulls the host's cable at the core switch, or plugs it in again.
    pub fn plug(&self, plugged: bool) -> Result<()> {
        match self.role {
            Role::Lan => Err(LabError::NoService("a cable of the core switch itself")),
            Role::Sw => network::set_link(&self.lab.prefix, Role::Lan, "sw0", plugged),
            Role::Vlt => network::set_link(&self.lab.prefix, Role::Sw, "port2", plugged),
            Role::Pul => network::set_link(&self.lab.prefix, Role::Vlt, "pul0", plugged),
            role => network::set_link(&self.lab.prefix, Role::Lan, role.name(), plugged),
        }
    }
}

impl Process {
    /// Starts `program` in a host's namespace: [`Host::spawn`] under another name.
    pub fn spawn(host: Host<'_>, name: &str, program: &Program, log: &Path) -> Result<Self> {
        host.spawn(name, program, log)
    }
}
