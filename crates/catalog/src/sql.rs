//! One way to speak SQL to two engines.
//!
//! The rooms above write one text of SQL that both engines take (`$1`, `ON CONFLICT`, `RETURNING`, BIGINT,
//! TEXT, bytes). Values and cells have only three types, so that nothing depends on what an engine believes
//! a type to be. What differs between the engines is in this file and in [`pool`](crate::pool), nowhere else.
//!
//! sqlx's derives and macros are not used: they would build SQLite a second time for the build machine.

use std::marker::PhantomData;

use futures::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Column, Decode, PgPool, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite, SqlitePool, Type,
    TypeInfo, ValueRef, postgres::PgRow, sqlite::SqliteRow,
};

/// A value on its way into a statement; a missing one still has a type, because PostgreSQL asks for it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Vec<u8>),
}

macro_rules! value {
    ($($from:ty: $name:ident => $value:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($name: $from) -> Self {
                $value
            }
        })*
    };
}

value! {
    i64: n => Self::Int(Some(n));
    Option<i64>: n => Self::Int(n);
    &str: text => Self::Text(Some(text.to_owned()));
    String: text => Self::Text(Some(text));
    &String: text => Self::Text(Some(text.clone()));
    Option<&str>: text => Self::Text(text.map(str::to_owned));
    Option<String>: text => Self::Text(text);
    Option<&String>: text => Self::Text(text.cloned());
    &[u8]: bytes => Self::Bytes(bytes.to_vec());
    Vec<u8>: bytes => Self::Bytes(bytes);
}

/// Work that happens as a whole or not at all. Dropped without [`commit`](Self::commit) it never was.
#[derive(Debug)]
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }

    pub(crate) async fn rollback(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(tx) => tx.rollback().await,
            Self::Postgres(tx) => tx.rollback().await,
        }
    }
}

/// Where a statement runs.
#[derive(Debug)]
pub(crate) enum On<'c> {
    Sqlite(&'c SqlitePool),
    Postgres(&'c PgPool),
    Transaction(&'c mut Transaction),
}

impl<'c> From<&'c mut Transaction> for On<'c> {
    fn from(transaction: &'c mut Transaction) -> Self {
        Self::Transaction(transaction)
    }
}

/// A row of either engine.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// What a cell can be read as.
pub(crate) trait Cell:
    Sized + Type<Sqlite> + Type<Postgres> + for<'r> Decode<'r, Sqlite> + for<'r> Decode<'r, Postgres>
{
}

impl<T> Cell for T where
    T: Sized + Type<Sqlite> + Type<Postgres> + for<'r> Decode<'r, Sqlite> + for<'r> Decode<'r, Postgres>
{
}

impl Row {
    pub(crate) fn named<T: Cell>(&self, column: &str) -> sqlx::Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(crate) fn at<T: Cell>(&self, column: usize) -> sqlx::Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    /// Every column with its name and value, whatever the table is.
    pub(crate) fn cells(&self) -> sqlx::Result<Vec<(String, Value)>> {
        let columns: Vec<String> = match self {
            Self::Sqlite(row) => row.columns().iter().map(|column| column.name().to_owned()).collect(),
            Self::Postgres(row) => row.columns().iter().map(|column| column.name().to_owned()).collect(),
        };
        columns
            .into_iter()
            .enumerate()
            .map(|(at, name)| {
                let (null, kind) = match self {
                    Self::Sqlite(row) => {
                        let raw = row.try_get_raw(at)?;
                        (raw.is_null(), raw.type_info().name().to_owned())
                    }
                    Self::Postgres(row) => {
                        let raw = row.try_get_raw(at)?;
                        (raw.is_null(), raw.type_info().name().to_owned())
                    }
                };
                let value = match kind.as_str() {
                    _ if null => Value::Int(None),
                    "TEXT" => Value::Text(Some(self.at(at)?)),
                    "BLOB" | "BYTEA" => Value::Bytes(self.at(at)?),
                    _ => Value::Int(Some(self.at(at)?)),
                };
                Ok((name, value))
            })
            .collect()
    }
}

/// What a row can be read as.
pub(crate) trait FromRow: Sized {
    fn from_row(row: &Row) -> sqlx::Result<Self>;
}

macro_rules! tuple {
    ($($name:ident at $at:literal),*) => {
        impl<$($name: Cell),*> FromRow for ($($name,)*) {
            fn from_row(row: &Row) -> sqlx::Result<Self> {
                Ok(($(row.at::<$name>($at)?,)*))
            }
        }
    };
}

tuple!(A at 0);
tuple!(A at 0, B at 1);
tuple!(A at 0, B at 1, C at 2);
tuple!(A at 0, B at 1, C at 2, D at 3, E at 4);
tuple!(A at 0, B at 1, C at 2, D at 3, E at 4, F at 5);

/// A struct whose fields are the columns of the same names.
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        $vis struct $name { $($field: $type,)* }

        impl crate::sql::FromRow for $name {
            fn from_row(row: &crate::sql::Row) -> sqlx::Result<Self> {
                Ok(Self { $($field: row.named(stringify!($field))?,)* })
            }
        }
    };
}
pub(crate) use row;

/// A statement with its values. `T` is what a row of its answer is read as.
#[derive(Debug)]
pub(crate) struct Query<T> {
    sql: SqlStr,
    values: Vec<Value>,
    row: PhantomData<fn() -> T>,
}

/// A statement whose answer nobody reads.
pub(crate) fn query(sql: impl SqlSafeStr) -> Query<()> {
    query_of(sql)
}

/// A statement whose rows are read as `T`.
pub(crate) fn query_as<T: FromRow>(sql: impl SqlSafeStr) -> Query<T> {
    query_of(sql)
}

/// A statement whose rows have one cell.
pub(crate) fn query_scalar<T: Cell>(sql: impl SqlSafeStr) -> Scalar<T> {
    Scalar(query_of(sql))
}

/// A statement that was put together from names of our own.
pub(crate) fn built(sql: String) -> impl SqlSafeStr {
    AssertSqlSafe(sql)
}

fn query_of<T>(sql: impl SqlSafeStr) -> Query<T> {
    Query { sql: sql.into_sql_str(), values: Vec::new(), row: PhantomData }
}

/// The only cell of a row.
#[derive(Debug)]
struct One<T>(T);

impl<T: Cell> FromRow for One<T> {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        row.at(0).map(Self)
    }
}

/// A statement whose rows have one cell.
#[derive(Debug)]
pub(crate) struct Scalar<T>(Query<One<T>>);

impl<T: Cell> Scalar<T> {
    pub(crate) fn bind(self, value: impl Into<Value>) -> Self {
        Self(self.0.bind(value))
    }

    pub(crate) async fn fetch_optional(self, on: impl Into<On<'_>>) -> sqlx::Result<Option<T>> {
        Ok(self.0.fetch_optional(on).await?.map(|cell| cell.0))
    }

    pub(crate) async fn fetch_one(self, on: impl Into<On<'_>>) -> sqlx::Result<T> {
        Ok(self.0.fetch_one(on).await?.0)
    }
}

/// What a statement did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done(u64);

impl Done {
    pub(crate) const fn rows_affected(self) -> u64 {
        self.0
    }
}

macro_rules! bound {
    ($query:expr) => {{
        let mut query = sqlx::query($query.sql);
        for value in $query.values {
            query = match value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}

/// Runs a call of sqlx's on whichever engine it is, and names the row or count by engine.
macro_rules! on_engine {
    ($query:expr, $on:expr, $call:ident, $sqlite:expr, $postgres:expr) => {
        match $on.into() {
            On::Sqlite(pool) => bound!($query).$call(pool).await.map($sqlite),
            On::Transaction(Transaction::Sqlite(tx)) => bound!($query).$call(&mut **tx).await.map($sqlite),
            On::Postgres(pool) => bound!($query).$call(pool).await.map($postgres),
            On::Transaction(Transaction::Postgres(tx)) => {
                bound!($query).$call(&mut **tx).await.map($postgres)
            }
        }
    };
}

impl<T> Query<T> {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    pub(crate) async fn execute(self, on: impl Into<On<'_>>) -> sqlx::Result<Done> {
        on_engine!(self, on, execute, |done| Done(done.rows_affected()), |done| Done(done.rows_affected()))
    }
}

impl<T: FromRow> Query<T> {
    pub(crate) async fn fetch_all(self, on: impl Into<On<'_>>) -> sqlx::Result<Vec<T>> {
        let rows: Vec<Row> =
            on_engine!(self, on, fetch_all, |rows| rows.into_iter().map(Row::Sqlite).collect(), |rows| rows
                .into_iter()
                .map(Row::Postgres)
                .collect())?;
        rows.iter().map(T::from_row).collect()
    }

    pub(crate) async fn fetch_optional(self, on: impl Into<On<'_>>) -> sqlx::Result<Option<T>> {
        let row: Option<Row> =
            on_engine!(self, on, fetch_optional, |row| row.map(Row::Sqlite), |row| row.map(Row::Postgres))?;
        row.as_ref().map(T::from_row).transpose()
    }

    pub(crate) async fn fetch_one(self, on: impl Into<On<'_>>) -> sqlx::Result<T> {
        self.fetch_optional(on).await?.ok_or(sqlx::Error::RowNotFound)
    }
}

impl Query<()> {
    /// Hands on row by row, so that the answer's size does not matter.
    pub(crate) async fn each<E: From<sqlx::Error>>(
        self,
        tx: &mut Transaction,
        mut take: impl FnMut(&Row) -> Result<(), E>,
    ) -> Result<(), E> {
        match tx {
            Transaction::Sqlite(tx) => {
                let mut rows = bound!(self).fetch(&mut **tx);
                while let Some(row) = rows.try_next().await? {
                    take(&Row::Sqlite(row))?;
                }
            }
            Transaction::Postgres(tx) => {
                let mut rows = bound!(self).fetch(&mut **tx);
                while let Some(row) = rows.try_next().await? {
                    take(&Row::Postgres(row))?;
                }
            }
        }
        Ok(())
    }
}
