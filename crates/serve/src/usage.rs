//! How much each repository holds, for the quota.
//!
//! A repository is counted on disk when it is first written to, then the sum is kept in memory: what is
//! stored plus what running uploads have reserved. Housekeeping by other programs makes it too high, never
//! too low, so before a refusal it is counted again, at most twice a minute.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kuramori_model::clock::Clock;

use crate::{Kind, RepositoryName};

/// A file takes whole blocks, so a flood of tiny files uses up a quota too.
const BLOCK: u64 = 4096;
const RECOUNT: Duration = Duration::from_secs(30);

/// What a file of this size counts.
fn charge(size: u64) -> u64 {
    size.max(1).div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[derive(Debug, Default)]
struct Account {
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    stored: u64,
    reserved: u64,
    counted: Option<Duration>,
}

/// The sums of all repositories.
#[derive(Debug)]
pub(crate) struct Usage {
    clock: Arc<dyn Clock>,
    accounts: Mutex<HashMap<RepositoryName, Arc<Account>>>,
}

impl Usage {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, accounts: Mutex::default() }
    }

    /// Opens a reservation of nothing. `quota` of `None` is unlimited and counts nothing on disk.
    pub(crate) async fn open(
        &self,
        repository: &RepositoryName,
        folder: &Path,
        quota: Option<u64>,
    ) -> io::Result<Reserved> {
        let account = self
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(repository.clone())
            .or_default()
            .clone();
        let reserved = Reserved { account, amount: 0, quota };
        if quota.is_some() && reserved.lock().counted.is_none() {
            self.recount(&reserved, folder).await?;
        }
        Ok(reserved)
    }

    /// Raises the reservation to a file of `size` bytes. `false`: over quota.
    pub(crate) async fn raise(&self, reserved: &mut Reserved, size: u64, folder: &Path) -> io::Result<bool> {
        if reserved.try_raise(size) {
            return Ok(true);
        }
        let old = reserved.lock().counted.is_none_or(|at| self.clock.boot().saturating_sub(at) >= RECOUNT);
        if !old {
            return Ok(false);
        }
        self.recount(reserved, folder).await?;
        Ok(reserved.try_raise(size))
    }

    /// A file of `size` bytes is gone.
    pub(crate) fn removed(&self, repository: &RepositoryName, size: u64) {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(repository) {
            let mut sums = account.sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.stored = sums.stored.saturating_sub(charge(size));
        }
    }

    /// Counts on a thread that may block: a large repository takes a while.
    async fn recount(&self, reserved: &Reserved, folder: &Path) -> io::Result<()> {
        let folder = folder.to_owned();
        let stored =
            tokio::task::spawn_blocking(move || count(&folder)).await.map_err(io::Error::other)??;
        let mut sums = reserved.lock();
        sums.stored = stored;
        sums.counted = Some(self.clock.boot());
        Ok(())
    }
}

/// Room that a running upload holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    account: Arc<Account>,
    amount: u64,
    quota: Option<u64>,
}

impl Reserved {
    /// Turns the reservation into stored bytes.
    pub(crate) fn stored(mut self, size: u64) {
        let amount = std::mem::take(&mut self.amount);
        let mut sums = self.lock();
        sums.reserved = sums.reserved.saturating_sub(amount);
        sums.stored = sums.stored.saturating_add(charge(size));
    }

    fn try_raise(&mut self, size: u64) -> bool {
        let Some(quota) = self.quota else { return true };
        let more = charge(size).saturating_sub(self.amount);
        let mut sums = self.lock();
        if sums.stored.saturating_add(sums.reserved).saturating_add(more) > quota {
            return false;
        }
        sums.reserved += more;
        drop(sums);
        self.amount += more;
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sums> {
        self.account.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let amount = self.amount;
        let mut sums = self.lock();
        sums.reserved = sums.reserved.saturating_sub(amount);
    }
}

fn count(folder: &Path) -> io::Result<u64> {
    fn files(folder: &Path, deep: bool) -> io::Result<u64> {
        let mut sum: u64 = 0;
        let entries = match fs_err::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(meta) if meta.is_file() => sum = sum.saturating_add(charge(meta.len())),
                Ok(meta) if meta.is_dir() && deep => sum = sum.saturating_add(files(&entry.path(), false)?),
                // Files come and go while we count.
                _ => {}
            }
        }
        Ok(sum)
    }
    let mut sum = 0;
    for kind in Kind::FOLDERS {
        sum += files(&folder.join(kind.folder()), kind == Kind::Data)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::ManualClock;

    use super::*;

    #[tokio::test]
    async fn counts_reserves_and_notices_housekeeping() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let file = folder.join("data/00/x");
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(&file, vec![0; 5000]).unwrap();
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let usage = Usage::new(clock.clone());
        let name = RepositoryName::new("x").unwrap();
        let open = async || usage.open(&name, folder, Some(5 * BLOCK)).await.unwrap();

        let mut first = open().await;
        assert!(usage.raise(&mut first, 2 * BLOCK, folder).await.unwrap());
        let mut second = open().await;
        assert!(!usage.raise(&mut second, BLOCK + 1, folder).await.unwrap());
        assert!(usage.raise(&mut second, 1, folder).await.unwrap());
        drop(second);
        first.stored(2 * BLOCK);
        let mut third = open().await;
        assert!(!usage.raise(&mut third, 2 * BLOCK, folder).await.unwrap());

        fs_err::remove_file(&file).unwrap();
        assert!(!usage.raise(&mut third, 2 * BLOCK, folder).await.unwrap(), "not counted again at once");
        clock.advance(RECOUNT);
        assert!(usage.raise(&mut third, 2 * BLOCK, folder).await.unwrap());

        let mut free = usage.open(&name, folder, None).await.unwrap();
        assert!(usage.raise(&mut free, u64::MAX, folder).await.unwrap());
    }
}
