//! Windows against a gate that keeps its protocol, and against one that does not.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use kuramori_model::{
    clock::{Clock, SystemClock},
    gate::{
        BootId, Claim, CloseReason, Exposure, GateState, GateStatus, OpenWindow, PROTOCOL, Purpose, Reply,
        Request, VerifyingKey, WindowRecord,
    },
    ids::WindowId,
};
use kuramori_repo::Cancel;
use kuramori_vault::{Error, Vault, window::Options};

use crate::world::{World, alarms, complete, noise, pull};

#[derive(Default)]
struct Inner {
    open: Option<OpenWindow>,
    history: Vec<WindowRecord>,
    keys: Vec<VerifyingKey>,
    refused: u32,
    /// After a close it never says that it is closed.
    stuck: bool,
    /// Closes by itself at this number of status questions while open.
    impatient: Option<u32>,
    /// Locked, with this incident.
    locked: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct FakeGate(Arc<Mutex<Inner>>);

fn now_ms() -> u64 {
    u64::try_from(SystemClock.boot().as_millis()).unwrap()
}

impl FakeGate {
    fn start(world: &World) -> Self {
        let gate = Self(Arc::default());
        let listener = UnixListener::bind(world.path("gated.sock")).unwrap();
        let this = gate.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_ok() && !line.is_empty() {
                    let reply = this.answer(serde_json::from_str(&line).unwrap());
                    let _ = writeln!(&stream, "{}", serde_json::to_string(&reply).unwrap());
                }
            }
        });
        gate
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.lock().locked.is_some()
    }

    fn answer(&self, request: Request) -> Reply {
        let mut inner = self.lock();
        match request {
            Request::Open { token } => {
                let Ok(token) = token.verify(&inner.keys).cloned() else {
                    inner.refused += 1;
                    return Reply::Refused {
                        code: "gate.token".into(),
                        message: "not ours".into(),
                        hint: None,
                    };
                };
                assert!(token.expires_boot_ms > now_ms() && token.boot_id == boot_id());
                let deadline_boot_ms = now_ms() + u64::from(token.max_seconds) * 1000;
                inner.open =
                    Some(OpenWindow { token, opened_boot_ms: now_ms(), deadline_boot_ms, renewals: 1 });
            }
            Request::Lockdown { .. } => inner.locked = Some(7),
            Request::Release { release } => {
                let refused = |message: &str| Reply::Refused {
                    code: "gate.release".into(),
                    message: message.into(),
                    hint: None,
                };
                let Some(signed) = release else { return refused("not signed") };
                match signed.verify(&inner.keys, 1) {
                    Ok(release) if Some(release.incident) == inner.locked && release.boot_id == boot_id() => {
                        inner.locked = None;
                    }
                    _ => return refused("not for this incident, or not by a known key"),
                }
            }
            Request::Close { reason } => inner.close(CloseReason::Asked { reason }),
            Request::History { .. } => return Reply::History { windows: inner.history.clone() },
            _ => {
                if inner.open.is_some()
                    && let Some(left) = inner.impatient.as_mut()
                {
                    *left = left.saturating_sub(1);
                }
                if inner.open.is_some() && inner.impatient == Some(0) {
                    inner.impatient = None;
                    inner.close(CloseReason::ObserverSilent {});
                }
            }
        }
        Reply::Status(Box::new(inner.status()))
    }
}

fn boot_id() -> BootId {
    BootId::new(&fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap()).unwrap()
}

impl Inner {
    fn close(&mut self, close_reason: CloseReason) {
        let Some(open) = self.open.take() else { return };
        let seconds = f64::from(u32::try_from(now_ms() - open.opened_boot_ms).unwrap()) / 1000.0;
        self.history.insert(
            0,
            WindowRecord {
                window: open.token.window,
                epoch: open.token.epoch,
                purpose: open.token.purpose,
                source: open.token.source,
                peer: open.token.peer,
                token_hash: open.token.hash(),
                opened: Timestamp::UNIX_EPOCH,
                closed: Timestamp::UNIX_EPOCH,
                opened_boot_ms: open.opened_boot_ms,
                boot_id: boot_id(),
                exposure: Exposure { commanded_s: seconds, actuator_s: seconds, probe_s: Some(seconds) },
                upper_bound: false,
                bytes_in: 1,
                bytes_out: 1,
                renewals: 1,
                close_reason,
                closed_verified: !self.stuck,
                verified_after_s: Some(0.1),
                observations: Vec::new(),
                disagreement: false,
            },
        );
    }

    fn status(&self) -> GateStatus {
        let gate = match &self.open {
            _ if self.locked.is_some() => GateState::Lockdown {
                reason: "somebody".into(),
                incident: self.locked.unwrap_or_default(),
                verified: true,
            },
            Some(open) => GateState::Open(open.clone()),
            None if self.stuck && !self.history.is_empty() => {
                GateState::FaultOpen { why: "a layer says nothing".into(), incident: 1, verified: false }
            }
            None => GateState::ClosedVerified { since_boot_ms: 1 },
        };
        GateStatus {
            protocol: PROTOCOL,
            gate,
            at: Timestamp::UNIX_EPOCH,
            boot_id: boot_id(),
            boot_ms: now_ms(),
            epoch: 1,
            last_window: self.history.first().map_or(WindowId(40), |record| record.window),
            layers: Vec::new(),
            seen: None,
            seen_age_ms: None,
            used_today_s: 0.0,
            daily_budget_s: 3600,
            claim: Claim {
                offline: true,
                closed_layers: Vec::new(),
                dead_man_tested: Vec::new(),
                sentence: "two layers read closed".into(),
            },
            alarms: Vec::new(),
        }
    }
}

fn guarded(world: &World, address: std::net::SocketAddrV4) -> (FakeGate, Vault) {
    guarded_with(world, address, "")
}

pub(crate) fn guarded_with(world: &World, address: std::net::SocketAddrV4, more: &str) -> (FakeGate, Vault) {
    let gate = FakeGate::start(world);
    let socket = world.path("gated.sock");
    let more =
        format!("[gate]\nsocket = \"{}\"\nsource = \"10.77.10.2\"\npatience_s = 5\n{more}", socket.display());
    let vault = world.vault_at(address, &more);
    gate.lock().keys.push(vault.public_key().0);
    (gate, vault)
}

#[test]
fn a_window_opens_with_our_token_and_is_seen_closed() {
    let world = World::with(&["billing"]);
    let (gate, vault) = guarded(&world, world.address());
    let (finished, _) = pull(&vault);
    assert_eq!(finished.window, WindowId(41), "above everything that the gate has ever taken");
    assert!(finished.closed_verified && finished.claim == "two layers read closed");
    let record = finished.record.unwrap();
    assert_eq!((record.purpose, record.peer), (Purpose::Pull, world.address()));
    assert_eq!(record.close_reason, CloseReason::Asked { reason: "done".into() });
    assert!(gate.lock().open.is_none());
    assert_eq!(complete(&vault, "billing"), 1);
    let row = vault.register().windows(1).unwrap().remove(0);
    assert_eq!((row.verified, row.bytes > 2_000_000), (Some(true), true));
    assert!(row.record["record"]["probe_s"].is_number() && row.record["pulled"]["repositories"].is_array());

    // A token by another key opens nothing, and that is an alarm.
    gate.lock().keys.clear();
    let refused = vault.pull(&Options::default(), &Cancel::default());
    assert!(matches!(refused, Err(Error::GateRefused { .. })), "{refused:?}");
    assert_eq!(
        (gate.lock().refused, alarms(&vault)),
        (1, vec!["vault.gate-failed".to_owned(), "vault.new-repository".to_owned()])
    );
}

#[test]
fn what_cannot_be_seen_closed_is_an_alarm_and_opens_no_further_window() {
    let world = World::with(&["billing"]);
    let (gate, vault) = guarded(&world, world.address());
    gate.lock().stuck = true;
    // The vault waits for the proof as long as it may; nobody waits that long here.
    let cancel = Cancel::default();
    let (finished, _) = vault.pull(&Options::default(), &cancel).unwrap();
    assert!(!finished.closed_verified);
    assert!(alarms(&vault).contains(&"vault.window-not-verified".to_owned()));
    assert!(matches!(vault.pull(&Options::default(), &cancel), Err(Error::Preflight(_))));
    let seeded = vault.seed(&world.path("primary"), &cancel);
    assert!(matches!(seeded, Err(Error::Preflight(_))), "a disk is read only behind a closed gate");
}

#[test]
fn a_gate_that_closes_by_itself_ends_the_pull_and_the_next_window_goes_on() {
    let mut world = World::new();
    world.init("billing");
    for file in 0..30 {
        world.write("billing", &format!("image-{file}"), &noise(2000 + file, 4_000_000));
    }
    world.backup("billing");
    world.serve();
    let (gate, vault) = guarded(&world, crate::cut::slow(world.address()));
    gate.lock().impatient = Some(4);
    let (finished, _) = pull(&vault);
    assert_eq!(finished.record.as_ref().unwrap().close_reason, CloseReason::ObserverSilent {});
    let first = finished.bytes;
    assert_eq!(complete(&vault, "billing"), 0);
    let (finished, _) = pull(&vault);
    assert!(finished.pulled.unwrap().repositories[0].finished);
    assert_eq!(complete(&vault, "billing"), 1);
    println!("{first} bytes before the gate closed, {} after", finished.bytes);
}

#[test]
fn the_days_seconds_are_a_hard_limit() {
    let world = World::with(&["billing"]);
    let (gate, vault) = guarded(&world, world.address());
    drop(vault);
    let file = world.configure(
        world.address(),
        &format!("[gate]\nsocket = \"{}\"\nsource = \"10.77.10.2\"\n", world.path("gated.sock").display()),
    );
    let text =
        fs_err::read_to_string(&file).unwrap().replace("daily_budget_s = 1000000", "daily_budget_s = 20");
    fs_err::write(&file, text).unwrap();
    let config = kuramori_vault::Config::read(&file).unwrap();
    let random = Arc::new(kuramori_model::clock::SystemRandom);
    let vault = Vault::open(config, Arc::new(SystemClock), random).unwrap();
    assert_eq!(vault.preflight(&Options::default()).unwrap(), 20);
    // Sixteen of them are used up.
    let used = Options { max_seconds: Some(6), ..Options::default() };
    let register = vault.register();
    let now = register.tick(&SystemClock).unwrap();
    register.opening(WindowId(30), "pull", &now).unwrap();
    register.closed(WindowId(30), 16.0, 0, true, &serde_json::json!({})).unwrap();
    let refused = vault.preflight(&used);
    assert!(matches!(&refused, Err(Error::Preflight(why)) if why.contains("20 s")), "{refused:?}");
    assert!(gate.lock().history.is_empty(), "nothing was opened for that");
}
