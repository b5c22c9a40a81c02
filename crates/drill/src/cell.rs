//! A place without a way out: namespaces of its own for network, processes, mounts and names, with nothing
//! but a loopback interface in it.
//!
//! ```text
//! we ──pipe──▶ unshare ──▶ sh ▶ cat        cat is process 1 of the place; its end is the place's end
//!  └─ nsenter ──▶ nice, prlimit ──▶ service (as its own user)
//! ```
//! The place lives as long as the pipe: however we end, the kernel closes it, `cat` ends, and with process 1
//! the kernel ends everything that was started there. Root makes the namespaces directly; anybody else makes
//! a user namespace first. Where neither works the drill is refused, because a service that is started on
//! restored data without isolation may call the real ones (a mail relay, a replica, another hospital).
//!
//! Util-linux and iproute2 do the work; both are on every Debian.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use kuramori_model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::{DrillError, Result, group::Group};

/// What the place is, for the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// `root` or `user-namespace`.
    pub by: String,
    /// Every network interface in it.
    pub interfaces: Vec<String>,
    /// Every route that leads elsewhere than to itself; always empty, or there is no drill.
    pub routes: Vec<String>,
    /// The network namespace (its inode), and the one of the machine.
    pub namespace: (String, String),
    /// What limits its resources, in words.
    pub limits: Vec<String>,
}

/// As whom a program runs in the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As<'a> {
    /// The place's administrator.
    Root,
    /// A user without rights; the named one if it exists, else `nobody`.
    User(&'a str),
}

/// A made place.
#[derive(Debug)]
pub struct Cell {
    holder: Child,
    rootless: bool,
    group: Group,
    memory: Bytes,
    isolation: Isolation,
}

/// The id of `nobody` on Debian.
const NOBODY: u32 = 65534;

impl Cell {
    /// Makes the place and sees that it has no way out.
    ///
    /// # Errors
    /// [`DrillError::Isolation`]: namespaces are forbidden here, a program is missing, or a way out was seen.
    pub fn open(memory: Bytes) -> Result<Self> {
        let rootless = !rustix::process::geteuid().is_root();
        let no = |why: &dyn std::fmt::Display| DrillError::Isolation(why.to_string());
        let mut command = Command::new("unshare");
        if rootless {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--net", "--ipc", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--"])
            .args(["sh", "-c", "ip link set lo up && echo ready && exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| no(&format!("unshare: {error}")))?;
        let mut line = String::new();
        let read = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        if !matches!(read, Some(Ok(_))) || line.trim() != "ready" {
            drop(holder.stdin.take());
            let said = holder.wait_with_output().map_err(|error| no(&error))?;
            return Err(no(&String::from_utf8_lossy(&said.stderr).trim()));
        }
        let group = Group::make(memory);
        let isolation = Isolation {
            by: if rootless { "user-namespace" } else { "root" }.to_owned(),
            interfaces: Vec::new(),
            routes: Vec::new(),
            namespace: (String::new(), String::new()),
            limits: Vec::new(),
        };
        let mut cell = Self { holder, rootless, group, memory, isolation };
        cell.look()?;
        Ok(cell)
    }

    /// Sees for itself: only a loopback interface, no route, another namespace than ours.
    fn look(&mut self) -> Result<()> {
        let no = |why: String| DrillError::Isolation(why);
        let inside = |cell: &Self, arguments: &[&str]| -> Result<Vec<String>> {
            let output = cell.run(As::Root, "ip", arguments)?;
            if !output.status.success() {
                return Err(no(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            }
            Ok(String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect())
        };
        self.isolation.interfaces = inside(self, &["-o", "link", "show"])?
            .into_iter()
            .map(|line| {
                line.split(": ").nth(1).unwrap_or_default().split('@').next().unwrap_or_default().to_owned()
            })
            .collect();
        self.isolation.routes = ["-4", "-6"]
            .into_iter()
            .map(|family| inside(self, &[family, "-o", "route", "show", "table", "all"]))
            .collect::<Result<Vec<_>>>()?
            .concat()
            .into_iter()
            .filter(|line| !line.contains("dev lo"))
            .collect();
        let namespace = |process: &str| {
            fs_err::read_link(format!("/proc/{process}/ns/net"))
                .map(|link| link.display().to_string())
                .map_err(|error| no(error.to_string()))
        };
        self.isolation.namespace = (namespace(&self.holder.id().to_string())?, namespace("self")?);
        self.isolation.limits = self.group.words();
        self.isolation.limits.push("nice 19, ionice idle, no core files".to_owned());
        if self.isolation.interfaces != ["lo"]
            || !self.isolation.routes.is_empty()
            || self.isolation.namespace.0 == self.isolation.namespace.1
        {
            return Err(no(format!("a way out was seen: {:?}", self.isolation)));
        }
        Ok(())
    }

    /// What the place is, for the evidence.
    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// A program in the place, as a command that can still be given a folder, an environment and pipes.
    pub fn command(&self, who: As<'_>, program: &str) -> Command {
        let mut command = Command::new("sh");
        // Joining the groups comes first and from outside: the place itself may not change them.
        command.args([
            "-c",
            "for g in $KURAMORI_GROUPS; do echo 0 >\"$g\" || exit 97; done; exec \"$@\"",
            "sh",
        ]);
        command.env("KURAMORI_GROUPS", self.group.entrances());
        command.args(["nice", "-n", "19", "ionice", "-c", "3", "prlimit", "--core=0"]);
        if !self.group.limits_memory() {
            command.arg(format!("--data={}", self.memory.0));
        }
        let pid = self.holder.id().to_string();
        command.args(["--", "nsenter", "--target", &pid, "--net", "--ipc", "--uts", "--mount"]);
        command.arg(format!("--pid=/proc/{pid}/ns/pid_for_children"));
        if self.rootless {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--");
        match who {
            As::Root => {}
            // In a user namespace there is one user outside; inside it may be called anything but root.
            As::User(_) if self.rootless => {
                command.arg("unshare").args(["--user", "--map-user=65534", "--map-group=65534", "--"]);
            }
            As::User(name) => {
                let (user, group) = account(name);
                command.arg("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={group}")]);
                command.args(["--clear-groups", "--no-new-privs", "--"]);
            }
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a program in the place to its end.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run(&self, who: As<'_>, program: &str, arguments: &[&str]) -> Result<Output> {
        self.command(who, program)
            .args(arguments)
            .output()
            .map_err(|error| DrillError::Program { program: program.to_owned(), how: error.to_string() })
    }

    /// Starts a service in the place; what it says goes into `log`.
    ///
    /// # Errors
    /// It could not be started, or the log cannot be written.
    pub fn start(&self, mut command: Command, name: &str, log: &Path) -> Result<Child> {
        let file =
            fs_err::File::create(log).map_err(DrillError::file("write a service's log"))?.into_parts().0;
        let again = file.try_clone().map_err(DrillError::file("write a service's log"))?;
        command
            .stdout(file)
            .stderr(again)
            .spawn()
            .map_err(|error| DrillError::Program { program: name.to_owned(), how: error.to_string() })
    }

    /// Gives a tree to the user that a service runs as.
    ///
    /// # Errors
    /// `chown` failed.
    pub fn give(&self, name: &str, folder: &Path) -> Result<()> {
        if self.rootless {
            return Ok(());
        }
        let (user, group) = account(name);
        let output = Command::new("chown")
            .args(["-R", "-h", &format!("{user}:{group}")])
            .arg(folder)
            .output()
            .map_err(DrillError::file("give the restored data to its service"))?;
        if output.status.success() { Ok(()) } else { Err(failed("chown", &output)) }
    }

    /// Lets the user that a service runs as pass through a folder, and nobody else.
    ///
    /// # Errors
    /// Its group or mode cannot be changed.
    pub fn admit(&self, name: &str, folder: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let wrong = DrillError::file("let a service reach its data");
        if !self.rootless {
            std::os::unix::fs::chown(folder, None, Some(account(name).1)).map_err(&wrong)?;
        }
        fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o710)).map_err(&wrong)
    }

    /// One HTTP request to a port of the place. Gives status and body.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn http(&self, port: u16, method: &str, path: &str) -> Result<(u16, Vec<u8>)> {
        // Bash can speak TCP by itself; a client in our own process would have to enter the namespace.
        const TALK: &str = "exec 3<>\"/dev/tcp/127.0.0.1/$1\" || exit 7; \
            printf '%s %s HTTP/1.0\\r\\nHost: localhost\\r\\nContent-Length: 0\\r\\n\\r\\n' \"$2\" \"$3\" >&3; cat <&3";
        let output = self.run(As::Root, "bash", &["-c", TALK, "bash", &port.to_string(), method, path])?;
        let text = &output.stdout;
        let status = text
            .get(9..12)
            .and_then(|code| std::str::from_utf8(code).ok()?.parse().ok())
            .ok_or_else(|| failed(&format!("port {port}"), &output))?;
        let body = text.windows(4).position(|four| four == b"\r\n\r\n").map_or(&[][..], |at| &text[at + 4..]);
        Ok((status, body.to_vec()))
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Process 1 ends at the end of its input, and the kernel ends everybody else there.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A program that ended badly, with the end of what it said.
pub(crate) fn failed(program: &str, output: &Output) -> DrillError {
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said);
    let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = said[said.len().saturating_sub(4)..].join(" / ");
    let how = format!("ended with {}: {}", output.status, end.chars().take(600).collect::<String>());
    DrillError::Program { program: program.to_owned(), how }
}

/// User and group of a name; `nobody` if it is not there.
fn account(name: &str) -> (u32, u32) {
    let text = fs_err::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .unwrap_or((NOBODY, NOBODY))
}

/// Where a program of Debian lies; services live outside of a plain user's path.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}
