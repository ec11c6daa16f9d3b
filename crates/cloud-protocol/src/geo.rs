//! Geo: where am I, and whom do I ask next.

use crate::{
    error::{ProtocolError, answer, json_of},
    http_url::HttpUrl,
    limits::{CACHE_HOST_BYTES_MAX, TAG_BYTES_MAX, VERSION_BYTES_MAX},
    query::{Query, QueryText},
    text::{CountryCode, Text, number_or_text},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::net::IpAddr;

/// `GET /geo?…`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GeoRequest {
    /// The client's version, such as `10.1.0.13`; may be empty.
    pub do_client_version: Text<VERSION_BYTES_MAX>,
    /// The kind of device: [`crate::PROFILE_PC`].
    pub profile: Option<u32>,
    /// A number that tells calls apart in logs.
    pub call_id: Option<u32>,
    /// The group, hashed; only in mode 2.
    pub group_id: Option<Text<TAG_BYTES_MAX>>,
}

impl GeoRequest {
    /// Reads a query (without `?`).
    ///
    /// # Errors
    /// What is too long, malformed or there twice.
    pub fn from_query(query: &str) -> Result<Self, ProtocolError> {
        let query = Query::parse(query)?;
        Ok(Self {
            do_client_version: query.client_version()?,
            profile: query.number("profile")?,
            call_id: query.number("callId")?,
            group_id: query.tag("groupID")?,
        })
    }

    /// Writes the query.
    pub fn to_query(&self) -> String {
        QueryText::new()
            .with("doClientVersion", &self.do_client_version)
            .with_some("profile", self.profile.as_ref())
            .with_some("callId", self.call_id.as_ref())
            .with_some("groupID", self.group_id.as_ref())
            .finish()
    }
}

/// Geo's answer, `text/json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GeoAnswer {
    /// The address that the service saw; `0.0.0.0` and none are refused.
    #[serde(deserialize_with = "seen_address")]
    pub external_ip_address: IpAddr,
    /// The country of that address.
    pub country_code: CountryCode,
    /// Whom to ask next.
    #[serde(rename = "KeyValue_EndpointFullUri")]
    pub key_value_endpoint_full_uri: HttpUrl,
    /// The answer's version, never empty: [`GeoVersionAnswer`] says whether it is still true.
    pub version: Text<TAG_BYTES_MAX>,
    /// Seen in logs; sent on by nobody.
    #[serde(default)]
    pub compact_version: Text<TAG_BYTES_MAX>,
    /// Sent on to the key-value service.
    #[serde(default)]
    pub cache_id: Text<TAG_BYTES_MAX>,
    /// Cache hosts that the service names, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_host: Option<Text<CACHE_HOST_BYTES_MAX>>,
    /// 1: look at DHCP option 235.
    #[serde(default, deserialize_with = "number_or_text")]
    pub cache_host_flag: u32,
    /// Whether the address is one of a VPN's.
    #[serde(rename = "isVpn", default)]
    pub is_vpn: bool,
    /// As recorded; its meaning is not known.
    #[serde(default)]
    pub content_cert: bool,
    /// As recorded: empty.
    #[serde(default)]
    pub download_mode_fail_safe: Text<TAG_BYTES_MAX>,
}

fn seen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let address = IpAddr::deserialize(deserializer)?;
    if address.is_unspecified() {
        return Err(D::Error::custom("ExternalIpAddress is no address"));
    }
    Ok(address)
}

impl GeoAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Other JSON, or one without what the next step needs.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        let this: Self = answer(json)?;
        if this.version.is_empty() {
            return Err(ProtocolError::Missing("Version"));
        }
        Ok(this)
    }

    /// Writes the answer.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(self)
    }
}

/// The answer of `/geoversion`: whether geo's answer is still the one that a client keeps. Its fields are not publicly
/// recorded; ours has the version alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GeoVersionAnswer {
    /// [`GeoAnswer::version`].
    pub version: Text<TAG_BYTES_MAX>,
}

impl GeoVersionAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Other JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        answer(json)
    }

    /// Writes the answer.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer as it was recorded, with documentation addresses.
    const RECORDED: &str = r#"{"ExternalIpAddress":"203.0.113.7","CountryCode":"DE",
        "KeyValue_EndpointFullUri":"https://kv601.prod.do.dsp.mp.microsoft.com/all","Version":"26A6D4D6994E8DA5",
        "CompactVersion":"1","CacheId":"7","CacheHostFlag":1,"isVpn":false,"ContentCert":false,
        "DownloadModeFailSafe":"","Unknown":{"x":[1]}}"#;

    #[test]
    fn recorded_request_is_read_and_written() {
        let text = "doClientVersion=10.1.0.13&profile=768&callId=2910957318";
        let request = GeoRequest::from_query(text).unwrap();
        assert_eq!(request.profile, Some(crate::PROFILE_PC));
        assert_eq!(request.to_query(), text);
        assert_eq!(
            GeoRequest::from_query("DOCLIENTVERSION=1")
                .unwrap()
                .do_client_version
                .as_str(),
            "1"
        );
    }

    #[test]
    fn malformed_requests_are_refused() {
        let long = format!("doClientVersion={}", "1".repeat(65));
        let huge = "x".repeat(crate::limits::QUERY_BYTES_MAX + 1);
        let many = "a=1&".repeat(65);
        for bad in [
            "profile=-1",
            "profile=4294967296",
            "profile=1&Profile=2",
            "doClientVersion=%00",
            &long,
            &huge,
            &many,
        ] {
            assert!(GeoRequest::from_query(bad).is_err(), "{bad}");
        }
        assert_eq!(GeoRequest::from_query(""), Ok(GeoRequest::default()));
    }

    #[test]
    fn recorded_answer_is_read_and_written() {
        let answer = GeoAnswer::from_json(RECORDED.as_bytes()).unwrap();
        assert_eq!(answer.country_code.as_str(), "DE");
        assert_eq!(
            (answer.cache_host_flag, answer.cache_host.clone()),
            (1, None)
        );
        let written = String::from_utf8(answer.to_json()).unwrap();
        for field in [
            "\"isVpn\":false",
            "\"KeyValue_EndpointFullUri\":\"https://kv601",
            "\"CacheHostFlag\":1",
        ] {
            assert!(written.contains(field), "{written}");
        }
        assert_eq!(GeoAnswer::from_json(written.as_bytes()).unwrap(), answer);
        let texts = RECORDED.replace("\"CacheHostFlag\":1", "\"CacheHostFlag\":\"1\"");
        assert_eq!(GeoAnswer::from_json(texts.as_bytes()).unwrap(), answer);
    }

    #[test]
    fn answers_that_lead_nowhere_are_refused() {
        for (from, to) in [
            ("203.0.113.7", "0.0.0.0"),
            ("203.0.113.7", ""),
            ("203.0.113.7", "203.0.113.256"),
            ("\"DE\"", "\"Germany\""),
            ("https://kv601.prod.do.dsp.mp.microsoft.com/all", ""),
            ("https://kv601", "ftp://kv601"),
            ("26A6D4D6994E8DA5", ""),
            ("26A6D4D6994E8DA5", "\\u0007"),
            ("\"CacheHostFlag\":1", "\"CacheHostFlag\":-1"),
            ("\"Unknown\":{\"x\":[1]}", "\"Version\":\"2\""),
            ("{", "["),
        ] {
            let text = RECORDED.replacen(from, to, 1);
            assert_ne!(text, RECORDED);
            assert!(
                GeoAnswer::from_json(text.as_bytes()).is_err(),
                "{from} → {to}"
            );
        }
        assert!(GeoAnswer::from_json(b"<html>Please log in</html>").is_err());
    }
}
