//! A command's output as a backup, and commands before and after another source's run.
//!
//! What may be run stands in a file of this machine that belongs to root and that nobody else can write; the
//! register can only *name* an entry of it. So whoever takes over the register, or the server's own user,
//! reaches no command that an administrator of the machine did not write down.
//!
//! ```toml
//! [command.ward]
//! run = ["/usr/local/bin/dump-ward", "--all"]      # its standard output is the backup
//! timeout = "2h"
//! end = "-- end of dump"                           # optional: the last line has to be this
//!
//! [command.eye]
//! before = ["/usr/local/bin/eye-hold"]             # around another source
//! after = ["/usr/local/bin/eye-release"]           # also when reading failed
//! timeout = "5min"
//! ```
//!
//! **Invariant:** output becomes a restore point only when the command ended with status 0 (and with its end
//! line, where one is declared).

use std::{collections::BTreeMap, io::Read, os::unix::fs::MetadataExt, path::Path, time::Duration};

use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};
use serde::Deserialize;

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    child::{Program, Running},
    config::{AroundConfig, CommandConfig, Span},
    report::{CommandOrigin, Origin, Statement},
};

/// One declared entry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Declared {
    run: Vec<String>,
    before: Vec<String>,
    after: Vec<String>,
    timeout: Option<Span>,
    end: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    command: BTreeMap<String, Declared>,
}

/// How long a command may take if its entry does not say.
const USUAL: Duration = Duration::from_hours(4);

/// Reads a file that decides what is run or read here: a plain file of root's that nobody else can write or replace.
pub fn trusted(file: &Path) -> Result<String, Error> {
    let bad = |why: String| Error::Declaration { path: file.display().to_string(), why };
    let about = fs_err::symlink_metadata(file).map_err(|error| bad(error.to_string()))?;
    if !about.is_file() || about.uid() != 0 || about.mode() & 0o022 != 0 {
        return Err(bad("it has to be a plain file of root's that nobody else can write".into()));
    }
    for folder in file.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        let about = fs_err::metadata(folder).map_err(|error| bad(error.to_string()))?;
        // The sticky bit keeps others from replacing what is not theirs, as in /tmp.
        if about.uid() != 0 || (about.mode() & 0o022 != 0 && about.mode() & 0o1000 == 0) {
            return Err(bad(format!("others can replace what lies in `{}`", folder.display())));
        }
    }
    fs_err::read_to_string(file).map_err(|error| bad(error.to_string()))
}

/// Looks an entry up, if the file is what it has to be.
fn declared(file: &Path, name: &str) -> Result<Declared, Error> {
    let bad = |why: String| Error::Declaration { path: file.display().to_string(), why };
    let text = trusted(file)?;
    let mut all: File = toml::from_str(&text).map_err(|error| bad(error.message().to_owned()))?;
    all.command.remove(name).ok_or_else(|| bad(format!("it has no entry `command.{name}`")))
}

/// The output of a declared command.
#[derive(Debug)]
pub struct CommandSource {
    config: CommandConfig,
}

impl CommandSource {
    /// Runs nothing yet.
    pub fn new(config: CommandConfig) -> Self {
        Self { config }
    }
}

fn consistency() -> Statement {
    Statement {
        ja: "宣言されたコマンドの出力全体。終了コード0で確定。中身の整合性はそのコマンドが保証する範囲。".into(),
        en: "The whole output of a declared command that ended with status 0; as consistent as that command makes it."
            .into(),
    }
}

impl Source for CommandSource {
    fn describe(&self) -> Description {
        Description {
            kind: "command",
            server: self.config.server.clone(),
            address: format!("command://{}/{}", self.config.server, self.config.name),
            consistency: consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let entry = declared(&self.config.declared_in, &self.config.name)?;
        if entry.run.is_empty() {
            return Err(Error::Declaration {
                path: self.config.declared_in.display().to_string(),
                why: format!("`command.{}` has no `run`", self.config.name),
            });
        }
        let within = entry.timeout.map_or(USUAL, |span| span.0);
        let running = Program::new(&entry.run).start(control, Some(within))?;
        let name = self.config.name.clone();
        let stream = Stream { name: &name, file: &self.config.file, end: entry.end.as_deref() };
        let (mut report, words) = stream.take(running, sink, control)?;
        report.consistency = consistency();
        report.origin = Origin::Command(CommandOrigin {
            server: self.config.server.clone(),
            name,
            words: words.chars().take(2000).collect(),
        });
        Ok(report)
    }
}

/// One stream that becomes one file.
pub(crate) struct Stream<'a> {
    /// For people.
    pub(crate) name: &'a str,
    /// Its path in the tree.
    pub(crate) file: &'a str,
    /// What the last line has to be.
    pub(crate) end: Option<&'a str>,
}

impl Stream<'_> {
    /// Reads a program's output into one file. Everything that is not "status 0 and the end line" is an error.
    pub(crate) fn take(
        &self,
        running: Running,
        sink: &mut dyn Sink,
        control: &Control,
    ) -> Result<(Report, String), Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        let path = TreePath::new(self.file).map_err(|error| Error::Config(error.to_string()))?;
        let time = FileTime { seconds: begun.as_second(), nanos: 0 };
        let meta = Meta { mode: 0o600, mtime: time, ctime: time, ..Meta::default() };
        let entry = Entry { path, kind: EntryKind::File { size: 0 }, meta };
        let mut content = Counted { running, control, name: self.name, bytes: 0, next: 0, tail: Vec::new() };
        let taken = sink.put(entry, &mut content);
        let Counted { mut running, bytes, tail, .. } = content;
        if let Some(error) = running.failed.take() {
            return Err(error);
        }
        taken?;
        // The sink must have seen the end; what it did not read was never there.
        if running.piece()?.is_some() {
            return Err(Error::Protocol {
                server: "the store".into(),
                why: "it did not read to the end".into(),
            });
        }
        let ended = running.finish()?;
        ended.good(self.name)?;
        if bytes == 0 {
            return Err(Error::Command { name: self.name.to_owned(), why: "it wrote nothing".into() });
        }
        if let Some(end) = self.end {
            let tail = String::from_utf8_lossy(&tail);
            let last = tail.trim_end().rsplit('\n').next().unwrap_or_default().trim_end();
            if last != end {
                return Err(Error::Truncated { name: self.name.to_owned(), end: end.to_owned() });
            }
        }
        let report = Report {
            items: 1,
            files: 1,
            bytes,
            kept: 0,
            newest: Some(begun),
            begun,
            seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
            waited_seconds: 0.0,
            fault_count: 0,
            felt: None,
            faults: Vec::new(),
            reconnects: 0,
            consistency: consistency(),
            origin: Origin::Command(CommandOrigin::default()),
        };
        Ok((report, ended.words))
    }
}

/// How much of a stream's end is looked at.
const TAIL: usize = 4096;

/// Counts, shows progress and remembers the end.
struct Counted<'a> {
    running: Running,
    control: &'a Control,
    name: &'a str,
    bytes: u64,
    next: u64,
    tail: Vec<u8>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.running.read(buffer)?;
        self.bytes += length as u64;
        self.tail.extend_from_slice(&buffer[length.saturating_sub(TAIL)..length]);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
        if self.bytes >= self.next {
            self.next = self.bytes + (4 << 20);
            (self.control.progress)(&Progress {
                phase: Phase::Reading,
                items: 0,
                bytes: self.bytes,
                total: None,
                path: self.name,
            });
        }
        Ok(length)
    }
}

/// Another source with a command before and one after it.
#[derive(Debug)]
pub struct AroundSource {
    config: AroundConfig,
    files: crate::remote::Files,
}

impl AroundSource {
    /// Runs nothing yet.
    pub fn new(config: AroundConfig) -> Self {
        Self::with_files(config, crate::remote::no_files)
    }

    /// As [`new`](Self::new), where files may be read too.
    pub fn with_files(config: AroundConfig, files: crate::remote::Files) -> Self {
        Self { config, files }
    }
}

impl Source for AroundSource {
    fn describe(&self) -> Description {
        match crate::open_with(&self.config.source, self.files) {
            Ok(inner) => inner.describe(),
            Err(error) => Description {
                kind: "around",
                server: String::new(),
                address: error.to_string(),
                consistency: consistency(),
            },
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let entry = declared(&self.config.declared_in, &self.config.name)?;
        let within = entry.timeout.map_or(USUAL, |span| span.0);
        let run = |arguments: &Vec<String>, control: &Control| -> Result<(), Error> {
            if arguments.is_empty() {
                return Ok(());
            }
            Program::new(arguments).text(control, within, 1 << 20).map(drop)
        };
        let inner = crate::open_with(&self.config.source, self.files)?;
        let before = run(&entry.before, control);
        let outcome = match before {
            Ok(()) => inner.read(sink, control),
            Err(error) => Err(error),
        };
        // What was held must be let go of, also after a cancelled run: so this one cannot be cancelled.
        let last = Control { cancel: crate::Cancel::default(), ..control.clone() };
        let after = run(&entry.after, &last);
        match (outcome, after) {
            (Err(error), Err(other)) => {
                tracing::error!("the command after the run failed, too: {other}");
                Err(error)
            }
            (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
            (Ok(report), Ok(())) => Ok(report),
        }
    }
}
