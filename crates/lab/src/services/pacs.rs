//! The picture archive (PACS, 画像診断): Orthanc with generated CT studies.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{folder_of, owned_by};
use crate::{
    error::{LabError, Result},
    generate::dicom::Archive,
    http::Site,
    lab::{Host, Lab, Scale},
    process::Process,
    program::Program,
    role::Role,
};

/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "orthanc";
/// The port of its REST interface.
pub const HTTP_PORT: u16 = 8042;
/// The user that it runs as.
const USER: &str = "orthanc";
/// The login of its REST interface; the password is the secret of the second name.
const LOGIN: (&str, &str) = ("lab", "orthanc-lab");
/// Uploads and downloads side by side.
const LANES: u64 = 2;

/// The picture archive of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Pacs<'lab> {
    lab: &'lab Lab,
}

/// What an archive answers about one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The MD5 that Orthanc keeps.
    pub md5: String,
    /// SHA-256, by coreutils, of the file that Orthanc delivers.
    pub sha256: String,
}

/// All instances of an archive by their SOP Instance UID.
pub type Instances = BTreeMap<String, Instance>;

impl<'lab> Pacs<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Pac)
    }

    /// Storage and index: what a backup must take while the server is stopped.
    pub fn data(self) -> PathBuf {
        self.host().folder().join("orthanc/db")
    }

    /// What it was filled with.
    pub fn archive(self) -> Archive {
        let seed = self.lab.what().seed;
        match self.lab.what().scale {
            Scale::Full => Archive { seed, studies: 13, slices: 40, side: 512 },
            Scale::Small => Archive { seed, studies: 2, slices: 6, side: 64 },
        }
    }

    pub(crate) fn create(self) -> Result<()> {
        folder_of(USER, &self.data())?;
        self.start()?;
        let (archive, site) = (self.archive(), site(self.lab, Role::Pac)?);
        lanes(self.host(), |lane| {
            for number in (0..archive.instances()).filter(|n| n % LANES == lane) {
                site.post("/instances", &archive.file(number))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Starts the server and waits until it answers.
    pub fn start(self) -> Result<()> {
        start(self.lab, Role::Pac, &self.data(), PROCESS).map(drop)
    }

    /// Stops it, for a cold backup.
    pub fn stop(self) -> Result<()> {
        match self.lab.process(PROCESS)? {
            Some(mut process) => process.stop().map(drop),
            None => Ok(()),
        }
    }

    /// What the running server answers about each instance.
    pub fn instances(self) -> Result<Instances> {
        instances(self.lab, Role::Pac)
    }
}

fn site(lab: &Lab, role: Role) -> Result<Site> {
    let address = (role.address(), HTTP_PORT).into();
    Ok(Site { address, user: LOGIN.0, password: lab.secret(LOGIN.1)? })
}

/// Runs the same work in some threads inside a host's network.
fn lanes<T: Send>(host: Host<'_>, work: impl Fn(u64) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LANES)
            .map(|lane| {
                scope.spawn({
                    let work = &work;
                    move || host.inside(|| work(lane))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

fn start(lab: &Lab, role: Role, data: &Path, name: &str) -> Result<Process> {
    let host = lab.host(role);
    let config = host.folder().join(format!("{name}.json"));
    let settings = serde_json::json!({
        "Name": "LAB-PACS",
        "StorageDirectory": data,
        "IndexDirectory": data,
        "HttpPort": HTTP_PORT,
        "DicomPort": 4242,
        "RemoteAccessAllowed": true,
        "AuthenticationEnabled": true,
        "RegisteredUsers": { LOGIN.0: lab.secret(LOGIN.1)? },
        "StorageCompression": false,
        "HttpsVerifyPeers": false,
        "Plugins": [],
        "TemporaryDirectory": host.folder().join("orthanc-tmp"),
    });
    folder_of(USER, &host.folder().join("orthanc-tmp"))?;
    fs_err::write(&config, settings.to_string())?;
    // The file holds the password; only this server's user reads it.
    Program::new("install")
        .args(["-o", USER, "-m", "400"])
        .arg(&config)
        .arg(config.with_extension("conf"))
        .run()?;
    fs_err::remove_file(&config)?;
    let server = Program::new("Orthanc").arg(config.with_extension("conf")).user(USER).folder(Path::new("/"));
    let mut process = host.spawn(name, &server, &lab.log(name))?;
    let site = site(lab, role)?;
    process.wait_until("Orthanc answers", Duration::from_mins(2), || {
        Ok(host.inside(|| site.get("/system"))?.is_ok().then_some(()))
    })?;
    Ok(process)
}

fn instances(lab: &Lab, role: Role) -> Result<Instances> {
    let (host, site) = (lab.host(role), site(lab, role)?);
    let wrong = |answer: &[u8]| LabError::Answer {
        server: "Orthanc",
        answer: String::from_utf8_lossy(answer).chars().take(200).collect(),
    };
    let list = host.inside(|| site.get("/instances"))??;
    let ids: Vec<String> = serde_json::from_slice(&list).map_err(|_| wrong(&list))?;
    let parts = lanes(host, |lane| {
        let mut part = Instances::new();
        for (_, id) in ids.iter().enumerate().filter(|(n, _)| *n as u64 % LANES == lane) {
            let about = site.get(&format!("/instances/{id}"))?;
            let about: serde_json::Value = serde_json::from_slice(&about).map_err(|_| wrong(&about))?;
            let uid = about["MainDicomTags"]["SOPInstanceUID"]
                .as_str()
                .ok_or_else(|| wrong(b"no SOPInstanceUID"))?;
            let md5 = site.get(&format!("/instances/{id}/attachments/dicom/md5"))?;
            let file = site.get(&format!("/instances/{id}/file"))?;
            let sum = Program::new("sha256sum").input(file).text()?;
            let sha256 = sum.split(' ').next().unwrap_or_default().to_owned();
            part.insert(uid.to_owned(), Instance { md5: String::from_utf8_lossy(&md5).into_owned(), sha256 });
        }
        Ok(part)
    })?;
    Ok(parts.into_iter().flatten().collect())
}

/// Starts Orthanc on a restored storage folder in a host (the clean room as a rule), asks it about every
/// instance, and stops it again. The folder is given to Orthanc's user and used.
pub fn instances_of_restored(lab: &Lab, role: Role, data: &Path) -> Result<Instances> {
    owned_by(USER, data)?;
    let mut process = start(lab, role, data, "orthanc-restored")?;
    let found = instances(lab, role);
    process.stop()?;
    found
}
