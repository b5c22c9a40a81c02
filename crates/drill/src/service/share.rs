//! A share: Samba serves the restored folder in the cell, and a client sees every file and reads one whole.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::Stage;
use crate::{
    DrillError, Result,
    cell::{As, program},
};

const PORT: &str = "1445";

pub(super) fn bring_up(stage: &Stage<'_>) -> Result<()> {
    let (Some(smbd), Some(client)) = (program("smbd"), program("smbclient")) else {
        let how = "is not installed here (Debian: samba, smbclient)".to_owned();
        return Err(DrillError::Program { program: "smbd".to_owned(), how });
    };
    let wrong = DrillError::file("prepare Samba");
    let at = stage.run.join("samba");
    for folder in ["private", "lock", "state", "cache", "pid", "ncalrpc"] {
        fs_err::create_dir_all(at.join(folder)).map_err(&wrong)?;
    }
    fs_err::set_permissions(at.join("ncalrpc"), std::fs::Permissions::from_mode(0o755)).map_err(&wrong)?;
    let (at_, data) = (at.display(), stage.data.display());
    // The place's administrator is the only user that a user namespace has; outside it is nobody special.
    let config = format!(
        "[global]\nserver role = standalone server\ninterfaces = lo\nbind interfaces only = yes\n\
         smb ports = {PORT}\ndisable netbios = yes\nprivate dir = {at_}/private\nlock directory = {at_}/lock\n\
         state directory = {at_}/state\ncache directory = {at_}/cache\npid directory = {at_}/pid\n\
         ncalrpc dir = {at_}/ncalrpc\nlog file = {at_}/log\nmap to guest = bad user\nguest account = root\n\
         load printers = no\nprinting = bsd\nprintcap name = /dev/null\n\
         [restored]\npath = {data}\nread only = yes\nguest ok = yes\nguest only = yes\nforce user = root\n"
    );
    let file = at.join("smb.conf");
    fs_err::write(&file, config).map_err(&wrong)?;
    let log = stage.run.join("smbd.log");
    let mut command = stage.cell.command(As::Root, &smbd.display().to_string());
    command.args(["--foreground", "--no-process-group", "--debug-stdout", "--configfile"]).arg(&file);
    let mut child = stage.cell.start(command, "smbd", &log)?;
    let client = client.display().to_string();
    let ask = |what: &str| {
        stage.ask(
            As::Root,
            &client,
            &["-N", "-p", PORT, "-s", &file.display().to_string(), "//127.0.0.1/restored", "-c", what],
        )
    };
    stage.wait("smbd", &mut child, &log, || Ok(ask("pwd").is_ok()))?;
    let listed = ask("recurse; ls")?;
    let seen = listed.lines().filter(|line| is_file(line)).count();
    let (there, largest) = files(stage.data);
    stage.probe(
        "samba",
        "files seen through the share",
        seen.to_string(),
        Some(there.to_string()),
        seen == there && there > 0,
    );
    if let Some(largest) = largest {
        let name = largest.strip_prefix(stage.data).unwrap_or(&largest).display().to_string();
        let copy = stage.run.join("copy");
        let got = ask(&format!("get \"{}\" \"{}\"", name.replace('/', "\\"), copy.display()));
        let same = got.is_ok()
            && std::process::Command::new("cmp")
                .arg("-s")
                .arg(&largest)
                .arg(&copy)
                .status()
                .is_ok_and(|s| s.success());
        stage.note(
            "samba-read",
            name,
            if same { "read whole, the same bytes" } else { "cannot be read whole" },
            same,
        );
    }
    Ok(())
}

/// A line of a listing that is a file: `  name      A    1234  Sun Nov 22 …`, without the letter D.
fn is_file(line: &str) -> bool {
    if !line.starts_with("  ") {
        return false;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    // From the right: year, time, day, month, weekday, size, and then the attributes if there are any.
    let Some(size) = words.len().checked_sub(6).and_then(|at| words.get(at)) else { return false };
    if size.parse::<u64>().is_err() {
        return false;
    }
    let attributes = words.len().checked_sub(7).and_then(|at| words.get(at)).unwrap_or(&"");
    let is_attributes = !attributes.is_empty() && attributes.chars().all(|c| "ADHNRS".contains(c));
    !(is_attributes && attributes.contains('D'))
}

/// How many files there are, and the largest.
fn files(folder: &Path) -> (usize, Option<std::path::PathBuf>) {
    let (mut count, mut largest, mut open) = (0, None, vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs_err::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                open.push(entry.path());
            } else if about.is_file() {
                count += 1;
                if largest.as_ref().is_none_or(|(size, _)| about.len() > *size) {
                    largest = Some((about.len(), entry.path()));
                }
            }
        }
    }
    (count, largest.map(|(_, path)| path))
}
