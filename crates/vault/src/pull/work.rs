//! One worker: take the next task, do it, say how it ended.

use std::sync::{Condvar, Mutex, PoisonError};

use kuramori_model::finding::{Finding, Severity};

use super::{
    Pull, about, lock,
    order::{Board, Task},
    outcome::gather,
};
use crate::{
    error::{Error, Result},
    puller::Source,
};

impl Pull<'_> {
    pub(super) fn work(
        &self,
        mut source: Option<Box<dyn Source>>,
        sources: &(dyn Fn() -> Result<Box<dyn Source>> + Sync),
        board: &Mutex<Board>,
        changed: &Condvar,
        found: &Mutex<Vec<Finding>>,
    ) {
        while let Some(task) = self.next(board, changed) {
            let outcome = match &mut source {
                Some(ready) => Ok(ready),
                None => sources().map(|made| source.insert(made)),
            }
            .and_then(|source| self.perform(&task, &mut **source, board, found));
            if let Err(Error::Puller { .. } | Error::Misbehaved(_) | Error::Network(_)) = &outcome {
                // Its process may be dead or in the middle of something.
                source = None;
            }
            self.settle(&task, outcome, board, found);
            changed.notify_all();
        }
    }

    /// The next task, or none when there is nothing left to do for any worker.
    fn next(&self, board: &Mutex<Board>, changed: &Condvar) -> Option<Task> {
        let mut guard = lock(board);
        loop {
            if self.stop.draining() {
                return None;
            }
            if let Some(task) = guard.pick() {
                return Some(task);
            }
            if guard.idle() {
                return None;
            }
            let pause = std::time::Duration::from_millis(200);
            guard = changed.wait_timeout(guard, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn perform(
        &self,
        task: &Task,
        source: &mut dyn Source,
        board: &Mutex<Board>,
        found: &Mutex<Vec<Finding>>,
    ) -> Result<()> {
        let name = lock(board).name(task.repository).to_owned();
        match task.file {
            None => {
                let mut findings = Vec::new();
                let frozen = self.list(&name, source, &mut findings);
                gather(&mut lock(found), findings);
                let frozen = frozen?;
                if let Some(window) = self.window {
                    let named: Vec<_> = frozen.snapshots.iter().map(|(id, _)| *id).collect();
                    self.register.listed(&name, &named, window)?;
                }
                lock(board).freeze(task.repository, frozen);
            }
            Some((kind, id, size)) => {
                self.transfer(source, &name, kind, id, size)?;
                self.register.fetched(&name, kind, &[(id, size)], self.window, &self.now)?;
                lock(&self.brought).entry(name).or_default().insert(id);
                lock(board).fetched(task.repository, kind, size);
            }
        }
        Ok(())
    }

    /// Takes note of how a task ended, and decides what becomes of its repository.
    fn settle(&self, task: &Task, outcome: Result<()>, board: &Mutex<Board>, found: &Mutex<Vec<Finding>>) {
        let mut board = lock(board);
        board.ended(task);
        let Err(error) = outcome else { return };
        if self.stop.aborted() || matches!(error, Error::WindowOver(_)) {
            board.put_back(task);
            return;
        }
        let name = board.name(task.repository).to_owned();
        tracing::warn!(
            repository = name,
            error = kuramori_model::fault::chain(&error),
            "a step of the pull failed"
        );
        match &error {
            Error::Vanished(_)
                if task.file.is_some() && board.relist(task.repository, self.limits.relists) => {}
            Error::Puller { .. }
            | Error::Network(_)
            | Error::Misbehaved(_)
            | Error::Vanished(_)
            | Error::WrongBytes(_)
                if board.again(task) => {}
            // One damaged file at the primary must not keep the others from coming.
            Error::WrongBytes(file) if board.skip(task) => {
                let finding = about("vault.wrong-bytes", Severity::Alarm, "check-primary", &name);
                gather(&mut lock(found), [finding.with("file", file.as_str())]);
            }
            _ => {
                let text = kuramori_model::fault::chain(&error);
                let (code, action) = match &error {
                    Error::Misbehaved(_) => ("vault.primary-misbehaves", "check-primary"),
                    Error::Io { source, .. } if is_full(source) => ("vault.disk-full", "make-room"),
                    Error::Io { .. } | Error::Register(_) => ("vault.disk-failed", "check-disk"),
                    _ => ("vault.pull-failed", "check-primary"),
                };
                let finding = about(code, Severity::Alarm, action, &name);
                gather(&mut lock(found), [finding.with("why", text.clone())]);
                board.give_up(task.repository, text);
            }
        }
    }
}

/// Whether the vault's own disk has no room.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
