//! Administration data: contents with their policies, hash files and rollout, and API tokens. In SQLite, one file that
//! several processes of a machine may use at once; every answer is read from it, so that all of them say the same.

use crate::{admin::ContentFigures, devices::DEVICES_TABLES};
use aws_lc_rs::error::Unspecified;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dosvc_cloud_protocol::{ContentPolicy, HttpUrl, PublishRequest, Rollout, catalog_id};
use dosvc_content::ContentId;
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The file's name in the state folder.
const NAME: &str = "control-plane.db";

/// What the tables look like; `user_version` of the file says which of these have been carried out.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE content (
        id TEXT PRIMARY KEY,
        policy BLOB NOT NULL,
        rollout TEXT NOT NULL,
        hash_file BLOB,
        publisher TEXT NOT NULL,
        published INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX content_published ON content (published);
    CREATE TABLE content_url (
        url TEXT PRIMARY KEY,
        id TEXT NOT NULL REFERENCES content (id) ON DELETE CASCADE
    ) STRICT;
    CREATE INDEX content_url_id ON content_url (id);
    CREATE TABLE token (
        name TEXT PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        made INTEGER NOT NULL
    ) STRICT;
",
    DEVICES_TABLES,
];

/// How long one process waits for another one that writes.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// The most contents.
const CONTENTS_MAX: u64 = 1_000_000;

/// The most API tokens, and bytes of a token's name.
pub(crate) const TOKENS_MAX: u64 = 10_000;
const TOKEN_NAME_BYTES_MAX: usize = 128;

/// What begins every API token, so that it is known for one where it turns up.
const TOKEN_PREFIX: &str = "dosvc_";

/// Administration data that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file's folder.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The database.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What stands in it is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A newer program has written it.
    #[error("it was written by a newer version")]
    Newer,
    /// A limit is reached, or a name is taken or can't be one.
    #[error("{0}")]
    Refused(&'static str),
    /// No randomness.
    #[error("the system gives no random numbers")]
    Random(#[from] Unspecified),
    /// The work was cut off.
    #[error("the process is stopping")]
    Stopping,
}

/// A content's policy, and who may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) policy: ContentPolicy,
    pub(crate) rollout: Rollout,
}

/// An API token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
}

/// The store.
#[derive(Debug, Clone)]
pub struct Contents(Arc<Mutex<Connection>>);

impl Contents {
    /// Opens the store in this folder, or makes it.
    ///
    /// # Errors
    /// What can't be made, read or written.
    pub async fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let folder = state_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&folder));
        let connection = opened.await.map_err(|_| StoreError::Stopping)??;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs work with the database on a thread that may wait for a disk.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|_| StoreError::Stopping)?
    }

    /// The policy of a content: by its id, or else by one of its URLs.
    pub(crate) async fn find(
        &self,
        id: &ContentId,
        url: Option<&str>,
    ) -> Result<Option<Found>, StoreError> {
        // However it is written, and by whom: contents are kept by the same.
        let url = url.and_then(|url| catalog_id(&url.parse::<HttpUrl>().ok()?.to_url()));
        let id = id.clone();
        self.run(move |db| {
            const COLUMNS: &str = "SELECT policy, rollout FROM content";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let mut by_id = db.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
            let mut found: Option<(Vec<u8>, String)> =
                by_id.query_row([id.as_str()], row).optional()?;
            if let (None, Some(url)) = (&found, url) {
                let join = "JOIN content_url USING (id) WHERE url = ?1";
                let mut by_url = db.prepare_cached(&format!("{COLUMNS} {join}"))?;
                found = by_url.query_row([url.as_str()], row).optional()?;
            }
            let Some((policy, rollout)) = found else {
                return Ok(None);
            };
            let damaged = |error: &dyn ToString| StoreError::Damaged(error.to_string());
            Ok(Some(Found {
                policy: ContentPolicy::from_json(&policy).map_err(|e| damaged(&e))?,
                rollout: serde_json::from_str(&rollout).map_err(|e| damaged(&e))?,
            }))
        })
        .await
    }

    /// The hash file of a content that is not revoked.
    pub(crate) async fn hash_file(&self, id: &ContentId) -> Result<Option<Vec<u8>>, StoreError> {
        let id = id.clone();
        self.run(move |db| {
            let mut query = db.prepare_cached(
                "SELECT hash_file FROM content WHERE id = ?1 AND json_extract(rollout, '$.Revoked') = 0",
            )?;
            let file = query.query_row([id.as_str()], |row| row.get(0)).optional()?;
            Ok(file.flatten())
        })
        .await
    }

    /// Writes a content, or writes it anew.
    pub(crate) async fn publish(
        &self,
        request: PublishRequest,
        publisher: String,
        now: u64,
    ) -> Result<(), StoreError> {
        self.run(move |db| {
            let change = db.transaction()?;
            let PublishRequest { policy, rollout, hash_file } = request;
            let id = policy.content_id.as_str();
            let others: u64 = change.query_row("SELECT count(*) FROM content WHERE id <> ?1", [id], |r| r.get(0))?;
            if others >= CONTENTS_MAX {
                return Err(StoreError::Refused("there are a million contents already"));
            }
            let rollout = serde_json::to_string(&rollout).map_err(|e| StoreError::Damaged(e.to_string()))?;
            change.execute("DELETE FROM content_url WHERE id = ?1", [id])?;
            change.execute(
                "INSERT OR REPLACE INTO content (id, policy, rollout, hash_file, publisher, published)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![id, policy.to_json(), rollout, hash_file.map(String::into_bytes), publisher, now],
            )?;
            for url in policy.content_cdn_urls.iter().flatten() {
                let Some(url) = catalog_id(&url.to_url()) else {
                    return Err(StoreError::Refused("an address is too long"));
                };
                change.execute("INSERT OR REPLACE INTO content_url (url, id) VALUES (?1, ?2)", [url.as_str(), id])?;
            }
            change.commit()?;
            Ok(())
        })
        .await
    }

    /// Takes a content back; answers whether there is one.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.run(move |db| {
            let set = "UPDATE content SET rollout = json_set(rollout, '$.Revoked', json('true')) WHERE id = ?1";
            Ok(db.execute(set, [id])? > 0)
        })
        .await
    }

    /// The contents published last.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn latest(&self, count: usize) -> Result<Vec<ContentFigures>, StoreError> {
        self.run(move |db| {
            let mut query = db.prepare_cached(
                "SELECT id, publisher, published, json_extract(rollout, '$.Revoked'), json_extract(rollout, '$.Percent')
                 FROM content ORDER BY published DESC, id LIMIT ?1",
            )?;
            let rows = query.query_map([i64::try_from(count).unwrap_or(i64::MAX)], |row| {
                Ok(ContentFigures {
                    content_id: row.get(0)?,
                    publisher: row.get(1)?,
                    published: row.get(2)?,
                    revoked: row.get(3)?,
                    percent: row.get(4)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How many contents there are.
    pub(crate) async fn count(&self) -> Result<u64, StoreError> {
        self.run(|db| Ok(db.query_row("SELECT count(*) FROM content", [], |row| row.get(0))?))
            .await
    }

    /// Makes an API token and answers its secret, which is kept nowhere: only its SHA-256.
    ///
    /// # Errors
    /// A name that is taken or no name, and what can't be written.
    pub async fn add_token(&self, name: &str, now: u64) -> Result<String, StoreError> {
        check_token_name(name)?;
        let token = new_token(TOKEN_PREFIX)?;
        let (name, hash) = (name.to_owned(), hash_of(&token));
        self.run(move |db| {
            let change = db.transaction()?;
            let count: u64 =
                change.query_row("SELECT count(*) FROM token", [], |row| row.get(0))?;
            if count >= TOKENS_MAX {
                return Err(StoreError::Refused("there are 10000 tokens already"));
            }
            let put = "INSERT OR IGNORE INTO token (name, hash, made) VALUES (?1, ?2, ?3)";
            if change.execute(put, params![name, hash, now])? == 0 {
                return Err(StoreError::Refused(
                    "there is a token with this name already",
                ));
            }
            change.commit()?;
            Ok(())
        })
        .await?;
        Ok(token)
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, StoreError> {
        self.run(|db| {
            let mut query = db.prepare_cached("SELECT name, made FROM token ORDER BY name")?;
            let rows = query.query_map([], |row| {
                Ok(TokenInfo {
                    name: row.get(0)?,
                    made: row.get(1)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Removes a token; answers whether there was one.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.run(move |db| Ok(db.execute("DELETE FROM token WHERE name = ?1", [name])? > 0))
            .await
    }

    /// Whose token this is.
    pub(crate) async fn token_name(&self, token: &str) -> Result<Option<String>, StoreError> {
        // A lookup by the hash of a random secret tells nothing by the time that it takes.
        let hash = hash_of(token);
        self.run(move |db| {
            let mut query = db.prepare_cached("SELECT name FROM token WHERE hash = ?1")?;
            Ok(query.query_row([hash], |row| row.get(0)).optional()?)
        })
        .await
    }
}

/// Whether a token can be called so.
pub(crate) fn check_token_name(name: &str) -> Result<(), StoreError> {
    if (1..=TOKEN_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(StoreError::Refused(
        "a token's name has 1 to 128 printable bytes",
    ))
}

/// A new token: 256 random bits behind what it is known by.
pub(crate) fn new_token(prefix: &str) -> Result<String, StoreError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(secret)))
}

/// What is kept of a token.
pub(crate) fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn open(state_dir: &Path) -> Result<Connection, StoreError> {
    fs::create_dir_all(state_dir)?;
    let mut db = Connection::open(state_dir.join(NAME))?;
    db.busy_timeout(BUSY_TIME_MAX)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: usize = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps = MIGRATIONS.get(version..).ok_or(StoreError::Newer)?;
    for step in steps {
        change.execute_batch(step)?;
    }
    change.pragma_update(None, "user_version", MIGRATIONS.len())?;
    change.commit()?;
    Ok(db)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, urls: &[&str]) -> PublishRequest {
        let policy = ContentPolicy {
            content_id: id.parse().unwrap(),
            hash_of_hashes: [7; 32].into(),
            pieces_hash_file_cdn_urls: vec!["http://a/x.phf".parse().unwrap()],
            content_cdn_urls: Some(urls.iter().map(|url| url.parse().unwrap()).collect()),
            is_secure: false,
            is_internal: false,
            policies: Default::default(),
            rank: 0,
            publisher_signature: Some([9; 64]),
        };
        PublishRequest {
            policy,
            rollout: Rollout {
                percent: 20,
                groups: vec![[1; 32].into()],
                ..Rollout::default()
            },
            hash_file: Some("{}".to_owned()),
        }
    }

    async fn url_of(contents: &Contents, url: &str) -> Option<String> {
        let none = "nobody".parse().unwrap();
        let found = contents.find(&none, Some(url)).await.unwrap();
        found.map(|found| found.policy.content_id.to_string())
    }

    #[tokio::test]
    async fn contents_are_found_by_id_and_by_url_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let asked = request("one", &["HTTP://A:80/x/../1?token=5", "http://b/1"]);
        let id: ContentId = "one".parse().unwrap();
        {
            let contents = Contents::open(folder.path()).await.unwrap();
            contents
                .publish(asked.clone(), "ci".to_owned(), 5)
                .await
                .unwrap();
        }
        let contents = Contents::open(folder.path()).await.unwrap();
        let found = contents.find(&id, None).await.unwrap().unwrap();
        assert_eq!((found.policy, found.rollout), (asked.policy, asked.rollout));
        assert_eq!(
            url_of(&contents, "http://a/1").await.as_deref(),
            Some("one")
        );
        assert_eq!(
            url_of(&contents, "http://a:80/./1?token=6")
                .await
                .as_deref(),
            Some("one")
        );
        assert_eq!(url_of(&contents, "http://a/2").await, None);
        assert_eq!(url_of(&contents, "no address").await, None);
        assert_eq!(contents.hash_file(&id).await.unwrap().unwrap(), b"{}");
        // Published anew: what it was known by before is forgotten.
        contents
            .publish(request("one", &["http://c/1"]), "ci".to_owned(), 6)
            .await
            .unwrap();
        assert_eq!(url_of(&contents, "http://a/1").await, None);
        assert_eq!(
            url_of(&contents, "http://c/1").await.as_deref(),
            Some("one")
        );
        assert_eq!(contents.count().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_revoked_content_stays_known_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let contents = Contents::open(folder.path()).await.unwrap();
        let id: ContentId = "one".parse().unwrap();
        contents
            .publish(request("one", &[]), "ci".to_owned(), 5)
            .await
            .unwrap();
        assert!(contents.revoke("one").await.unwrap());
        assert!(!contents.revoke("two").await.unwrap());
        assert!(
            contents
                .find(&id, None)
                .await
                .unwrap()
                .unwrap()
                .rollout
                .revoked
        );
        assert_eq!(contents.hash_file(&id).await.unwrap(), None);
        let latest = contents.latest(5).await.unwrap();
        assert_eq!(
            (
                latest[0].revoked,
                latest[0].percent,
                latest[0].publisher.as_str()
            ),
            (true, 20, "ci")
        );
    }

    #[tokio::test]
    async fn tokens_are_known_by_their_hash_alone() {
        let folder = tempfile::tempdir().unwrap();
        let contents = Contents::open(folder.path()).await.unwrap();
        let token = contents.add_token("ci", 5).await.unwrap();
        assert!(token.starts_with(TOKEN_PREFIX) && token.len() == 49);
        assert_eq!(
            contents.token_name(&token).await.unwrap().as_deref(),
            Some("ci")
        );
        assert_eq!(contents.token_name("dosvc_x").await.unwrap(), None);
        for bad in ["ci", "", "a\nb"] {
            assert!(
                matches!(
                    contents.add_token(bad, 5).await,
                    Err(StoreError::Refused(_))
                ),
                "{bad}"
            );
        }
        for file in fs::read_dir(folder.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let held = bytes
                .windows(token.len())
                .any(|part| part == token.as_bytes());
            assert!(!held, "the secret is not written");
        }
        assert!(contents.remove_token("ci").await.unwrap());
        assert_eq!(contents.token_name(&token).await.unwrap(), None);
        assert!(contents.tokens().await.unwrap().is_empty());
    }

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
