//! Content policy: may this content be shared, what is its hash, and how is it to be treated.

use crate::{
    error::{ProtocolError, answer, json_of},
    http_url::HttpUrl,
    limits::{
        CACHE_HOST_BYTES_MAX, CONTENT_URLS_MAX, TAG_BYTES_MAX, URL_BYTES_MAX, VERSION_BYTES_MAX,
    },
    query::{Query, QueryText},
    text::{CountryCode, Text},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dosvc_content::{ContentId, HashOfHashes, PeerId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::str::FromStr;

/// `GET <ContentPolicy_EndpointFullUri with the id>?…`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ContentPolicyRequest {
    /// The content's URL, without its query.
    pub alt_catalog_id: Option<Text<URL_BYTES_MAX>>,
    /// The client's version; may be empty.
    pub do_client_version: Text<VERSION_BYTES_MAX>,
    /// The kind of device.
    pub profile: Option<u32>,
    /// What geo said.
    pub country_code: Option<CountryCode>,
    /// The group, hashed (`eID`).
    pub e_id: Option<Text<TAG_BYTES_MAX>>,
    /// The cache host in use.
    pub cache_host: Option<Text<CACHE_HOST_BYTES_MAX>>,
    /// Who asks: ours, so that a content can be rolled out to a part of a fleet. Without it a client belongs to the last
    /// part.
    pub peer_id: Option<PeerId>,
}

impl ContentPolicyRequest {
    /// Reads a query (without `?`).
    ///
    /// # Errors
    /// What is too long, malformed or there twice.
    pub fn from_query(query: &str) -> Result<Self, ProtocolError> {
        let query = Query::parse(query)?;
        Ok(Self {
            alt_catalog_id: query.bounded("altCatalogId")?,
            do_client_version: query.client_version()?,
            profile: query.number("profile")?,
            country_code: query.parsed("countryCode", "a country of two letters")?,
            e_id: query.tag("eID")?,
            cache_host: query.bounded("CacheHost")?,
            peer_id: query.parsed("PeerId", "40 hex digits")?,
        })
    }

    /// Writes the query.
    pub fn to_query(&self) -> String {
        QueryText::new()
            .with_some("altCatalogId", self.alt_catalog_id.as_ref())
            .with("doClientVersion", &self.do_client_version)
            .with_some("profile", self.profile.as_ref())
            .with_some("countryCode", self.country_code.as_ref())
            .with_some("eID", self.e_id.as_ref())
            .with_some("CacheHost", self.cache_host.as_ref())
            .with_some("PeerId", self.peer_id.as_ref())
            .finish()
    }
}

/// The content policy service's answer. A content that it does not know, or must not show to who asks, is 404: the
/// client then downloads it in simple mode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContentPolicy {
    /// The content's id.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub content_id: ContentId,
    /// The anchor of trust.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub hash_of_hashes: HashOfHashes,
    /// Where the hash file lies; not empty.
    pub pieces_hash_file_cdn_urls: Vec<HttpUrl>,
    /// Where the content lies, or `null`: where the caller says.
    #[serde(default)]
    pub content_cdn_urls: Option<Vec<HttpUrl>>,
    /// As recorded; its meaning is not known.
    #[serde(default)]
    pub is_secure: bool,
    /// As recorded; its meaning is not known.
    #[serde(default)]
    pub is_internal: bool,
    /// How the content is to be treated.
    #[serde(default)]
    pub policies: ContentPolicies,
    /// As recorded; its meaning is not known.
    #[serde(default)]
    pub rank: i64,
    /// The publisher's Ed25519 signature of [`Self::signed_bytes`], 64 bytes as base64: ours. A client that knows the
    /// publisher's key takes no policy without a right one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_base64",
        deserialize_with = "from_base64"
    )]
    pub publisher_signature: Option<[u8; 64]>,
}

/// What a content policy says about how a content is to be treated; `null` where it says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContentPolicies {
    /// The bandwidth that peers must reach together in the foreground, bytes a second.
    pub foreground_qos_bps: Option<u64>,
    /// The same in the background.
    pub background_qos_bps: Option<u64>,
    /// How long the content is kept after its download, in seconds.
    pub max_cache_age_secs: Option<u64>,
    /// When the content must go, in seconds since 1970.
    pub expire_at_secs_since_epoch: Option<u64>,
    /// How long a download may take, in seconds.
    pub download_to_expire: Option<u64>,
}

impl ContentPolicy {
    /// Reads an answer.
    ///
    /// # Errors
    /// Other JSON, one without what a download needs, or one beyond the limits.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        let this: Self = answer(json)?;
        this.check()?;
        Ok(this)
    }

    /// Whether everything is there and bounded; what was read from an answer is.
    ///
    /// # Errors
    /// The first field that is not.
    pub fn check(&self) -> Result<(), ProtocolError> {
        const HASH_FILES: &str = "PiecesHashFileCdnUrls";
        if self.pieces_hash_file_cdn_urls.is_empty() {
            return Err(ProtocolError::Missing(HASH_FILES));
        }
        let contents = self.content_cdn_urls.as_deref().unwrap_or_default();
        for (field, urls) in [
            (HASH_FILES, self.pieces_hash_file_cdn_urls.as_slice()),
            ("ContentCdnUrls", contents),
        ] {
            if urls.len() > CONTENT_URLS_MAX {
                return Err(ProtocolError::invalid(field, "16 addresses or fewer"));
            }
        }
        if self
            .content_id
            .hash_of_hashes()
            .is_some_and(|hash| hash != self.hash_of_hashes)
        {
            return Err(ProtocolError::invalid(
                "HashOfHashes",
                "the one that the content id is derived from",
            ));
        }
        Ok(())
    }

    /// Writes the answer.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(self)
    }

    /// What the publisher signs: a line that says what it is, then id, hash of hashes, both lists of addresses and the
    /// policies, each with its length before it, numbers big-endian. Not signed is what only the service knows.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = b"dosvc content policy, version 1\n".to_vec();
        put(&mut out, self.content_id.as_str().as_bytes());
        put(&mut out, self.hash_of_hashes.as_bytes());
        put_urls(&mut out, Some(&self.pieces_hash_file_cdn_urls));
        put_urls(&mut out, self.content_cdn_urls.as_deref());
        let ContentPolicies {
            foreground_qos_bps,
            background_qos_bps,
            max_cache_age_secs,
            expire_at_secs_since_epoch,
            download_to_expire,
        } = self.policies;
        for number in [
            foreground_qos_bps,
            background_qos_bps,
            max_cache_age_secs,
            expire_at_secs_since_epoch,
            download_to_expire,
        ] {
            match number {
                Some(number) => put(&mut out, &number.to_be_bytes()),
                None => put(&mut out, &[]),
            }
        }
        out
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("ids, addresses and lists are bounded");
    out.extend_from_slice(&count.to_be_bytes());
}

fn put_urls(out: &mut Vec<u8>, urls: Option<&[HttpUrl]>) {
    // No list and an empty one are not the same.
    put_count(out, urls.map_or(0, |urls| urls.len() + 1));
    for url in urls.unwrap_or_default() {
        put(out, url.as_str().as_bytes());
    }
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn from_text<'de, T: FromStr<Err: std::fmt::Display>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(D::Error::custom)
}

fn as_base64<S: Serializer>(bytes: &Option<[u8; 64]>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes
        .map(|bytes| STANDARD.encode(bytes))
        .serialize(serializer)
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 64]>, D::Error> {
    let Some(text) = Option::<Text<128>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text.as_str()).map_err(D::Error::custom)?;
    let error = |_| D::Error::custom("a signature has 64 bytes");
    bytes.try_into().map(Some).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer as it was recorded, with another host.
    const RECORDED: &str = r#"{"ContentId":"DO-pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU-cBsHD0=",
        "HashOfHashes":"pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU/cBsHD0=",
        "PiecesHashFileCdnUrls":["https://a.example/x.intunewin.bin.phf"],"ContentCdnUrls":null,
        "IsSecure":false,"IsInternal":false,"Policies":{"ForegroundQosBps":6710886,"BackgroundQosBps":2621440,
        "MaxCacheAgeSecs":86400,"ExpireAtSecsSinceEpoch":null,"DownloadToExpire":86400},"Rank":0}"#;

    #[test]
    fn recorded_answer_is_read_and_written() {
        let policy = ContentPolicy::from_json(RECORDED.as_bytes()).unwrap();
        assert_eq!(policy.policies.foreground_qos_bps, Some(6_710_886));
        assert_eq!(
            (policy.content_cdn_urls.as_ref(), policy.publisher_signature),
            (None, None)
        );
        let plain: String = RECORDED.split_whitespace().collect();
        assert_eq!(String::from_utf8(policy.to_json()).unwrap(), plain);
        let signed = ContentPolicy {
            publisher_signature: Some([7; 64]),
            ..policy
        };
        assert_eq!(ContentPolicy::from_json(&signed.to_json()).unwrap(), signed);
    }

    #[test]
    fn malformed_answers_are_refused() {
        let many = vec!["\"http://a/\""; 17].join(",");
        for (from, to) in [
            ("\"ContentId\":\"DO-p", "\"ContentId\":\"DO-q"),
            ("\"HashOfHashes\":\"pn", "\"HashOfHashes\":\"qn"),
            ("\"https://a.example/x.intunewin.bin.phf\"", ""),
            ("\"https://a.example/x.intunewin.bin.phf\"", &many),
            ("https://a.example", "file:///"),
            ("6710886", "-1"),
            ("\"Rank\":0", "\"PublisherSignature\":\"AAAA\""),
            ("\"Rank\":0", "\"IsSecure\":false"),
        ] {
            let text = RECORDED.replacen(from, to, 1);
            assert_ne!(text, RECORDED);
            assert!(
                ContentPolicy::from_json(text.as_bytes()).is_err(),
                "{from} → {to}"
            );
        }
    }

    #[test]
    fn every_signed_field_changes_what_is_signed() {
        let policy = ContentPolicy::from_json(RECORDED.as_bytes()).unwrap();
        let mut others = vec![policy.clone(); 6];
        others[0].content_id = "x".parse().unwrap();
        others[1].hash_of_hashes = [1; 32].into();
        others[2]
            .pieces_hash_file_cdn_urls
            .push("http://b/".parse().unwrap());
        others[3].content_cdn_urls = Some(Vec::new());
        others[4].policies.expire_at_secs_since_epoch = Some(0);
        others[5].policies.max_cache_age_secs = None;
        for other in &others {
            assert_ne!(other.signed_bytes(), policy.signed_bytes());
        }
        let ranked = ContentPolicy {
            rank: 5,
            ..policy.clone()
        };
        assert_eq!(ranked.signed_bytes(), policy.signed_bytes());
    }

    #[test]
    fn request_is_read_in_any_case_and_written() {
        let text = "altCatalogId=http%3A%2F%2Fa%2Fx&doClientVersion=1.2&profile=768&countryCode=US&eID=abc";
        let request = ContentPolicyRequest::from_query(text).unwrap();
        assert_eq!(request.to_query(), text);
        let other = text
            .replace("altCatalogId", "altCatalogID")
            .replace("eID", "eId");
        assert_eq!(ContentPolicyRequest::from_query(&other).unwrap(), request);
        assert!(ContentPolicyRequest::from_query("PeerId=12").is_err());
    }
}
