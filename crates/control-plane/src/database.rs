//! The database of administration data: SQLite in a file of this machine, or PostgreSQL. What is asked is the same text
//! for both, in the dialect that they share: parameters `?1`, `?2`, …; `ON CONFLICT`; no JSON functions. In tables,
//! `INTEGER`, `BLOB` and `STRICT` are SQLite's, and become what PostgreSQL has for them.
//!
//! Work runs on threads that may wait, for the disk or the server, one piece of work to a connection.

mod postgres;
mod sqlite;

use crate::contents::StoreError;
pub use postgres::{ParsePostgresUrlError, PostgresConfig, PostgresUrl};
use std::path::Path;

/// A value in a row or for a parameter.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// One row of an answer.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row(Vec<Value>);

impl Row {
    /// The value of a column.
    ///
    /// # Errors
    /// A value of another kind: the database is not what this program has made.
    pub(crate) fn get<T: FromValue>(&self, column: usize) -> Result<T, StoreError> {
        let value = self.0.get(column).cloned().unwrap_or(Value::Null);
        T::from_value(value).ok_or_else(|| StoreError::Damaged(format!("column {column}")))
    }
}

/// What a column can be read as.
pub(crate) trait FromValue: Sized {
    fn from_value(value: Value) -> Option<Self>;
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Integer(number) => number.try_into().ok(),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<[u8; 32]> for Value {
    fn from(bytes: [u8; 32]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        // Times and counts; nothing of ours comes near the end of it.
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Parameters of different types.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::database::Value::from($value)),*] };
}
pub(crate) use values;

/// A connection that work is done with.
pub(crate) trait Session {
    /// The rows of a question.
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError>;

    /// How many rows a change has changed.
    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, StoreError>;

    /// The one row of a question, or none.
    fn find(&mut self, sql: &'static str, values: &[Value]) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// The number that a question has for an answer.
    fn number(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        match self.find(sql, values)? {
            Some(row) => row.get(0),
            None => Err(StoreError::Damaged("no row".to_owned())),
        }
    }
}

/// Where administration data is.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Database {
    /// As if its connections had lain there unused for long.
    #[cfg(test)]
    pub(crate) fn age_connections(&self) {
        if let Self::Postgres(server) = self {
            server.age_connections();
        }
    }

    /// A file in this folder.
    pub(crate) async fn file(
        folder: &Path,
        migrations: &'static [&'static str],
    ) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(
            sqlite::Sqlite::open(folder.to_owned(), migrations).await?,
        ))
    }

    /// A server, which is asked for the first time when something is to be done.
    pub(crate) fn server(config: &PostgresConfig, migrations: &'static [&'static str]) -> Self {
        Self::Postgres(postgres::Postgres::new(config.clone(), migrations))
    }

    /// Does work that is one question, or several that need not go together.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(database) => database.run(false, work).await,
            Self::Postgres(database) => database.run(false, work).await,
        }
    }

    /// Does work of which all is kept, or, when it fails, nothing.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(database) => database.run(true, work).await,
            Self::Postgres(database) => database.run(true, work).await,
        }
    }
}
