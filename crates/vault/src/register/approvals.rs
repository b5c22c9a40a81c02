//! Officers, their paper codes, requests and who said yes.

use kuramori_model::{
    approval::Proposal,
    gate::{Signature, VerifyingKey},
};
use serde::Serialize;
use sqlx::{Row, sqlite::SqliteRow};

use super::{Register, Time, signed, unsigned};
use crate::error::Result;

/// Somebody who may approve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Officer {
    /// Their name.
    pub name: String,
    /// Their public key; none for somebody who has paper only.
    pub key: Option<VerifyingKey>,
    /// Since when, in accumulated seconds.
    pub enrolled_s: u64,
    /// No longer one since then.
    pub retired_s: Option<u64>,
    /// Lines of the newest sheet that are left.
    pub codes_left: u32,
}

/// The slow hash of one line of a sheet.
#[derive(Debug, Clone)]
pub struct Code {
    /// The sheet's number.
    pub sheet: u32,
    /// The line's number.
    pub number: u32,
    /// Its salt.
    pub salt: Vec<u8>,
    /// scrypt over the code.
    pub hash: Vec<u8>,
    /// The request that it was used for.
    pub used_for: Option<u64>,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// It may gather approvals and be carried out.
    Open,
    /// It was carried out.
    Used,
    /// Somebody took it back.
    Withdrawn,
}

impl RequestState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A request as it is kept.
#[derive(Debug, Clone, Serialize)]
pub struct RequestRow {
    /// Its number.
    pub request: u64,
    /// What is wanted.
    pub proposal: Proposal,
    /// When it was asked, in accumulated seconds.
    pub created_s: u64,
    /// When it was asked, wall clock, for people.
    pub created: String,
    /// How far it has come.
    pub state: RequestState,
    /// Who said yes.
    pub approvals: Vec<ApprovalRow>,
}

/// One yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApprovalRow {
    /// Whose.
    pub officer: String,
    /// With this signature; none for a paper code.
    pub signature: Option<Signature>,
    /// When, in accumulated seconds.
    pub at_s: u64,
}

impl Register {
    /// Everybody who is or was an officer, by name.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn officers(&self) -> Result<Vec<Officer>> {
        self.run(async |db| {
            let rows = sqlx::query(
                "select name, key, enrolled_s, retired_s, (select count(*) from codes where officer = name \
                 and used_s is null and sheet = (select max(sheet) from codes where officer = name)) as left \
                 from officers order by name",
            )
            .fetch_all(db)
            .await?;
            rows.iter().map(officer).collect()
        })
    }

    /// Enrols an officer, or gives an enrolled one another key.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn enrol(&self, name: &str, key: Option<&VerifyingKey>, now: &Time) -> Result<()> {
        self.run(async |db| {
            sqlx::query(
                "insert into officers (name, key, enrolled_s) values (?1, ?2, ?3) \
                 on conflict (name) do update set key = ?2, retired_s = null",
            )
            .bind(name)
            .bind(key.map(ToString::to_string))
            .bind(signed(now.accumulated_s))
            .execute(db)
            .await
            .map(drop)
        })
    }

    /// Retires an officer; the paper goes with them.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn retire(&self, name: &str, now: &Time) -> Result<()> {
        self.transact(async |db| {
            sqlx::query("update officers set retired_s = ?2 where name = ?1")
                .bind(name)
                .bind(signed(now.accumulated_s))
                .execute(&mut *db)
                .await?;
            sqlx::query("delete from codes where officer = ? and used_s is null")
                .bind(name)
                .execute(db)
                .await?;
            Ok(())
        })
    }

    /// Keeps the hashes of a new sheet; unused lines of older ones end.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn keep_sheet(&self, officer: &str, codes: &[Code]) -> Result<()> {
        self.transact(async |db| {
            sqlx::query("delete from codes where officer = ? and used_s is null")
                .bind(officer)
                .execute(&mut *db)
                .await?;
            for code in codes {
                sqlx::query("insert into codes (officer, sheet, number, salt, hash) values (?, ?, ?, ?, ?)")
                    .bind(officer)
                    .bind(code.sheet)
                    .bind(code.number)
                    .bind(code.salt.as_slice())
                    .bind(code.hash.as_slice())
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        })
    }

    /// How many sheets an officer has had.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn sheets(&self, officer: &str) -> Result<u32> {
        Ok(self.meta(&format!("sheet/{officer}"))?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// The number of the next sheet of an officer.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn next_sheet(&self, officer: &str) -> Result<u32> {
        let next = self.sheets(officer)?.saturating_add(1);
        self.set_meta(&format!("sheet/{officer}"), &next.to_string())?;
        Ok(next)
    }

    /// One line of an officer's newest sheet.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn code(&self, officer: &str, number: u32) -> Result<Option<Code>> {
        self.run(async |db| {
            let row = sqlx::query(
                "select sheet, number, salt, hash, request from codes where officer = ?1 and number = ?2 \
                 order by sheet desc limit 1",
            )
            .bind(officer)
            .bind(number)
            .fetch_optional(db)
            .await?;
            row.map(|row| {
                Ok(Code {
                    sheet: row.try_get("sheet")?,
                    number: row.try_get("number")?,
                    salt: row.try_get("salt")?,
                    hash: row.try_get("hash")?,
                    used_for: row.try_get::<Option<i64>, _>("request")?.map(unsigned),
                })
            })
            .transpose()
        })
    }

    /// Keeps a request and returns its number.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn ask(&self, proposal: &Proposal, now: &Time) -> Result<u64> {
        let text = serde_json::to_string(proposal).unwrap_or_default();
        self.run(async |db| {
            let done = sqlx::query(
                "insert into requests (proposal, hash, created_s, created, state) values (?, ?, ?, ?, 'open')",
            )
            .bind(text)
            .bind(proposal.hash().to_vec())
            .bind(signed(now.accumulated_s))
            .bind(now.wall.to_string())
            .execute(db)
            .await?;
            Ok(unsigned(done.last_insert_rowid()))
        })
    }

    /// The newest requests, newest first; only the one with this number if it is given.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn requests(&self, only: Option<u64>, most: u32) -> Result<Vec<RequestRow>> {
        self.run(async |db| {
            let rows = sqlx::query(
                "select * from requests where ?1 is null or request = ?1 order by request desc limit ?2",
            )
            .bind(only.map(signed))
            .bind(most)
            .fetch_all(&mut *db)
            .await?;
            let mut requests = Vec::new();
            for row in rows {
                let mut request = request(&row)?;
                let given = sqlx::query(
                    "select officer, signature, at_s from approvals where request = ? order by at_s, officer",
                )
                .bind(signed(request.request))
                .fetch_all(&mut *db)
                .await?;
                request.approvals = given.iter().map(approval).collect::<sqlx::Result<_>>()?;
                requests.push(request);
            }
            Ok(requests)
        })
    }

    /// Keeps a yes; with a paper code, the line is used up in the same step. False if somebody was faster: the
    /// officer has said yes already, or the line is used.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn approve(
        &self,
        request: u64,
        officer: &str,
        signature: Option<&Signature>,
        code: Option<&Code>,
        now: &Time,
    ) -> Result<bool> {
        self.run(async |db| {
            let mut transaction = sqlx::Connection::begin(db).await?;
            let done = sqlx::query(
                "insert into approvals (request, officer, signature, at_s) values (?, ?, ?, ?) on conflict do nothing",
            )
            .bind(signed(request))
            .bind(officer)
            .bind(signature.map(ToString::to_string))
            .bind(signed(now.accumulated_s))
            .execute(&mut *transaction)
            .await?;
            let mut fresh = done.rows_affected() == 1;
            if let Some(code) = code {
                let used = sqlx::query(
                    "update codes set used_s = ?4, request = ?5 where officer = ?1 and sheet = ?2 and number = ?3 \
                     and used_s is null",
                )
                .bind(officer)
                .bind(code.sheet)
                .bind(code.number)
                .bind(signed(now.accumulated_s))
                .bind(signed(request))
                .execute(&mut *transaction)
                .await?;
                fresh &= used.rows_affected() == 1;
            }
            if fresh { transaction.commit().await? } else { transaction.rollback().await? }
            Ok(fresh)
        })
    }

    /// Whether an officer's yes to this request was given with a paper code.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn used_a_code(&self, request: u64, officer: &str) -> Result<bool> {
        self.run(async |db| {
            let count: i64 =
                sqlx::query_scalar("select count(*) from codes where request = ? and officer = ?")
                    .bind(signed(request))
                    .bind(officer)
                    .fetch_one(db)
                    .await?;
            Ok(count > 0)
        })
    }

    /// Ends an open request. False if it was not open any more: then nothing may be done for it.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn end_request(&self, request: u64, state: RequestState) -> Result<bool> {
        self.run(async |db| {
            let done = sqlx::query("update requests set state = ?2 where request = ?1 and state = 'open'")
                .bind(signed(request))
                .bind(state.as_str())
                .execute(db)
                .await?;
            Ok(done.rows_affected() == 1)
        })
    }
}

fn decode(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("a request has no valid {what}").into())
}

fn officer(row: &SqliteRow) -> sqlx::Result<Officer> {
    let key: Option<String> = row.try_get("key")?;
    Ok(Officer {
        name: row.try_get("name")?,
        key: key.map(|key| key.parse()).transpose().map_err(|_| decode("key"))?,
        enrolled_s: unsigned(row.try_get("enrolled_s")?),
        retired_s: row.try_get::<Option<i64>, _>("retired_s")?.map(unsigned),
        codes_left: u32::try_from(row.try_get::<i64, _>("left")?).unwrap_or(0),
    })
}

fn request(row: &SqliteRow) -> sqlx::Result<RequestRow> {
    let state: String = row.try_get("state")?;
    let text: String = row.try_get("proposal")?;
    let proposal: Proposal = serde_json::from_str(&text).map_err(|_| decode("proposal"))?;
    // What people signed is what counts: a row that was changed afterwards is no request.
    if row.try_get::<Vec<u8>, _>("hash")? != proposal.hash() {
        return Err(decode("hash: it was changed"));
    }
    Ok(RequestRow {
        request: unsigned(row.try_get("request")?),
        proposal,
        created_s: unsigned(row.try_get("created_s")?),
        created: row.try_get("created")?,
        state: [RequestState::Open, RequestState::Used, RequestState::Withdrawn]
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| decode("state"))?,
        approvals: Vec::new(),
    })
}

fn approval(row: &SqliteRow) -> sqlx::Result<ApprovalRow> {
    let signature: Option<String> = row.try_get("signature")?;
    Ok(ApprovalRow {
        officer: row.try_get("officer")?,
        signature: signature.map(|text| text.parse()).transpose().map_err(|_| decode("signature"))?,
        at_s: unsigned(row.try_get("at_s")?),
    })
}
