//! SQLite: one file that several processes of a machine may use at once.

use super::{Row, Session, Value};
use crate::contents::StoreError;
use rusqlite::{
    Connection, TransactionBehavior,
    types::{ToSqlOutput, ValueRef},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The file's name in the state folder.
pub(super) const NAME: &str = "control-plane.db";

/// How long one process waits for another one that writes.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(crate) struct Sqlite(Arc<Mutex<Connection>>);

impl Sqlite {
    pub(super) async fn open(
        folder: PathBuf,
        migrations: &'static [&'static str],
    ) -> Result<Self, StoreError> {
        let opened = tokio::task::spawn_blocking(move || open(&folder, migrations));
        let connection = opened.await.map_err(|_| StoreError::Stopping)??;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        changes: bool,
        work: impl FnOnce(&mut dyn Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            if !changes {
                return work(&mut Open(&connection));
            }
            // At once, so that what is read before something is written still holds when it is.
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&mut Open(&change))?;
            change.commit()?;
            Ok(done)
        });
        done.await.map_err(|_| StoreError::Stopping)?
    }
}

struct Open<'a>(&'a Connection);

impl Session for Open<'_> {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(values))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let values = (0..columns).map(|column| row.get_ref(column).map(value));
            found.push(Row(values.collect::<Result<_, _>>()?));
        }
        Ok(found)
    }

    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        Ok(statement.execute(rusqlite::params_from_iter(values))? as u64)
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        // No column of ours has fractions.
        ValueRef::Null | ValueRef::Real(_) => Value::Null,
    }
}

fn open(folder: &Path, migrations: &[&str]) -> Result<Connection, StoreError> {
    fs::create_dir_all(folder)?;
    let mut db = Connection::open(folder.join(NAME))?;
    db.busy_timeout(BUSY_TIME_MAX)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: usize = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps = migrations.get(version..).ok_or(StoreError::Newer)?;
    for step in steps {
        change.execute_batch(step)?;
    }
    change.pragma_update(None, "user_version", migrations.len())?;
    change.commit()?;
    Ok(db)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Contents;

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(Contents::open(folder.path()).await.unwrap());
        let db = Connection::open(folder.path().join(NAME)).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(
            Contents::open(folder.path()).await,
            Err(StoreError::Newer)
        ));
    }
}
