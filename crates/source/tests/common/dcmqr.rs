//! DCMTK's own archive (`dcmqrscp`) on a port of its own: another maker's than Orthanc.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use kuramori_source::config::DicomConfig;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

pub struct Archive {
    pub temp: TempDir,
    pub port: u16,
    server: Option<Child>,
}

impl Archive {
    pub fn start() -> Self {
        let temp = TempDir::with_prefix("kuramori-dcmqr-").unwrap();
        let mut archive = Self { temp, port: super::free_port(), server: None };
        fs_err::create_dir(archive.folder()).unwrap();
        let text = format!(
            "NetworkTCPPort = {}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n\
             VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nTEST-PACS {} RW (500, 1024mb) ANY\nAETable END\n",
            archive.port,
            archive.folder().display()
        );
        fs_err::write(archive.path("dcmqrscp.cfg"), text).unwrap();
        archive.serve();
        archive
    }

    pub fn serve(&mut self) {
        self.kill();
        let child = Command::new("dcmqrscp")
            .args(["--quiet", "--config"])
            .arg(self.path("dcmqrscp.cfg"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("dcmqrscp of Debian's dcmtk");
        self.server = Some(child);
        super::until("dcmqrscp", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> PathBuf {
        self.path("store")
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

    /// Stores files by DCMTK's own client.
    pub fn store(&self, files: &[Vec<u8>]) {
        let folder = TempDir::new().unwrap();
        for (n, file) in files.iter().enumerate() {
            fs_err::write(folder.path().join(format!("{n}.dcm")), file).unwrap();
        }
        let out = Command::new("storescu")
            .args(["--call", "TEST-PACS", "--scan-directories", "127.0.0.1", &self.port.to_string()])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// The file that it made of an instance.
    pub fn file_of(&self, sop: &str) -> PathBuf {
        fs_err::read_dir(self.folder())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                let bytes = fs_err::read(path).unwrap();
                let needle = format!("{sop}\0");
                let even = if sop.len().is_multiple_of(2) { sop } else { &needle };
                path.file_name().unwrap() != "index.dat"
                    && bytes[..bytes.len().min(1000)]
                        .windows(even.len())
                        .any(|window| window == even.as_bytes())
            })
            .unwrap_or_else(|| panic!("{sop}"))
    }

    pub fn config(&self) -> DicomConfig {
        super::orthanc::dimse(self.port, "TEST-PACS")
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.kill();
    }
}
