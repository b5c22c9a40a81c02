//! Debian's Orthanc on a port of its own, with all its files in a temporary folder, and small DICOM files.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kuramori_model::clock::{Random, SeededRandom};
use kuramori_source::config::{DicomBy, DicomConfig, DicomExpect, DimseNames, Span};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

pub const USER: &str = "kuramori";
pub const PASSWORD: &str = "read-only-1";

pub struct Orthanc {
    pub temp: TempDir,
    pub port: u16,
    server: Option<Child>,
}

impl Orthanc {
    pub fn start() -> Self {
        Self::with(&serde_json::json!({}))
    }

    /// With further settings.
    pub fn with(more: &serde_json::Value) -> Self {
        let temp = TempDir::with_prefix("kuramori-orthanc-").unwrap();
        let mut orthanc = Self { temp, port: super::free_port(), server: None };
        let folder = orthanc.path("db");
        fs_err::create_dir(&folder).unwrap();
        let mut config = serde_json::json!({
            "Name": "TEST-PACS", "StorageDirectory": folder, "IndexDirectory": folder,
            "HttpPort": orthanc.port, "DicomServerEnabled": false, "RemoteAccessAllowed": false,
            "AuthenticationEnabled": true, "RegisteredUsers": { USER: PASSWORD }, "Plugins": [],
            "TemporaryDirectory": orthanc.temp.path(), "HttpThreadsCount": 8,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs_err::write(orthanc.path("orthanc.json"), config.to_string()).unwrap();
        orthanc.serve();
        orthanc
    }

    /// One that also speaks DICOMweb and DIMSE, and takes another picture under an old name.
    pub fn open() -> Self {
        Self::with(&serde_json::json!({
            "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"], "OverwriteInstances": true,
            "DicomWeb": { "Enable": true, "Root": "/dicom-web/" },
            "DicomServerEnabled": true, "DicomAet": "TEST-PACS", "DicomPort": super::free_port(),
            "DicomCheckCalledAet": true, "DicomAlwaysAllowEcho": true, "DicomAlwaysAllowStore": true,
            "DicomAlwaysAllowFind": true, "DicomAlwaysAllowGet": true, "LimitFindResults": 7,
            "LimitFindInstances": 4, "MaximumStorageCacheSize": 0,
        }))
    }

    pub fn web(&self) -> DicomConfig {
        DicomConfig { by: DicomBy::Dicomweb, path: "/dicom-web".into(), ..self.config() }
    }

    pub fn dimse(&self) -> DicomConfig {
        let config: serde_json::Value =
            serde_json::from_slice(&fs_err::read(self.path("orthanc.json")).unwrap()).unwrap();
        dimse(u16::try_from(config["DicomPort"].as_u64().unwrap()).unwrap(), "TEST-PACS")
    }

    pub fn serve(&mut self) {
        self.kill();
        let child = Command::new("Orthanc")
            .arg(self.path("orthanc.json"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("Orthanc of Debian's orthanc");
        self.server = Some(child);
        super::until("Orthanc", || self.curl(&["/system"]).is_some());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.server.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    pub fn kill(&mut self) {
        if self.server.is_some() {
            let _ = kill_process_group(self.group(), Signal::KILL);
        }
        if let Some(mut server) = self.server.take() {
            server.wait().unwrap();
        }
    }

    /// Asks by curl: another client than ours. The path comes first.
    pub fn curl(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let out = Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "30", "--user", &format!("{USER}:{PASSWORD}")])
            .arg(format!("http://127.0.0.1:{}{}", self.port, arguments[0]))
            .args(&arguments[1..])
            .output()
            .unwrap();
        out.status.success().then_some(out.stdout)
    }

    pub fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.curl(&[path]).unwrap_or_else(|| panic!("{path}"))).unwrap()
    }

    /// Stores a file; gives the archive's name of it.
    pub fn store(&self, file: &[u8]) -> String {
        let path = self.path(&format!("{:?}.dcm", std::thread::current().id()));
        fs_err::write(&path, file).unwrap();
        let data = format!("@{}", path.display());
        let answer = self.curl(&["/instances", "--data-binary", &data]).expect("it is stored");
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        answer["ID"].as_str().unwrap().to_owned()
    }

    /// Where the archive keeps the file of an instance.
    fn file_of(&self, id: &str) -> PathBuf {
        let about = self.json(&format!("/instances/{id}/attachments/dicom/info"));
        let uuid = about["Uuid"].as_str().unwrap().to_owned();
        self.path("db").join(&uuid[..2]).join(&uuid[2..4]).join(&uuid)
    }

    /// Takes the file of an instance away, as a broken disk would.
    pub fn lose(&self, id: &str) {
        let file = self.file_of(id);
        fs_err::rename(&file, self.path(id)).unwrap();
    }

    /// Puts it back.
    pub fn find(&self, id: &str) {
        let file = self.file_of(id);
        fs_err::rename(self.path(id), file).unwrap();
    }

    /// Deletes an instance.
    pub fn delete(&self, sop: &str) {
        let listed = self.json("/instances?since=0&limit=100000&expand");
        let of = |i: &&serde_json::Value| i["MainDicomTags"]["SOPInstanceUID"] == sop;
        let found = listed.as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("{sop}"));
        let path = format!("/instances/{}", found["ID"].as_str().unwrap());
        self.curl(&[&path, "--request", "DELETE"]).unwrap();
    }

    /// SHA-256 of each instance that curl gets, by `sha256sum`, with its SOP Instance UID.
    pub fn instances(&self) -> Vec<(String, String)> {
        let listed = self.json("/instances?since=0&limit=100000&expand");
        let folder = self.path("got");
        let _ = fs_err::remove_dir_all(&folder);
        fs_err::create_dir(&folder).unwrap();
        for instance in listed.as_array().unwrap() {
            let uid = instance["MainDicomTags"]["SOPInstanceUID"].as_str().unwrap();
            let path = format!("/instances/{}/file", instance["ID"].as_str().unwrap());
            fs_err::write(folder.join(uid), self.curl(&[&path]).unwrap()).unwrap();
        }
        let sums = super::digests(&folder);
        sums.into_iter().map(|(name, sum)| (String::from_utf8(name).unwrap(), sum)).collect()
    }

    pub fn config(&self) -> DicomConfig {
        DicomConfig {
            by: DicomBy::Orthanc,
            port: self.port,
            user: USER.into(),
            password_file: Some(super::secret(self.temp.path(), "password", PASSWORD)),
            titles: None,
            ..dimse(0, "NOBODY")
        }
    }
}

/// The configuration of any archive that speaks DIMSE.
pub fn dimse(port: u16, called: &str) -> DicomConfig {
    DicomConfig {
        by: DicomBy::Dimse,
        server: "127.0.0.1".into(),
        port,
        path: String::new(),
        user: String::new(),
        password_file: None,
        titles: Some(DimseNames { called: called.into(), calling: "KURAMORI".into() }),
        all_dated: true,
        recheck: Span(Duration::from_hours(30 * 24)),
        ca_file: None,
        lanes: 2,
        connect_within: Span(Duration::from_secs(30)),
        expect: DicomExpect::default(),
    }
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Part 10 file (explicit VR little endian, secondary capture) with so many bytes of picture.
pub fn dicom(study: u64, series: u64, instance: u64, pixels: usize) -> Vec<u8> {
    changed(study, series, instance, pixels, 0)
}

/// The same names, and other pixels.
pub fn changed(study: u64, series: u64, instance: u64, pixels: usize, salt: u64) -> Vec<u8> {
    let mut picture = vec![0; pixels & !1];
    SeededRandom::new(salt << 60 | study << 40 | series << 20 | instance).fill(&mut picture);
    let date = format!("2026{:02}{:02}", 1 + study % 12, 1 + study % 28);
    made(study, series, instance, &picture, &date)
}

/// A file with these pixels and this date of the study; none if it is empty.
pub fn made(study: u64, series: u64, instance: u64, picture: &[u8], date: &str) -> Vec<u8> {
    fn element(group: u16, element: u16, vr: [u8; 2], value: &[u8]) -> Vec<u8> {
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(if vr == *b"UI" { 0 } else { b' ' });
        }
        let mut bytes = [group.to_le_bytes(), element.to_le_bytes(), vr].concat();
        if matches!(&vr, b"OB" | b"OW") {
            bytes.extend([0, 0]);
            bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        } else {
            bytes.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        }
        [bytes, value].concat()
    }
    let (study_uid, series_uid) = (format!("2.25.{study}"), format!("2.25.{study}.{series}"));
    let sop = format!("2.25.{study}.{series}.{instance}");
    let class = b"1.2.840.10008.5.1.4.1.1.7";
    let meta = [
        element(2, 1, *b"OB", &[0, 1]),
        element(2, 2, *b"UI", class),
        element(2, 3, *b"UI", sop.as_bytes()),
        element(2, 0x10, *b"UI", b"1.2.840.10008.1.2.1"),
        element(2, 0x12, *b"UI", b"2.25.201"),
    ]
    .concat();
    let set = [
        element(8, 5, *b"CS", b"ISO_IR 192"),
        element(8, 0x16, *b"UI", class),
        element(8, 0x18, *b"UI", sop.as_bytes()),
        element(8, 0x20, *b"DA", date.as_bytes()),
        element(8, 0x60, *b"CS", b"OT"),
        element(0x10, 0x10, *b"PN", "試験^患者".as_bytes()),
        element(0x10, 0x20, *b"LO", format!("P{study}").as_bytes()),
        element(0x20, 0x0D, *b"UI", study_uid.as_bytes()),
        element(0x20, 0x0E, *b"UI", series_uid.as_bytes()),
        element(0x7FE0, 0x10, *b"OW", picture),
    ]
    .concat();
    let length = element(2, 0, *b"UL", &u32::try_from(meta.len()).unwrap().to_le_bytes());
    [vec![0; 128], b"DICM".to_vec(), length, meta, set].concat()
}
