//! The state database: one record and one committed bitfield per content, in redb.
//!
//! Every change is one transaction that is durable when the call returns. redb refuses all further work after an
//! error of the disk; the database is then closed and opened again by the next call, so that a disk that was full
//! for a while does no lasting harm.

use crate::{
    ContentKey, StoreError,
    limits::DATABASE_CACHE_BYTES,
    snapshot::{Claim, Progress, Record, Snapshot},
};
use dosvc_content::Bitfield;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, Table,
    TableDefinition, WriteTransaction,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use tracing::warn;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const CLAIMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims");

/// What one content's commit changes.
pub(crate) struct Change {
    pub(crate) key: ContentKey,
    pub(crate) progress: Progress,
    pub(crate) have: Bitfield,
}

/// All records of the database.
pub(crate) struct Records {
    pub(crate) good: Vec<(ContentKey, Record)>,
    /// Keys whose records do not read.
    pub(crate) unreadable: Vec<Vec<u8>>,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    database: Mutex<Option<Database>>,
}

impl Ledger {
    /// Opens or creates the database. A damaged one is moved aside; its new name is returned then.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Option<PathBuf>), StoreError> {
        let (database, moved) = match open_database(&path) {
            Ok(database) => (database, None),
            Err(e) if is_damage(&e) => {
                let aside = path.with_extension("redb.damaged");
                warn!(path = %path.display(), moved_to = %aside.display(), error = %e,
                    "state database is damaged: moved aside, rebuilding it from the cache folder");
                fs::rename(&path, &aside).map_err(StoreError::at(&path))?;
                let fresh = open_database(&path).map_err(|e| to_store_error(&path, e.into()))?;
                (fresh, Some(aside))
            }
            Err(e) => return Err(to_store_error(&path, e.into())),
        };
        let ledger = Self {
            path,
            database: Mutex::new(Some(database)),
        };
        ledger.write(|transaction| {
            transaction.open_table(RECORDS)?;
            transaction.open_table(CLAIMS)?;
            Ok(())
        })?;
        Ok((ledger, moved))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all records.
    pub(crate) fn records(&self) -> Result<Records, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(RECORDS)?;
            let (mut good, mut unreadable) = (Vec::new(), Vec::new());
            for entry in table.iter()? {
                let (key, value) = entry?;
                match (
                    ContentKey::from_bytes(key.value()),
                    Record::from_bytes(value.value()),
                ) {
                    (Some(key), Ok(record)) if record.lengths().is_some() => {
                        good.push((key, record));
                    }
                    _ => unreadable.push(key.value().to_vec()),
                }
            }
            Ok(Records { good, unreadable })
        })
    }

    /// One content's record and committed bitfield; an unreadable bitfield is an empty one.
    pub(crate) fn load(&self, key: &ContentKey) -> Result<Option<(Record, Bitfield)>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            let key = key.to_bytes();
            let records = transaction.open_table(RECORDS)?;
            let Some(record) = records
                .get(key.as_slice())?
                .and_then(|value| Record::from_bytes(value.value()).ok())
            else {
                return Ok(None);
            };
            let Some(count) = record.lengths().map(|l| l.piece_count()) else {
                return Ok(None);
            };
            let have = transaction
                .open_table(CLAIMS)?
                .get(key.as_slice())?
                .and_then(|value| Claim::from_bytes(value.value()).ok()?.bitfield(count))
                .unwrap_or_else(|| Bitfield::new(count));
            Ok(Some((record, have)))
        })
    }

    /// Writes records with no piece had, replacing what was there.
    pub(crate) fn insert(&self, records: &[(ContentKey, Record)]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let mut claims = transaction.open_table(CLAIMS)?;
            for (key, record) in records {
                table.insert(key.to_bytes().as_slice(), record.to_bytes().as_slice())?;
                claims.remove(key.to_bytes().as_slice())?;
            }
            Ok(())
        })
    }

    /// Changes one record; returns the new one, or `None` when there is no such record.
    pub(crate) fn update(
        &self,
        key: &ContentKey,
        change: impl FnOnce(&mut Record),
    ) -> Result<Option<Record>, StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            modify(&mut table, key, change)
        })
    }

    /// Commits progress and bitfields, and the last use of contents that were closed. Contents that are not in the
    /// database are left out: they were removed.
    pub(crate) fn commit(
        &self,
        changes: &[Change],
        last_used_ms: &[(ContentKey, u64)],
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let mut claims = transaction.open_table(CLAIMS)?;
            for (key, used) in last_used_ms {
                modify(&mut table, key, |record| {
                    record.progress.last_used_ms = record.progress.last_used_ms.max(*used);
                })?;
            }
            for change in changes {
                let known = modify(&mut table, &change.key, |record| {
                    record.progress = change.progress;
                })?;
                if known.is_some() {
                    claims.insert(
                        change.key.to_bytes().as_slice(),
                        Claim::new(&change.have).to_bytes().as_slice(),
                    )?;
                }
            }
            Ok(())
        })
    }

    /// Forgets contents, named by the bytes of their keys.
    pub(crate) fn remove<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let mut claims = transaction.open_table(CLAIMS)?;
            for key in keys {
                table.remove(key.as_ref())?;
                claims.remove(key.as_ref())?;
            }
            Ok(())
        })
    }

    fn write<R>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, redb::Error>,
    ) -> Result<R, StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn with<R>(
        &self,
        work: impl FnOnce(&Database) -> Result<R, redb::Error>,
    ) -> Result<R, StoreError> {
        // A panic in another thread leaves at worst an aborted transaction behind.
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(|e| to_store_error(&self.path, e.into()))?,
        };
        let result = work(&database);
        if result.is_ok() {
            *slot = Some(database);
        }
        result.map_err(|e| to_store_error(&self.path, e))
    }
}

fn modify(
    table: &mut Table<'_, &[u8], &[u8]>,
    key: &ContentKey,
    change: impl FnOnce(&mut Record),
) -> Result<Option<Record>, redb::Error> {
    let key = key.to_bytes();
    let record = table
        .get(key.as_slice())?
        .and_then(|value| Record::from_bytes(value.value()).ok());
    let Some(mut record) = record else {
        return Ok(None);
    };
    change(&mut record);
    table.insert(key.as_slice(), record.to_bytes().as_slice())?;
    Ok(Some(record))
}

fn open_database(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder()
        .set_cache_size(DATABASE_CACHE_BYTES)
        // The database is small; a plain open may panic on a file that was damaged.
        .set_check_integrity_on_open(true)
        .create(path)
}

/// Whether the file itself is at fault, so that opening it again is no use.
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_))
        | DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted => true,
        DatabaseError::Storage(StorageError::Io(e)) => matches!(
            e.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

fn to_store_error(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(e) => StoreError::io(path, e),
        redb::Error::Corrupted(what) => StoreError::Corrupt {
            path: path.to_path_buf(),
            what,
        },
        other => StoreError::Io {
            path: path.to_path_buf(),
            source: io::Error::other(other),
        },
    }
}
