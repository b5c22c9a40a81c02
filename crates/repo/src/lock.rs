//! restic's locks: who works in the repository, and whether alone.
//!
//! A lock is a file. Whoever wants one looks for conflicting locks, writes its own, waits 200 ms, looks
//! again, and takes its own back if somebody else was as fast. A holder renews its lock every five minutes
//! (new file first, then the old one goes). Any client may delete any lock, so a lock guards against an
//! administrator's command line, never against a hostile writer.
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
    stop: bool,
    failure: Option<String>,
}

impl LockGuard {
    /// [`Error::LockLost`] when the lock could not be renewed for 22 minutes: whoever writes must stop now.
    pub fn check(&self) -> Result<()> {
        let state = lock(&self.shared.state);
        if self.shared.core.context.clock.boot().saturating_sub(state.renewed) < GIVE_UP {
            return Ok(());
        }
        let why = state.failure.clone().unwrap_or_else(|| "it was not renewed for 22 minutes".to_owned());
        Err(Error::LockLost { why })
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
        let id = self.id();
        if let Err(error) = self.shared.core.store.remove(FileKind::Lock, id) {
            tracing::warn!(lock = %id, "cannot remove our lock: {}", kuramori_model::fault::chain(&error));
        }
        lock(&OURS).remove(&id);
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
    let state = State { id, renewed: core.context.clock.boot(), stop: false, failure: None };
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
        let old = state.id;
        drop(state);
        let outcome = write(&held.core, held.mode).and_then(|new| {
            lock(&OURS).insert(new);
            Ok((new, held.core.store.remove(FileKind::Lock, old)?))
        });
        state = lock(&held.state);
        match outcome {
            Ok((new, ())) => {
                lock(&OURS).remove(&old);
                state.id = new;
                state.renewed = clock.boot();
                state.failure = None;
                next = state.renewed + RENEW;
            }
            Err(error) => {
                tracing::warn!(
                    "cannot renew the repository's lock: {}",
                    kuramori_model::fault::chain(&error)
                );
                state.failure = Some(kuramori_model::fault::chain(&error));
                next = clock.boot() + RENEW / 10;
            }
        }
    }
}
