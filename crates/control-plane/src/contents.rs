//! Administration data: contents with their policies, hash files and rollout, and API tokens. Every answer is read from
//! the database, so that all processes that share it say the same.

use crate::{
    admin::ContentFigures,
    config::ControlPlaneConfig,
    database::{Database, Row, Session, values},
    devices::DEVICES_TABLES,
};
use aws_lc_rs::error::Unspecified;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dosvc_cloud_protocol::{ContentPolicy, HttpUrl, PublishRequest, Rollout, catalog_id};
use dosvc_content::ContentId;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, io, path::Path};

/// What the tables look like; the database knows which of these have been carried out.
const MIGRATIONS: &[&str] = &[CONTENT_TABLES, DEVICES_TABLES];

const CONTENT_TABLES: &str = "
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
";

/// The most contents.
const CONTENTS_MAX: u64 = 1_000_000;

/// The most API tokens, and bytes of a token's name.
pub(crate) const TOKENS_MAX: u64 = 10_000;
const TOKEN_NAME_BYTES_MAX: usize = 128;

/// What begins every API token, so that it is known for one where it turns up.
const TOKEN_PREFIX: &str = "dosvc_";

/// Times that a change is tried again because another process was faster.
const RETRIES: usize = 10;

/// Administration data that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file's folder.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The database in a file.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The database's server has refused.
    #[error("{0}")]
    Postgres(String),
    /// The database's server can't be asked now. That may change by itself.
    #[error("{0}")]
    OutOfReach(String),
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

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error.to_string())
    }
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
pub struct Contents(pub(crate) Database);

impl Contents {
    /// Opens the store in a file in this folder, or makes it.
    ///
    /// # Errors
    /// What can't be made, read or written.
    pub async fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self(Database::file(state_dir, MIGRATIONS).await?))
    }

    /// Opens the store of a configuration: a file in its state folder, or a server, which is not asked yet.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub async fn of(config: &ControlPlaneConfig) -> Result<Self, StoreError> {
        if config.postgres.url.is_some() {
            return Ok(Self(Database::server(&config.postgres, MIGRATIONS)));
        }
        Self::open(&config.state_dir).await
    }

    /// Whether the store can be asked.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.count().await.map(|_| ())
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
        let row = self.0.look(move |db| {
            let by_id = "SELECT policy, rollout FROM content WHERE id = ?1";
            let found = db.find(by_id, values![id.as_str()])?;
            let (None, Some(url)) = (&found, url) else {
                return Ok(found);
            };
            let by_url =
                "SELECT policy, rollout FROM content JOIN content_url USING (id) WHERE url = ?1";
            db.find(by_url, values![url.as_str()])
        });
        let Some(row) = row.await? else {
            return Ok(None);
        };
        let policy = ContentPolicy::from_json(&row.get::<Vec<u8>>(0)?);
        Ok(Some(Found {
            policy: policy.map_err(|error| StoreError::Damaged(error.to_string()))?,
            rollout: rollout(&row, 1)?,
        }))
    }

    /// The hash file of a content that is not revoked.
    pub(crate) async fn hash_file(&self, id: &ContentId) -> Result<Option<Vec<u8>>, StoreError> {
        let id = id.clone();
        let select = "SELECT hash_file, rollout FROM content WHERE id = ?1";
        let row = self.0.look(move |db| db.find(select, values![id.as_str()]));
        match row.await? {
            Some(row) if !rollout(&row, 1)?.revoked => row.get(0),
            _ => Ok(None),
        }
    }

    /// Writes a content, or writes it anew.
    pub(crate) async fn publish(
        &self,
        request: PublishRequest,
        publisher: String,
        now: u64,
    ) -> Result<(), StoreError> {
        self.0
            .change(move |db| {
                let PublishRequest {
                    policy,
                    rollout,
                    hash_file,
                } = request;
                let id = policy.content_id.as_str();
                let others = "SELECT count(*) FROM content WHERE id <> ?1";
                if db.number(others, values![id])? >= CONTENTS_MAX {
                    return Err(StoreError::Refused("there are a million contents already"));
                }
                db.execute(
                    "INSERT INTO content (id, policy, rollout, hash_file, publisher, published)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (id) DO UPDATE SET policy = excluded.policy, rollout = excluded.rollout,
                         hash_file = excluded.hash_file, publisher = excluded.publisher, published = excluded.published",
                    values![
                        id,
                        policy.to_json(),
                        &serde_json::to_string(&rollout)?,
                        hash_file.map(String::into_bytes),
                        &publisher,
                        now,
                    ],
                )?;
                db.execute("DELETE FROM content_url WHERE id = ?1", values![id])?;
                let urls = policy.content_cdn_urls.iter().flatten();
                // In one order for all, so that two that claim the same ones wait for each other in turn.
                let plain = urls.map(|url| catalog_id(&url.to_url()));
                let plain: Option<BTreeSet<_>> = plain.collect();
                for plain in plain.ok_or(StoreError::Refused("an address is too long"))? {
                    let put = "INSERT INTO content_url (url, id) VALUES (?1, ?2)
                               ON CONFLICT (url) DO UPDATE SET id = excluded.id";
                    db.execute(put, values![plain.as_str(), id])?;
                }
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
        self.0.change(move |db| revoke(db, &id)).await
    }

    /// The contents published last.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn latest(&self, count: usize) -> Result<Vec<ContentFigures>, StoreError> {
        let select = "SELECT id, publisher, published, rollout FROM content
                      ORDER BY published DESC, id LIMIT ?1";
        let rows = self
            .0
            .look(move |db| db.query(select, values![count as u64]));
        let figures = |row: &Row| {
            let rollout = rollout(row, 3)?;
            Ok(ContentFigures {
                content_id: row.get(0)?,
                publisher: row.get(1)?,
                published: row.get(2)?,
                revoked: rollout.revoked,
                percent: rollout.percent,
            })
        };
        rows.await?.iter().map(figures).collect()
    }

    /// How many contents there are.
    pub(crate) async fn count(&self) -> Result<u64, StoreError> {
        let count = |db: &mut dyn Session| db.number("SELECT count(*) FROM content", &[]);
        self.0.look(count).await
    }

    /// Makes an API token and answers its secret, which is kept nowhere: only its SHA-256.
    ///
    /// # Errors
    /// A name that is taken or no name, and what can't be written.
    pub async fn add_token(&self, name: &str, now: u64) -> Result<String, StoreError> {
        check_token_name(name)?;
        let token = new_token(TOKEN_PREFIX)?;
        let (name, hash) = (name.to_owned(), hash_of(&token));
        self.0
            .change(move |db| {
                if db.number("SELECT count(*) FROM token", &[])? >= TOKENS_MAX {
                    return Err(StoreError::Refused("there are 10000 tokens already"));
                }
                let put =
                    "INSERT INTO token (name, hash, made) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
                match db.execute(put, values![&name, hash, now])? {
                    0 => Err(StoreError::Refused(
                        "there is a token with this name already",
                    )),
                    _ => Ok(()),
                }
            })
            .await?;
        Ok(token)
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, StoreError> {
        let select = "SELECT name, made FROM token ORDER BY name";
        let rows = self.0.look(move |db| db.query(select, &[])).await?;
        let info = |row: &Row| {
            Ok(TokenInfo {
                name: row.get(0)?,
                made: row.get(1)?,
            })
        };
        rows.iter().map(info).collect()
    }

    /// Removes a token; answers whether there was one.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let remove = "DELETE FROM token WHERE name = ?1";
        let removed = self.0.look(move |db| db.execute(remove, values![&name]));
        Ok(removed.await? > 0)
    }

    /// Whose token this is.
    pub(crate) async fn token_name(&self, token: &str) -> Result<Option<String>, StoreError> {
        // A lookup by the hash of a random secret tells nothing by the time that it takes.
        let hash = hash_of(token);
        let select = "SELECT name FROM token WHERE hash = ?1";
        let row = self.0.look(move |db| db.find(select, values![hash]));
        row.await?.map(|row| row.get(0)).transpose()
    }
}

fn rollout(row: &Row, column: usize) -> Result<Rollout, StoreError> {
    Ok(serde_json::from_str(&row.get::<String>(column)?)?)
}

/// Another process may write the rollout anew at the same moment: what it wrote is what is revoked then.
fn revoke(db: &mut dyn Session, id: &str) -> Result<bool, StoreError> {
    for _ in 0..RETRIES {
        let select = "SELECT rollout FROM content WHERE id = ?1";
        let Some(row) = db.find(select, values![id])? else {
            return Ok(false);
        };
        let revoked = Rollout {
            revoked: true,
            ..rollout(&row, 0)?
        };
        let (old, new): (String, _) = (row.get(0)?, serde_json::to_string(&revoked)?);
        let update = "UPDATE content SET rollout = ?1 WHERE id = ?2 AND rollout = ?3";
        if db.execute(update, values![&new, id, &old])? > 0 {
            return Ok(true);
        }
    }
    Err(StoreError::Refused("others keep changing this content"))
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

#[cfg(test)]
mod tests;
