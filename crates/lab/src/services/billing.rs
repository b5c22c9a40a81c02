//! Billing (医事会計): PostgreSQL 15 with pgbench's tables and a table of orders with sums.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::SeededRandom;

use super::{folder_of, owned_by};
use crate::{
    error::{LabError, Result},
    lab::{Host, Lab, Scale},
    process::{Process, StopBy},
    program::Program,
    role::Role,
};

/// Where Debian keeps the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The user that the server runs as; PostgreSQL refuses root.
const USER: &str = "postgres";
/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "postgres";
/// The database of the billing system.
pub const DATABASE: &str = "billing";
/// The account that may take base backups from the site server; its password is the secret of this name.
pub const REPLICATOR: &str = "kuramori";
/// The name of the replicator's [secret](Lab::secret).
pub const REPLICATOR_SECRET: &str = "postgres-kuramori";
/// What the demonstration promises of the database.
const PROMISED: u64 = 500_000_000;

/// The billing system of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Billing<'lab> {
    lab: &'lab Lab,
}

/// The sums that make a database the same for a bookkeeper. From `psql`, never from our own programs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sums {
    /// One line per query: what was asked, and the answer.
    pub answers: std::collections::BTreeMap<String, String>,
}

/// Each is cheap, and together they notice one changed digit in any row.
const QUERIES: [(&str, &str); 6] = [
    ("orders", "SELECT count(*), sum(points), sum(yen) FROM orders"),
    ("orders_text", "SELECT md5(string_agg(o::text, '|' ORDER BY id)) FROM orders o"),
    (
        "orders_by_item",
        "SELECT md5(string_agg(t::text, '|' ORDER BY item)) FROM (SELECT item, count(*), sum(yen) FROM orders GROUP BY item) t",
    ),
    ("accounts", "SELECT count(*), sum(abalance), sum(hashtextextended(a::text, 0)) FROM pgbench_accounts a"),
    (
        "tellers",
        "SELECT count(*), sum(tbalance), (SELECT sum(bbalance) FROM pgbench_branches) FROM pgbench_tellers",
    ),
    (
        "history",
        "SELECT count(*), coalesce(sum(delta), 0), coalesce(sum(hashtextextended(h::text, 0)), 0) FROM pgbench_history h",
    ),
];

impl<'lab> Billing<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Bil)
    }

    /// The cluster's folder.
    pub fn data(self) -> PathBuf {
        self.host().folder().join("postgres/data")
    }

    pub(crate) fn create(self) -> Result<()> {
        let folder = self.host().folder().join("postgres");
        folder_of(USER, &folder)?;
        let admin = self.lab.secret("postgres-admin")?;
        let replicator = self.lab.secret(REPLICATOR_SECRET)?;
        let data = self.data();
        let password_file = folder.join("initdb.password");
        fs_err::write(&password_file, &admin)?;
        owned_by(USER, &password_file)?;
        let init = program("initdb")
            .args(["--auth=scram-sha-256", "--username=postgres", "--data-checksums"])
            .arg(format!("--pwfile={}", password_file.display()))
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("-D")
            .arg(&data);
        self.host().run(&init)?;
        fs_err::remove_file(&password_file)?;
        let hba = format!(
            "# type  database     user        address        method\n\
             host    all          all         {}/32          scram-sha-256\n\
             host    replication  {REPLICATOR}    {}/32          scram-sha-256\n\
             host    postgres     {REPLICATOR}    {}/32          scram-sha-256\n",
            Role::Bil.address(),
            Role::Srv.address(),
            Role::Srv.address()
        );
        fs_err::write(data.join("pg_hba.conf"), hba)?;
        let settings = format!(
            "listen_addresses = '{}'\nport = 5432\nunix_socket_directories = ''\nwal_level = replica\n\
             max_wal_senders = 10\nwal_keep_size = 256MB\nmax_wal_size = 1GB\nshared_buffers = 128MB\n\
             synchronous_commit = on\nlog_min_messages = warning\ncluster_name = 'billing'\n",
            Role::Bil.address()
        );
        let mut config = fs_err::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
        std::io::Write::write_all(&mut config, settings.as_bytes())?;
        self.start()?;
        self.ask("postgres", &format!("CREATE ROLE {REPLICATOR} LOGIN REPLICATION PASSWORD '{replicator}'"))?;
        self.ask("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        self.fill()
    }

    fn fill(self) -> Result<()> {
        let (scale, orders) = match self.lab.what().scale {
            Scale::Full => (36, 60_000),
            Scale::Small => (1, 2_000),
        };
        self.host().run(&self.client("pgbench").args(["-i", "-q", "-s", &scale.to_string(), DATABASE]))?;
        self.ask(
            DATABASE,
            "CREATE TABLE orders (id bigint PRIMARY KEY, patient text NOT NULL, item text NOT NULL, \
             points integer NOT NULL, yen bigint NOT NULL, ordered date NOT NULL)",
        )?;
        self.copy_orders(0, orders)?;
        self.ask(DATABASE, "CHECKPOINT")?;
        let bytes = self.size()?;
        if self.lab.what().scale == Scale::Full && bytes < PROMISED {
            return Err(LabError::TooSmall { what: "billing's database", have: bytes, want: PROMISED });
        }
        Ok(())
    }

    fn copy_orders(self, first: u64, count: u64) -> Result<()> {
        let rows = orders(self.lab.what().seed, first, count);
        let copy = self.psql(DATABASE).args(["-c", "COPY orders FROM STDIN"]).input(rows);
        self.host().run(&copy).map(drop)
    }

    /// A day's work: new orders, and pgbench's transactions, so that the next backup differs.
    pub fn work(self, transactions: u32) -> Result<()> {
        let next: u64 = number(&self.ask(DATABASE, "SELECT coalesce(max(id) + 1, 0) FROM orders")?)?;
        self.copy_orders(next, u64::from(transactions))?;
        let seed = self.lab.what().seed ^ next;
        let bench = self
            .client("pgbench")
            .args(["-n", "-c", "2", "-t", &transactions.div_ceil(2).to_string()])
            .arg(format!("--random-seed={}", seed & 0xffff_ffff))
            .arg(DATABASE);
        self.host().run(&bench).map(drop)
    }

    /// The database's size in bytes.
    pub fn size(self) -> Result<u64> {
        number(&self.ask(DATABASE, "SELECT pg_database_size(current_database())")?)
    }

    /// Starts the server and waits until it answers.
    pub fn start(self) -> Result<()> {
        let log = self.lab.log(PROCESS);
        let server = program("postgres").arg("-D").arg(self.data());
        let mut process = self.host().spawn_with(PROCESS, &server, &log, StopBy::Int)?;
        ready(self.host(), &mut process)
    }

    /// Stops it by its fast shutdown.
    pub fn stop(self) -> Result<()> {
        match self.lab.process(PROCESS)? {
            Some(mut process) => process.stop().map(drop),
            None => Ok(()),
        }
    }

    /// Asks the running server one SQL question as its administrator; the answer unaligned, without headers.
    pub fn ask(self, database: &str, sql: &str) -> Result<String> {
        let answer = self.host().text(&self.psql(database).args(["-c", sql]))?;
        Ok(answer.trim_end().to_owned())
    }

    fn psql(self, database: &str) -> Program {
        self.client("psql").args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database])
    }

    fn client(self, name: &str) -> Program {
        let password = self.lab.secret("postgres-admin").unwrap_or_default();
        program(name)
            .env("PGPASSWORD", password)
            .env("PGHOST", Role::Bil.address().to_string())
            .env("PGUSER", "postgres")
            .env("PGCONNECT_TIMEOUT", "5")
    }

    /// The sums of the running server.
    pub fn sums(self) -> Result<Sums> {
        sums(|sql| self.ask(DATABASE, sql))
    }
}

fn program(name: &str) -> Program {
    Program::new(format!("{PROGRAMS}/{name}")).user(USER).folder(Path::new("/"))
}

fn ready(host: Host<'_>, process: &mut Process) -> Result<()> {
    let asks = program("pg_isready").args(["-q", "-h", &host.role().address().to_string()]);
    process.wait_until("PostgreSQL answers", Duration::from_mins(2), || {
        Ok((host.try_run(&asks)?.status == Some(0)).then_some(()))
    })
}

fn sums(ask: impl Fn(&str) -> Result<String>) -> Result<Sums> {
    let answers =
        QUERIES.into_iter().map(|(name, sql)| Ok((name.to_owned(), ask(sql)?))).collect::<Result<_>>()?;
    Ok(Sums { answers })
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| LabError::Answer { server: "PostgreSQL", answer: text.to_owned() })
}

/// Rows for `COPY`, each decided by the seed and its own number alone.
fn orders(seed: u64, first: u64, count: u64) -> String {
    const ITEMS: [&str; 8] = [
        "初診料",
        "再診料",
        "眼底三次元画像解析",
        "精密眼圧測定",
        "CT撮影",
        "血液化学検査",
        "処方箋料",
        "入院基本料",
    ];
    let mut rows = String::new();
    for id in first..first + count {
        let random = SeededRandom::new(seed ^ id.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let points = 10 + random.below(4_000);
        let item = ITEMS[usize::try_from(random.below(8)).unwrap_or(0)];
        let patient = 1 + random.below(9_000);
        let (month, day) = (1 + random.below(12), 1 + random.below(28));
        let yen = points * 10;
        let _ = writeln!(rows, "{id}\tTEST{patient:06}\t{item}\t{points}\t{yen}\t2026-{month:02}-{day:02}");
    }
    rows
}

/// Starts PostgreSQL on a restored base backup in a host (the clean room as a rule), takes its sums, and
/// stops it again. `pg_verifybackup` looks first where the backup's manifest lies beside the data.
///
/// The folder is given to PostgreSQL's user and used: recovery writes into it.
///
/// # Errors
/// The backup does not verify, the server does not come up, or a table is missing.
pub fn sums_of_restored(lab: &Lab, role: Role, data: &Path) -> Result<Sums> {
    use std::os::unix::fs::PermissionsExt;
    let host = lab.host(role);
    if data.join("backup_manifest").exists() {
        Program::new(format!("{PROGRAMS}/pg_verifybackup")).arg("-q").arg(data).run()?;
    }
    owned_by(USER, data)?;
    fs_err::set_permissions(data, std::fs::Permissions::from_mode(0o700))?;
    let own = host.folder().join("postgres-compare");
    folder_of(USER, &own)?;
    let hba = own.join("pg_hba.conf");
    // Only its own host may ask, and it needs no password: the restored one is not ours to know.
    fs_err::write(&hba, format!("host all all {}/32 trust\n", role.address()))?;
    let set = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
    let server = program("postgres")
        .arg("-D")
        .arg(data)
        .args(set("hba_file", &hba.to_string_lossy()))
        .args(set("listen_addresses", &role.address().to_string()))
        .args(set("port", "5432"))
        .args(set("unix_socket_directories", ""));
    let mut process =
        host.spawn_with("postgres-restored", &server, &lab.log("postgres-restored"), StopBy::Int)?;
    let answers = ready(host, &mut process).and_then(|()| {
        sums(|sql| {
            let psql = program("psql").args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]);
            let psql = psql.args(["-h", &role.address().to_string(), "-d", DATABASE, "-c", sql]);
            Ok(host.text(&psql)?.trim_end().to_owned())
        })
    });
    process.stop()?;
    answers
}
