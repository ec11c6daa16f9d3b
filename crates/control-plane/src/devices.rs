//! Devices that have enrolled, and the tokens that they enrol with: tables of the administration data.

use crate::contents::{Contents, StoreError, TOKENS_MAX, check_token_name, hash_of, new_token};
use dosvc_content::{GroupHash, PeerId};
use dosvc_membership::GROUPS_MAX;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use sha2::{Digest as _, Sha256};

/// The tables. `groups` is a JSON list of group hashes in base64; `key` the SHA-256 of the device's public key; times are
/// seconds since 1970.
pub(crate) const DEVICES_TABLES: &str = "
    CREATE TABLE enrolment (
        name TEXT PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        groups TEXT NOT NULL,
        made INTEGER NOT NULL,
        expires INTEGER,
        uses_left INTEGER
    ) STRICT;
    CREATE TABLE device (
        peer TEXT PRIMARY KEY,
        key BLOB NOT NULL,
        groups TEXT NOT NULL,
        enrolment TEXT NOT NULL,
        enrolled INTEGER NOT NULL,
        renewed INTEGER NOT NULL,
        revoked INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX device_enrolled ON device (enrolled);
";

/// What begins every enrolment token.
const ENROLMENT_PREFIX: &str = "dosvc_enrol_";

/// The most devices.
const DEVICES_MAX: u64 = 10_000_000;

/// An enrolment token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EnrolmentInfo {
    /// Its name.
    pub name: String,
    /// The groups that devices become members of, by their hashes.
    pub groups: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Until when it can be used; `None`: always.
    pub expires: Option<u64>,
    /// How many devices may still enrol with it; `None`: any number.
    pub uses_left: Option<u32>,
}

/// A device that has enrolled.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// Its peer id.
    pub peer_id: String,
    /// Its groups, by their hashes.
    pub groups: Vec<String>,
    /// The name of the token that it has enrolled with.
    pub enrolment: String,
    /// When it enrolled, in seconds since 1970.
    pub enrolled: u64,
    /// When it got its latest certificate.
    pub renewed: u64,
    /// It gets none any more.
    pub revoked: bool,
}

/// Why a device gets no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("this enrolment token is not known")]
    UnknownToken,
    #[error("this enrolment token has expired")]
    ExpiredToken,
    #[error("this enrolment token is used up")]
    UsedToken,
    #[error("another key has enrolled under this peer id")]
    OtherKey,
    #[error("this device has been revoked")]
    Revoked,
    #[error("this device has not enrolled")]
    NotEnrolled,
    #[error("there are too many devices")]
    TooMany,
}

/// The groups that a device gets a certificate for, or why it gets none.
type Outcome = Result<Result<Vec<GroupHash>, Denied>, StoreError>;

impl Contents {
    /// Makes an enrolment token for these groups and answers its secret, of which only the SHA-256 is kept.
    ///
    /// # Errors
    /// A name that is taken or no name, no group or more than a certificate has room for, and what can't be written.
    pub async fn add_enrolment(
        &self,
        name: &str,
        groups: &[GroupHash],
        (expires, uses): (Option<u64>, Option<u32>),
        now: u64,
    ) -> Result<String, StoreError> {
        check_token_name(name)?;
        if !(1..=GROUPS_MAX).contains(&groups.len()) {
            return Err(StoreError::Refused("a device is of 1 to 8 groups"));
        }
        let token = new_token(ENROLMENT_PREFIX)?;
        let (name, hash, groups) = (name.to_owned(), hash_of(&token), text_of(groups));
        self.run(move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let count: u64 =
                change.query_row("SELECT count(*) FROM enrolment", [], |row| row.get(0))?;
            if count >= TOKENS_MAX {
                return Err(StoreError::Refused(
                    "there are 10000 enrolment tokens already",
                ));
            }
            let put =
                "INSERT OR IGNORE INTO enrolment (name, hash, groups, made, expires, uses_left)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            if change.execute(put, params![name, hash, groups, now, expires, uses])? == 0 {
                return Err(StoreError::Refused(
                    "there is an enrolment token with this name already",
                ));
            }
            change.commit()?;
            Ok(())
        })
        .await?;
        Ok(token)
    }

    /// All enrolment tokens, by name.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn enrolments(&self) -> Result<Vec<EnrolmentInfo>, StoreError> {
        self.run(|db| {
            let mut query = db.prepare_cached(
                "SELECT name, groups, made, expires, uses_left FROM enrolment ORDER BY name",
            )?;
            let mut rows = query.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(EnrolmentInfo {
                    name: row.get(0)?,
                    groups: texts_of(&row.get::<_, String>(1)?)?,
                    made: row.get(2)?,
                    expires: row.get(3)?,
                    uses_left: row.get(4)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Removes an enrolment token; answers whether there was one. Devices that have used it stay enrolled.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn remove_enrolment(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.run(move |db| Ok(db.execute("DELETE FROM enrolment WHERE name = ?1", [name])? > 0))
            .await
    }

    /// A device enrols with a token, or enrols anew with the same key: then it gets the token's groups.
    pub(crate) async fn enrol(
        &self,
        token: &str,
        peer: &PeerId,
        public_key: &[u8],
        now: u64,
    ) -> Outcome {
        let (hash, peer) = (hash_of(token), peer.to_string());
        let key: [u8; 32] = Sha256::digest(public_key).into();
        self.run(move |db| {
            // Two devices must not have the same last use.
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let groups = match enrol(&change, hash, (&peer, key), now)? {
                Ok(groups) => groups,
                Err(denied) => return Ok(Err(denied)),
            };
            change.commit()?;
            hashes_of(&groups).map(Ok)
        })
        .await
    }

    /// A device that has enrolled wants its next certificate.
    pub(crate) async fn renew(&self, peer: &PeerId, public_key: &[u8], now: u64) -> Outcome {
        let peer = peer.to_string();
        let key: [u8; 32] = Sha256::digest(public_key).into();
        self.run(move |db| {
            let known = device(db, &peer)?;
            let groups = match known {
                None => return Ok(Err(Denied::NotEnrolled)),
                // Who asks is told nothing of a device that it is not.
                Some(known) if known.key != key => return Ok(Err(Denied::NotEnrolled)),
                Some(known) if known.revoked => return Ok(Err(Denied::Revoked)),
                Some(known) => known.groups,
            };
            let set = "UPDATE device SET renewed = ?2 WHERE peer = ?1";
            db.execute(set, params![peer, now])?;
            hashes_of(&groups).map(Ok)
        })
        .await
    }

    /// The devices that enrolled last.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn devices(&self, count: usize) -> Result<Vec<DeviceInfo>, StoreError> {
        self.run(move |db| {
            let mut query = db.prepare_cached(
                "SELECT peer, groups, enrolment, enrolled, renewed, revoked FROM device
                 ORDER BY enrolled DESC, peer LIMIT ?1",
            )?;
            let mut rows = query.query([i64::try_from(count).unwrap_or(i64::MAX)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(DeviceInfo {
                    peer_id: row.get(0)?,
                    groups: texts_of(&row.get::<_, String>(1)?)?,
                    enrolment: row.get(2)?,
                    enrolled: row.get(3)?,
                    renewed: row.get(4)?,
                    revoked: row.get(5)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Gives a device no certificate any more, not even with a token; answers whether it is known.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn revoke_device(&self, peer: &PeerId) -> Result<bool, StoreError> {
        let peer = peer.to_string();
        self.run(move |db| {
            let set = "UPDATE device SET revoked = 1 WHERE peer = ?1";
            Ok(db.execute(set, [peer])? > 0)
        })
        .await
    }

    /// Forgets a device: it, or another key under its peer id, may enrol again. Answers whether it was known.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn remove_device(&self, peer: &PeerId) -> Result<bool, StoreError> {
        let peer = peer.to_string();
        self.run(move |db| Ok(db.execute("DELETE FROM device WHERE peer = ?1", [peer])? > 0))
            .await
    }
}

/// What is known of a device.
struct Known {
    key: [u8; 32],
    groups: String,
    revoked: bool,
}

fn device(db: &Connection, peer: &str) -> Result<Option<Known>, StoreError> {
    let mut query = db.prepare_cached("SELECT key, groups, revoked FROM device WHERE peer = ?1")?;
    let found = query.query_row([peer], |row| {
        Ok(Known {
            key: row.get(0)?,
            groups: row.get(1)?,
            revoked: row.get(2)?,
        })
    });
    Ok(found.optional()?)
}

/// Answers the token's groups, and writes the device, but does not commit.
fn enrol(
    change: &Connection,
    token: [u8; 32],
    (peer, key): (&str, [u8; 32]),
    now: u64,
) -> Result<Result<String, Denied>, StoreError> {
    type Row = (String, String, Option<u64>, Option<u32>);
    let row = change
        .prepare_cached("SELECT name, groups, expires, uses_left FROM enrolment WHERE hash = ?1")?
        .query_row([token], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
    let Some((name, groups, expires, uses_left)): Option<Row> = row.optional()? else {
        return Ok(Err(Denied::UnknownToken));
    };
    if expires.is_some_and(|end| end <= now) {
        return Ok(Err(Denied::ExpiredToken));
    }
    match device(change, peer)? {
        Some(known) if known.key != key => return Ok(Err(Denied::OtherKey)),
        Some(known) if known.revoked => return Ok(Err(Denied::Revoked)),
        Some(_) => {
            let set = "UPDATE device SET groups = ?2, enrolment = ?3, renewed = ?4 WHERE peer = ?1";
            change.execute(set, params![peer, groups, name, now])?;
        }
        None => {
            if uses_left == Some(0) {
                return Ok(Err(Denied::UsedToken));
            }
            let count: u64 =
                change.query_row("SELECT count(*) FROM device", [], |row| row.get(0))?;
            if count >= DEVICES_MAX {
                return Ok(Err(Denied::TooMany));
            }
            let set = "UPDATE enrolment SET uses_left = uses_left - 1 WHERE hash = ?1";
            change.execute(set, [token])?;
            let put = "INSERT INTO device (peer, key, groups, enrolment, enrolled, renewed)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
            change.execute(put, params![peer, key, groups, name, now])?;
        }
    }
    Ok(Ok(groups))
}

fn text_of(groups: &[GroupHash]) -> String {
    let groups: Vec<String> = groups.iter().map(GroupHash::to_string).collect();
    serde_json::Value::from(groups).to_string()
}

fn texts_of(groups: &str) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(groups).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn hashes_of(groups: &str) -> Result<Vec<GroupHash>, StoreError> {
    let damaged = |error: dosvc_content::ParseIdError| StoreError::Damaged(error.to_string());
    let texts = texts_of(groups)?;
    let hashes = texts.iter().map(|text| text.parse().map_err(damaged));
    hashes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u8) -> GroupHash {
        [n; 32].into()
    }

    fn peer(n: u8) -> PeerId {
        [n; 20].into()
    }

    async fn store() -> (tempfile::TempDir, Contents) {
        let folder = tempfile::tempdir().unwrap();
        let contents = Contents::open(folder.path()).await.unwrap();
        (folder, contents)
    }

    #[tokio::test]
    async fn a_device_enrols_renews_and_is_revoked() {
        let (_folder, store) = store().await;
        let groups = [group(1), group(2)];
        let token = store
            .add_enrolment("laptops", &groups, (None, None), 5)
            .await
            .unwrap();
        assert!(token.starts_with(ENROLMENT_PREFIX));
        let renewed = store.renew(&peer(1), b"key", 6).await.unwrap();
        assert_eq!(renewed, Err(Denied::NotEnrolled));
        let enrolled = store.enrol(&token, &peer(1), b"key", 7).await.unwrap();
        assert_eq!(enrolled, Ok(groups.to_vec()));
        assert_eq!(
            store.renew(&peer(1), b"key", 8).await.unwrap(),
            Ok(groups.to_vec())
        );
        // The id belongs to who had it first.
        let other = store.renew(&peer(1), b"other", 8).await.unwrap();
        assert_eq!(other, Err(Denied::NotEnrolled));
        let other = store.enrol(&token, &peer(1), b"other", 8).await.unwrap();
        assert_eq!(other, Err(Denied::OtherKey));
        let known = &store.devices(5).await.unwrap()[0];
        assert_eq!(
            (known.enrolled, known.renewed, known.revoked),
            (7, 8, false)
        );
        assert_eq!(known.groups, groups.map(|group| group.to_string()));

        assert!(store.revoke_device(&peer(1)).await.unwrap());
        assert!(!store.revoke_device(&peer(2)).await.unwrap());
        for denied in [
            store.renew(&peer(1), b"key", 9).await.unwrap(),
            store.enrol(&token, &peer(1), b"key", 9).await.unwrap(),
        ] {
            assert_eq!(denied, Err(Denied::Revoked));
        }
        assert!(store.remove_device(&peer(1)).await.unwrap());
        let again = store.enrol(&token, &peer(1), b"other", 9).await.unwrap();
        assert!(again.is_ok());
    }

    #[tokio::test]
    async fn tokens_end_by_time_by_use_and_by_removal() {
        let (_folder, store) = store().await;
        let one = [group(1)];
        let token = store
            .add_enrolment("two", &one, (Some(100), Some(2)), 5)
            .await
            .unwrap();
        let enrol = async |n: u8, now| {
            let enrolled = store.enrol(&token, &peer(n), &[n], now).await.unwrap();
            enrolled.map(|_| ())
        };
        assert_eq!(enrol(1, 10).await, Ok(()));
        // Whoever enrols anew has been counted.
        assert_eq!(enrol(1, 11).await, Ok(()));
        assert_eq!(enrol(2, 99).await, Ok(()));
        assert_eq!(enrol(3, 99).await, Err(Denied::UsedToken));
        assert_eq!(enrol(1, 99).await, Ok(()));
        assert_eq!(enrol(1, 100).await, Err(Denied::ExpiredToken));
        let left: Vec<_> = store.enrolments().await.unwrap();
        assert_eq!((left[0].uses_left, left[0].expires), (Some(0), Some(100)));
        assert!(store.remove_enrolment("two").await.unwrap());
        assert!(!store.remove_enrolment("two").await.unwrap());
        assert_eq!(enrol(4, 10).await, Err(Denied::UnknownToken));
        // Enrolled is enrolled.
        assert!(store.renew(&peer(2), &[2], 500).await.unwrap().is_ok());
        for (name, groups) in [("", &one[..]), ("x", &[]), ("x", &[group(1); 9])] {
            let made = store.add_enrolment(name, groups, (None, None), 5).await;
            assert!(matches!(made, Err(StoreError::Refused(_))), "{name}");
        }
    }
}
