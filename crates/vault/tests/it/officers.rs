//! Approvals: who may say yes, to what, how often and how soon. Each refusal has its own stable code.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc, time::Duration};

use kuramori_model::{
    approval::{Action, Proposal, QUORUM},
    clock::{Clock, ManualClock, SeededRandom, SystemRandom},
    fault::Fault,
    gate::{Signature, SigningKey},
};
use kuramori_vault::{
    Config, Result, Vault,
    approval::{Proof, Wanted, sheet::Printed},
    escrow::Language,
};

use crate::world::{World, alarms};

/// A vault with three officers: 佐藤 and Tanaka have keys and paper, 鈴木 has paper alone.
pub(crate) struct House {
    pub(crate) vault: Vault,
    pub(crate) clock: Arc<ManualClock>,
    keys: Vec<(&'static str, SigningKey)>,
    sheets: Vec<Printed>,
}

const SATO: &str = "佐藤";
const TANAKA: &str = "Tanaka";
const SUZUKI: &str = "鈴木";

fn open(world: &World, clock: &Arc<ManualClock>) -> Vault {
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let config = Config::read(&world.configure(nowhere, "")).unwrap();
    Vault::open(config, clock.clone(), Arc::new(SystemRandom)).unwrap()
}

impl House {
    fn new(world: &World) -> Self {
        let clock = Arc::new(ManualClock::new("2026-04-01T00:00:00Z".parse().unwrap()));
        let vault = open(world, &clock);
        let key = |seed| SigningKey::draw(&SeededRandom::new(seed)).unwrap().0;
        let keys = vec![(SATO, key(1)), (TANAKA, key(2))];
        for (name, key) in &keys {
            vault.add_officer(name, Some(key.public()), None).unwrap();
        }
        vault.add_officer(SUZUKI, None, None).unwrap();
        let sheets = [SATO, TANAKA, SUZUKI].map(|name| vault.new_sheet(name, None).unwrap());
        Self { vault, clock, keys, sheets: sheets.into() }
    }

    fn sign(&self, officer: &str, proposal: &Proposal) -> Proof {
        let (_, key) = self.keys.iter().find(|(name, _)| *name == officer).unwrap();
        Proof::Signature(proposal.sign(key))
    }

    fn code(&self, officer: &str, line: usize) -> String {
        let sheet = self.sheets.iter().find(|sheet| sheet.officer == officer).unwrap();
        format!("{line}-{}", sheet.codes[line - 1])
    }

    fn paper(&self, officer: &str, line: usize, short_code: &str) -> Proof {
        Proof::Paper { short_code: short_code.to_owned(), code: self.code(officer, line) }
    }
}

fn wanted(action: Action) -> Wanted {
    let params = BTreeMap::from([("days".to_owned(), "30".to_owned())]);
    Wanted { action, target: "vault".to_owned(), params, window: None }
}

fn code<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "(done)",
        Err(error) => {
            assert_eq!(error.exit() as u8, 5, "refused by policy");
            assert!(error.hint().is_some());
            error.code()
        }
    }
}

#[test]
fn two_officers_who_are_not_the_proposer_and_only_once() {
    let world = World::new();
    let house = House::new(&world);
    let vault = &house.vault;
    let what = wanted(Action::GateRelease);
    assert_eq!(code(vault.grant(None, &what)), "approval.not-asked");
    assert_eq!(code(vault.grant(Some(99), &what)), "approval.unknown-request");

    // The proposer is an officer: the own yes does not count, one other is not enough.
    let asked = vault.request(&what, TANAKA).unwrap();
    let (number, proposal) = (asked.row.request, asked.row.proposal);
    assert_eq!(code(vault.approve(number, TANAKA, &house.sign(TANAKA, &proposal))), "approval.own-proposal");
    vault.approve(number, SATO, &house.sign(SATO, &proposal)).unwrap();
    assert_eq!(code(vault.approve(number, SATO, &house.sign(SATO, &proposal))), "approval.twice");
    assert_eq!(code(vault.grant(Some(number), &what)), "approval.not-enough");

    // Somebody else's signature, a stranger's, and one over another request.
    assert_eq!(code(vault.approve(number, "山田", &house.sign(SATO, &proposal))), "approval.unknown-officer");
    let other = vault.request(&what, "当直").unwrap();
    assert_ne!(other.short_code, asked.short_code, "two equal wishes are two requests");
    let over_other = house.sign(TANAKA, &other.row.proposal);
    let third = vault.request(&what, "当直").unwrap().row.request;
    assert_eq!(code(vault.approve(third, TANAKA, &over_other)), "approval.signature");
    let forged = Proof::Signature(Signature([7; 64]));
    assert_eq!(code(vault.approve(third, SATO, &forged)), "approval.signature");
    assert!(alarms(vault).contains(&"vault.wrong-approval".to_owned()));

    // Paper completes it, and it counts once.
    vault.approve(number, SUZUKI, &house.paper(SUZUKI, 1, &asked.short_code)).unwrap();
    let mut changed = what.clone();
    changed.params.insert("days".to_owned(), "1".to_owned());
    assert_eq!(code(vault.grant(Some(number), &changed)), "approval.changed");
    changed = what.clone();
    changed.target = "other".to_owned();
    assert_eq!(code(vault.grant(Some(number), &changed)), "approval.changed");
    let grant = vault.grant(Some(number), &what).unwrap();
    assert_eq!(grant.officers.len(), QUORUM);
    assert_eq!(code(vault.grant(Some(number), &what)), "approval.replayed");
    assert_eq!(code(vault.approve(number, TANAKA, &house.sign(TANAKA, &proposal))), "approval.replayed");
    vault.withdraw(third, "anybody").unwrap();
    assert_eq!(code(vault.grant(Some(third), &what)), "approval.withdrawn");
}

#[test]
fn a_line_of_paper_counts_once_for_the_request_that_was_read_back() {
    let world = World::new();
    let house = House::new(&world);
    let vault = &house.vault;
    let what = wanted(Action::GateRelease);
    let first = vault.request(&what, "当直").unwrap();
    let second = vault.request(&what, "当直").unwrap();
    // Told of one request, given for another: refused, and the line is still good.
    let wrong = house.paper(SUZUKI, 1, &second.short_code);
    assert_eq!(code(vault.approve(first.row.request, SUZUKI, &wrong)), "approval.short-code");
    // Typed as people type: small letters, spaces, O for zero.
    let typed = house.code(SUZUKI, 1).to_lowercase().replace('0', "o");
    let proof = Proof::Paper { short_code: first.short_code.to_lowercase(), code: typed };
    vault.approve(first.row.request, SUZUKI, &proof).unwrap();
    let again = house.paper(SUZUKI, 1, &second.short_code);
    assert_eq!(code(vault.approve(second.row.request, SUZUKI, &again)), "approval.code-used");
    let others = Proof::Paper { short_code: second.short_code.clone(), code: house.code(TANAKA, 2) };
    assert_eq!(code(vault.approve(second.row.request, SUZUKI, &others)), "approval.code");
    let mut near = house.code(SUZUKI, 2);
    let last = near.pop().unwrap();
    near.push(if last == 'A' { 'B' } else { 'A' });
    let near = Proof::Paper { short_code: second.short_code.clone(), code: near };
    assert_eq!(code(vault.approve(second.row.request, SUZUKI, &near)), "approval.code");
    // The register holds no code: neither on paper's form nor as letters.
    let stored = fs_err::read(world.path("state").join("register.sqlite")).unwrap();
    let log = fs_err::read(world.path("state").join("log/log")).unwrap();
    for line in 1..=12 {
        let letters = house.code(SUZUKI, line).split_once('-').unwrap().1.to_owned();
        for text in [letters.clone(), letters.replace('-', "")] {
            let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!holds(&stored) && !holds(&log), "line {line}");
        }
    }
}

#[test]
fn one_lost_key_and_one_absent_person_are_survivable() {
    let world = World::new();
    let house = House::new(&world);
    let vault = &house.vault;
    let what = wanted(Action::Restore);
    // 佐藤 is away. Tanaka lost the key and has the sealed sheet, 鈴木 has paper anyway.
    let asked = vault.request(&what, "当直").unwrap();
    let number = asked.row.request;
    vault.approve(number, TANAKA, &house.paper(TANAKA, 1, &asked.short_code)).unwrap();
    vault.approve(number, SUZUKI, &house.paper(SUZUKI, 1, &asked.short_code)).unwrap();
    assert_eq!(vault.grant(Some(number), &what).unwrap().officers.len(), 2);
    // The lost key is replaced the same way, after a day.
    let fresh = SigningKey::draw(&SeededRandom::new(9)).unwrap().0;
    let refused = vault.add_officer(TANAKA, Some(fresh.public()), None);
    assert_eq!(code(refused), "approval.not-asked");
    let change = kuramori_vault::approval::change(TANAKA, "add", Some(fresh.public()));
    let asked = vault.request(&change, "当直").unwrap();
    let number = asked.row.request;
    vault.approve(number, TANAKA, &house.paper(TANAKA, 2, &asked.short_code)).unwrap();
    vault.approve(number, SUZUKI, &house.paper(SUZUKI, 2, &asked.short_code)).unwrap();
    let early = vault.add_officer(TANAKA, Some(fresh.public()), Some(number));
    assert_eq!(code(early), "approval.too-early");
    house.clock.advance(Duration::from_hours(25));
    let other = SigningKey::draw(&SeededRandom::new(10)).unwrap().0;
    let swapped = vault.add_officer(TANAKA, Some(other.public()), Some(number));
    assert_eq!(code(swapped), "approval.changed", "another key than the one that was approved");
    vault.add_officer(TANAKA, Some(fresh.public()), Some(number)).unwrap();
    // From now on the old key is nobody's.
    let asked = vault.request(&what, "当直").unwrap();
    let old = house.sign(TANAKA, &asked.row.proposal);
    assert_eq!(code(vault.approve(asked.row.request, TANAKA, &old)), "approval.signature");
    let new = Proof::Signature(asked.row.proposal.sign(&fresh));
    vault.approve(asked.row.request, TANAKA, &new).unwrap();
}

#[test]
fn what_weakens_waits_a_day_of_the_vaults_own_time_and_expires() {
    let world = World::new();
    let mut house = House::new(&world);
    for action in [Action::RetentionCut, Action::Unlock, Action::Policy, Action::KeyChange] {
        let what = wanted(action);
        let asked = house.vault.request(&what, "当直").unwrap();
        let number = asked.row.request;
        house.clock.advance(Duration::from_hours(20));
        house.vault.approve(number, SATO, &house.sign(SATO, &asked.row.proposal)).unwrap();
        house.vault.approve(number, TANAKA, &house.sign(TANAKA, &asked.row.proposal)).unwrap();
        // The day begins with the last yes, and no wall clock ends it.
        let now = house.clock.now();
        house.clock.jump("2036-04-01T00:00:00Z".parse().unwrap());
        house.clock.advance(Duration::from_hours(23));
        assert_eq!(code(house.vault.grant(Some(number), &what)), "approval.too-early", "{action}");
        house.clock.jump(now);
        // A restart of the vault's process neither shortens nor lengthens it.
        drop(house.vault);
        house.vault = open(&world, &house.clock);
        house.clock.advance(Duration::from_mins(61));
        house.vault.grant(Some(number), &what).unwrap();
    }
    let what = wanted(Action::GateRelease);
    let asked = house.vault.request(&what, "当直").unwrap();
    let number = asked.row.request;
    house.vault.approve(number, SATO, &house.sign(SATO, &asked.row.proposal)).unwrap();
    house.vault.approve(number, TANAKA, &house.sign(TANAKA, &asked.row.proposal)).unwrap();
    house.clock.advance(Duration::from_hours(49));
    assert_eq!(code(house.vault.grant(Some(number), &what)), "approval.expired");
    assert_eq!(
        code(house.vault.approve(number, SUZUKI, &house.paper(SUZUKI, 1, &asked.short_code))),
        "approval.expired"
    );
}

#[test]
fn a_changed_row_and_a_retired_officer_count_for_nothing() {
    let world = World::new();
    let mut house = House::new(&world);
    let what = wanted(Action::GateRelease);
    let asked = house.vault.request(&what, "当直").unwrap();
    let number = asked.row.request;
    for name in [SATO, TANAKA] {
        house.vault.approve(number, name, &house.sign(name, &asked.row.proposal)).unwrap();
    }
    // Tanaka is retired by an approved request: the yes that was given goes too.
    let change = kuramori_vault::approval::change(TANAKA, "retire", None);
    let retire = house.vault.request(&change, "当直").unwrap();
    for name in [SATO, TANAKA] {
        house.vault.approve(retire.row.request, name, &house.sign(name, &retire.row.proposal)).unwrap();
    }
    house.clock.advance(Duration::from_hours(25));
    house.vault.retire_officer(TANAKA, Some(retire.row.request)).unwrap();
    assert_eq!(code(house.vault.grant(Some(number), &what)), "approval.not-enough");
    // Whoever edits the register cannot change what was asked for, nor invent a signature.
    let asked = house.vault.request(&what, "当直").unwrap();
    house.vault.approve(asked.row.request, SATO, &house.sign(SATO, &asked.row.proposal)).unwrap();
    drop(house.vault);
    let sql = |text: &str| {
        let file = world.path("state").join("register.sqlite");
        let script =
            "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nc.execute(sys.argv[2])\nc.commit()\n";
        let done = Command::new("python3").arg("-c").arg(script).arg(&file).arg(text).status().unwrap();
        assert!(done.success());
    };
    sql(&format!(
        "insert into approvals (request, officer, signature, at_s) values ({}, '{SUZUKI}', null, 0)",
        asked.row.request
    ));
    house.vault = open(&world, &house.clock);
    assert_eq!(code(house.vault.grant(Some(asked.row.request), &what)), "approval.not-enough");
    drop(house.vault);
    sql(&format!(
        "update requests set proposal = replace(proposal, '\"30\"', '\"1\"') where request = {}",
        asked.row.request
    ));
    house.vault = open(&world, &house.clock);
    assert!(house.vault.shown(asked.row.request).is_err(), "a changed row is no request");
}

#[test]
fn without_officers_nothing_can_be_approved_and_a_second_sheet_is_asked_for() {
    let world = World::new();
    let clock = Arc::new(ManualClock::new("2026-04-01T00:00:00Z".parse().unwrap()));
    let vault = open(&world, &clock);
    assert_eq!(code(vault.request(&wanted(Action::GateRelease), "当直")), "approval.no-officers");
    drop(vault);
    let house = House::new(&world);
    assert_eq!(code(house.vault.new_sheet(SUZUKI, None)), "approval.not-asked");
    assert_eq!(code(house.vault.add_officer("増田", None, None)), "approval.not-asked");
    assert_eq!(code(house.vault.retire_officer(SUZUKI, None)), "approval.not-asked");
    let key = house.keys[0].1.public();
    assert!(house.vault.add_officer("双子", Some(key), None).is_err(), "one key is one officer");
}

#[test]
fn a_sheet_is_one_page_with_a_code_that_a_camera_reads() {
    let world = World::new();
    let house = House::new(&world);
    let sheet = &house.sheets[2];
    for language in [Language::Japanese, Language::English] {
        let page = sheet.page(language).unwrap();
        for code in &sheet.codes {
            assert!(page.contains(code.as_str()));
        }
        assert!(page.contains("<svg") && !page.contains("http://localhost") && !page.contains("src="));
    }
    assert_eq!(sheet.codes.len(), 12);
    let read = read_qr(&world.path("sheet.png"), &sheet.page(Language::English).unwrap());
    for (at, code) in sheet.codes.iter().enumerate() {
        assert!(read.contains(&format!("{}-{code}", at + 1)), "{read}");
    }
}

/// What Debian's `zbarimg` reads from the page's SVG, drawn by `rsvg-convert`.
pub(crate) fn read_qr(picture: &Path, page: &str) -> String {
    let svg = &page[page.find("<svg").unwrap()..page.find("</svg>").unwrap() + 6];
    let file = picture.with_extension("svg");
    fs_err::write(&file, svg).unwrap();
    let drawn = Command::new("rsvg-convert").args(["-w", "900", "-o"]).arg(picture).arg(&file).status();
    assert!(drawn.is_ok_and(|status| status.success()), "scripts/setup installs librsvg2-bin");
    let read = Command::new("zbarimg")
        .args(["-q", "--raw"])
        .arg(picture)
        .output()
        .expect("scripts/setup installs zbar-tools");
    assert!(read.status.success());
    String::from_utf8(read.stdout).unwrap()
}
