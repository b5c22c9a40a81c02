//! Ophthalmology (眼科): Debian's Samba with the share `dump`, filled by a vendor's nightly program.
//!
//! Two accounts: `kuramori` may read and nothing else; the vendor's own holds one file open for itself
//! alone, so that a reader meets a real sharing violation.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    generate::dump::Plan,
    lab::{Host, Lab, Scale, Service},
    program::Program,
    role::Role,
    services::{directory::Desk, samba::Samba},
};

/// The share's name.
pub const SHARE: &str = "dump";
/// The read-only account.
pub const READER: &str = "kuramori";
/// The [secret](Lab::secret) with the reader's password.
pub const READER_SECRET: &str = "samba-kuramori";
/// The marker that the vendor's program writes last.
pub const MARKER: &str = "完了.flag";
/// The file that the vendor's viewer holds open for itself alone.
pub const HELD: &str = "稼働中/検査台帳.mdb";
/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "smbd";
/// The name of the viewer's process in the lab's register.
pub const VIEWER: &str = "viewer";

const VENDOR: &str = "vendor";
const VENDOR_SECRET: &str = "samba-vendor";
/// Users of this host alone; no number of the machine's own users. With a directory they are the numbers of the
/// domain's accounts of the same names on this host.
const USERS: [(&str, u32); 2] = [(READER, 61_001), (VENDOR, 61_002)];
/// The accounts in the domain, if there is one: name, secret, purpose.
pub(super) const ACCOUNTS: [(&str, &str, &str); 2] = [
    (READER, READER_SECRET, "バックアップ(読み取り専用)"),
    (VENDOR, VENDOR_SECRET, "眼科システムのベンダー"),
];

/// Opens one file with all kinds of access and shares none, and holds it until it is ended.
/// Whoever looks whether the file is held opens it for a moment, so a sharing violation is tried again.
const HOLD: &str = r"
import sys, signal, time
from samba import NTSTATUSError, credentials, param
from samba.samba3 import libsmb_samba_internal as smb, param as s3param
lp = s3param.get_context()
lp.load(sys.argv[1])
creds = credentials.Credentials()
creds.guess(param.LoadParm())
creds.set_username(sys.argv[3]); creds.set_password(open(sys.argv[4]).read()); creds.set_domain('HOSPITAL')
conn = smb.Conn(sys.argv[2], 'dump', lp, creds)
for turn in range(100):
    try:
        held = conn.create(Name=sys.argv[5].replace('/', chr(92)), DesiredAccess=0x12019f, ShareAccess=0, CreateDisposition=1)
        break
    except NTSTATUSError as error:
        if turn == 99 or error.args[0] != 0xc0000043:
            raise
        time.sleep(0.1)
print('held', flush=True)
signal.pause()
";

/// What can be wrong with a night's dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spoil {
    /// The program died before it wrote the marker.
    NoMarker,
    /// The marker is new, but everything else is yesterday's.
    Yesterday,
    /// More than half of the files are missing, one is cut in two; the marker claims success.
    Truncated,
    /// No file at all; the marker claims success.
    Empty,
    /// The marker is there, but the program still writes: half of the night's changes are missing.
    EarlyMarker,
}

/// One night's dump as it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Which night.
    pub night: u64,
    /// Files there now, without the marker and the held one.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files written in this night.
    pub written: u64,
    /// Files removed in this night.
    pub removed: u64,
    /// What is wrong with it.
    pub spoiled: Option<Spoil>,
}

/// The ophthalmology system of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Ophthalmology<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Ophthalmology<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Oph)
    }

    /// The folder that is shared.
    pub fn folder(self) -> PathBuf {
        self.host().folder().join(SHARE)
    }

    fn samba(self) -> Samba<'lab> {
        let member = self.lab.what().services.contains(&Service::Directory);
        let domain = member.then(|| Desk { lab: self.lab, role: Role::Oph, controller: Role::Dir.address() });
        Samba { lab: self.lab, role: Role::Oph, process: PROCESS, domain }
    }

    fn plan(self) -> Plan {
        let seed = self.lab.what().seed;
        match self.lab.what().scale {
            Scale::Full => Plan { seed, files: 20_000, large: 10, large_bytes: (5 << 20, 50 << 20) },
            Scale::Small => Plan { seed, files: 400, large: 2, large_bytes: (1 << 20, 2 << 20) },
        }
    }

    /// Fills the share and starts its server; where there is a domain, `domain` waits until it can be joined.
    pub(crate) fn create(self, domain: impl FnOnce() -> Result<()>) -> Result<()> {
        fs_err::create_dir_all(self.folder())?;
        let samba = self.samba();
        Self::configure(samba, &self.folder())?;
        let held = self.folder().join(HELD);
        self.write(&held, |file| file.write_all(&vec![0x54; 64 << 10]))?;
        self.write_dump(0, None)?;
        if samba.domain.is_some() {
            domain()?;
            samba.join(&self.lab.directory().administrator()?)?;
        }
        self.start()
    }

    /// Whatever runs on the host is ended; the department's server is installed anew as a member of a restored domain, with a restored folder as its
    /// share; its reader logs in with his old password and fetches the marker. Then it is stopped.
    ///
    /// # Errors
    /// It does not come up, or the reader is not let in.
    pub fn serve_restored(self, controller: Role, restored: &Path) -> Result<()> {
        self.host().kill_all()?;
        let desk = Desk { lab: self.lab, role: Role::Oph, controller: controller.address() };
        let samba = Samba { process: "smbd-restored", domain: Some(desk), ..self.samba() };
        samba.remove()?;
        Self::configure(samba, restored)?;
        samba.join(&self.lab.directory().administrator()?)?;
        let mut process = samba.serve()?;
        let answer =
            process.wait_until("the restored share lets its reader in", Duration::from_mins(1), || {
                Ok(samba.ask(SHARE, READER, READER_SECRET, &format!("get \"{MARKER}\" /dev/null")).ok())
            });
        self.host().kill_all()?;
        answer.map(drop)
    }

    fn configure(samba: Samba<'_>, folder: &Path) -> Result<()> {
        let users = [(READER, USERS[0].1, READER_SECRET), (VENDOR, USERS[1].1, VENDOR_SECRET)];
        samba.create(
            &users,
            &format!(
                "[{SHARE}]\n path = {}\n valid users = {reader} {vendor}\n read only = yes\n write list = {vendor}\n",
                folder.display(),
                reader = samba.user(READER),
                vendor = samba.user(VENDOR),
            ),
        )
    }

    /// Starts the server and the vendor's viewer, and waits until both do their work.
    pub fn start(self) -> Result<()> {
        let mut process = self.samba().serve()?;
        process.wait_until("Samba answers", Duration::from_mins(2), || {
            Ok(self.ask("ls").is_ok().then_some(()))
        })?;
        self.hold()
    }

    /// Stops server and viewer.
    pub fn stop(self) -> Result<()> {
        self.release()?;
        match self.lab.process(PROCESS)? {
            Some(mut process) => process.stop().map(drop),
            None => Ok(()),
        }
    }

    /// Has the vendor's viewer hold [`HELD`] open for itself alone.
    pub fn hold(self) -> Result<()> {
        let viewer = Program::new("/usr/bin/python3")
            .args(["-c", HOLD])
            .arg(self.samba().config())
            .args([&Role::Oph.address().to_string(), VENDOR])
            .arg(self.lab.secret_file(VENDOR_SECRET))
            .arg(HELD);
        let log = self.lab.log(VIEWER);
        let mut process = self.host().spawn(VIEWER, &viewer, &log)?;
        process.wait_until("the viewer holds its file", Duration::from_mins(2), || {
            Ok(self.ask(&format!("get \"{}\" /dev/null", HELD.replace('/', "\\"))).is_err().then_some(()))
        })
    }

    /// Has the viewer close its file.
    pub fn release(self) -> Result<()> {
        match self.lab.process(VIEWER)? {
            Some(mut process) => process.stop().map(drop),
            None => Ok(()),
        }
    }

    /// One command of `smbclient` from the site server with the read-only account; gives back what it wrote.
    pub fn ask(self, command: &str) -> Result<String> {
        self.samba().ask(SHARE, READER, READER_SECRET, command)
    }

    /// Whether the reader is let in soon: within four seconds.
    pub fn lets_in(self) -> bool {
        self.samba().ask_within(Some(super::SOON), SHARE, READER, READER_SECRET, "ls").is_ok()
    }

    /// Writes the dump of a night over that of the last one, its marker last.
    ///
    /// # Errors
    /// The disk.
    pub fn write_dump(self, night: u64, spoil: Option<Spoil>) -> Result<Dump> {
        let plan = self.plan();
        let before: Option<Dump> =
            fs_err::read(self.state()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let marker = self.folder().join(MARKER);
        if marker.exists() {
            fs_err::remove_file(&marker)?;
        }
        let mut dump = Dump { night, files: 0, bytes: 0, written: 0, removed: 0, spoiled: spoil };
        match spoil {
            Some(Spoil::Empty) => {
                for folder in ["検査データ", "手術動画"] {
                    let folder = self.folder().join(folder);
                    if folder.exists() {
                        fs_err::remove_dir_all(folder)?;
                    }
                }
                dump.removed = before.map_or(0, |before| before.files);
            }
            Some(Spoil::Yesterday) => {
                if let Some(before) = before {
                    (dump.files, dump.bytes) = (before.files, before.bytes);
                }
            }
            _ => {
                let whole = before.filter(|b| matches!(b.spoiled, None | Some(Spoil::NoMarker)));
                self.write_files(plan, &mut dump, whole.map(|b| b.night))?;
            }
        }
        if spoil != Some(Spoil::NoMarker) {
            let text = format!(
                "完了 {}\r\n夜={night}\r\nファイル数={}\r\nバイト数={}\r\n",
                SystemClock.now(),
                dump.files,
                dump.bytes
            );
            self.write(&marker, |file| file.write_all(text.as_bytes()))?;
        }
        let bytes =
            serde_json::to_vec(&dump).map_err(|source| LabError::Format { path: self.state(), source })?;
        fs_err::write(self.state(), bytes)?;
        Ok(dump)
    }

    fn state(self) -> PathBuf {
        self.host().folder().join("vendor.json")
    }

    fn write_files(self, plan: Plan, dump: &mut Dump, last: Option<u64>) -> Result<()> {
        let night = dump.night;
        let alive: Vec<u64> = plan.alive(night).collect();
        let highest = alive.last().copied().unwrap_or(0);
        let mut next = alive.iter().copied().peekable();
        let most = match dump.spoiled {
            Some(Spoil::Truncated) => alive.len() as u64 * 2 / 5,
            _ => alive.len() as u64,
        };
        for id in 0..=highest {
            let path = self.folder().join(plan.path(id));
            let here = next.next_if_eq(&id).is_some() && dump.files < most;
            if !here {
                if path.exists() {
                    fs_err::remove_file(&path)?;
                    dump.removed += 1;
                }
                continue;
            }
            let version = plan.version(id, night);
            let cut = dump.files + 1 == most && dump.spoiled == Some(Spoil::Truncated);
            let same =
                last.is_some_and(|last| plan.version(id, last) == version && last <= night) && path.exists();
            // With an early marker every second of the night's files is still to come.
            let late = dump.spoiled == Some(Spoil::EarlyMarker) && id % 2 == 1;
            if cut || !same && !late {
                let limit = if cut { plan.size(id, version) / 2 } else { u64::MAX };
                self.write(&path, |file| {
                    let mut left = limit;
                    plan.content(id, version, |piece| {
                        let take = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                        left -= take as u64;
                        file.write_all(&piece[..take])
                    })
                })?;
                dump.written += 1;
            }
            if let Ok(found) = fs_err::metadata(&path) {
                dump.files += 1;
                dump.bytes += found.len();
            }
        }
        Ok(())
    }

    /// Writes a file as the vendor's user does.
    fn write(self, path: &Path, fill: impl FnOnce(&mut fs_err::File) -> std::io::Result<()>) -> Result<()> {
        let owner = |path: &Path| fs_err::os::unix::fs::chown(path, Some(USERS[1].1), Some(USERS[1].1));
        if let Some(folder) = path.parent()
            && !folder.exists()
        {
            fs_err::create_dir_all(folder)?;
            for above in folder.ancestors().take_while(|above| above.starts_with(self.folder())) {
                owner(above)?;
            }
        }
        let mut file = fs_err::File::create(path)?;
        fill(&mut file)?;
        Ok(owner(path)?)
    }
}
