//! The real restic against the server.

use std::process::{Command, Output, Stdio};

use kuramori_serve::{Event, Mode, Outcome, Repositories, Verb};

use crate::hall::{Hall, PASSWORD, append, id, limits, noise, reader};

struct Restic<'a> {
    hall: &'a Hall,
    login: &'a str,
    repository: &'a str,
}

impl Restic<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let Self { hall, login, repository } = self;
        let port = hall.address.port();
        let mut command = Command::new("restic");
        command
            .args(["--cacert", hall.ca().to_str().unwrap(), "--cache-dir"])
            .arg(hall.folder.path().join("cache"))
            .args(arguments)
            .env(
                "RESTIC_REPOSITORY",
                format!("rest:https://{login}:{PASSWORD}@127.0.0.1:{port}/{repository}/"),
            )
            .env("RESTIC_PASSWORD", "repository password");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command until the server has refused it what it wants, then ends it: restic would repeat each
    /// refused request for most of a minute. With `KURAMORI_LONG` it may run to its end.
    fn refused(&self, arguments: &[&str], verb: Verb) {
        let refused = |event: &Event| {
            event.verb == verb
                && event.outcome == Outcome::Refused
                && event.login.as_deref() == Some(self.login)
        };
        let before = self.hall.book.count(refused);
        let mut restic = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(self.hall.book.wait_many("refusal", before + 1, refused).alarming());
        if std::env::var_os("KURAMORI_LONG").is_none() {
            restic.kill().unwrap();
        }
        restic.wait().unwrap();
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {text}");
        text
    }

    fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "restic {arguments:?} went through: {text}");
        text
    }
}

fn same_tree(a: &std::path::Path, b: &std::path::Path) {
    let output = Command::new("diff").arg("-r").arg(a).arg(b).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn restic_fills_a_repository_and_can_take_nothing_away() {
    let hall = Hall::with(
        Mode::Store,
        limits(),
        [append("pacs", None), append("billing", None), reader("vault", Repositories::All)],
    );
    let source = hall.folder.path().join("source");
    fs_err::create_dir_all(source.join("年/月")).unwrap();
    for number in 0..40_u32 {
        let size = 1000 + 60_000 * usize::try_from(number).unwrap();
        fs_err::write(source.join("年/月").join(format!("{number}.dcm")), noise(number.into(), size))
            .unwrap();
    }
    let source = source.to_str().unwrap();
    let restic = Restic { hall: &hall, login: "pacs", repository: "pacs" };

    restic.good(&["init"]);
    assert!(restic.bad(&["init"]).contains("already"));
    restic.good(&["backup", source]);
    let commit = hall.book.wait("commit of a restore point", |event| event.committed().is_some());
    let (repository, name) = commit.committed().unwrap();
    assert_eq!(repository.as_str(), "pacs");
    assert!(hall.files().contains(&format!("pacs/snapshots/{name}")));
    assert_eq!(commit.login.as_deref(), Some("pacs"));

    fs_err::write(std::path::Path::new(source).join("new.dcm"), noise(77, 900_000)).unwrap();
    restic.good(&["backup", source]);
    assert!(restic.good(&["check", "--read-data"]).contains("no errors were found"));
    assert_eq!(restic.good(&["snapshots", "--json"]).matches("\"short_id\"").count(), 2);

    let target = hall.folder.path().join("restored");
    restic.good(&["restore", "latest", "--target", target.to_str().unwrap()]);
    same_tree(std::path::Path::new(source), &target.join(source.trim_start_matches('/')));

    // What an intruder on the department's server would try.
    let before: Vec<_> = hall.files().into_iter().filter(|file| !file.contains("/locks/")).collect();
    restic.refused(&["forget", "latest"], Verb::Delete);
    // What was killed left a lock behind.
    restic.good(&["unlock", "--remove-all"]);
    // `tag` writes a changed snapshot and deletes the old one.
    restic.refused(&["tag", "--set", "x"], Verb::Delete);
    restic.good(&["unlock", "--remove-all"]);
    // `prune` finds a pack that no index names and wants it gone.
    let stray = noise(99, 5000);
    let stray_path = format!("pacs/data/{}", id(&stray));
    assert_eq!(hall.put("pacs", &stray_path, stray), 200);
    restic.refused(&["prune"], Verb::Delete);
    restic.good(&["unlock", "--remove-all"]);
    assert_eq!(hall.status("HEAD", "vault", &stray_path), 200);
    let after = hall.files();
    for file in &before {
        assert!(after.contains(file), "{file} is gone");
    }
    assert!(!hall.files().iter().any(|file| file.contains("/locks/")));
    assert!(restic.good(&["check", "--read-data"]).contains("no errors were found"));

    // The vault's way, and what it may not.
    let vault = Restic { hall: &hall, login: "vault", repository: "pacs" };
    vault.good(&["--no-lock", "--no-cache", "check", "--read-data"]);
    vault.refused(&["--no-cache", "backup", source], Verb::Put);
    let other = Restic { hall: &hall, login: "billing", repository: "pacs" };
    other.refused(&["--no-lock", "--no-cache", "snapshots"], Verb::Head);
}
