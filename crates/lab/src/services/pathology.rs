//! Pathology (病理): a folder of slides on a Linux server of the vendor, which allows SFTP and nothing else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::{Random, SeededRandom};

use crate::{
    error::{LabError, Result},
    lab::{Host, Lab, Scale},
    manifest::Tree,
    process::{Process, StopBy},
    program::Program,
    role::Role,
};

/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "sshd";
/// The account with which the site server reads; every Debian has it, and it can write nothing.
pub const READER: &str = "daemon";
/// The file of the reader's private key among the lab's secrets.
pub const READER_KEY: &str = "pathology-key";

/// The pathology system of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Pathology<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Pathology<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Pat)
    }

    /// The folder of the slides.
    pub fn folder(self) -> PathBuf {
        self.host().folder().join("slides")
    }

    /// The server's public host key, as the register pins it.
    ///
    /// # Errors
    /// The server was never raised.
    pub fn host_key(self) -> Result<String> {
        Ok(fs_err::read_to_string(self.host().folder().join("ssh/host.pub"))?.trim().to_owned())
    }

    pub(crate) fn create(self) -> Result<()> {
        let (files, largest) = match self.lab.what().scale {
            Scale::Full => (2_000, 200_000),
            Scale::Small => (150, 20_000),
        };
        for id in 0..files {
            let random = SeededRandom::new(self.lab.what().seed ^ 0x7061_7468 ^ (id << 20));
            let mut bytes = vec![0; usize::try_from(1_000 + random.below(largest)).unwrap_or(1_000)];
            random.fill(&mut bytes);
            let path = self.folder().join(format!("標本{:03}/切片-{id:05}.tif", id / 50));
            fs_err::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs_err::write(path, bytes)?;
        }
        let key = self.lab.secret_file(READER_KEY);
        generate(&key)?;
        serve(self.lab, Role::Pat, PROCESS).map(drop)
    }
}

fn generate(key: &Path) -> Result<()> {
    if key.exists() {
        return Ok(());
    }
    Program::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(key)
        .run()
        .map(drop)
}

/// Starts a server in a host that lets the reader in by his key, read-only.
fn serve(lab: &Lab, role: Role, name: &str) -> Result<Process> {
    let host = lab.host(role);
    let folder = host.folder().join("ssh");
    fs_err::create_dir_all(&folder)?;
    generate(&folder.join("host"))?;
    fs_err::copy(lab.secret_file(READER_KEY).with_extension("pub"), folder.join("authorized"))?;
    let at = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "Port 22\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nPrintMotd no\n\
         Subsystem sftp internal-sftp -R\nForceCommand internal-sftp -R\nAllowUsers {READER}\nMaxStartups 50\n",
        role.address(),
        at("host"),
        at("authorized"),
    );
    fs_err::write(folder.join("sshd_config"), config)?;
    // sshd wants an empty folder of root's; a private one hides the machine's. `ip netns exec` gives each
    // program mounts of its own.
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$1\"";
    let server = Program::new("sh").args(["-c", script, "sshd", &at("sshd_config")]);
    let mut process = host.spawn_with(name, &server, &lab.log(name), StopBy::Term)?;
    let target = std::net::SocketAddr::from((role.address(), 22));
    process.wait_until("sshd answers", Duration::from_mins(2), || {
        host.inside(|| std::net::TcpStream::connect(target).ok())
    })?;
    Ok(process)
}

/// Serves a restored folder from a host, asks for it by SFTP from the site server, and looks at its files.
///
/// # Errors
/// The server does not come up or does not list the folder.
pub fn tree_of_restored(lab: &Lab, role: Role, restored: &Path) -> Result<Tree> {
    let mut process = serve(lab, role, "sshd-restored")?;
    let key = lab.secret_file(READER_KEY).display().to_string();
    let known = lab.host(role).folder().join("ssh/host.pub");
    let hosts = lab.host(role).folder().join("ssh/known_hosts");
    fs_err::write(&hosts, format!("{} {}", role.address(), fs_err::read_to_string(known)?))?;
    let list = Program::new("sftp")
        .args(["-q", "-b", "-", "-i", &key, "-o", "BatchMode=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", hosts.display()))
        .arg(format!("{READER}@{}:{}", role.address(), restored.display()))
        .input("ls -1\n");
    let answer = lab.host(Role::Srv).text(&list);
    process.stop()?;
    let answer = answer?;
    if !answer.contains("標本000") {
        return Err(LabError::Answer { server: "sshd", answer });
    }
    Tree::of(restored)
}
