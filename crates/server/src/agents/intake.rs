//! One unit of an agent into one repository: the job's side of a session.

use std::{
    io::{BufWriter, Read, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use kuramori_model::{
    fault::chain,
    tree::{Entry, EntryKind, Sink, TreePath},
};
use kuramori_repo::{
    backup::{Backup, Intake},
    format::{blob::BlobId, node::NodeKind},
};
use kuramori_source::{Control, Phase, Progress, Report, config::AgentConfig, report::LISTED};
use kuramori_wire::{
    Error as WireError,
    message::{Begin, FOLDER_MAX, Id, Known, Message, SessionId},
    receive::{self, Shelf, Steer, Tally, Tree},
};

use super::{AgentsError, desk::Handle};
use crate::{App, ServerError, error::Result};

/// Bytes that may be under way on each data connection.
const CREDIT: u32 = 16 << 20;
/// How long an agent may be without a line before its session is given up.
const GRACE: Duration = Duration::from_mins(2);
/// How long a line may be silent; agents give a sign of life every ten seconds.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long to wait at a time for an agent to connect.
const TURN: Duration = Duration::from_millis(250);
/// Such turns until a busy agent is asked again.
const AGAIN: u32 = 6;
/// The code of an agent that would begin later.
const BUSY: &str = "busy";

fn store(error: impl std::error::Error + Send + Sync + 'static) -> WireError {
    WireError::Store(Box::new(error))
}

/// What an agent sent that is not part of a restore point yet: ids in a file, 32 bytes each. With it the next run
/// takes up an unfinished one without sending twice.
#[derive(Debug)]
pub(crate) struct Sent {
    path: PathBuf,
}

impl Sent {
    fn new(app: &App, system: &str) -> Self {
        Self { path: app.config.data.join("agents").join(format!("{system}.sent")) }
    }

    /// The ids; a last one that was cut is left out.
    fn ids(&self) -> impl Iterator<Item = BlobId> + use<> {
        let mut file = fs_err::File::open(&self.path).ok().map(std::io::BufReader::new);
        std::iter::from_fn(move || {
            let mut id = [0; 32];
            file.as_mut()?.read_exact(&mut id).ok()?;
            Some(BlobId(id))
        })
    }

    fn append(&self) -> Result<BufWriter<fs_err::File>> {
        let wrong = ServerError::file("remember what an agent sent");
        if let Some(folder) = self.path.parent() {
            fs_err::create_dir_all(folder).map_err(&wrong)?;
        }
        let mut options = fs_err::OpenOptions::new();
        options.create(true).append(true);
        let file = options.open(&self.path).map_err(&wrong)?;
        // A last id that was cut would shift all that follow.
        let length = file.metadata().map_err(&wrong)?.len();
        file.set_len(length - length % 32).map_err(&wrong)?;
        Ok(BufWriter::with_capacity(32 * 64, file))
    }

    /// The restore point is durable: what was sent is part of it.
    pub(crate) fn done(&self) {
        if let Err(error) = fs_err::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{error}");
        }
    }

    /// A list that was damaged or lies elsewhere costs only time.
    #[cfg(test)]
    fn at(path: &std::path::Path) -> Self {
        Self { path: path.to_owned() }
    }
}

struct Chunks {
    intake: Intake,
    sent: Mutex<BufWriter<fs_err::File>>,
}

impl Shelf for Chunks {
    fn known(&self, id: &Id) -> Option<u32> {
        self.intake.length(&BlobId(*id))
    }

    fn store(&self, plain: &[u8]) -> kuramori_wire::Result<Id> {
        let id = self.intake.store(plain).map_err(store)?;
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).write_all(&id.0).map_err(store)?;
        Ok(id.0)
    }
}

struct Items<'a> {
    backup: &'a mut Backup,
    intake: Intake,
}

impl Tree for Items<'_> {
    fn listing(&mut self, folder: &[u8]) -> kuramori_wire::Result<Vec<Known>> {
        let Some(tree) = self.backup.parent_tree(folder) else { return Ok(Vec::new()) };
        let known = |(place, node): (usize, &kuramori_repo::format::node::Node)| {
            (node.kind != NodeKind::Dir && self.backup.has_all(node)).then(|| Known {
                place: u32::try_from(place).unwrap_or(u32::MAX),
                name: node.name.clone(),
                size: if node.kind == NodeKind::File { node.size } else { 0 },
                mtime: (node.mtime.seconds, node.mtime.nanos),
                ctime: (node.ctime.seconds, node.ctime.nanos),
                inode: node.inode,
            })
        };
        Ok(tree.nodes.iter().enumerate().filter_map(known).take(FOLDER_MAX).collect())
    }

    fn item(&mut self, entry: Entry) -> kuramori_wire::Result<()> {
        self.backup.put(entry, &mut std::io::empty()).map_err(store)?;
        self.backup.room().map_err(store)
    }

    fn file(&mut self, entry: Entry, content: Vec<Id>, size: u64) -> kuramori_wire::Result<()> {
        debug_assert!(matches!(entry.kind, EntryKind::File { .. }));
        let content = content.into_iter().map(BlobId).collect();
        self.backup.put_content(&entry, content, size).map_err(store)
    }

    fn keep(&mut self, folder: &[u8], places: &[(u32, u32)]) -> kuramori_wire::Result<(u64, u64)> {
        self.backup.keep_places(folder, places).map_err(store)
    }

    fn seal(&mut self, folder: &TreePath) -> kuramori_wire::Result<()> {
        Sink::seal(self.backup, folder).map_err(store)
    }

    fn fault(&mut self, path: String, why: String) {
        self.backup.record_fault(path, why);
    }

    fn check(&self) -> kuramori_wire::Result<()> {
        self.intake.check().map_err(store)
    }
}

/// Asks the agent for its unit and takes everything into `backup`. Blocks.
pub(crate) fn read(
    app: &App,
    system: &str,
    config: &AgentConfig,
    backup: &mut Backup,
    control: &Control,
) -> Result<(Report, Sent)> {
    let agent = config.agent.as_str();
    let show = |phase, tally: &Tally| {
        (control.progress)(&Progress {
            phase,
            items: tally.items,
            bytes: tally.bytes,
            total: None,
            path: agent,
        });
    };
    show(Phase::Connecting, &Tally::default());
    let begun = app.clock.now();
    let started = app.clock.boot();
    let sent = Sent::new(app, system);
    let intake = backup.intake(&mut sent.ids());
    let shelf = Arc::new(Chunks { intake: intake.clone(), sent: Mutex::new(sent.append()?) });
    let mut begin = Begin {
        session: SessionId::default(),
        unit: config.unit.clone(),
        lanes: config.lanes,
        credit: CREDIT,
        table: backup.gear(),
        parent: backup.parent().is_some(),
    };
    let mut items = Items { backup, intake };
    let (session, handle, outcome) = loop {
        let start = wait_for(app, agent, control, started)?;
        let session = &mut begin.session;
        app.random.fill(session);
        let session = *session;
        // A second one takes over from one whose end we did not notice; more than that nobody needs.
        let (sender, mains) = mpsc::sync_channel(2);
        let handle = app.agents.put_up(session, agent, start, config.lanes, sender, shelf.clone());
        let outcome = if app.agents.say(agent, &Message::Begin(begin.clone())) {
            let going = || !handle.is_over() && !control.cancel.is_cancelled();
            let steer = Steer {
                clock: app.clock.as_ref(),
                going: &going,
                grace: GRACE,
                patience: PATIENCE,
                progress: &|tally| show(Phase::Reading, tally),
            };
            receive::receive(&mains, &mut items, shelf.as_ref(), &steer)
        } else {
            Err(WireError::Broken("the order could not be given".to_owned()))
        };
        let busy = handle.declined().is_some_and(|(code, _)| code == BUSY);
        let waited = app.clock.boot().saturating_sub(started);
        if !busy || !matches!(outcome, Err(WireError::Cancelled)) || waited >= app.config.agents.wait {
            break (session, handle, outcome);
        }
        // Its last session is not over there: a command after it still runs, or its lines have not heard yet that
        // this server was started anew.
        app.agents.take_down(session);
        for _ in 0..AGAIN {
            if control.cancel.is_cancelled() {
                break;
            }
            app.clock.sleep(TURN);
        }
    };
    // First remembered, then gone: an agent that asks in between must find one of the two.
    if let Ok((_, tally)) = &outcome {
        app.agents.finish(session, agent, tally.applied);
    }
    app.agents.take_down(session);
    if let Err(error) = shelf.sent.lock().unwrap_or_else(PoisonError::into_inner).flush() {
        tracing::warn!("what `{agent}` sent is not remembered: {error}");
    }
    let (report, tally) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            app.agents.say(agent, &Message::Cancel { session });
            return Err(cause(error, &handle, control, agent));
        }
    };
    tracing::info!(
        agent,
        unit = config.unit,
        files = tally.files,
        kept = tally.kept,
        bytes = tally.bytes,
        messages = tally.received,
        reconnects = tally.reconnects,
        "an agent's unit is here"
    );
    Ok((believed(&report, &tally, begun, started, app)?, sent))
}

/// Waits until the agent is connected; gives its start.
fn wait_for(app: &App, agent: &str, control: &Control, since: Duration) -> Result<[u8; 16]> {
    loop {
        if control.cancel.is_cancelled() {
            return Err(kuramori_source::Error::Cancelled(agent.to_owned()).into());
        }
        if let Some(start) = app.agents.find(agent, TURN) {
            return Ok(start);
        }
        let waited = app.clock.boot().saturating_sub(since);
        if waited >= app.config.agents.wait {
            return Err(AgentsError::Away { agent: agent.to_owned(), seconds: waited.as_secs() }.into());
        }
    }
}

/// Why it really ended.
fn cause(error: WireError, handle: &Handle, control: &Control, agent: &str) -> ServerError {
    let agent = agent.to_owned();
    if !matches!(error, WireError::Cancelled) {
        return AgentsError::Wire(error).into();
    }
    if let Some((code, why)) = handle.declined() {
        return AgentsError::Declined { agent, code, why }.into();
    }
    if handle.was_restarted() {
        return AgentsError::Restarted { agent }.into();
    }
    if control.cancel.is_cancelled() {
        return kuramori_source::Error::Cancelled(agent).into();
    }
    AgentsError::Wire(error).into()
}

/// The agent's report with our own counts in place of its.
fn believed(
    report: &str,
    tally: &Tally,
    begun: jiff::Timestamp,
    started: Duration,
    app: &App,
) -> Result<Report> {
    let mut report: Report = serde_json::from_str(report)
        .map_err(|error| WireError::Protocol(format!("a report that cannot be read: {}", chain(&error))))?;
    report.items = tally.items;
    report.files = tally.files;
    report.bytes = tally.bytes;
    report.kept = tally.kept;
    report.fault_count = tally.faults;
    report.reconnects = tally.reconnects;
    report.begun = begun;
    report.seconds = app.clock.boot().saturating_sub(started).as_secs_f64();
    report.faults.truncate(LISTED);
    // Its clock may be wrong; nothing can be newer than its arrival here.
    report.newest = report.newest.map(|newest| newest.min(app.clock.now()));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_cut_gives_its_whole_ids_and_goes_on_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let sent = Sent::at(&folder.path().join("ward.sent"));
        assert_eq!(sent.ids().count(), 0);
        fs_err::write(&sent.path, [[1_u8; 32].as_slice(), &[2; 32], &[3; 7]].concat()).unwrap();
        assert_eq!(sent.ids().collect::<Vec<_>>(), [BlobId([1; 32]), BlobId([2; 32])]);
        sent.append().unwrap().write_all(&[4; 32]).unwrap();
        assert_eq!(sent.ids().collect::<Vec<_>>(), [BlobId([1; 32]), BlobId([2; 32]), BlobId([4; 32])]);
        sent.done();
        sent.done();
        assert_eq!(sent.ids().count(), 0);
    }
}
