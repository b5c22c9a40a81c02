//! The site server: its configuration, first start, register.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::Value;

use super::{Product, Story};
use crate::{
    Lab, LabError, Program, Result, Role,
    lab::Host,
    role::VAULT,
    services::{
        billing::{REPLICATOR, REPLICATOR_SECRET},
        directory::{AGENT, UNIT},
        laboratory::{READER as LABORATORY_READER, READER_SECRET as LABORATORY_SECRET},
        ophthalmology::{HELD, MARKER, READER, READER_SECRET, SHARE},
        pathology::{READER as PATHOLOGY_READER, READER_KEY as PATHOLOGY_KEY},
        switch::{Login, SWITCH_NAME},
        ward::{READER as WARD_READER, READER_SECRET as WARD_SECRET, RESULT, SHARE as WARD_SHARE},
    },
    wait_until,
};

/// The repository server's port.
pub(super) const SERVE: u16 = 8443;
const CONSOLE: u16 = 8080;
/// The agents' door.
const AGENTS: u16 = 8445;
/// Who is told of alarms.
pub(super) const MAILBOX: &str = "jouhou@hospital.example";

/// The server in `srv`, running.
pub(super) struct Site<'a> {
    pub(super) lab: &'a Lab,
    pub(super) product: &'a Product,
    folder: PathBuf,
}

/// Makes keys, starts the server, registers the departments.
pub(super) fn raise<'a>(lab: &'a Lab, product: &'a Product, story: &Story) -> Result<Site<'a>> {
    let site = Site { lab, product, folder: lab.host(Role::Srv).folder().join("kuramori") };
    fs_err::create_dir_all(&site.folder)?;
    fs_err::write(site.config(), site.server_toml())?;
    // The hospital's recovery identity belongs on paper; here it lies where no host of the lab looks.
    let recovery = lab.truth().join("recovery.identity");
    site.host().run(&site.server().args(["init", "--recovery-out"]).arg(&recovery))?;
    site.start()?;
    story.tell("拠点サーバーを開始しました", "the site server runs");
    site.add(&site.register()?)?;
    story.tell(
        "部門システムを登録しました(認証基盤・医事会計・眼科・画像・検体検査・病理・病棟)",
        "directory, billing, ophthalmology, PACS, laboratory, pathology and ward are registered",
    );
    Ok(site)
}

impl Site<'_> {
    pub(super) fn host(&self) -> Host<'_> {
        self.lab.host(Role::Srv)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn config(&self) -> PathBuf {
        self.file("server.toml")
    }

    fn server(&self) -> Program {
        self.product.kuramori().args(["--json", "server", "--config"]).arg(self.config())
    }

    /// `kuramori --json WORDS… --socket …`, its last line of JSON.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Value> {
        let program =
            self.product.kuramori().arg("--json").args(words).arg("--socket").arg(self.file("admin.sock"));
        last_json(&self.host().text(&program)?)
    }

    #[expect(clippy::unused_self, reason = "it is this site's address")]
    pub(super) fn console(&self) -> String {
        format!("http://{}:{CONSOLE}/", Role::Srv.address())
    }

    pub(super) fn start(&self) -> Result<()> {
        self.host().spawn("server", &self.server(), &self.lab.root().join("logs/server.log"))?;
        let socket = self.file("admin.sock");
        wait_until("the site server", Duration::from_mins(2), || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
        })?;
        Ok(())
    }

    /// Registers what a TOML text says; credentials of restic clients go into `credentials/`.
    pub(super) fn add(&self, register: &str) -> Result<()> {
        let file = self.file("register.toml");
        fs_err::write(&file, register)?;
        let (file, credentials) =
            (file.display().to_string(), self.file("credentials").display().to_string());
        self.ask(&["system", "add", "--from", &file, "--credentials", &credentials]).map(drop)
    }

    fn server_toml(&self) -> String {
        let folder = self.folder.display();
        let server = Role::Srv.address();
        let secret = |name| self.lab.secret_file(name).display().to_string();
        // Asking for the secrets makes their files.
        let _ = (self.lab.secret(Login::Watch.auth_secret()), self.lab.secret(Login::Watch.priv_secret()));
        format!(
            r#"hospital = "蔵守ラボ病院"
language = "ja"
time_zone = "Asia/Tokyo"

[store]
data = "{folder}/data"
repositories = "{folder}/repositories"

[admin]
socket = "{folder}/admin.sock"

[console]
listen = "{server}:{CONSOLE}"

[serve]
listen = "{server}:{SERVE}"
names = ["{server}"]

[agents]
listen = "{server}:{AGENTS}"

[schedule]
tick = "1s"

[judge]
every = "2s"

[notify]
[[notify.target]]
name = "jouhou"
[notify.target.smtp]
host = "{mail_host}"
port = {mail_port}
from = "kuramori@hospital.example"
to = ["{MAILBOX}"]

[gate]
probe = ["{VAULT}:22", "{VAULT}:{SERVE}"]
every = "5s"

[gate.snmp]
address = "{switch}:161"
user = "{user}"
auth_password_file = "{auth}"
privacy_password_file = "{privacy}"
sys_name = "{SWITCH_NAME}"
interface = "port2"
"#,
            mail_host = self.lab.mail().address().ip(),
            mail_port = self.lab.mail().address().port(),
            switch = Role::Sw.address(),
            user = Login::Watch.user(),
            auth = secret(Login::Watch.auth_secret()),
            privacy = secret(Login::Watch.priv_secret()),
        )
    }

    fn register(&self) -> Result<String> {
        let secret = |name| self.lab.secret_file(name).display().to_string();
        let mut text = String::new();
        let _ = write!(
            text,
            r#"[[system]]
id = "directory"
name_ja = "認証基盤(Active Directory)"
name_en = "Directory (Active Directory)"
vendor = "基盤システム株式会社(架空)"
protection = "critical"
rpo = "24h"
rto = "2h"
restore_order = 1
[system.source]
kind = "agent"
agent = "{AGENT}"
unit = "{UNIT}"

[[system]]
id = "billing"
name_ja = "医事会計"
name_en = "Billing"
vendor = "会計システム株式会社(架空)"
protection = "critical"
rpo = "24h"
rto = "4h"
restore_order = 2
[system.source]
kind = "postgres"
server = "{billing}"
user = "{REPLICATOR}"
password_file = "{billing_secret}"

[[system]]
id = "ophthalmology"
name_ja = "眼科"
name_en = "Ophthalmology"
vendor = "眼科システム株式会社(架空)"
protection = "important"
rpo = "24h"
rto = "8h"
restore_order = 3
[system.source]
kind = "smb"
server = "{ophthalmology}"
share = "{SHARE}"
user = "{READER}"
domain = "HOSPITAL"
password_file = "{ophthalmology_secret}"
exclude = ["{HELD}"]
[system.source.marker]
pattern = "{MARKER}"
settle = "1s"
poll = "1s"

[[system]]
id = "pacs"
name_ja = "画像(PACS)"
name_en = "PACS"
vendor = "画像システム株式会社(架空)"
protection = "critical"
rpo = "24h"
rto = "8h"
restore_order = 4

[[system]]
id = "laboratory"
name_ja = "検体検査"
name_en = "Laboratory"
vendor = "検査システム株式会社(架空)"
protection = "critical"
rpo = "24h"
rto = "4h"
restore_order = 5
[system.source]
kind = "mariadb"
server = "{laboratory}"
user = "{LABORATORY_READER}"
password_file = "{laboratory_secret}"

[[system]]
id = "pathology"
name_ja = "病理"
name_en = "Pathology"
vendor = "病理システム株式会社(架空)"
protection = "important"
rpo = "24h"
rto = "24h"
restore_order = 6
[system.source]
kind = "sftp"
server = "{pathology}"
user = "{PATHOLOGY_READER}"
folder = "{slides}"
host_keys = ["{host_key}"]
key_file = "{pathology_key}"

[[system]]
id = "ward"
name_ja = "病棟(他社製品でバックアップ)"
name_en = "Ward (backed up by another product)"
vendor = "病棟システム株式会社(架空)"
protection = "important"
rpo = "24h"
rto = "24h"
restore_order = 7
[system.source]
kind = "foreign"
product = "other"
server = "{ward}"
[system.source.share]
server = "{ward}"
share = "{WARD_SHARE}"
user = "{WARD_READER}"
domain = "HOSPITAL"
password_file = "{ward_secret}"
[system.source.share.marker]
pattern = "{RESULT}"
settle = "1s"
poll = "1s"
"#,
            laboratory = Role::Lis.address(),
            laboratory_secret = secret(LABORATORY_SECRET),
            pathology = Role::Pat.address(),
            slides = self.lab.pathology().folder().display(),
            host_key = self.lab.pathology().host_key()?,
            pathology_key = secret(PATHOLOGY_KEY),
            ward = Role::War.address(),
            ward_secret = secret(WARD_SECRET),
            billing = Role::Bil.address(),
            billing_secret = secret(REPLICATOR_SECRET),
            ophthalmology = Role::Oph.address(),
            ophthalmology_secret = secret(READER_SECRET),
        );
        Ok(text)
    }
}

/// The last line of a program's output as JSON.
pub(super) fn last_json(text: &str) -> Result<Value> {
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("null");
    serde_json::from_str(last)
        .map_err(|_| LabError::Answer { server: "kuramori", answer: last.chars().take(300).collect() })
}

/// The address of the agents' door.
pub(super) fn agents_address() -> SocketAddr {
    (Role::Srv.address(), AGENTS).into()
}

/// The address of the repository server.
pub(super) fn serve_address() -> SocketAddr {
    (Role::Srv.address(), SERVE).into()
}
