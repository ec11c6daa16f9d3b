//! Publishing: what a publisher tells the content policy service, with an API token. All of it is ours.

use crate::{
    content_policy::ContentPolicy,
    error::{ProtocolError, bounded, json_of},
};
use dosvc_content::{ContentId, GroupHash, PeerId, PiecesHashFile};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// Where contents are published, below the service's root; `POST`, with `Authorization: Bearer TOKEN`.
pub const PUBLISH_PATH: &str = "/publish/content";

/// Where a content is taken back: `POST`, with a [`RevokeRequest`].
pub const REVOKE_PATH: &str = "/publish/revoke";

/// Bytes of a publication, its hash file included.
pub const PUBLISH_BYTES_MAX: usize = 64 << 20;

/// Groups that a content can be rolled out to.
pub const ROLLOUT_GROUPS_MAX: usize = 1024;

/// Who may share a content, and from when until when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct Rollout {
    /// Groups that may share it, by their hashes; none: everybody.
    #[serde(serialize_with = "as_texts", deserialize_with = "from_texts")]
    pub groups: Vec<GroupHash>,
    /// The part of the fleet that may share it, in per cent. Who belongs to a smaller part belongs to every larger one; it
    /// differs from content to content.
    pub percent: u8,
    /// From when on, in seconds since 1970.
    pub start_secs_since_epoch: Option<u64>,
    /// Until when, in seconds since 1970.
    pub expire_secs_since_epoch: Option<u64>,
    /// Taken back: nobody any more.
    pub revoked: bool,
}

impl Default for Rollout {
    /// Everybody, now and always.
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            percent: 100,
            start_secs_since_epoch: None,
            expire_secs_since_epoch: None,
            revoked: false,
        }
    }
}

impl Rollout {
    /// Whether a client is told of the content. One that doesn't say who it is belongs to the last part of the fleet.
    pub fn admits(
        &self,
        content: &ContentId,
        group: Option<&GroupHash>,
        peer: Option<&PeerId>,
        now_secs_since_epoch: u64,
    ) -> bool {
        let started = self
            .start_secs_since_epoch
            .is_none_or(|start| start <= now_secs_since_epoch);
        let expired = self
            .expire_secs_since_epoch
            .is_some_and(|end| end <= now_secs_since_epoch);
        let in_group = self.groups.is_empty() || group.is_some_and(|g| self.groups.contains(g));
        let part = peer.map_or(99, |peer| part_of(content, peer));
        started && !expired && !self.revoked && in_group && part < self.percent
    }

    fn check(&self) -> Result<(), ProtocolError> {
        if self.percent > 100 {
            return Err(ProtocolError::invalid("Percent", "0 to 100"));
        }
        if self.groups.len() > ROLLOUT_GROUPS_MAX {
            return Err(ProtocolError::invalid("Groups", "1024 groups or fewer"));
        }
        Ok(())
    }
}

/// The hundredth of the fleet that a peer belongs to for this content: 0 to 99.
fn part_of(content: &ContentId, peer: &PeerId) -> u8 {
    let hash = Sha256::new_with_prefix(content.as_str())
        .chain_update([0])
        .chain_update(peer.as_bytes())
        .finalize();
    let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    u8::try_from(number % 100).unwrap_or(99)
}

fn as_texts<S: Serializer>(groups: &[GroupHash], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(groups.iter().map(GroupHash::to_string))
}

fn from_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<GroupHash>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed = texts
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom));
    parsed.collect()
}

/// A content to be published, or published anew with other policies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PublishRequest {
    /// What clients are told.
    pub policy: ContentPolicy,
    /// Who is told.
    #[serde(default)]
    pub rollout: Rollout,
    /// The hash file, if the service shall serve it (`/content/ID/pieceshash`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_file: Option<String>,
}

impl PublishRequest {
    /// Reads a request and checks all of it: the hash file must have the policy's hash of hashes.
    ///
    /// # Errors
    /// Too many bytes, other JSON, or what does not hold.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        bounded("the publication", json.len(), PUBLISH_BYTES_MAX)?;
        let this: Self =
            serde_json::from_slice(json).map_err(|error| ProtocolError::Json(error.to_string()))?;
        this.policy.check()?;
        this.rollout.check()?;
        if let Some(file) = &this.hash_file {
            let right = PiecesHashFile::from_json(file.as_bytes())
                .is_ok_and(|file| file.hash_of_hashes() == this.policy.hash_of_hashes);
            if !right {
                return Err(ProtocolError::invalid(
                    "HashFile",
                    "a hash file with this hash of hashes",
                ));
            }
        }
        Ok(this)
    }

    /// Writes the request.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(self)
    }
}

/// A content to be taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct RevokeRequest {
    /// Its id.
    pub content_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ContentId {
        text.parse().unwrap()
    }

    #[test]
    fn rollout_has_a_beginning_an_end_and_groups() {
        let group = GroupHash::from([1; 32]);
        let rollout = Rollout {
            groups: vec![group],
            start_secs_since_epoch: Some(100),
            expire_secs_since_epoch: Some(200),
            ..Rollout::default()
        };
        let admits = |group: Option<[u8; 32]>, now| {
            rollout.admits(&id("x"), group.map(GroupHash::from).as_ref(), None, now)
        };
        assert!(admits(Some([1; 32]), 100) && admits(Some([1; 32]), 199));
        assert!(!admits(Some([1; 32]), 99) && !admits(Some([1; 32]), 200));
        assert!(!admits(Some([2; 32]), 150) && !admits(None, 150));
        let revoked = Rollout {
            revoked: true,
            ..Rollout::default()
        };
        assert!(Rollout::default().admits(&id("x"), None, None, 0));
        assert!(!revoked.admits(&id("x"), None, None, 0));
    }

    #[test]
    fn larger_parts_of_a_fleet_hold_the_smaller_ones() {
        let peers: Vec<PeerId> = (0..4000_u32)
            .map(|n| {
                let mut id = [0; 20];
                id[..4].copy_from_slice(&n.to_be_bytes());
                id.into()
            })
            .collect();
        let told = |content: &str, percent| -> Vec<bool> {
            let rollout = Rollout {
                percent,
                ..Rollout::default()
            };
            let told = peers
                .iter()
                .map(|peer| rollout.admits(&id(content), None, Some(peer), 0));
            told.collect()
        };
        let (ten, fifty, other) = (told("x", 10), told("x", 50), told("y", 10));
        let count = |told: &[bool]| told.iter().filter(|t| **t).count();
        assert!((300..500).contains(&count(&ten)), "{}", count(&ten));
        assert!((1800..2200).contains(&count(&fifty)), "{}", count(&fifty));
        assert!(ten.iter().zip(&fifty).all(|(ten, fifty)| !ten || *fifty));
        assert_ne!(ten, other, "not always the same devices go first");
        assert_eq!((count(&told("x", 0)), count(&told("x", 100))), (0, 4000));
        let half = Rollout {
            percent: 50,
            ..Rollout::default()
        };
        assert!(
            !half.admits(&id("x"), None, None, 0),
            "who is unknown comes last"
        );
    }

    #[test]
    fn publications_are_checked() {
        let hashes = r#"{"MajorVersion":1,"MinorVersion":0,"HashOfHashes":"bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA=","ContentLength":244530,"PieceSize":1048576,"Pieces":["J/rmYNjGCeAgcDu0Y7ZgHmKBHcddsZl1vLfWjZWbUn0="]}"#;
        let policy = r#"{"ContentId":"x","HashOfHashes":"bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA=","PiecesHashFileCdnUrls":["http://a/x.phf"]}"#;
        let json = format!(
            "{{\"Policy\":{policy},\"Rollout\":{{\"Percent\":50,\"Groups\":[\"{}\"]}},\"HashFile\":{}}}",
            GroupHash::from([1; 32]),
            serde_json::to_string(hashes).unwrap()
        );
        let request = PublishRequest::from_json(json.as_bytes()).unwrap();
        assert_eq!(request.rollout.percent, 50);
        assert_eq!(
            PublishRequest::from_json(&request.to_json()).unwrap(),
            request
        );
        for (from, to) in [
            ("244530", "244531"),
            ("\"HashOfHashes\":\"bLR", "\"HashOfHashes\":\"cLR"),
            ("\"Percent\":50", "\"Percent\":101"),
            ("\"Percent\":50", "\"Percents\":50"),
            ("\"Groups\":[\"A", "\"Groups\":[\""),
            ("[\"http://a/x.phf\"]", "[]"),
        ] {
            let bad = json.replacen(from, to, 1);
            assert_ne!(bad, json);
            assert!(PublishRequest::from_json(bad.as_bytes()).is_err(), "{from}");
        }
    }
}
