//! Three sheets of paper and the distribution's own programs open what we wrapped.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::{path::Path, process::Command};

use kuramori_escrow::{
    Identity, Language, Share, Sheet, Split, join, random_password, read_sheet, split, unwrap, wrap,
};
use kuramori_model::{
    clock::{SeededRandom, SystemRandom},
    fault::Fault,
};

const SECRET: &[u8] = b"the repository's password \xff\x00";

fn sheet(identity: &Identity, share: &Share, language: Language) -> String {
    let recipient = identity.recipient();
    let sheet = Sheet {
        share,
        split: Split::default(),
        recipient: &recipient,
        hospital: "蔵守病院",
        made: "2026-11-22",
    };
    sheet.text(language).to_string()
}

fn run(program: &str, dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).current_dir(dir).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed (Debian: age, libgfshare-bin): {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What a person does with a sheet and no program of ours.
fn typed(dir: &Path, sheet: &str) -> Vec<u8> {
    let letters: String = sheet
        .lines()
        .filter_map(|line| line.trim().split_once(" = "))
        .filter_map(|(left, _)| left.split_once(' '))
        .filter(|(number, _)| number.parse::<u8>().is_ok())
        .map(|(_, letters)| letters.replace(' ', ""))
        .collect();
    fs_err::write(dir.join("typed"), letters).unwrap();
    run("base32", dir, &["-d", "typed"])
}

#[test]
fn debians_base32_gfcombine_and_age_recover_from_any_three_sheets() {
    let recovery = Identity::generate();
    let server = Identity::generate();
    let wrapped = wrap(SECRET, &[server.recipient(), recovery.recipient()]).unwrap();
    let shares = split(&recovery, Split::default(), &SystemRandom).unwrap();
    for (a, b, c) in [(0, 1, 2), (0, 2, 4), (1, 3, 4), (4, 0, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<String> = [a, b, c].iter().map(|n: &usize| shares[*n].file_name("recovery")).collect();
        for (n, language) in [(a, Language::Japanese), (b, Language::English), (c, Language::Japanese)] {
            let bytes = typed(dir.path(), &sheet(&recovery, &shares[n], language));
            fs_err::write(dir.path().join(shares[n].file_name("recovery")), bytes).unwrap();
        }
        run("gfcombine", dir.path(), &["-o", "joined.txt", &files[0], &files[1], &files[2]]);
        assert_eq!(fs_err::read_to_string(dir.path().join("joined.txt")).unwrap(), *recovery.text());
        fs_err::write(dir.path().join("secret.age"), &wrapped).unwrap();
        assert_eq!(run("age", dir.path(), &["-d", "-i", "joined.txt", "secret.age"]), SECRET);
    }
    // The check can fail: two shares, and a share under a wrong number, give something else.
    let dir = tempfile::tempdir().unwrap();
    for (share, name) in shares.iter().zip(["r.001", "r.002", "r.004"]) {
        fs_err::write(dir.path().join(name), share.bytes.as_slice()).unwrap();
    }
    run("gfcombine", dir.path(), &["-o", "two", "r.001", "r.002"]);
    run("gfcombine", dir.path(), &["-o", "wrong", "r.001", "r.002", "r.004"]);
    for name in ["two", "wrong"] {
        assert_ne!(fs_err::read(dir.path().join(name)).unwrap(), recovery.text().as_bytes());
    }
}

#[test]
fn what_debian_split_and_wrapped_we_join_and_open() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    fs_err::write(dir.path().join("id"), identity.text().as_bytes()).unwrap();
    run("gfsplit", dir.path(), &["-n", "3", "-m", "5", "id", "part"]);
    let mut shares = Vec::new();
    for entry in fs_err::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "part") {
            let number = path.extension().unwrap().to_str().unwrap().parse().unwrap();
            shares.push(Share { number, bytes: fs_err::read(&path).unwrap().into() });
        }
    }
    assert_eq!(shares.len(), 5);
    assert_eq!(join(&shares[1..4], Split::default()).unwrap().recipient(), identity.recipient());
    fs_err::write(dir.path().join("plain"), SECRET).unwrap();
    run("age", dir.path(), &["-r", &identity.recipient().to_string(), "-o", "sealed", "plain"]);
    assert_eq!(*unwrap(&fs_err::read(dir.path().join("sealed")).unwrap(), &identity).unwrap(), SECRET);
}

#[test]
fn each_holder_opens_alone_and_nobody_else() {
    let (server, vault, stranger) = (Identity::generate(), Identity::generate(), Identity::generate());
    let wrapped = wrap(SECRET, &[server.recipient(), vault.recipient()]).unwrap();
    for holder in [&server, &vault] {
        assert_eq!(*unwrap(&wrapped, holder).unwrap(), SECRET);
    }
    assert_eq!(unwrap(&wrapped, &stranger).unwrap_err().code(), "escrow.not-for-us");
    let last = wrapped.len() - 1;
    for at in [0, 60, last] {
        let mut bad = wrapped.clone();
        bad[at] ^= 1;
        assert!(unwrap(&bad, &server).is_err(), "byte {at}");
    }
    assert_eq!(unwrap(&wrapped[..last], &server).unwrap_err().code(), "escrow.damaged");
    assert_eq!(unwrap(b"", &server).unwrap_err().code(), "escrow.damaged");
    assert_eq!(wrap(SECRET, &[]).unwrap_err().code(), "escrow.no-recipient");
    assert!(!format!("{server:?}").contains("SECRET-KEY"));
}

#[test]
fn a_misread_sheet_is_found_by_its_line_and_wrong_shares_give_nothing() {
    let recovery = Identity::generate();
    let shares = split(&recovery, Split::default(), &SeededRandom::new(5)).unwrap();
    for (share, language) in shares.iter().zip([Language::Japanese, Language::English].iter().cycle()) {
        let text = sheet(&recovery, share, *language);
        let (read, split, set) = read_sheet(&text.to_uppercase()).unwrap();
        assert_eq!((&read, split), (share, Split::default()));
        assert_eq!(set, recovery.recipient().fingerprint().as_str());
    }
    let text = sheet(&recovery, &shares[0], Language::English);
    let line = text.lines().find(|line| line.starts_with(" 4  ")).unwrap();
    let letter = &line[4..5];
    let wrong = line.replacen(letter, if letter == "A" { "B" } else { "A" }, 1);
    let error = read_sheet(&text.replace(line, &wrong)).unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("line 4")), ("escrow.bad-line", true));
    assert_eq!(read_sheet(&text.replace(line, "")).unwrap_err().code(), "escrow.bad-line");
    let last = text.lines().find(|line| line.starts_with(" 6  ")).unwrap();
    assert_eq!(read_sheet(&text.replace(last, "")).unwrap_err().code(), "escrow.bad-line");
    assert_eq!(read_sheet("").unwrap_err().code(), "escrow.bad-sheet");

    let three = Split::default();
    assert_eq!(join(&shares[..2], three).unwrap_err().code(), "escrow.too-few-shares");
    let twice = [shares[0].clone(), shares[1].clone(), shares[1].clone()];
    assert_eq!(join(&twice, three).unwrap_err().code(), "escrow.too-few-shares");
    let others = split(&Identity::generate(), three, &SeededRandom::new(6)).unwrap();
    let mixed = [shares[0].clone(), shares[1].clone(), others[2].clone()];
    assert_eq!(join(&mixed, three).unwrap_err().code(), "escrow.shares-do-not-fit");
    let four = [&shares[..3], &others[3..4]].concat();
    assert_eq!(join(&four, three).unwrap_err().code(), "escrow.shares-do-not-fit");
    assert_eq!(join(&shares, three).unwrap().recipient(), recovery.recipient());
    let bad = Split { needed: 4, of: 3 };
    assert_eq!(split(&recovery, bad, &SystemRandom).unwrap_err().code(), "escrow.bad-split");
}

#[test]
fn passwords_and_fingerprints_can_be_read_aloud() {
    let password = random_password(&SeededRandom::new(1));
    assert_eq!(password.len(), 32);
    assert_ne!(*password, *random_password(&SeededRandom::new(2)));
    let recipient = Identity::generate().recipient();
    let fingerprint = recipient.fingerprint();
    assert_eq!(fingerprint.as_str().len(), 24);
    assert_eq!(
        recipient.to_string().parse::<kuramori_escrow::Recipient>().unwrap().fingerprint(),
        fingerprint
    );
    assert!("age1nonsense".parse::<kuramori_escrow::Recipient>().is_err());
    assert!(Identity::read("# comment\n\n").is_err());
}
