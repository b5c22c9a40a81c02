//! restic's locks: who works in the repository, and whether alone.
//!
//! A lock is a file. Whoever wants one looks for conflicting locks, writes its own, waits 200 ms, looks
//! again, and takes its own back if somebody else was as fast. A holder renews its lock every five minutes
//! (new file first, then the old one goes). Any client may delete any lock, so a lock guards against an
//! administrator's command line, never against a hostile writer.
//!
//! A holder whose lock was gone for a while can never go on as if nothing had happened: others may have worked
//! alone meanwhile. So a lock is *lost for good* when 22 minutes passed without a renewal (a machine that
//! slept, a store that did not answer), or when somebody removed its file. Before the one write that makes
//! work visible, and before anything is removed, [`LockGuard::confirm`] asks the store itself.
//!
//! A lock that the holder's crash left behind blocks until somebody removes it; the ones that *this* machine
//! left behind, whose process is gone, are removed by us at the next start.

use std::{
    collections::HashSet,
    sync::{Arc, Condvar, LazyLock, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    Error, Repository, Result,
    format::{self, lock::Lock},
    repository::Core,
    store::{FileId, FileKind},
};

const RENEW: Duration = Duration::from_mins(5);
/// restic calls a lock stale after 30 minutes; a holder that could not renew for this long stops before.
const GIVE_UP: Duration = Duration::from_mins(22);
const SETTLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(1);
const REMOVED: &str = "somebody removed its file, so others may have worked here alone";

/// Locks that live in this process, so that a lock with our process id and nobody behind it is known.
static OURS: LazyLock<Mutex<HashSet<FileId>>> = LazyLock::new(Mutex::default);

/// With others or alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Backup, restore, mirror.
    Shared,
    /// Forget, prune, removing keys.
    Exclusive,
}

/// A lock that is held; renewed in the background, removed when dropped.
#[derive(Debug)]
pub struct LockGuard {
    shared: Arc<Held>,
    renewer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Held {
    core: Arc<Core>,
    mode: LockMode,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    id: FileId,
    /// Boot time of the last renewal that went through.
    renewed: Duration,
    /// Files of this lock that a newer one replaced and that could not be removed yet.
    old: Vec<FileId>,
    stop: bool,
    /// Why the last renewal did not go through.
    failure: Option<String>,
    /// Why the lock is lost; never taken back.
    lost: Option<String>,
}

impl State {
    /// Notes a lock that was not renewed in time, whatever happens to it later.
    fn judge(&mut self, now: Duration) -> Result<()> {
        if self.lost.is_none() && now.saturating_sub(self.renewed) >= GIVE_UP {
            let why = self.failure.take();
            self.lost = Some(why.unwrap_or_else(|| "it was not renewed for 22 minutes".to_owned()));
        }
        match &self.lost {
            Some(why) => Err(Error::LockLost { why: why.clone() }),
            None => Ok(()),
        }
    }
}

impl LockGuard {
    /// [`Error::LockLost`] once the lock could not be renewed for 22 minutes, or was found removed: whoever
    /// writes must stop now. Asks nobody; see [`confirm`](Self::confirm).
    pub fn check(&self) -> Result<()> {
        lock(&self.shared.state).judge(self.shared.core.context.clock.boot())
    }

    /// Like [`check`](Self::check), and asks the store whether the lock's file is still there.
    pub fn confirm(&self) -> Result<()> {
        self.check()?;
        loop {
            let id = self.id();
            match self.shared.core.store.size(FileKind::Lock, id) {
                Ok(_) => return self.check(),
                // Renewed between the two looks: look for its new name.
                Err(Error::Missing { .. }) if self.id() != id => {}
                Err(Error::Missing { .. }) => {
                    lock(&self.shared.state).lost = Some(REMOVED.to_owned());
                    return self.check();
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// The lock file as it is named now.
    pub fn id(&self) -> FileId {
        lock(&self.shared.state).id
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.wake.notify_all();
        if let Some(renewer) = self.renewer.take() {
            // The thread holds nothing of value; a panic in it was already reported.
            let _ = renewer.join();
        }
        let mut ids = std::mem::take(&mut lock(&self.shared.state).old);
        ids.push(self.id());
        for id in ids {
            if let Err(error) = self.shared.core.store.remove(FileKind::Lock, id) {
                tracing::warn!(lock = %id, "cannot remove our lock: {}", kuramori_model::fault::chain(&error));
            }
            lock(&OURS).remove(&id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Any> Repository<Any> {
    /// Takes a lock, waiting up to `patience` for others to finish; then [`Error::Locked`] names the holder.
    pub fn lock(&self, mode: LockMode, patience: Duration) -> Result<LockGuard> {
        let clock = &self.core.context.clock;
        let deadline = clock.boot() + patience;
        loop {
            match take(&self.core, mode) {
                Err(Error::Locked { .. }) if clock.boot() < deadline => clock.sleep(RETRY),
                other => return other,
            }
        }
    }

    /// Every lock with its id, readable or not.
    pub fn locks(&self) -> Result<Vec<(FileId, Result<Lock>)>> {
        read_all(&self.core)
    }

    /// Removes every lock, as `restic unlock --remove-all` does: for an administrator who knows that nobody
    /// works here.
    pub fn remove_all_locks(&self) -> Result<usize> {
        let ids = self.core.list(FileKind::Lock)?;
        for id in &ids {
            self.core.store.remove(FileKind::Lock, *id)?;
        }
        Ok(ids.len())
    }
}

fn read_all(core: &Core) -> Result<Vec<(FileId, Result<Lock>)>> {
    let mut locks = Vec::new();
    for id in core.list(FileKind::Lock)? {
        let read = core.load_file(FileKind::Lock, id).and_then(|json| {
            format::lock::decode(&json).map_err(|flaw| Error::damaged(FileKind::Lock, id, flaw.0))
        });
        match read {
            Err(Error::Missing { .. }) => {}
            read @ (Ok(_) | Err(Error::Damaged { .. })) => locks.push((id, read)),
            Err(error) => return Err(error),
        }
    }
    Ok(locks)
}

fn take(core: &Arc<Core>, mode: LockMode) -> Result<LockGuard> {
    conflicts(core, mode, None)?;
    let id = write(core, mode)?;
    lock(&OURS).insert(id);
    core.context.clock.sleep(SETTLE);
    if let Err(conflict) = conflicts(core, mode, Some(id)) {
        let removed = core.store.remove(FileKind::Lock, id);
        lock(&OURS).remove(&id);
        removed?;
        return Err(conflict);
    }
    let state = State {
        id,
        renewed: core.context.clock.boot(),
        old: Vec::new(),
        stop: false,
        failure: None,
        lost: None,
    };
    let shared =
        Arc::new(Held { core: Arc::clone(core), mode, state: Mutex::new(state), wake: Condvar::new() });
    let held = Arc::clone(&shared);
    let renewer = std::thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || renew(&held))
        .map_err(|error| Error::io("start a thread for", "locks", error));
    match renewer {
        Ok(renewer) => Ok(LockGuard { shared, renewer: Some(renewer) }),
        Err(error) => {
            drop(LockGuard { shared, renewer: None });
            Err(error)
        }
    }
}

fn write(core: &Core, mode: LockMode) -> Result<FileId> {
    let lock = Lock {
        time: core.context.clock.now(),
        exclusive: mode == LockMode::Exclusive,
        hostname: core.context.hostname.clone(),
        username: core.context.username.clone(),
        pid: i64::from(std::process::id()),
        uid: Some(rustix::process::getuid().as_raw()),
        gid: Some(rustix::process::getgid().as_raw()),
    };
    let json = format::lock::encode(&lock).map_err(|flaw| Error::Bug { what: flaw.0 })?;
    core.save_file(FileKind::Lock, &json)
}

/// Fails with the holder of a lock that does not go with `mode`; removes what this machine left behind.
fn conflicts(core: &Core, mode: LockMode, own: Option<FileId>) -> Result<()> {
    for (id, lock) in read_all(core)? {
        if own == Some(id) {
            continue;
        }
        let lock = match lock {
            Ok(lock) => lock,
            // No writer leaves half a lock, so this is damage or mischief. It must not stop backups; to work
            // alone beside an unknown holder would be too bold.
            Err(error) if mode == LockMode::Shared => {
                tracing::warn!(lock = %id, "passes over a lock that cannot be read: {error}");
                continue;
            }
            Err(_) => {
                return Err(Error::Locked {
                    holder: format!("somebody whose lock `locks/{id}` cannot be read"),
                });
            }
        };
        if left_behind(core, id, &lock) {
            tracing::info!(lock = %id, pid = lock.pid, "removes a lock that a dead process of this machine left");
            core.store.remove(FileKind::Lock, id)?;
            continue;
        }
        if lock.exclusive || mode == LockMode::Exclusive {
            let age = if core.context.clock.now().duration_since(lock.time).as_secs() > 30 * 60 {
                "; it was not renewed for 30 minutes, its holder is probably gone"
            } else {
                ""
            };
            let holder = format!(
                "process {} of `{}` on `{}` since {}{age}",
                lock.pid, lock.username, lock.hostname, lock.time
            );
            return Err(Error::Locked { holder });
        }
    }
    Ok(())
}

fn left_behind(core: &Core, id: FileId, held: &Lock) -> bool {
    if held.hostname != core.context.hostname {
        return false;
    }
    let Some(pid) = i32::try_from(held.pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    if pid == rustix::process::getpid() {
        return !lock(&OURS).contains(&id);
    }
    rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

fn renew(held: &Held) {
    let clock = &held.core.context.clock;
    let mut state = lock(&held.state);
    let mut next = state.renewed + RENEW;
    while !state.stop {
        if clock.boot() < next {
            // The condition is asked again each second, because an injected clock may run faster than ours.
            state = held
                .wake
                .wait_timeout(state, Duration::from_secs(1))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            continue;
        }
        if state.judge(clock.boot()).is_err() {
            // A machine that slept wakes up here. A new lock would only hide that the old one had lapsed.
            return;
        }
        let id = state.id;
        drop(state);
        let written = match held.core.store.size(FileKind::Lock, id) {
            Ok(_) => write(&held.core, held.mode).map(Some),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        state = lock(&held.state);
        match written {
            Ok(Some(new)) => {
                lock(&OURS).insert(new);
                // The new name counts from now on; only then the old file goes, so that `confirm` always
                // finds one of them.
                state.old.push(id);
                state.id = new;
                state.renewed = clock.boot();
                state.failure = None;
                next = state.renewed + RENEW;
            }
            Ok(None) => state.lost = Some(REMOVED.to_owned()),
            Err(error) => {
                let why = kuramori_model::fault::chain(&error);
                tracing::warn!("cannot renew the repository's lock: {why}");
                state.failure = Some(why);
                next = clock.boot() + RENEW / 10;
            }
        }
        let old = std::mem::take(&mut state.old);
        drop(state);
        let kept = remove_old(&held.core, old);
        state = lock(&held.state);
        state.old = kept;
    }
}

/// Removes files of our lock that a newer one replaced; gives those that are still there.
fn remove_old(core: &Core, mut old: Vec<FileId>) -> Vec<FileId> {
    old.retain(|id| match core.store.remove(FileKind::Lock, *id) {
        Ok(()) => {
            lock(&OURS).remove(id);
            false
        }
        Err(error) => {
            let why = kuramori_model::fault::chain(&error);
            tracing::warn!(lock = %id, "cannot remove an older file of our lock yet: {why}");
            true
        }
    });
    old
}
