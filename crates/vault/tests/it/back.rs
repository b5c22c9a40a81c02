//! The way back: planned, approved by two, exactly what was approved, also when nothing else is left.

use std::{path::Path, sync::Arc};

use kuramori_judge::retention::Verdict;
use kuramori_model::{
    approval::Action,
    clock::{SeededRandom, SystemClock, SystemRandom},
    fault::Fault,
    gate::SigningKey,
};
use kuramori_repo::Cancel;
use kuramori_serve::{Login, Mode, Repositories, Role, password::PasswordHash};
use kuramori_vault::{
    Error, Vault,
    approval::Proof,
    control::Order,
    restore::{Which, Why},
};
use serde_json::Value;

use crate::{
    gate::guarded_with,
    world::{Server, World, check, noise, pull, restic, tree},
};

const OFFICERS: [&str; 3] = ["Sato", "Tanaka", "Suzuki"];

fn key(number: usize) -> SigningKey {
    SigningKey::draw(&SeededRandom::new(number as u64 + 70)).unwrap().0
}

/// Enrols three officers with keys, if that was not done yet.
pub(crate) fn enrol(vault: &Vault) {
    for (number, name) in OFFICERS.iter().enumerate() {
        vault.add_officer(name, Some(key(number).public()), None).unwrap();
    }
}

/// Two of them say yes with their keys.
pub(crate) fn approve(vault: &Vault, request: u64) {
    for number in [0, 2] {
        let proposal = vault.shown(request).unwrap().row.proposal;
        let proof = Proof::Signature(proposal.sign(&key(number)));
        vault.approve(request, OFFICERS[number], &proof).unwrap();
    }
}

fn receiver(world: &World, name: &str) -> (Server, String) {
    let login = Login {
        name: "clean-room".to_owned(),
        password: PasswordHash::new("login-password", &SystemRandom),
        role: Role::Receive { repositories: Repositories::All },
    };
    let server = Server::start(&world.path(name), Mode::Receiver, [login]);
    let ca = world.path(&format!("{name}.pem"));
    fs_err::write(&ca, &server.ca).unwrap();
    let entry = format!(
        "[receivers.{name}]\naddress = \"{}\"\nserver_name = \"localhost\"\nca_file = \"{}\"\n\
         login = \"clean-room\"\npassword_file = \"{}\"\n",
        server.address,
        ca.display(),
        world.path("login").display(),
    );
    (server, entry)
}

fn obey(vault: &Vault, order: Value) -> Result<Value, Error> {
    let order: Order = serde_json::from_value(order).unwrap();
    vault.obey(order, &Cancel::default())
}

fn restored(world: &World, at: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    check(at);
    let target = world.path(&format!("back-{name}-{}", at.display().to_string().len()));
    restic(at, &["restore", "latest", "--no-lock", "--target", target.to_str().unwrap()]);
    tree(&target.join(world.source(name).strip_prefix("/").unwrap()))
}

#[test]
fn one_point_goes_with_exactly_its_packs_after_two_approvals() {
    let world = World::with(&["billing", "pacs"]);
    let (_server, entry) = receiver(&world, "clean");
    let vault = world.vault_at(world.address(), &entry);
    pull(&vault);
    let first = tree(&world.source("billing"));
    // A later point, larger, and by now suspect.
    world.write("billing", "ransom", &noise(5, 5_000_000));
    world.backup("billing");
    pull(&vault);
    enrol(&vault);
    let points = vault.register().points(Some("billing")).unwrap();
    let plan = |which| vault.plan_restore("clean", &["billing".to_owned()], which, None, None);
    let newest = plan(Which::LatestClean).unwrap();
    assert_eq!(
        (newest.systems[0].points[0].sequence, newest.systems[0].why),
        (points[1].sequence, Why::NewestClean)
    );
    vault.register().judged(points[0].sequence, Verdict::Clean, &SystemClock).unwrap();
    vault.register().judged(points[1].sequence, Verdict::Suspect, &SystemClock).unwrap();
    let clean = plan(Which::LatestClean).unwrap();
    let chosen = &clean.systems[0];
    assert_eq!(
        (chosen.points[0].sequence, chosen.why, chosen.left_out),
        (points[0].sequence, Why::NewestClean, 1)
    );
    assert!(clean.bytes + 4_900_000 < newest.bytes, "{} and {}", clean.bytes, newest.bytes);
    assert!(clean.expected_s > 0 && u64::from(clean.max_seconds) > clean.expected_s);
    let today = points[0].received.to_zoned(jiff::tz::TimeZone::system()).date();
    assert_eq!(plan(Which::Day(today)).unwrap().systems[0].points[0].sequence, points[0].sequence);
    assert!(plan(Which::Day("2020-01-01".parse().unwrap())).is_err());
    assert!(plan(Which::Number(999)).is_err());
    // A suspect point goes only with a stated reason, which the officers see and sign.
    let named = Which::Number(points[1].sequence.0);
    assert_eq!(plan(named).unwrap_err().code(), "vault.preflight");
    let because = Some("for the investigators".to_owned());
    let poisoned = vault.plan_restore("clean", &["billing".to_owned()], named, None, because).unwrap();
    assert_eq!(poisoned.wanted().params["reason"], "for the investigators");
    assert!(vault.plan_restore("nobody", &[], Which::All, None, None).is_err());

    // Asked for, not yet approved: nothing leaves.
    let order = |more: Value| {
        let mut order = serde_json::json!({ "verb": "restore", "receiver": "clean", "systems": ["billing"], "proposer": "night" });
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    };
    let shown = obey(&vault, order(serde_json::json!({ "dry": true }))).unwrap();
    assert!(shown["waiting"].is_null() && vault.requests().unwrap().is_empty(), "a plan asks nobody");
    let asked = obey(&vault, order(serde_json::json!({}))).unwrap();
    let request = asked["waiting"]["request"].as_u64().unwrap();
    let early = obey(&vault, order(serde_json::json!({ "request": request }))).unwrap_err();
    assert_eq!(early.code(), "approval.not-enough");
    assert!(tree(&world.path("clean")).is_empty(), "nothing came");
    approve(&vault, request);
    let done = obey(&vault, order(serde_json::json!({ "request": request }))).unwrap();
    assert_eq!(done["sent"]["approved_by"], serde_json::json!(["Sato", "Suzuki"]));
    assert_eq!(done["granted"]["window"]["seconds"], clean.max_seconds);
    let arrived = world.path("clean").join("billing");
    assert_eq!(World::packs(&arrived).len() as u64, chosen.packs);
    assert_eq!(restored(&world, &arrived, "billing"), first);
    assert!(!world.path("clean").join("pacs").exists());
    assert!(!world.path("state").join("outgoing").exists());
    let again = obey(&vault, order(serde_json::json!({ "request": request }))).unwrap_err();
    assert_eq!(again.code(), "approval.replayed");
}

#[test]
fn another_certificate_or_point_than_the_approved_one_is_refused() {
    let world = World::with(&["billing"]);
    let (_server, entry) = receiver(&world, "clean");
    let vault = world.vault_at(world.address(), &entry);
    pull(&vault);
    enrol(&vault);
    let plan = vault.plan_restore("clean", &[], Which::LatestClean, None, None).unwrap();
    let request = vault.request(&plan.wanted(), "night").unwrap().row.request;
    approve(&vault, request);
    // Whoever can write the vault's folder of certificates swaps the receiver's.
    let honest = fs_err::read(world.path("clean.pem")).unwrap();
    fs_err::copy(world.path("ca.pem"), world.path("clean.pem")).unwrap();
    let swapped = obey(&vault, serde_json::json!({ "verb": "restore", "request": request })).unwrap_err();
    assert_eq!(swapped.code(), "approval.changed");
    fs_err::write(world.path("clean.pem"), honest).unwrap();
    let mut longer = plan.clone();
    longer.max_seconds += 1;
    let refused = vault.restore(&longer, request, &Cancel::default()).unwrap_err();
    assert_eq!(refused.code(), "approval.changed");
    vault.restore(&plan, request, &Cancel::default()).unwrap();
}

#[test]
fn with_everything_else_dead_a_locked_gate_opens_for_two_officers_and_the_data_comes_back() {
    let mut world = World::with(&["billing"]);
    let (_server, entry) = receiver(&world, "clean");
    let (gate, vault) = guarded_with(&world, world.address(), &entry);
    pull(&vault);
    enrol(&vault);
    let truth = tree(&world.source("billing"));
    // The site server, its disk and every name service are gone; somebody has locked the gate.
    world.server = None;
    fs_err::remove_dir_all(world.path("primary")).unwrap();
    let lock = kuramori_vault::gate::Gate::new(&world.path("gated.sock"));
    lock.lockdown("ransomware").unwrap();
    let plan = vault.plan_restore("clean", &[], Which::LatestClean, None, None).unwrap();
    let request = vault.request(&plan.wanted(), "night").unwrap().row.request;
    approve(&vault, request);
    let locked = vault.restore(&plan, request, &Cancel::default()).unwrap_err();
    assert_eq!(locked.code(), "vault.preflight", "two approvals for a restore do not unlock the gate");
    // Nobody alone, and not with a signature of the wrong thing, releases it.
    assert!(matches!(vault.release_gate(request), Err(Error::Approval(_))));
    let asked = obey(&vault, serde_json::json!({ "verb": "release_gate", "proposer": "night" })).unwrap();
    assert_eq!(asked["waiting"]["proposal"]["action"], serde_json::json!(Action::GateRelease));
    let release = asked["waiting"]["request"].as_u64().unwrap();
    assert!(obey(&vault, serde_json::json!({ "verb": "release_gate", "request": release })).is_err());
    assert!(gate.is_locked());
    approve(&vault, release);
    obey(&vault, serde_json::json!({ "verb": "release_gate", "request": release })).unwrap();
    assert!(!gate.is_locked());
    // The first approval was not used up by the refused try.
    let finished = vault.restore(&plan, request, &Cancel::default()).unwrap();
    assert!(finished.closed_verified);
    assert_eq!(restored(&world, &world.path("clean").join("billing"), "billing"), truth);
}

#[test]
fn an_approved_window_has_its_own_seconds_and_a_longer_pull_needs_one() {
    let world = World::with(&["billing"]);
    let vault = world.vault_at(world.address(), "");
    enrol(&vault);
    let pull = |more: Value| {
        let mut order = serde_json::json!({ "verb": "pull", "max_seconds": 5000, "proposer": "night" });
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        obey(&vault, order)
    };
    let asked = pull(serde_json::json!({})).unwrap();
    let request = asked["waiting"]["request"].as_u64().unwrap();
    assert_eq!(asked["waiting"]["proposal"]["window"]["seconds"], 5000);
    assert_eq!(pull(serde_json::json!({ "request": request })).unwrap_err().code(), "approval.not-enough");
    approve(&vault, request);
    let done = pull(serde_json::json!({ "request": request })).unwrap();
    assert_eq!(done["window"]["granted"]["window"]["seconds"], 5000);
    let record = &vault.register().windows(1).unwrap()[0].record;
    assert_eq!(
        record["granted"]["officers"],
        serde_json::json!(["Sato", "Suzuki"]),
        "it stands in the record"
    );
}

#[test]
fn less_retention_waits_for_two_officers_and_a_day() {
    let world = World::with(&["billing"]);
    let clock = Arc::new(kuramori_model::clock::ManualClock::new("2026-04-01T00:00:00Z".parse().unwrap()));
    let open = |days: u32| {
        let text = format!("[retention]\ndaily = {days}\nmin_days = {days}\n");
        let config = kuramori_vault::Config::read(&world.configure(world.address(), &text)).unwrap();
        Vault::open(config, clock.clone(), Arc::new(SystemRandom)).unwrap()
    };
    let vault = open(30);
    assert_eq!(vault.retention().unwrap().daily, 30);
    drop(vault);
    let vault = open(3);
    assert_eq!((vault.retention().unwrap().daily, vault.retention().unwrap().min_days), (30, 30));
    vault.work(&Cancel::default()).unwrap();
    assert!(crate::world::alarms(&vault).contains(&"vault.retention-cut-waits".to_owned()));
    enrol(&vault);
    let asked = obey(
        &vault,
        serde_json::json!({ "verb": "ask", "action": "retention-cut", "target": "vault", "proposer": "night" }),
    );
    let request = asked.unwrap()["waiting"]["request"].as_u64().unwrap();
    approve(&vault, request);
    let carry = || obey(&vault, serde_json::json!({ "verb": "carry", "request": request }));
    assert_eq!(carry().unwrap_err().code(), "approval.too-early");
    clock.advance(std::time::Duration::from_hours(25));
    carry().unwrap();
    assert_eq!(vault.retention().unwrap().daily, 3);
    drop(vault);
    // More counts at once.
    assert_eq!(open(40).retention().unwrap().daily, 40);
}
