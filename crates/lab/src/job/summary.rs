//! The figures of one run: the object that `./run --once --json` ends with.

use std::path::PathBuf;

use serde::Serialize;

/// All figures. Seconds and bytes; keys are a contract.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// How each department got into the primary.
    pub systems: Vec<SystemFigures>,
    /// The first ordinary window.
    pub window: Option<WindowFigures>,
    /// Every window that ended in order; the one whose gate was killed stands in `closed_after_kill_s`.
    pub windows: Vec<WindowFigures>,
    /// Last byte after `kuramori-gated` got SIGKILL while bytes flowed.
    pub closed_after_kill_s: Option<f64>,
    /// The witness behind the gate was reached with the gate flushed: the tests below would see an open gate.
    pub positive_control: bool,
    /// The quiet attack on the puller while the window was open.
    pub siege: Option<SiegeFigures>,
    /// Logins with the directory dead.
    pub logins: Option<LoginFigures>,
    /// What the attack did.
    pub attack: AttackFigures,
    /// The missed backup.
    pub missed: Option<MissedFigures>,
    /// What came back.
    pub restored: Vec<RestoredFigures>,
    /// The site server itself, rebuilt from the vault's copy.
    pub server: Option<ServerFigures>,
    /// What Debian's restic found wrong with the repositories that came out of the vault: nothing, if all is well.
    pub stock_restic: Option<Vec<String>>,
    /// The evidence sheets, Japanese and English.
    pub evidence: Vec<PathBuf>,
}

/// A department's way into the primary.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SystemFigures {
    /// As in the register: `billing`, `ophthalmology`, …
    pub name: String,
    /// `agent`, `postgres`, `smb`, `restic`, `mariadb`, `sftp`, `foreign`.
    pub way: &'static str,
    /// Bytes read.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// The restore point's id.
    pub restore_point: String,
    /// Whether it is whole.
    pub complete: bool,
    /// Seconds that the department's server was stopped for it.
    pub outage_s: f64,
}

/// One window.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WindowFigures {
    /// Its number.
    pub window: u64,
    /// Exposure by the gate's own commands.
    pub commanded_s: f64,
    /// Exposure by the layers' read-back.
    pub actuator_s: f64,
    /// Exposure as the observer's probes saw it.
    pub probe_s: f64,
    /// Bytes that came into the vault.
    pub bytes: u64,
    /// Whether the path was seen closed afterwards.
    pub closed_verified: bool,
}

/// The quiet attack: forged with the repositories' own keys, carried home in a window that was attacked while
/// it was open.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SiegeFigures {
    /// Packs and indexes forged under valid names and tags.
    pub files_forged: u64,
    /// Snapshots invented.
    pub points_forged: u64,
    /// Packs that proof put aside.
    pub files_put_aside: u64,
    /// Bytes still flowed when the scan had ended.
    pub scanned_while_open: bool,
    /// Contacts that the vault accepted meanwhile.
    pub vault_connections_accepted: u64,
    /// The vault's complete restore points are the same as before, here and after the destruction.
    pub points_kept: bool,
    /// Alarms at the vault after a window with the destroyed primary.
    pub alarms_after_destruction: u64,
}

/// Who is let in once the directory is dead.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LoginFigures {
    /// Before, somebody of the staff logged in and ophthalmology's share let its reader in.
    pub domain_before: bool,
    /// One of the two still works.
    pub domain_after: bool,
    /// Which of our own logins work afterwards: `client` (a backup client at the repository server, whose wrong
    /// password is refused), `administrator` (the server's socket).
    pub own: Vec<&'static str>,
}

impl LoginFigures {
    /// The domain is dead and our own logins work.
    pub(super) fn good(&self) -> bool {
        self.domain_before && !self.domain_after && self.own == ["client", "administrator"]
    }
}

/// The rebuilt site server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerFigures {
    /// Departmental systems in its register.
    pub systems: u64,
    /// Restore points that its catalog knows.
    pub points: u64,
    /// Secrets that open with its key.
    pub secrets: u64,
    /// Its register is the one of before the attack.
    pub identical: bool,
    /// From bare folder to a server that answers.
    pub seconds: f64,
}

/// What the attack did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AttackFigures {
    /// Department files made useless.
    pub files_encrypted: u64,
    /// Files of the primary's repositories destroyed.
    pub repository_files_destroyed: u64,
    /// Files forged into the primary's repositories.
    pub repository_files_forged: u64,
    /// Contacts that the vault accepted from the attacker.
    pub vault_connections_accepted: u64,
}

/// The missed backup.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MissedFigures {
    /// Which system.
    pub system: String,
    /// Seconds from the time at which it was due to the mail.
    pub found_after_s: f64,
    /// Whether the mail arrived.
    pub mail_received: bool,
    /// Its subject.
    pub subject: String,
}

/// A system that came back.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RestoredFigures {
    /// Which.
    pub name: String,
    /// From where: always the vault.
    pub from: &'static str,
    /// When the restore point was taken.
    pub generation: String,
    /// Nothing is missing, changed or added.
    pub identical: bool,
    /// Its server answers.
    pub running: bool,
    /// Seconds from the decision to the probe's yes, the restore window included.
    pub rto_s: f64,
    /// The first differences, if there are any.
    pub differences: Vec<String>,
}

impl Summary {
    /// Whether the run showed all that it has to show: every system back, identical and running; nothing
    /// reached the vault outside a window; the gate closed by itself; somebody was told of the missed backup.
    pub fn good(&self) -> bool {
        self.faults().is_empty()
    }

    /// What did not hold, one line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |holds: bool, text: String| {
            if !holds {
                faults.push(text);
            }
        };
        must(
            self.systems.len() >= super::night::SYSTEMS.len(),
            "not every department was backed up".to_owned(),
        );
        for system in &self.systems {
            must(system.complete, format!("{}: the restore point is not complete", system.name));
        }
        must(self.positive_control, "the witness was not reached through a flushed gate".to_owned());
        must(!self.windows.is_empty(), "there was no window".to_owned());
        for window in &self.windows {
            must(window.closed_verified, format!("window {}: not seen closed", window.window));
        }
        must(
            self.closed_after_kill_s.is_some_and(|s| s <= 3.1),
            "the gate did not close within 3.1 s of its death".to_owned(),
        );
        must(
            self.logins.as_ref().is_some_and(LoginFigures::good),
            format!("our own logins do not stand without the directory: {:?}", self.logins),
        );
        must(self.attack.files_encrypted > 0, "the attack encrypted nothing".to_owned());
        must(
            self.attack.repository_files_destroyed > 0,
            "the attack destroyed nothing at the primary".to_owned(),
        );
        must(
            self.attack.vault_connections_accepted == 0,
            "something reached the vault outside a window".to_owned(),
        );
        let siege = self.siege.as_ref();
        must(
            siege.is_some_and(|s| s.scanned_while_open),
            "no window was attacked while it was open".to_owned(),
        );
        must(
            siege.is_some_and(|s| s.vault_connections_accepted == 0),
            "something reached the vault through its open window".to_owned(),
        );
        must(siege.is_some_and(|s| s.files_put_aside > 0), "proof put nothing forged aside".to_owned());
        must(
            siege.is_some_and(|s| s.points_kept),
            "the vault's restore points changed under attack".to_owned(),
        );
        must(
            siege.is_some_and(|s| s.alarms_after_destruction > 0),
            "the vault raised no alarm about the destroyed primary".to_owned(),
        );
        must(
            self.server.as_ref().is_some_and(|s| s.identical),
            "the site server did not come back".to_owned(),
        );
        match &self.stock_restic {
            Some(refused) => refused.iter().for_each(|text| must(false, text.clone())),
            None => must(false, "stock restic did not read the restored repositories".to_owned()),
        }
        must(
            self.missed.as_ref().is_some_and(|missed| missed.mail_received),
            "nobody was told of the missed backup".to_owned(),
        );
        must(self.restored.len() >= super::night::SYSTEMS.len(), "not every system was restored".to_owned());
        for system in &self.restored {
            must(system.identical, format!("{}: not identical: {:?}", system.name, system.differences));
            must(system.running, format!("{}: not running", system.name));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_run_is_not_good_and_says_why() {
        let faults = Summary::default().faults();
        assert!(faults.len() >= 7, "{faults:?}");
    }
}
