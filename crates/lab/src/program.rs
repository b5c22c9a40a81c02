//! Programs of others: how they are called inside a host's namespace, and what they answer.

use std::{
    ffi::{OsStr, OsString},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{LabError, Result};

/// Where programs are looked for: a user's own `PATH` often lacks `sbin` or puts another Python first.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command before it is known where it will run.
#[derive(Debug, Clone)]
pub struct Program {
    name: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    user: Option<String>,
    private: Vec<(PathBuf, PathBuf)>,
    input: Option<Vec<u8>>,
    folder: Option<PathBuf>,
    within: Option<u32>,
}

impl Program {
    /// Begins a command.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            name: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: vec![("PATH".into(), PATH.into()), ("LC_ALL".into(), "C.UTF-8".into())],
            user: None,
            private: Vec::new(),
            input: None,
            folder: None,
            within: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs as this user of the host instead of root.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Lets the program, and nobody else, see `file` in the place of `instead_of`: a bind mount in the
    /// program's own mount namespace. So a server gets its users without a change of the host's `/etc`.
    /// Only works inside a host's namespace.
    #[must_use]
    pub fn private(mut self, file: &Path, instead_of: &Path) -> Self {
        self.private.push((file.to_owned(), instead_of.to_owned()));
        self
    }

    /// What the program reads on its standard input; nothing by default.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// The folder in which the program runs.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Ends the program when it takes longer than so many seconds; then its status is not 0.
    #[must_use]
    pub fn within(mut self, seconds: u32) -> Self {
        self.within = Some(seconds);
        self
    }

    /// The command as a person would write it.
    pub fn line(&self) -> String {
        std::iter::once(&self.name)
            .chain(&self.arguments)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The command as the kernel gets it. `ip netns exec`, `sh` and `setpriv` all replace themselves, so
    /// that the child's id stays the program's own.
    pub(crate) fn command(&self, namespace: Option<&str>) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(namespace) = namespace {
            words.extend(["ip", "netns", "exec", namespace].map(OsString::from));
        }
        if let Some(seconds) = self.within {
            words.push("timeout".into());
            words.push(seconds.to_string().into());
        }
        if !self.private.is_empty() {
            let mounts = "n=$1; shift; while [ $n -gt 0 ]; do mount --bind \"$1\" \"$2\" || exit 125; \
                          shift 2; n=$((n-1)); done; exec \"$@\"";
            words.extend(["sh", "-c", mounts, "sh"].map(OsString::from));
            words.push(self.private.len().to_string().into());
            for (file, instead_of) in &self.private {
                words.push(file.into());
                words.push(instead_of.into());
            }
        }
        if let Some(user) = &self.user {
            words.extend(
                ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"].map(OsString::from),
            );
        }
        words.push(self.name.clone());
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// Runs it on the host itself to its end; gives back its standard output.
    ///
    /// # Errors
    /// The program is missing, or ended with another status than 0.
    pub fn run(&self) -> Result<Vec<u8>> {
        let outcome = self.run_in(None)?;
        outcome.ok(self)
    }

    /// Like [`run`](Self::run), as text.
    pub fn text(&self) -> Result<String> {
        self.run().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs it to its end, whatever its exit status.
    pub(crate) fn run_in(&self, namespace: Option<&str>) -> Result<Outcome> {
        let start = |source| LabError::Start { program: self.name.to_string_lossy().into_owned(), source };
        let mut command = self.command(namespace);
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
        let output = std::thread::scope(|scope| {
            // Written beside the reading: both pipes would fill otherwise.
            if let (Some(bytes), Some(mut stdin)) = (&self.input, child.stdin.take()) {
                scope.spawn(move || {
                    // A program that closes its input early says why by its exit status.
                    let _ = stdin.write_all(bytes);
                });
            }
            child.wait_with_output()
        })
        .map_err(start)?;
        Ok(Outcome { status: output.status.code(), stdout: output.stdout, stderr: output.stderr })
    }
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// What it wrote on standard output.
    pub stdout: Vec<u8>,
    /// What it wrote on standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn ok(self, program: &Program) -> Result<Vec<u8>> {
        if self.status == Some(0) {
            return Ok(self.stdout);
        }
        let status = self.status.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        let said = self.complaint();
        let mut stderr: Vec<&str> = said.lines().rev().take(6).collect();
        stderr.reverse();
        Err(LabError::Program { command: program.line(), status, stderr: stderr.join(" | ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_input_and_output_do_not_block_each_other() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(Program::new("cat").input(input.clone()).run().unwrap(), input);
    }

    #[test]
    fn a_failing_program_says_what_it_said() {
        let error = Program::new("sh").args(["-c", "echo why >&2; exit 3"]).run().unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("why"), "{error}");
    }
}
