//! Repositories, what is pinned of them, and their files.

use std::collections::{HashMap, HashSet};

use kuramori_repo::store::{FileId, FileKind};
use serde::Serialize;
use sqlx::Row;

use super::{Register, Time, id, signed, unsigned};
use crate::error::Result;

/// What the vault knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileState {
    /// Here, its bytes have the hash in its name.
    Fetched,
    /// Every blob in it is what its id says.
    Verified,
    /// Removed by our own retention.
    Dropped,
    /// Forged: its name is right and its content is not.
    Quarantined,
}

impl FileState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Verified => "verified",
            Self::Dropped => "dropped",
            Self::Quarantined => "quarantined",
        }
    }

    fn parse(text: &str) -> sqlx::Result<Self> {
        [Self::Fetched, Self::Verified, Self::Dropped, Self::Quarantined]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| sqlx::Error::Decode(format!("`{text}` is no state of a file").into()))
    }
}

/// A file that the vault knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Size in bytes.
    pub size: u64,
    /// What is known.
    pub state: FileState,
    /// When it came, in accumulated seconds.
    pub fetched_s: u64,
}

/// A repository as the vault knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryRow {
    /// Its name.
    pub name: String,
    /// `new` until a person or the configuration names it, `known`, `vanished`.
    pub state: String,
    /// Wall clock of the first sight.
    pub first_seen: String,
    /// Accumulated seconds of the last listing.
    pub listed_s: Option<u64>,
    /// Files at the primary that are not here yet.
    pub backlog_files: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Since when something is missing, in accumulated seconds.
    pub backlog_since_s: Option<u64>,
    /// Bytes of packs here.
    pub bytes: u64,
    /// Packs here that are not proven yet.
    pub unproven: u64,
    /// Packs and snapshots that were quarantined.
    pub quarantined: u64,
    /// Bytes of everything that lies here, whatever became of it: what the quota counts.
    pub held: u64,
    /// A person has said that it belongs here.
    pub confirmed: bool,
}

impl Register {
    /// All repositories by name.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn repositories(&self) -> Result<Vec<RepositoryRow>> {
        self.run(async |db| {
            let rows = sqlx::query(
                "select name, state, first_seen, listed_s, backlog_files, backlog_bytes, backlog_since_s, confirmed, \
                 (select coalesce(sum(size), 0) from files where repository = name \
                    and state in ('fetched', 'verified', 'quarantined')) as held, \
                 (select coalesce(sum(size), 0) from files where repository = name and kind = 'data' \
                    and state in ('fetched', 'verified')) as bytes, \
                 (select count(*) from files where repository = name and kind = 'data' and state = 'fetched') \
                    as unproven, \
                 (select count(*) from files where repository = name and state = 'quarantined') as quarantined \
                 from repositories order by name",
            )
            .fetch_all(db)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(RepositoryRow {
                        name: row.try_get("name")?,
                        state: row.try_get("state")?,
                        first_seen: row.try_get("first_seen")?,
                        listed_s: row.try_get::<Option<i64>, _>("listed_s")?.map(unsigned),
                        backlog_files: unsigned(row.try_get("backlog_files")?),
                        backlog_bytes: unsigned(row.try_get("backlog_bytes")?),
                        backlog_since_s: row.try_get::<Option<i64>, _>("backlog_since_s")?.map(unsigned),
                        bytes: unsigned(row.try_get("bytes")?),
                        unproven: unsigned(row.try_get("unproven")?),
                        quarantined: unsigned(row.try_get("quarantined")?),
                        held: unsigned(row.try_get("held")?),
                        confirmed: row.try_get("confirmed")?,
                    })
                })
                .collect()
        })
    }

    /// Takes note of a repository. True if it is new.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn see(&self, name: &str, state: &str, now: &Time) -> Result<bool> {
        self.run(async |db| {
            let done = sqlx::query(
                "insert into repositories (name, state, first_seen) values (?1, ?2, ?3) on conflict (name) do nothing",
            )
            .bind(name)
            .bind(state)
            .bind(now.wall.to_string())
            .execute(db)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    }

    /// Sets a repository's state.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn set_state(&self, name: &str, state: &str) -> Result<()> {
        self.run(async |db| {
            sqlx::query("update repositories set state = ?2 where name = ?1")
                .bind(name)
                .bind(state)
                .execute(db)
                .await?;
            Ok(())
        })
    }

    /// A person knows this repository.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn confirm(&self, name: &str) -> Result<bool> {
        self.run(async |db| {
            let done = sqlx::query("update repositories set state = 'known', confirmed = 1 where name = ?1")
                .bind(name)
                .execute(db)
                .await?;
            Ok(done.rows_affected() == 1)
        })
    }

    /// Records what is missing after a listing or a transfer. The age goes on as long as anything is.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn set_backlog(&self, name: &str, files: u64, bytes: u64, now: &Time) -> Result<()> {
        self.run(async |db| {
            sqlx::query(
                "update repositories set backlog_files = ?2, backlog_bytes = ?3, listed_s = ?4, \
                 backlog_since_s = case when ?2 = 0 then null else coalesce(backlog_since_s, ?4) end where name = ?1",
            )
            .bind(name)
            .bind(signed(files))
            .bind(signed(bytes))
            .bind(signed(now.accumulated_s))
            .execute(db)
            .await?;
            Ok(())
        })
    }

    /// What was pinned at enrolment: the hash of `config` and the names of `keys/*`.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn pins(&self, repository: &str) -> Result<(Option<FileId>, HashSet<FileId>)> {
        self.run(async |db| {
            let rows: Vec<(String, Vec<u8>)> =
                sqlx::query_as("select kind, id from pins where repository = ?")
                    .bind(repository)
                    .fetch_all(db)
                    .await?;
            let (mut config, mut keys) = (None, HashSet::new());
            for (kind, bytes) in rows {
                if kind == "config" {
                    config = Some(id(bytes)?);
                } else {
                    keys.insert(id(bytes)?);
                }
            }
            Ok((config, keys))
        })
    }

    /// Pins `config` and `keys/*` for good.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn pin(&self, repository: &str, config: FileId, keys: &[FileId]) -> Result<()> {
        self.transact(async |db| {
            sqlx::query("delete from pins where repository = ?").bind(repository).execute(&mut *db).await?;
            let all = std::iter::once(("config", config)).chain(keys.iter().map(|key| ("keys", *key)));
            for (kind, id) in all {
                sqlx::query("insert into pins (repository, kind, id) values (?, ?, ?)")
                    .bind(repository)
                    .bind(kind)
                    .bind(id.0.to_vec())
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        })
    }

    /// Everything known of one kind of files.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn files(&self, repository: &str, kind: FileKind) -> Result<HashMap<FileId, Known>> {
        self.run(async |db| {
            let rows: Vec<(Vec<u8>, i64, String, i64)> = sqlx::query_as(
                "select id, size, state, fetched_s from files where repository = ? and kind = ?",
            )
            .bind(repository)
            .bind(kind.folder())
            .fetch_all(db)
            .await?;
            rows.into_iter()
                .map(|(bytes, size, state, fetched_s)| {
                    let state = FileState::parse(&state)?;
                    Ok((id(bytes)?, Known { size: unsigned(size), state, fetched_s: unsigned(fetched_s) }))
                })
                .collect()
        })
    }

    /// Takes note of files that lie here whole. What is already known stays as it is.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn fetched(
        &self,
        repository: &str,
        kind: FileKind,
        files: &[(FileId, u64)],
        window: Option<u64>,
        now: &Time,
    ) -> Result<()> {
        self.transact(async |db| {
            for (id, size) in files {
                sqlx::query(
                    "insert into files (repository, kind, id, size, state, window, fetched_s) \
                     values (?, ?, ?, ?, 'fetched', ?, ?) on conflict do nothing",
                )
                .bind(repository)
                .bind(kind.folder())
                .bind(id.0.to_vec())
                .bind(signed(*size))
                .bind(window.map(signed))
                .bind(signed(now.accumulated_s))
                .execute(&mut *db)
                .await?;
            }
            Ok(())
        })
    }

    /// Sets the state of files, all or none.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn set_files(
        &self,
        repository: &str,
        kind: FileKind,
        files: &[FileId],
        state: FileState,
        why: Option<&str>,
    ) -> Result<()> {
        self.transact(async |db| {
            for id in files {
                sqlx::query(
                    "update files set state = ?4, why = ?5 where repository = ?1 and kind = ?2 and id = ?3",
                )
                .bind(repository)
                .bind(kind.folder())
                .bind(id.0.to_vec())
                .bind(state.as_str())
                .bind(why)
                .execute(&mut *db)
                .await?;
            }
            Ok(())
        })
    }

    /// Forgets files: they are not here, and may be fetched again.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn forget_files(&self, repository: &str, kind: FileKind, files: &[FileId]) -> Result<()> {
        self.transact(async |db| {
            for id in files {
                sqlx::query("delete from files where repository = ? and kind = ? and id = ?")
                    .bind(repository)
                    .bind(kind.folder())
                    .bind(id.0.to_vec())
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        })
    }
}
