//! Each department's server really answers, by the clients that everybody uses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::time::Duration;

use common::Stage;
use kuramori_lab::{
    Manifest, Program, Role, Service,
    services::{
        billing::{REPLICATOR, REPLICATOR_SECRET},
        directory,
        ophthalmology::{HELD, MARKER, Spoil},
        switch::{IF_ADMIN_STATUS, IF_ALIAS, IF_NAME, IF_OPER_STATUS, Login, SYS_NAME},
    },
    wait_until,
};

#[test]
fn billing_answers_and_gives_a_base_backup_to_the_site_server_alone() {
    let stage = Stage::new('e');
    let lab = stage.up(&[Service::Billing]);
    let billing = lab.billing();
    assert_eq!(billing.ask("billing", "SELECT count(*) FROM orders").unwrap(), "2000");
    let before = billing.sums().unwrap();
    assert_eq!(before, billing.sums().unwrap());
    billing.work(20).unwrap();
    assert_ne!(before, billing.sums().unwrap());

    let password = lab.secret(REPLICATOR_SECRET).unwrap();
    let target = lab.host(Role::Srv).folder().join("base");
    let backup = |from: Role, password: &str| {
        let program = Program::new("/usr/lib/postgresql/15/bin/pg_basebackup")
            .env("PGPASSWORD", password)
            .args([
                "-h",
                &Role::Bil.address().to_string(),
                "-U",
                REPLICATOR,
                "-w",
                "-X",
                "stream",
                "-c",
                "fast",
                "-D",
            ])
            .arg(&target);
        lab.host(from).run(&program)
    };
    assert!(backup(Role::Srv, "wrong").is_err());
    assert!(backup(Role::Pac, &password).is_err(), "pg_hba.conf names the site server");
    backup(Role::Srv, &password).unwrap();
    assert!(target.join("backup_manifest").exists());
    billing.stop().unwrap();
    assert!(billing.ask("billing", "SELECT 1").is_err());
    billing.start().unwrap();
    assert_eq!(billing.ask("billing", "SELECT 1").unwrap(), "1");
}

#[test]
fn the_archive_answers_with_every_instance_also_after_a_cold_stop() {
    let stage = Stage::new('f');
    let lab = stage.up(&[Service::Pacs]);
    let before = lab.pacs().instances().unwrap();
    assert_eq!(before.len() as u64, lab.pacs().archive().instances());
    assert!(before.keys().all(|uid| uid.starts_with("2.25.")));
    lab.pacs().stop().unwrap();
    assert!(lab.pacs().instances().is_err());
    lab.pacs().start().unwrap();
    assert_eq!(lab.pacs().instances().unwrap(), before);
    // What the archive holds are DICOM files to everybody else.
    let find = Program::new("find")
        .arg(lab.pacs().data())
        .args(["-type", "f", "-size", "+4k", "-not", "-name", "index*"]);
    let files = find.text().unwrap();
    let one = files.lines().next().unwrap();
    assert!(Program::new("dcmdump").args(["-q", one]).text().unwrap().contains("TEST"), "{one}");
}

#[test]
fn the_share_can_be_read_but_not_written_and_one_file_is_in_use() {
    let stage = Stage::new('g');
    let lab = stage.up(&[Service::Ophthalmology]);
    let share = lab.ophthalmology();
    let listing = share.ask("recurse ON; ls").unwrap();
    assert!(
        listing.contains(MARKER) && listing.contains("検査データ") && listing.contains("ｶﾞﾝｱﾂ"),
        "{listing}"
    );
    let get = |name: &str| share.ask(&format!("get \"{}\" /dev/null", name.replace('/', "\\")));
    get(MARKER).unwrap();
    let held = get(HELD).unwrap_err().to_string();
    assert!(held.contains("NT_STATUS_SHARING_VIOLATION"), "{held}");
    let refused = share.ask("put /etc/hostname new.txt").unwrap_err().to_string();
    assert!(refused.contains("NT_STATUS_ACCESS_DENIED"), "{refused}");
    share.release().unwrap();
    wait_until("the file is free", Duration::from_mins(2), || Ok(get(HELD).ok())).unwrap();
}

#[test]
fn a_domain_backed_up_by_samba_comes_back_with_every_account_and_old_passwords() {
    let stage = Stage::new('d');
    let lab = stage.up(&[Service::Directory, Service::Ophthalmology]);
    let domain = lab.directory();
    let truth = Manifest::make(&lab, "night0").unwrap().directory.unwrap();
    assert!(truth.accounts > 60 && truth.entries.len() > 100, "{} entries", truth.entries.len());
    let (login, password) = domain.somebody().unwrap();
    domain.login(&login, &password).unwrap();
    assert!(domain.login(&login, "another").is_err(), "the password is asked for");
    lab.ophthalmology().ask("ls").unwrap();

    let refused = domain.back_up(std::path::Path::new("/dev/null")).unwrap_err().to_string();
    assert!(refused.contains("kuramori-samba-ad"), "{refused}");
    let made = domain.back_up(&domain.config()).unwrap();
    let restored = lab.host(Role::Cln).folder().join("restored");
    fs_err::create_dir_all(&restored).unwrap();
    Program::new("cp").arg("-a").arg(&made).arg(&restored).run().unwrap();
    lab.host(Role::Dir).kill_all().unwrap();
    assert!(!domain.lets_in(&login, &password), "nobody else lets him in");
    assert!(!lab.ophthalmology().lets_in(), "the share asks the domain");

    let again = directory::bring_back(&lab, Role::Cln, &restored).unwrap();
    let found = again.look().unwrap();
    assert_eq!(changed(&truth, &found.entries), [""; 0]);
    assert_eq!(found.accounts, truth.accounts);
    lab.ophthalmology().serve_restored(Role::Cln, &lab.ophthalmology().folder()).unwrap();
    // The comparison sees one password that is another.
    again.tool(&["user", "setpassword", &login, "--newpassword=Kt-other-0001"]).unwrap();
    let other = changed(&truth, &again.entries().unwrap());
    // The file server that joined anew has another key as well.
    assert!(other.iter().any(|entry| entry.starts_with(&format!("CN={login},"))), "{other:?}");
    again.stop().unwrap();
}

fn changed(truth: &directory::Portrait, found: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    let all = truth.entries.keys().chain(found.keys().filter(|name| !truth.entries.contains_key(*name)));
    all.filter(|name| truth.entries.get(*name) != found.get(*name))
        .map(|name| format!("{name}: {:?} / {:?}", truth.entries.get(name), found.get(name)))
        .collect()
}

#[test]
fn nights_follow_each_other_and_every_spoiled_one_shows_its_fault() {
    let stage = Stage::new('h');
    let lab = stage.up(&[Service::Ophthalmology]);
    let share = lab.ophthalmology();
    let marker = || share.folder().join(MARKER).exists();
    let tree = || kuramori_lab::manifest::Tree::of(&share.folder()).unwrap().files;
    let first = tree();
    assert_eq!(first.len(), 402, "400 files, the marker and the held one");

    let second = share.write_dump(1, None).unwrap();
    assert!(second.written > 3 && second.written < 60 && marker(), "{second:?}");
    let clean = tree();
    assert_ne!(first, clean);

    let unchanged = |mut tree: std::collections::BTreeMap<String, String>| {
        tree.remove(MARKER);
        tree
    };
    share.write_dump(2, Some(Spoil::Yesterday)).unwrap();
    assert!(unchanged(tree()) == unchanged(clean.clone()) && tree()[MARKER] != clean[MARKER]);
    share.write_dump(2, Some(Spoil::NoMarker)).unwrap();
    assert!(!marker() && unchanged(tree()) != unchanged(clean));
    let cut = share.write_dump(3, Some(Spoil::Truncated)).unwrap();
    assert!(marker() && cut.files < second.files / 2 && cut.files > 0, "{cut:?}");
    let empty = share.write_dump(4, Some(Spoil::Empty)).unwrap();
    assert!(marker() && empty.files == 0 && tree().len() == 2);
    let early = share.write_dump(5, Some(Spoil::EarlyMarker)).unwrap();
    assert!(marker() && early.files > 100);
    let whole = share.write_dump(5, None).unwrap();
    assert!(marker() && whole.files > early.files);
    // The same night written in one go elsewhere is the same.
    let other = Stage::new('i');
    let lab = other.up(&[Service::Ophthalmology]);
    lab.ophthalmology().write_dump(5, None).unwrap();
    let there = kuramori_lab::manifest::Tree::of(&lab.ophthalmology().folder()).unwrap().files;
    assert_eq!(unchanged(tree()), unchanged(there));
}

#[test]
fn the_switch_owns_its_port_and_lets_only_the_gate_move_it() {
    let stage = Stage::new('j');
    let lab = stage.up(&[Service::Switch]);
    let switch = lab.switch();
    let index = switch.port_index().unwrap();
    let of = |oid: &str| format!("{oid}.{index}");
    assert_eq!(switch.get(Login::Gate, SYS_NAME).unwrap(), "lab-switch");
    assert_eq!(switch.get(Login::Gate, &of(IF_NAME)).unwrap(), "port2");
    assert_eq!(switch.get(Login::Gate, &of(IF_ALIAS)).unwrap(), "vault");
    assert_eq!(switch.get(Login::Watch, &of(IF_ADMIN_STATUS)).unwrap(), "2");
    assert!(!switch.port_up().unwrap(), "the startup configuration");

    for (value, up) in [(1, true), (2, false), (1, true)] {
        switch.set(Login::Gate, &of(IF_ADMIN_STATUS), value).unwrap();
        assert_eq!(switch.port_up().unwrap(), up);
        for login in [Login::Gate, Login::Watch] {
            wait_until("the status follows", Duration::from_mins(2), || {
                Ok((switch.get(login, &of(IF_OPER_STATUS))? == value.to_string()).then_some(()))
            })
            .unwrap();
        }
    }
    let refused = |login, oid: &str| switch.set(login, oid, 2).unwrap_err().to_string();
    assert!(refused(Login::Watch, &of(IF_ADMIN_STATUS)).contains("noAccess"));
    assert!(refused(Login::Gate, &format!("{IF_ADMIN_STATUS}.{}", index - 1)).contains("noAccess"));
    assert!(switch.port_up().unwrap());
    let octets = format!("1.3.6.1.2.1.31.1.1.1.6.{index}");
    assert!(switch.get(Login::Watch, &octets).unwrap().parse::<u64>().is_ok());
    let other = switch.get(Login::Watch, &format!("{IF_NAME}.{}", index - 1));
    assert!(other.is_err() || other.unwrap().contains("No Such"), "only the guarded port is shown");
    switch.reboot().unwrap();
    assert!(!switch.port_up().unwrap(), "a reboot closes it");
}

#[test]
fn a_mail_is_received_and_decoded() {
    let stage = Stage::new('k');
    let lab = stage.up(&[Service::Mail]);
    assert!(lab.mail().received().unwrap().is_empty());
    let script = "
import smtplib, sys
from email.message import EmailMessage
m = EmailMessage()
m['From'] = 'kuramori@srv'; m['To'] = 'joho@hospital.test'; m['Subject'] = '要確認: 眼科のバックアップがありません'
m.set_content('眼科（ophthalmology）の昨夜のバックアップがありません。')
smtplib.SMTP(sys.argv[1], 25, timeout=120).send_message(m)";
    let address = Role::Mai.address().to_string();
    lab.host(Role::Srv).run(&Program::new("/usr/bin/python3").args(["-c", script, &address])).unwrap();
    let mail = lab.mail().wait_for("the mail is there", Duration::from_mins(2), |_| true).unwrap();
    assert_eq!(mail.subject, "要確認: 眼科のバックアップがありません");
    assert!(mail.body.contains("昨夜") && mail.to == "joho@hospital.test", "{mail:?}");
}
