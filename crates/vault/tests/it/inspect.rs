//! Inspection through the vault's own binary: verdicts, the stop of removals, and what is not sent.

use std::{path::Path, process::Command};

use kuramori_judge::retention::Verdict;
use kuramori_model::clock::SystemRandom;
use kuramori_serve::{Login, Mode, Repositories, Role, password::PasswordHash};
use kuramori_vault::register::Register;

use crate::world::{EXERCISE, Server, World, noise, restic};

fn exercise(arguments: &[&str]) -> (bool, serde_json::Value, String) {
    let output = Command::new(EXERCISE).args(arguments).output().unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.success(), value, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn verdicts(state: &Path) -> Vec<Verdict> {
    let points = Register::look(state).unwrap().points(Some("billing")).unwrap();
    points.into_iter().map(|point| point.verdict).collect()
}

fn table(day: u64, number: u64) -> Vec<u8> {
    let line = |row: u64| format!("2026-04-{:02},TEST{number:04}{row:03},120,80,異常なし\r\n", 1 + day);
    (0..200).map(line).collect::<String>().into_bytes()
}

#[test]
fn a_poisoned_point_is_suspect_stops_removal_and_goes_nowhere_without_a_reason() {
    let mut world = World::new();
    world.init("billing");
    let login = Login {
        name: "clean-room".to_owned(),
        password: PasswordHash::new("login-password", &SystemRandom),
        role: Role::Receive { repositories: Repositories::All },
    };
    let receiver = Server::start(&world.path("receiver"), Mode::Receiver, [login]);
    fs_err::write(world.path("receiver.pem"), &receiver.ca).unwrap();
    world.serve();
    let more = format!(
        "[receivers.cln]\naddress = \"{}\"\nserver_name = \"localhost\"\nca_file = \"{}\"\n\
         login = \"clean-room\"\npassword_file = \"{}\"\n",
        receiver.address,
        world.path("receiver.pem").display(),
        world.path("login").display()
    );
    let config = world.configure(world.address(), &more);
    let config = config.to_str().unwrap();
    let state = world.path("state");
    let pull = || {
        let (good, value, why) = exercise(&["pull", config]);
        assert!(good, "{why}");
        value
    };
    for day in 0..3 {
        for number in 0..30 {
            if day == 0 || number % 10 == day {
                world.write("billing", &format!("表-{number:02}.csv"), &table(day, number));
            }
        }
        world.backup("billing");
        pull();
    }
    assert_eq!(verdicts(&state), [Verdict::Clean; 3]);

    // The fourth night holds cipher text in three of the tables, under their old names.
    for number in 0..3 {
        let mut bytes = table(9, number);
        let cipher = noise(number, 2048);
        bytes[1024..3072].copy_from_slice(&cipher);
        world.write("billing", &format!("表-{number:02}.csv"), &bytes);
    }
    world.backup("billing");
    let value = pull();
    assert_eq!(verdicts(&state)[3], Verdict::Suspect, "{value}");
    let register = Register::look(&state).unwrap();
    let alarms = register.alarms().unwrap();
    let alarm = alarms.iter().find(|alarm| alarm.finding.code == "vault.suspect").expect("an alarm");
    let text = serde_json::to_string(&alarm.finding).unwrap();
    assert!(text.contains("seq-3") && text.contains("seq-4") && text.contains(".csv"), "{text}");
    let report = fs_err::read_to_string(state.join("inspect/billing-4.json")).unwrap();
    assert!(report.contains("\"verdict\":\"suspect\"") && report.contains("表-02.csv"), "{report}");
    assert!(register.is_suspect("billing").unwrap());
    drop(register);

    // It stays at the vault unless somebody says why it must go.
    let read = kuramori_vault::Config::read(Path::new(config)).unwrap();
    let clock = std::sync::Arc::new(kuramori_model::clock::SystemClock);
    let vault = kuramori_vault::Vault::open(read, clock, std::sync::Arc::new(SystemRandom)).unwrap();
    crate::back::enrol(&vault);
    let plan = vault.plan_restore("cln", &[], kuramori_vault::restore::Which::All, None, None).unwrap();
    assert_eq!((plan.systems[0].left_out, plan.systems[0].points.len()), (1, 3));
    let request = vault.request(&plan.wanted(), "night").unwrap().row.request;
    crate::back::approve(&vault, request);
    vault.restore(&plan, request, &kuramori_repo::Cancel::default()).unwrap();
    assert_eq!(fs_err::read_dir(world.path("receiver/billing/snapshots")).unwrap().count(), 3);
    let latest = world.path("back");
    let arrived = world.path("receiver/billing");
    restic(&arrived, &["restore", "latest", "--no-lock", "--target", latest.to_str().unwrap()]);
    let restored = latest.join(world.source("billing").strip_prefix("/").unwrap()).join("表-02.csv");
    let text = fs_err::read(restored).unwrap();
    assert!(String::from_utf8(text).is_ok(), "the newest point that was sent is clean");
}

#[test]
fn nothing_is_removed_while_a_point_is_suspect() {
    use std::{sync::Arc, time::Duration};

    use kuramori_model::{
        clock::ManualClock,
        finding::{Finding, Severity},
    };
    use kuramori_repo::Cancel;
    use kuramori_vault::{Config, Vault};

    let mut world = World::new();
    world.init("billing");
    world.serve();
    let more = "[retention]\ndaily = 2\nweekly = 0\nmonthly = 0\nmin_days = 2\n";
    let config = Config::read(&world.configure(world.address(), more)).unwrap();
    let clock = Arc::new(ManualClock::new("2026-04-01T03:00:00Z".parse().unwrap()));
    let vault = Vault::open(config, clock.clone(), Arc::new(SystemRandom)).unwrap();
    let mut day = |number: u64| {
        world.write("billing", "表.csv", &table(number % 25, number));
        world.backup("billing");
        let (_, work) = vault.seed(&world.path("primary"), &Cancel::default()).unwrap();
        clock.advance(Duration::from_hours(24));
        work.kept[0].removed.len()
    };
    let before: usize = (0..10).map(&mut day).sum();
    assert!(before > 0, "points do go in the end");
    let finding = Finding::new("vault.suspect", Severity::Alarm, "inspect-point").about("billing");
    let now = vault.register().tick(&*clock).unwrap();
    vault.register().raise(&finding, &now).unwrap();
    let during: usize = (10..16).map(&mut day).sum();
    assert_eq!(during, 0);
    let now = vault.register().tick(&*clock).unwrap();
    vault.register().clear(&finding.key(), &now).unwrap();
    let after: usize = (16..18).map(&mut day).sum();
    assert!(after > 0, "a person has looked");
}
