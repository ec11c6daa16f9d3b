//! Discovery: which array service holds a content's swarm.

use crate::{
    error::{ProtocolError, answer, json_of},
    http_url::HttpUrl,
    limits::{ARRAYS_MAX, TAG_BYTES_MAX, URL_BYTES_MAX, VERSION_BYTES_MAX},
    query::{Query, QueryText},
    text::{CountryCode, Text},
};
use serde::{Deserialize, Serialize};

/// `GET <Discovery_EndpointFullUri with the id>?…`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiscoveryRequest {
    /// A hint how to part the swarm; 0.
    pub partition_id: Option<u32>,
    /// What geo said.
    pub country_code: Option<CountryCode>,
    /// The content's URL, without its query.
    pub alt_catalog_id: Option<Text<URL_BYTES_MAX>>,
    /// The client's version; may be empty.
    pub do_client_version: Text<VERSION_BYTES_MAX>,
    /// The kind of device.
    pub profile: Option<u32>,
    /// The group, hashed (`eId`).
    pub e_id: Option<Text<TAG_BYTES_MAX>>,
}

impl DiscoveryRequest {
    /// Reads a query (without `?`).
    ///
    /// # Errors
    /// What is too long, malformed or there twice.
    pub fn from_query(query: &str) -> Result<Self, ProtocolError> {
        let query = Query::parse(query)?;
        Ok(Self {
            partition_id: query.number("partitionId")?,
            country_code: query.parsed("CountryCode", "a country of two letters")?,
            alt_catalog_id: query.bounded("altCatalogId")?,
            do_client_version: query.client_version()?,
            profile: query.number("profile")?,
            e_id: query.tag("eId")?,
        })
    }

    /// Writes the query.
    pub fn to_query(&self) -> String {
        QueryText::new()
            .with_some("partitionId", self.partition_id.as_ref())
            .with_some("CountryCode", self.country_code.as_ref())
            .with_some("altCatalogId", self.alt_catalog_id.as_ref())
            .with("doClientVersion", &self.do_client_version)
            .with_some("profile", self.profile.as_ref())
            .with_some("eId", self.e_id.as_ref())
            .finish()
    }
}

/// One array service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CollectiveArray {
    /// Its base address, with a slash at its end; [`crate::join_url`] makes the address of joins of it.
    pub collective_array: HttpUrl,
}

/// Discovery's answer: array services, the one to ask first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct DiscoveryAnswer(pub Vec<CollectiveArray>);

impl DiscoveryAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Other JSON, no array or too many.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        let arrays: Vec<CollectiveArray> = answer(json)?;
        if arrays.is_empty() {
            return Err(ProtocolError::Missing("CollectiveArray"));
        }
        if arrays.len() > ARRAYS_MAX {
            return Err(ProtocolError::invalid("the answer", "16 arrays or fewer"));
        }
        Ok(Self(arrays))
    }

    /// Writes the answer.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_request_is_read_and_written() {
        let text =
            "partitionId=0&CountryCode=US&altCatalogId=http%3A%2F%2Fa.example%2Fx&doClientVersion=";
        let request = DiscoveryRequest::from_query(text).unwrap();
        assert_eq!(
            request.alt_catalog_id.as_ref().unwrap().as_str(),
            "http://a.example/x"
        );
        assert_eq!(request.to_query(), text);
    }

    #[test]
    fn answer_names_arrays() {
        let json = br#"[{"CollectiveArray":"https://array801.example/","Other":1}]"#;
        let answer = DiscoveryAnswer::from_json(json).unwrap();
        assert_eq!(
            answer.to_json(),
            br#"[{"CollectiveArray":"https://array801.example/"}]"#
        );
        let many = format!(
            "[{}]",
            [r#"{"CollectiveArray":"https://a/"}"#; 17].join(",")
        );
        for bad in ["[]", "{}", "[{}]", r#"[{"CollectiveArray":"a/"}]"#, &many] {
            assert!(DiscoveryAnswer::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
