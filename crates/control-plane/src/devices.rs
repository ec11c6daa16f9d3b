//! Devices that have enrolled, and the tokens that they enrol with: tables of the administration data.

use crate::{
    contents::{Contents, StoreError, TOKENS_MAX, check_token_name, hash_of, new_token},
    database::{Row, Session, values},
};
use dosvc_content::{GroupHash, PeerId};
use dosvc_membership::GROUPS_MAX;
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

/// Why a device gets no certificate, as [`StoreError::Refused`].
pub(crate) mod denied {
    pub(crate) const UNKNOWN_TOKEN: &str = "this enrolment token is not known";
    pub(crate) const EXPIRED_TOKEN: &str = "this enrolment token has expired";
    pub(crate) const USED_TOKEN: &str = "this enrolment token is used up";
    pub(crate) const OTHER_KEY: &str = "another key has enrolled under this peer id";
    pub(crate) const REVOKED: &str = "this device has been revoked";
    pub(crate) const NOT_ENROLLED: &str = "this device has not enrolled";
    pub(crate) const TOO_MANY: &str = "there are too many devices";
}

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
        let work = move |db: &mut dyn Session| {
            if db.number("SELECT count(*) FROM enrolment", &[])? >= TOKENS_MAX {
                let why = "there are 10000 enrolment tokens already";
                return Err(StoreError::Refused(why));
            }
            let put = "INSERT INTO enrolment (name, hash, groups, made, expires, uses_left)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
            let uses = uses.map(u64::from);
            match db.execute(put, values![&name, hash, &groups, now, expires, uses])? {
                0 => Err(StoreError::Refused(
                    "there is an enrolment token with this name already",
                )),
                _ => Ok(()),
            }
        };
        self.0.change(work).await?;
        Ok(token)
    }

    /// All enrolment tokens, by name.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn enrolments(&self) -> Result<Vec<EnrolmentInfo>, StoreError> {
        let select = "SELECT name, groups, made, expires, uses_left FROM enrolment ORDER BY name";
        let rows = self.0.look(move |db| db.query(select, &[])).await?;
        let info = |row: &Row| {
            let uses_left: Option<u64> = row.get(4)?;
            Ok(EnrolmentInfo {
                name: row.get(0)?,
                groups: texts_of(&row.get::<String>(1)?)?,
                made: row.get(2)?,
                expires: row.get(3)?,
                uses_left: uses_left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
            })
        };
        rows.iter().map(info).collect()
    }

    /// Removes an enrolment token; answers whether there was one. Devices that have used it stay enrolled.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn remove_enrolment(&self, name: &str) -> Result<bool, StoreError> {
        self.affects("DELETE FROM enrolment WHERE name = ?1", name)
            .await
    }

    /// Carries out a change of the row that this text is the key of; answers whether there is one.
    async fn affects(&self, sql: &'static str, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        let affected = self.0.look(move |db| db.execute(sql, values![&key]));
        Ok(affected.await? > 0)
    }

    /// A device enrols with a token, or enrols anew with the same key: then it gets the token's groups.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with one of [`denied`].
    pub(crate) async fn enrol(
        &self,
        token: &str,
        peer: &PeerId,
        public_key: &[u8],
        now: u64,
    ) -> Result<Vec<GroupHash>, StoreError> {
        let (hash, peer) = (hash_of(token), peer.to_string());
        let key: [u8; 32] = Sha256::digest(public_key).into();
        let groups = self
            .0
            .change(move |db| enrol(db, hash, (&peer, key), now))
            .await?;
        hashes_of(&groups)
    }

    /// A device that has enrolled wants its next certificate.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with one of [`denied`].
    pub(crate) async fn renew(
        &self,
        peer: &PeerId,
        public_key: &[u8],
        now: u64,
    ) -> Result<Vec<GroupHash>, StoreError> {
        let peer = peer.to_string();
        let key = Sha256::digest(public_key).to_vec();
        let groups = self.0.look(move |db| {
            let known = match device(db, &peer)? {
                // Who asks is told nothing of a device that it is not.
                Some(known) if known.key == key => known,
                _ => return Err(StoreError::Refused(denied::NOT_ENROLLED)),
            };
            if known.revoked {
                return Err(StoreError::Refused(denied::REVOKED));
            }
            let set = "UPDATE device SET renewed = ?2 WHERE peer = ?1";
            db.execute(set, values![&peer, now])?;
            Ok(known.groups)
        });
        hashes_of(&groups.await?)
    }

    /// The devices that enrolled last.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn devices(&self, count: usize) -> Result<Vec<DeviceInfo>, StoreError> {
        let select = "SELECT peer, groups, enrolment, enrolled, renewed, revoked FROM device
                      ORDER BY enrolled DESC, peer LIMIT ?1";
        let rows = self
            .0
            .look(move |db| db.query(select, values![count as u64]));
        let info = |row: &Row| {
            Ok(DeviceInfo {
                peer_id: row.get(0)?,
                groups: texts_of(&row.get::<String>(1)?)?,
                enrolment: row.get(2)?,
                enrolled: row.get(3)?,
                renewed: row.get(4)?,
                revoked: row.get::<u64>(5)? != 0,
            })
        };
        rows.await?.iter().map(info).collect()
    }

    /// Gives a device no certificate any more, not even with a token; answers whether it is known.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn revoke_device(&self, peer: &PeerId) -> Result<bool, StoreError> {
        let set = "UPDATE device SET revoked = 1 WHERE peer = ?1";
        self.affects(set, &peer.to_string()).await
    }

    /// Forgets a device: it, or another key under its peer id, may enrol again. Answers whether it was known.
    ///
    /// # Errors
    /// What can't be written.
    pub async fn remove_device(&self, peer: &PeerId) -> Result<bool, StoreError> {
        let remove = "DELETE FROM device WHERE peer = ?1";
        self.affects(remove, &peer.to_string()).await
    }
}

/// What is known of a device.
struct Known {
    key: Vec<u8>,
    groups: String,
    revoked: bool,
}

fn device(db: &mut dyn Session, peer: &str) -> Result<Option<Known>, StoreError> {
    let select = "SELECT key, groups, revoked FROM device WHERE peer = ?1";
    let Some(row) = db.find(select, values![peer])? else {
        return Ok(None);
    };
    Ok(Some(Known {
        key: row.get(0)?,
        groups: row.get(1)?,
        revoked: row.get::<u64>(2)? != 0,
    }))
}

/// Answers the token's groups, and writes the device.
fn enrol(
    db: &mut dyn Session,
    token: [u8; 32],
    (peer, key): (&str, [u8; 32]),
    now: u64,
) -> Result<String, StoreError> {
    let refused = |why| Err(StoreError::Refused(why));
    let select = "SELECT name, groups, expires FROM enrolment WHERE hash = ?1";
    let Some(row) = db.find(select, values![token])? else {
        return refused(denied::UNKNOWN_TOKEN);
    };
    let (name, groups): (String, String) = (row.get(0)?, row.get(1)?);
    let expires: Option<u64> = row.get(2)?;
    if expires.is_some_and(|end| end <= now) {
        return refused(denied::EXPIRED_TOKEN);
    }
    match device(db, peer)? {
        Some(known) if known.key != key => refused(denied::OTHER_KEY),
        Some(known) if known.revoked => refused(denied::REVOKED),
        Some(_) => {
            let set = "UPDATE device SET groups = ?2, enrolment = ?3, renewed = ?4 WHERE peer = ?1";
            db.execute(set, values![peer, &groups, &name, now])?;
            Ok(groups)
        }
        None => {
            if db.number("SELECT count(*) FROM device", &[])? >= DEVICES_MAX {
                return refused(denied::TOO_MANY);
            }
            // In one step: two devices must not have the same last use.
            let use_it = "UPDATE enrolment SET uses_left = uses_left - 1
                          WHERE hash = ?1 AND (uses_left IS NULL OR uses_left > 0)";
            if db.execute(use_it, values![token])? == 0 {
                return refused(denied::USED_TOKEN);
            }
            let put = "INSERT INTO device (peer, key, groups, enrolment, enrolled, renewed)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO NOTHING";
            // Another process may have been faster, with another key.
            match db.execute(put, values![peer, key, &groups, &name, now])? {
                0 => refused(denied::OTHER_KEY),
                _ => Ok(groups),
            }
        }
    }
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
pub(crate) mod tests {
    use super::*;

    fn group(n: u8) -> GroupHash {
        [n; 32].into()
    }

    fn peer(n: u8) -> PeerId {
        [n; 20].into()
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> &'static str {
        match result {
            Err(StoreError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Of the battery for both databases.
    pub(crate) async fn a_device_enrols_renews_and_is_revoked(store: &Contents) {
        let groups = [group(1), group(2)];
        let token = store
            .add_enrolment("laptops", &groups, (None, None), 5)
            .await
            .unwrap();
        assert!(token.starts_with(ENROLMENT_PREFIX));
        let renewed = store.renew(&peer(1), b"key", 6).await;
        assert_eq!(refused(renewed), denied::NOT_ENROLLED);
        let enrolled = store.enrol(&token, &peer(1), b"key", 7).await.unwrap();
        assert_eq!(enrolled, groups);
        let renewed = store.renew(&peer(1), b"key", 8).await.unwrap();
        assert_eq!(renewed, groups);
        // The id belongs to who had it first.
        let other = store.renew(&peer(1), b"other", 8).await;
        assert_eq!(refused(other), denied::NOT_ENROLLED);
        let other = store.enrol(&token, &peer(1), b"other", 8).await;
        assert_eq!(refused(other), denied::OTHER_KEY);
        let known = &store.devices(5).await.unwrap()[0];
        assert_eq!(
            (known.enrolled, known.renewed, known.revoked),
            (7, 8, false)
        );
        assert_eq!(known.groups, groups.map(|group| group.to_string()));

        assert!(store.revoke_device(&peer(1)).await.unwrap());
        assert!(!store.revoke_device(&peer(2)).await.unwrap());
        for answer in [
            store.renew(&peer(1), b"key", 9).await,
            store.enrol(&token, &peer(1), b"key", 9).await,
        ] {
            assert_eq!(refused(answer), denied::REVOKED);
        }
        assert!(store.remove_device(&peer(1)).await.unwrap());
        let again = store.enrol(&token, &peer(1), b"other", 9).await;
        assert!(again.is_ok());
    }

    /// Of the battery for both databases.
    pub(crate) async fn enrolment_tokens_end_by_time_by_use_and_by_removal(store: &Contents) {
        let one = [group(1)];
        let token = store
            .add_enrolment("two", &one, (Some(100), Some(2)), 5)
            .await
            .unwrap();
        let enrol = async |n: u8, now| match store.enrol(&token, &peer(n), &[n], now).await {
            Ok(_) => Ok(()),
            other => Err(refused(other)),
        };
        assert_eq!(enrol(1, 10).await, Ok(()));
        // Whoever enrols anew has been counted.
        assert_eq!(enrol(1, 11).await, Ok(()));
        assert_eq!(enrol(2, 99).await, Ok(()));
        assert_eq!(enrol(3, 99).await, Err(denied::USED_TOKEN));
        assert_eq!(enrol(1, 99).await, Ok(()));
        assert_eq!(enrol(1, 100).await, Err(denied::EXPIRED_TOKEN));
        let left: Vec<_> = store.enrolments().await.unwrap();
        assert_eq!((left[0].uses_left, left[0].expires), (Some(0), Some(100)));
        assert!(store.remove_enrolment("two").await.unwrap());
        assert!(!store.remove_enrolment("two").await.unwrap());
        assert_eq!(enrol(4, 10).await, Err(denied::UNKNOWN_TOKEN));
        // Enrolled is enrolled.
        assert!(store.renew(&peer(2), &[2], 500).await.is_ok());
        for (name, groups) in [("", &one[..]), ("x", &[]), ("x", &[group(1); 9])] {
            let made = store.add_enrolment(name, groups, (None, None), 5).await;
            assert!(matches!(made, Err(StoreError::Refused(_))), "{name}");
        }
    }
}
