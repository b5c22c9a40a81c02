//! The vault host: gate, observer and vault, its windows, and the window in which the gate dies.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use kuramori_model::clock::{Clock, SystemClock};
use serde_json::Value;

use super::{
    Product, Story,
    site::{SERVE, Site, last_json, serve_address},
    summary::{Summary, WindowFigures},
};
use crate::{
    Lab, LabError, Process, Program, Result, Role, SWITCH_MANAGEMENT, Try,
    lab::Host,
    network::GUARDED_ALIAS,
    probe,
    process::StopBy,
    services::switch::{Login, SWITCH_NAME},
    wait_until,
};

/// The puller's address.
const PULLER: &str = "10.77.10.2";
/// The shaped rate at which the primary sends in the killed window, so that bytes still flow when it dies.
const SHAPED: &str = "160mbit";
/// A path is quiet when nothing was received for this long: well above the gap between two segments.
const QUIET: Duration = Duration::from_secs(5);

/// The vault's roles, running in `vlt`.
pub(super) struct Vault<'a> {
    pub(super) lab: &'a Lab,
    product: &'a Product,
    pub(super) folder: PathBuf,
}

/// Before the gate's rules are loaded and with the port up, the witness behind it must be reached: only then
/// does silence later mean anything.
pub(super) fn positive_control(lab: &Lab, story: &Story) -> Result<bool> {
    lab.switch().set_port(true)?;
    let what = Try { tcp: 1..=1024, ..Try::default() };
    let reached = probe(lab, Role::Lan, &what)?.reached;
    lab.switch().set_port(false)?;
    story.tell(
        &format!(
            "対照試験: ゲートがないとき保管庫に {}",
            if reached { "届きます(正常)" } else { "届きません(異常)" }
        ),
        &format!(
            "positive control: without the gate the vault is {}",
            if reached { "reached" } else { "NOT reached" }
        ),
    );
    Ok(reached)
}

/// Makes the vault's keys, carries its enrolment over, starts gate, observer and vault.
pub(super) fn raise<'a>(
    lab: &'a Lab,
    product: &'a Product,
    site: &Site<'_>,
    story: &Story,
) -> Result<Vault<'a>> {
    let vault = Vault { lab, product, folder: lab.host(Role::Vlt).folder().join("kuramori") };
    for folder in ["store", "state", "enrolment", "clean"] {
        fs_err::create_dir_all(vault.folder.join(folder))?;
    }
    fs_err::write(vault.config(), vault.vault_toml())?;
    let public = last_json(&vault.host().text(&vault.verb(&["identity"]))?)?;
    let text = |key: &str| public[key].as_str().unwrap_or_default().to_owned();
    let out = vault.folder.join("enrolment").display().to_string();
    site.ask(&[
        "server",
        "enroll-vault",
        "--name",
        "vault",
        "--report-key",
        &text("verifier"),
        "--recipient",
        &text("recipient"),
        "--out",
        &out,
    ])?;
    vault.name_witness()?;
    super::back::prepare_receiver(lab, product, &vault)?;
    vault.enrol_officers()?;
    fs_err::write(vault.folder.join("gated.toml"), vault.gated_toml(&text("token_key")))?;
    fs_err::write(vault.folder.join("observed.toml"), vault.observed_toml())?;
    vault.start_gate()?;
    vault.spawn("observed", &product.observed().arg("--config").arg(vault.folder.join("observed.toml")))?;
    vault.wait_closed(Duration::from_mins(1))?;
    story.tell("ゲートは閉鎖を確認済み(既定の状態)", "the gate is seen closed, its resting state");
    vault.spawn("vault", &product.kuramori().args(["vault", "--config"]).arg(vault.config()))?;
    wait_until("the vault", Duration::from_mins(2), || {
        Ok(std::os::unix::net::UnixStream::connect(vault.folder.join("state/vault.sock")).ok())
    })?;
    Ok(vault)
}

impl Vault<'_> {
    pub(super) fn host(&self) -> Host<'_> {
        self.lab.host(Role::Vlt)
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("vault.toml")
    }

    pub(super) fn verb(&self, words: &[&str]) -> Program {
        self.product.kuramori().args(["--json", "vault", "--config"]).arg(self.config()).args(words)
    }

    fn spawn(&self, name: &str, program: &Program) -> Result<Process> {
        let log = self.lab.root().join(format!("logs/{name}.log"));
        self.host().spawn_with(name, program, &log, StopBy::Term)
    }

    fn start_gate(&self) -> Result<Process> {
        self.spawn("gated", &self.product.gated().arg("--config").arg(self.folder.join("gated.toml")))
    }

    fn gate(&self) -> Result<Value> {
        let program = self
            .product
            .kuramori()
            .args(["--json", "gate", "status", "--socket"])
            .arg(self.folder.join("gated.sock"));
        last_json(&self.host().text(&program)?)
    }

    pub(super) fn closed(&self) -> Result<()> {
        self.wait_closed(Duration::from_mins(1))
    }

    fn wait_closed(&self, limit: Duration) -> Result<()> {
        wait_until("the gate to be seen closed", limit, || {
            Ok(self.gate().ok().filter(|status| status["gate"]["state"] == "closed_verified"))
        })
        .map(drop)
    }

    /// An ordinary window: open, pull, close, prove.
    pub(super) fn window(&self, summary: &mut Summary, story: &Story) -> Result<()> {
        let done = last_json(&self.host().try_run(&self.verb(&["pull"]))?.text())?;
        let figures = figures(&done["window"]);
        story.tell(
            &format!(
                "開放 {}: {:.1} 秒、{:.0} MiB、{}",
                figures.window,
                figures.probe_s,
                figures.bytes as f64 / f64::from(1 << 20),
                if figures.closed_verified { "閉鎖を確認" } else { "閉鎖を確認できません" }
            ),
            &format!(
                "window {}: path seen open {:.1} s, {:.0} MiB, {}",
                figures.window,
                figures.probe_s,
                figures.bytes as f64 / f64::from(1 << 20),
                if figures.closed_verified { "seen closed" } else { "NOT seen closed" }
            ),
        );
        if summary.window.is_none() {
            summary.window = Some(figures.clone());
        }
        summary.windows.push(figures);
        Ok(())
    }

    /// The server's key from the enrolment goes into the vault's configuration: from now on each cosigns the
    /// other's log.
    fn name_witness(&self) -> Result<()> {
        let text = fs_err::read_to_string(self.folder.join("enrolment/enrolment.json"))?;
        let enrolment: Value = serde_json::from_str(&text).unwrap_or_default();
        let key = enrolment["witness"].as_str().ok_or(LabError::NoService("the server's audit key"))?;
        let config = fs_err::read_to_string(self.config())?;
        fs_err::write(
            self.config(),
            config.replace("[vault]\n", &format!("[vault]\nwitness = \"{key}\"\n")),
        )?;
        Ok(())
    }

    /// Somebody locks the gate, and only two officers undo it.
    pub(super) fn locked_and_released(&self, story: &Story) -> Result<()> {
        let lock = self
            .product
            .kuramori()
            .args(["--json", "gate", "lockdown", "--reason", "ransomware", "--socket"])
            .arg(self.folder.join("gated.sock"));
        self.host().run(&lock)?;
        wait_until("the gate to be locked", Duration::from_mins(1), || {
            Ok(self
                .gate()
                .ok()
                .filter(|status| status["gate"]["state"] == "lockdown" && status["gate"]["verified"] == true))
        })?;
        self.approved(&["release"], 2)?;
        self.wait_closed(Duration::from_mins(1))?;
        story.tell("封鎖したゲートを 2 名の承認で解除しました", "two officers released the locked gate");
        Ok(())
    }

    /// A window in which `kuramori-gated` gets SIGKILL while bytes flow: the kernel alone must close.
    pub(super) fn killed_window(&self, summary: &mut Summary, story: &Story) -> Result<()> {
        let after = self.shaped(SHAPED, || self.kill_while_it_flows())?;
        story.tell(
            &format!("ゲートの制御プロセスを強制終了: 最後の通信は {after:.2} 秒後(上限 3.1 秒)"),
            &format!("the gate's process was killed: last byte {after:.2} s later (at most 3.1 s allowed)"),
        );
        summary.closed_after_kill_s = Some(after);
        story.tell("再起動したゲートは閉鎖を確認しました", "the restarted gate has seen itself closed");
        Ok(())
    }

    /// Does something while the primary sends slowly, so that a window stays open for a while.
    pub(super) fn shaped<T>(&self, rate: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let primary = self.lab.host(Role::Srv);
        let shape = |verb: &str| {
            let words = [
                "qdisc", verb, "dev", "eth0", "root", "tbf", "rate", rate, "burst", "256kb", "latency",
                "50ms",
            ];
            primary.run(&Program::new("tc").args(words)).map(drop)
        };
        shape("add")?;
        let done = work();
        shape("del")?;
        done
    }

    /// Complete restore points, by repository.
    pub(super) fn complete(&self) -> Result<BTreeMap<String, u64>> {
        let status = self.status()?;
        let all = status["repositories"].as_array().into_iter().flatten();
        Ok(all
            .filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["complete"].as_u64()?)))
            .collect())
    }

    pub(super) fn status(&self) -> Result<Value> {
        last_json(&self.host().text(&self.verb(&["status"]))?)
    }

    fn kill_while_it_flows(&self) -> Result<f64> {
        let mut gate = self.lab.process("gated")?.ok_or(LabError::NoService("gated"))?;
        std::thread::scope(|scope| {
            // The pull ends by itself when its path is gone; how, is not of interest here.
            scope.spawn(|| self.host().try_run(&self.verb(&["pull"])));
            let start = self.received()?;
            wait_until("bytes to flow", Duration::from_mins(1), || {
                Ok((self.received()? > start + (4 << 20)).then_some(()))
            })?;
            let killed = SystemClock.boot();
            gate.signal(rustix::process::Signal::KILL);
            let (mut seen, mut last) = (self.received()?, killed);
            while SystemClock.boot() < last.max(killed) + QUIET {
                let now = self.received()?;
                if now != seen {
                    (seen, last) = (now, SystemClock.boot());
                }
                SystemClock.sleep(Duration::from_millis(5));
            }
            // The service manager's part. Until the gate is seen closed the vault does not let go of its window.
            self.start_gate()?;
            self.wait_closed(Duration::from_mins(1))?;
            Ok(last.saturating_sub(killed).as_secs_f64())
        })
    }

    /// Bytes that came through the gate to the puller's side, by the kernel's counter of the inner link.
    pub(super) fn received(&self) -> Result<u64> {
        let name = self.lab.host(Role::Pul).namespace();
        crate::network::inside(&name, || {
            let text = fs_err::read_to_string("/proc/thread-self/net/dev")?;
            let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
            let bytes = line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok());
            bytes.ok_or(LabError::NoService("eth0"))
        })?
    }

    fn vault_toml(&self) -> String {
        let folder = self.folder.display();
        let primary = serve_address();
        let pul = self.lab.host(Role::Pul).namespace();
        format!(
            r#"order = ["directory", "billing", "ophthalmology", "pacs", "laboratory", "pathology", "ward"]

[vault]
root = "{folder}/store"
state = "{folder}/state"
passwords = "{folder}/enrolment/passwords"

[gate]
socket = "{folder}/gated.sock"
source = "{PULLER}"

[primary]
address = "{primary}"
ca_file = "{folder}/enrolment/ca.pem"
login = "vault-vault"
password_file = "{folder}/enrolment/pull.password"

[puller]
netns = "/run/netns/{pul}"
uid = 65534
gid = 65534

[window]
jitter_s = 0
max_seconds = 120
drain_s = 5

[report]
repository = "vault-report"
login = "report-vault"
password_file = "{folder}/enrolment/report.password"

[receivers.clean]
address = "{clean}:{SERVE}"
ca_file = "{folder}/clean/ca.pem"
login = "vault"
password_file = "{folder}/clean/password"
"#,
            clean = Role::Cln.address(),
        )
    }

    fn gated_toml(&self, key: &str) -> String {
        let folder = self.folder.display();
        let secret = |name| self.lab.secret_file(name).display().to_string();
        format!(
            r#"state_dir = "{folder}/gate"
socket = "{folder}/gated.sock"
allowed_uids = [0]
observer_socket = "{folder}/observer.sock"
observer_uids = [0]
vault_keys = ["{key}"]
dead_man_tested = ["A"]
# The vault vouches for the officers whose approvals it has judged.
officer_keys = ["{key}"]
release_quorum = 1

[[flow]]
purpose = "pull"
source = "{PULLER}"
peer = "{primary}"

[[flow]]
purpose = "restore"
source = "{PULLER}"
peer = "{clean}:{SERVE}"

[packet_filter]
inside = "pul0"
outside = "v0"
foreign_tables = ["ip witness", "ip6 witness", "arp witness"]

[[packet_filter.management]]
interface = "mgt0"
network = "192.0.2.0/28"
udp = [161]

[switch]
address = "{SWITCH_MANAGEMENT}:161"
user = "{user}"
auth_password_file = "{auth}"
priv_password_file = "{privacy}"
sys_name = "{SWITCH_NAME}"
if_name = "port2"
if_alias = "{GUARDED_ALIAS}"
"#,
            primary = serve_address(),
            clean = Role::Cln.address(),
            user = Login::Gate.user(),
            auth = secret(Login::Gate.auth_secret()),
            privacy = secret(Login::Gate.priv_secret()),
        )
    }

    fn observed_toml(&self) -> String {
        format!(
            r#"socket = "{folder}/observer.sock"
target = "{primary}"
never = ["{server}:22", "{server}:445"]
namespace = "/run/netns/{pul}"
interface = "v0"
"#,
            folder = self.folder.display(),
            primary = serve_address(),
            server = Role::Srv.address(),
            pul = self.lab.host(Role::Pul).namespace(),
        )
    }
}

/// What a window's record says.
pub(super) fn figures(window: &Value) -> WindowFigures {
    let record = &window["record"];
    let seconds = |key: &str| record[key].as_f64().unwrap_or(0.0);
    WindowFigures {
        window: window["window"].as_u64().unwrap_or(0),
        commanded_s: seconds("commanded_s"),
        actuator_s: seconds("actuator_s"),
        probe_s: seconds("probe_s"),
        bytes: window["bytes"].as_u64().unwrap_or(0),
        closed_verified: window["closed_verified"] == true,
    }
}
