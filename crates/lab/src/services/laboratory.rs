//! The laboratory (検体検査): Debian's MariaDB with a table of results that are appended all day.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::SeededRandom;

use super::{billing::Sums, folder_of};
use crate::{
    error::Result,
    lab::{Host, Lab, Scale},
    process::{Process, StopBy},
    program::Program,
    role::Role,
};

/// The user that the server runs as.
const USER: &str = "mysql";
/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "mariadb";
/// The account that may read everything from the site server.
pub const READER: &str = "kuramori";
/// The [secret](Lab::secret) with the reader's password.
pub const READER_SECRET: &str = "mariadb-kuramori";

/// Together they notice one changed digit in any row.
const QUERIES: [(&str, &str); 3] = [
    ("results", "SELECT COUNT(*), SUM(value), MIN(taken), MAX(taken) FROM laboratory.results"),
    (
        "results_text",
        "SELECT SUM(CRC32(CONCAT_WS('|', id, patient, item, value, taken))), \
         BIT_XOR(CRC32(CONCAT_WS('#', id, item, value))) FROM laboratory.results",
    ),
    (
        "by_item",
        "SELECT SUM(CRC32(CONCAT(item, n, s))) FROM (SELECT item, COUNT(*) n, SUM(value) s FROM laboratory.results GROUP BY item) t",
    ),
];

/// The laboratory system of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Laboratory<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Laboratory<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Lis)
    }

    /// The server's data folder.
    pub fn data(self) -> PathBuf {
        self.host().folder().join("mariadb/data")
    }

    pub(crate) fn create(self) -> Result<()> {
        let reader = self.lab.secret(READER_SECRET)?;
        let server = Server { host: self.host(), folder: self.host().folder().join("mariadb") };
        server.install()?;
        server.start(PROCESS, self.lab)?;
        let from = Role::Srv.address();
        server.run(&format!(
            "CREATE USER '{READER}'@'{from}' IDENTIFIED BY '{reader}';
             GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.* TO '{READER}'@'{from}';
             CREATE DATABASE laboratory CHARACTER SET utf8mb4;
             CREATE TABLE laboratory.results (id BIGINT PRIMARY KEY, patient VARCHAR(16) NOT NULL,
               item VARCHAR(40) NOT NULL, value DECIMAL(10,2) NOT NULL, taken DATETIME NOT NULL) ENGINE=InnoDB;"
        ))?;
        let rows = match self.lab.what().scale {
            Scale::Full => 200_000,
            Scale::Small => 4_000,
        };
        server.run(&results(self.lab.what().seed, rows))
    }

    /// The sums of the running server.
    pub fn sums(self) -> Result<Sums> {
        Server { host: self.host(), folder: self.host().folder().join("mariadb") }.sums()
    }
}

/// Plays `dump.sql` of a restored folder into an empty server of a host, takes its sums, and stops it again.
///
/// # Errors
/// The server does not come up, or the dump does not fit.
pub fn sums_of_restored(lab: &Lab, role: Role, restored: &Path) -> Result<Sums> {
    let host = lab.host(role);
    let server = Server { host, folder: host.folder().join("mariadb-again") };
    server.install()?;
    let mut process = server.start("mariadb-restored", lab)?;
    let sums = server.load(&restored.join("dump.sql")).and_then(|()| server.sums());
    process.stop()?;
    sums
}

struct Server<'lab> {
    host: Host<'lab>,
    folder: PathBuf,
}

impl Server<'_> {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn install(&self) -> Result<()> {
        folder_of(USER, &self.folder)?;
        let install = Program::new("mariadb-install-db").args([
            "--no-defaults",
            "--user=mysql",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
        ]);
        self.host.run(&install.arg(format!("--datadir={}", self.path("data")))).map(drop)
    }

    fn start(&self, name: &str, lab: &Lab) -> Result<Process> {
        let server = Program::new("mariadbd")
            .args(["--no-defaults", "--user=mysql", "--skip-name-resolve", "--port=3306"])
            .args(["--innodb-buffer-pool-size=64M", "--character-set-server=utf8mb4"])
            .args(["--max-allowed-packet=64M"])
            .arg(format!("--bind-address={}", self.host.role().address()))
            .arg(format!("--datadir={}", self.path("data")))
            .arg(format!("--socket={}", self.path("socket")))
            .arg(format!("--pid-file={}", self.path("pid")));
        let mut process = self.host.spawn_with(name, &server, &lab.log(name), StopBy::Term)?;
        let asks = self.client().args(["-e", "SELECT 1"]);
        process.wait_until("MariaDB answers", Duration::from_mins(2), || {
            Ok((self.host.try_run(&asks)?.status == Some(0)).then_some(()))
        })?;
        Ok(process)
    }

    fn client(&self) -> Program {
        Program::new("mariadb")
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "--max-allowed-packet=64M"])
            .arg(format!("--socket={}", self.path("socket")))
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.host.run(&self.client().input(sql)).map(drop)
    }

    fn load(&self, dump: &Path) -> Result<()> {
        let source = format!("source {};\nFLUSH PRIVILEGES;\n", dump.display());
        self.run(&source)
    }

    fn sums(&self) -> Result<Sums> {
        let ask = |(name, sql): (&str, &str)| {
            let answer = self.host.text(&self.client().args(["-e", sql]))?;
            Ok((name.to_owned(), answer.trim_end().to_owned()))
        };
        Ok(Sums { answers: QUERIES.into_iter().map(ask).collect::<Result<_>>()? })
    }
}

/// Rows, each decided by the seed and its own number alone.
fn results(seed: u64, count: u64) -> String {
    const ITEMS: [&str; 6] = ["血糖", "クレアチニン", "ヘモグロビン", "白血球数", "CRP", "総コレステロール"];
    let mut sql = String::new();
    for id in 0..count {
        let random = SeededRandom::new(seed ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let head = if id % 1000 == 0 { "INSERT INTO laboratory.results VALUES " } else { "," };
        let item = ITEMS[usize::try_from(random.below(6)).unwrap_or(0)];
        let (whole, part) = (random.below(400), random.below(100));
        let (day, hour, minute) = (1 + random.below(28), random.below(24), random.below(60));
        let patient = 1 + random.below(9_000);
        let _ = write!(
            sql,
            "{head}({id},'TEST{patient:06}','{item}',{whole}.{part:02},'2026-10-{day:02} {hour:02}:{minute:02}:00')"
        );
        if id % 1000 == 999 || id + 1 == count {
            sql.push_str(";\n");
        }
    }
    sql
}
