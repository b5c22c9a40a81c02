//! Debian's Samba on a port of its own, with all its files in a temporary folder.

use std::{
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use kuramori_source::config::{SmbConfig, SmbExpect, Span};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// The read-only account; an account that every Debian has.
pub const READER: &str = "daemon";
/// The vendor's account, which may write.
pub const VENDOR: &str = "bin";
pub const PASSWORD: &str = "ひみつ-read-only-1";

pub struct Samba {
    pub temp: TempDir,
    pub port: u16,
    server: Option<Child>,
}

impl Samba {
    pub fn start() -> Self {
        let temp = TempDir::with_prefix("kuramori-smb-").unwrap();
        fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut samba = Self { temp, port: super::free_port(), server: None };
        for folder in ["private", "lock", "state", "cache", "pid", "ncalrpc", "dump", "closed"] {
            fs_err::create_dir_all(samba.path(folder)).unwrap();
        }
        fs_err::set_permissions(samba.path("dump"), std::fs::Permissions::from_mode(0o777)).unwrap();
        let at = samba.temp.path().display();
        let config = format!(
            "[global]\nserver role = standalone server\nworkgroup = HOSPITAL\nnetbios name = OPH\n\
             interfaces = lo\nbind interfaces only = yes\nsmb ports = {}\ndisable netbios = yes\n\
             private dir = {at}/private\nlock directory = {at}/lock\nstate directory = {at}/state\n\
             cache directory = {at}/cache\npid directory = {at}/pid\nncalrpc dir = {at}/ncalrpc\n\
             passdb backend = tdbsam:{at}/private/passdb.tdb\nlog file = {at}/log\nlog level = 1\n\
             load printers = no\nprinting = bsd\nprintcap name = /dev/null\nmap to guest = never\n\
             unix extensions = no\nmax protocol = SMB3_11\nserver min protocol = SMB2_10\n\
             [dump]\npath = {at}/dump\nread only = yes\nwrite list = {VENDOR}\nvolume = OPHDUMP\n\
             valid users = {READER} {VENDOR}\nstrict locking = yes\nforce create mode = 0644\n\
             [closed]\npath = {at}/closed\nvalid users = {VENDOR}\n",
            samba.port
        );
        fs_err::write(samba.path("smb.conf"), config).unwrap();
        for user in [READER, VENDOR] {
            let mut child = Command::new("pdbedit")
                .args(["--create", "--password-from-stdin", "--user", user, "--configfile"])
                .arg(samba.path("smb.conf"))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("pdbedit of Debian's samba-common-bin");
            write!(child.stdin.take().unwrap(), "{PASSWORD}\n{PASSWORD}\n").unwrap();
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        samba.serve();
        samba
    }

    /// Starts the server process (again).
    pub fn serve(&mut self) {
        self.kill();
        let child = Command::new("smbd")
            .args(["--foreground", "--no-process-group", "--configfile"])
            .arg(self.path("smb.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("smbd of Debian's samba");
        self.server = Some(child);
        let port = self.port;
        super::until("smbd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn dump(&self) -> PathBuf {
        self.path("dump")
    }

    /// The server's process group.
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

    pub fn config(&self) -> SmbConfig {
        let second = std::time::Duration::from_secs(1);
        SmbConfig {
            server: "127.0.0.1".into(),
            port: self.port,
            share: "dump".into(),
            folder: String::new(),
            user: READER.into(),
            domain: String::new(),
            password_file: super::secret(self.temp.path(), "password", PASSWORD),
            marker: None,
            exclude: Vec::new(),
            retries: 2,
            retry_pause: Span(second / 10),
            reconnects: 3,
            reconnect_within: Span(second * 60),
            expect: SmbExpect::default(),
        }
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Holds a file open and shares it with nobody, as many Windows programs do, until dropped.
pub struct Holder {
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Holder {
    pub fn hold(samba: &Samba, path: &str) -> Self {
        use smb2::{
            ClientConfig, SmbClient,
            msg::create::{CreateDisposition, CreateRequest, ImpersonationLevel, ShareAccess},
            types::{Command as Smb, OplockLevel, flags::FileAccessMask},
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (addr, name) = (format!("127.0.0.1:{}", samba.port), path.replace('/', "\\"));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let config = ClientConfig {
                    addr,
                    username: VENDOR.into(),
                    password: PASSWORD.into(),
                    ..ClientConfig::default()
                };
                let mut client = SmbClient::connect(config).await.unwrap();
                let share = client.connect_share("dump").await.unwrap();
                let request = CreateRequest {
                    requested_oplock_level: OplockLevel::None,
                    impersonation_level: ImpersonationLevel::Impersonation,
                    desired_access: FileAccessMask::new(FileAccessMask::FILE_READ_DATA),
                    file_attributes: 0,
                    share_access: ShareAccess(0),
                    create_disposition: CreateDisposition::FileOpen,
                    create_options: 0,
                    name,
                    create_contexts: Vec::new(),
                };
                let answer =
                    client.connection().execute(Smb::Create, &request, Some(share.tree_id)).await.unwrap();
                assert!(answer.header.status.is_success(), "{}", answer.header.status);
                ready.send(()).unwrap();
                let _ = stopped.await;
            });
        });
        is_ready.recv_timeout(std::time::Duration::from_mins(2)).expect("the file is held");
        Self { _stop: stop }
    }
}

/// Sets a file's modification time with `touch`.
pub fn touch(path: &Path, when: &str) {
    let done = Command::new("touch").arg("-d").arg(when).arg(path).status().unwrap();
    assert!(done.success());
}
