//! Declared commands: their output, their end, their words, and what nobody can make them do.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use common::{Folder, cancel_after, control};
use kuramori_model::{fault::Fault, units::Bytes};
use kuramori_source::{
    Config, Control, Error, Report, Source,
    command::{AroundSource, CommandSource},
    config::{AroundConfig, CommandConfig},
    report::Origin,
};

fn declare(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("commands.toml");
    fs_err::write(&file, text).unwrap();
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    file
}

fn command(name: &str, file: &Path) -> CommandConfig {
    CommandConfig {
        server: "ward".into(),
        name: name.into(),
        file: "外来/dump.sql".into(),
        declared_in: file.to_owned(),
    }
}

fn read(config: CommandConfig, sink: &mut Folder, control: &Control) -> Result<Report, Error> {
    CommandSource::new(config).read(sink, control)
}

#[test]
fn only_a_command_that_ends_well_and_says_so_gives_a_dump() {
    let temp = tempfile::tempdir().unwrap();
    let file = declare(
        temp.path(),
        r#"
        [command.good]
        run = ["sh", "-c", "seq 1 400000; echo warned >&2; echo '-- end'"]
        end = "-- end"
        [command.fails]
        run = ["sh", "-c", "echo part; echo disk on fire >&2; exit 3"]
        [command.cut]
        run = ["sh", "-c", "seq 1 1000"]
        end = "-- end"
        [command.silent]
        run = ["true"]
        [command.slow]
        run = ["sh", "-c", "echo begun; sleep 600 & sleep 600"]
        timeout = "500ms"
        [command.killed]
        run = ["sh", "-c", "echo part; kill -9 $$"]
        [command.missing]
        run = ["/no/such/program"]
        [command.endless]
        run = ["yes"]
        "#,
    );
    let mut sink = Folder::new(&temp.path().join("good"));
    let report = read(command("good", &file), &mut sink, &control()).unwrap();
    let text = fs_err::read_to_string(sink.root.join("外来/dump.sql")).unwrap();
    assert!(text.starts_with("1\n2\n") && text.ends_with("400000\n-- end\n"));
    assert_eq!((report.files, report.bytes), (1, text.len() as u64));
    let Origin::Command(origin) = report.origin else { panic!() };
    assert_eq!((origin.name.as_str(), origin.words.as_str()), ("good", "warned\n"));

    let fails = |name: &str, code: &str, says: &str| {
        let mut sink = Folder::new(&temp.path().join(name));
        let error = read(command(name, &file), &mut sink, &control()).unwrap_err();
        assert!(error.code() == code && error.to_string().contains(says), "{name}: {} {error}", error.code());
    };
    fails("fails", "source.command", "ended with 3: disk on fire");
    fails("cut", "source.truncated", "-- end");
    fails("silent", "source.command", "wrote nothing");
    fails("slow", "source.command", "longer than allowed");
    fails("killed", "source.command", "signal");
    fails("missing", "source.command", "cannot be started");
    fails("unknown", "source.declaration", "no entry `command.unknown`");
    let error =
        read(command("endless", &file), &mut Folder::new(&temp.path().join("e")), &cancel_after(1 << 20));
    assert_eq!(error.unwrap_err().code(), "source.cancelled");
    let left = std::process::Command::new("pgrep").args(["-x", "yes"]).output().unwrap();
    println!("{} `yes` left: {}", Bytes(0), String::from_utf8_lossy(&left.stdout));
}

#[test]
fn declarations_that_others_could_write_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let text = "[command.a]\nrun = [\"echo\", \"hello\"]\n";
    let file = declare(temp.path(), text);
    let ask = |file: &Path| read(command("a", file), &mut Folder::new(&temp.path().join("x")), &control());
    assert_eq!(ask(&file).unwrap().bytes, 6, "it works as long as it is root's alone");
    for mode in [0o664, 0o646] {
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(ask(&file).unwrap_err().code(), "source.declaration", "{mode:o}");
    }
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    chown(&file, Some(1), None).unwrap();
    assert_eq!(ask(&file).unwrap_err().code(), "source.declaration");
    chown(&file, Some(0), None).unwrap();
    let by_link = temp.path().join("link.toml");
    std::os::unix::fs::symlink(&file, &by_link).unwrap();
    assert_eq!(ask(&by_link).unwrap_err().code(), "source.declaration");
    // A folder in which others can put another file in its place.
    fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(ask(&file).unwrap_err().code(), "source.declaration");
    fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    ask(&file).unwrap();
    declare(temp.path(), &text.replace("run =", "rum ="));
    assert_eq!(ask(&file).unwrap_err().code(), "source.declaration");
}

#[test]
fn what_is_held_before_is_let_go_of_after_whatever_happens_in_between() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    let entry = |name: &str, before: &str, run: &str, after: &str| {
        let log = log.display();
        format!(
            "[command.{name}]\nbefore = [\"sh\", \"-c\", \"echo before >> {log}; {before}\"]\n\
             run = [\"sh\", \"-c\", \"echo run >> {log}; {run}\"]\nafter = [\"sh\", \"-c\", \"echo after >> {log}; {after}\"]\n"
        )
    };
    let text = [
        entry("good", "true", "echo data", "true"),
        entry("inner", "true", "exit 4", "true"),
        entry("before", "exit 5", "echo data", "true"),
        entry("after", "true", "echo data", "exit 6"),
        entry("endless", "true", "yes", "true"),
    ]
    .concat();
    let file = declare(temp.path(), &text);
    let around = |name: &str, control: &Control| {
        let _ = fs_err::remove_file(&log);
        let source = Box::new(Config::Command(command(name, &file)));
        let config = AroundConfig { name: name.into(), declared_in: file.clone(), source };
        let outcome = AroundSource::new(config).read(&mut Folder::new(&temp.path().join("x")), control);
        let order = fs_err::read_to_string(&log).unwrap().replace('\n', " ");
        (outcome.map_err(|error| error.to_string()), order)
    };
    let (outcome, order) = around("good", &control());
    assert_eq!((outcome.unwrap().bytes, order.as_str()), (5, "before run after "));
    let (outcome, order) = around("inner", &control());
    assert!(outcome.unwrap_err().contains("ended with 4"));
    assert_eq!(order, "before run after ");
    let (outcome, order) = around("before", &control());
    assert!(outcome.unwrap_err().contains("ended with 5"));
    assert_eq!(order, "before after ", "nothing is read, and what was half held is let go of");
    let (outcome, order) = around("after", &control());
    assert!(outcome.unwrap_err().contains("ended with 6"), "a point is not good if the system stays held");
    assert_eq!(order, "before run after ");
    let (outcome, order) = around("endless", &cancel_after(1 << 20));
    assert!(outcome.unwrap_err().contains("cancelled"));
    assert_eq!(order, "before run after ");
}
