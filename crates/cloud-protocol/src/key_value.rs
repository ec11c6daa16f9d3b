//! Key-value: addresses of the other services, and settings.

use crate::{
    error::{ProtocolError, answer, json_of},
    http_url::UrlTemplate,
    limits::{
        CACHE_HOST_BYTES_MAX, CALLERS_MAX, SETTING_BYTES_MAX, SETTINGS_MAX, TAG_BYTES_MAX,
        VERSION_BYTES_MAX,
    },
    query::{Query, QueryText},
    text::{CountryCode, Text},
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `GET <KeyValue_EndpointFullUri>?…`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyValueRequest {
    /// The client's version; may be empty.
    pub do_client_version: Text<VERSION_BYTES_MAX>,
    /// What geo said.
    pub country_code: Option<CountryCode>,
    /// The kind of device.
    pub profile: Option<u32>,
    /// What geo said.
    pub cache_id: Option<Text<TAG_BYTES_MAX>>,
    /// The group, hashed (`eId`).
    pub e_id: Option<Text<TAG_BYTES_MAX>>,
    /// The cache host in use.
    pub cache_host: Option<Text<CACHE_HOST_BYTES_MAX>>,
}

impl KeyValueRequest {
    /// Reads a query (without `?`).
    ///
    /// # Errors
    /// What is too long, malformed or there twice.
    pub fn from_query(query: &str) -> Result<Self, ProtocolError> {
        let query = Query::parse(query)?;
        Ok(Self {
            do_client_version: query.client_version()?,
            country_code: query.parsed("countryCode", "a country of two letters")?,
            profile: query.number("profile")?,
            cache_id: query.tag("CacheId")?,
            e_id: query.tag("eId")?,
            cache_host: query.bounded("CacheHost")?,
        })
    }

    /// Writes the query.
    pub fn to_query(&self) -> String {
        QueryText::new()
            .with("doClientVersion", &self.do_client_version)
            .with_some("countryCode", self.country_code.as_ref())
            .with_some("profile", self.profile.as_ref())
            .with_some("CacheId", self.cache_id.as_ref())
            .with_some("eId", self.e_id.as_ref())
            .with_some("CacheHost", self.cache_host.as_ref())
            .finish()
    }
}

const CONTENT_POLICY: &str = "ContentPolicy_EndpointFullUri";
const DISCOVERY: &str = "Discovery_EndpointFullUri";
const CALLERS: &str = "Client_RegisteredCallersFilterList";

/// The key-value service's answer: one flat JSON object. How long it counts says `Cache-Control: max-age`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValueAnswer {
    /// Where content policies are asked for.
    pub content_policy_endpoint_full_uri: UrlTemplate,
    /// Where discovery is.
    pub discovery_endpoint_full_uri: UrlTemplate,
    /// Names of callers that may use peers, some of them regular expressions; `None`: everybody may.
    pub registered_callers: Option<Vec<Text<TAG_BYTES_MAX>>>,
    /// All other keys whose value is text, a number or a bool, as text.
    pub settings: BTreeMap<Text<TAG_BYTES_MAX>, Text<SETTING_BYTES_MAX>>,
}

impl KeyValueAnswer {
    /// Reads an answer. Values that are no text, number or bool are skipped, beside the callers.
    ///
    /// # Errors
    /// Other JSON, one without the two addresses, or one beyond the limits.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        let mut map: Map<String, Value> = answer(json)?;
        if map.len() > SETTINGS_MAX {
            return Err(ProtocolError::invalid("the answer", "256 keys or fewer"));
        }
        let content_policy_endpoint_full_uri = template(&mut map, CONTENT_POLICY)?;
        let discovery_endpoint_full_uri = template(&mut map, DISCOVERY)?;
        let registered_callers = map.remove(CALLERS).map(callers).transpose()?;
        let mut settings = BTreeMap::new();
        for (key, value) in map {
            let value = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => continue,
            };
            let long = || ProtocolError::invalid("a setting", "printable text of bounded length");
            let key = Text::new(key).ok_or_else(long)?;
            settings.insert(key, Text::new(value).ok_or_else(long)?);
        }
        Ok(Self {
            content_policy_endpoint_full_uri,
            discovery_endpoint_full_uri,
            registered_callers,
            settings,
        })
    }

    /// Writes the answer.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(rename = "ContentPolicy_EndpointFullUri")]
            content_policy: &'a UrlTemplate,
            #[serde(rename = "Discovery_EndpointFullUri")]
            discovery: &'a UrlTemplate,
            #[serde(
                rename = "Client_RegisteredCallersFilterList",
                skip_serializing_if = "Option::is_none"
            )]
            callers: Option<&'a [Text<TAG_BYTES_MAX>]>,
            #[serde(flatten)]
            settings: BTreeMap<&'a str, &'a str>,
        }
        let ours = [CONTENT_POLICY, DISCOVERY, CALLERS];
        json_of(&Written {
            content_policy: &self.content_policy_endpoint_full_uri,
            discovery: &self.discovery_endpoint_full_uri,
            callers: self.registered_callers.as_deref(),
            settings: self
                .settings
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .filter(|(key, _)| !ours.contains(key))
                .collect(),
        })
    }
}

fn template(map: &mut Map<String, Value>, key: &'static str) -> Result<UrlTemplate, ProtocolError> {
    let value = map.remove(key).ok_or(ProtocolError::Missing(key))?;
    let text = value.as_str().unwrap_or_default();
    text.parse()
        .map_err(|_| ProtocolError::invalid(key, "an http address with {contentId} in it"))
}

/// How the list is written is not recorded: a JSON list and text with semicolons are both read.
fn callers(value: Value) -> Result<Vec<Text<TAG_BYTES_MAX>>, ProtocolError> {
    let error = || ProtocolError::invalid(CALLERS, "a list of at most 256 names");
    let names: Vec<Option<String>> = match value {
        Value::String(text) => text
            .split(';')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| Some(name.to_owned()))
            .collect(),
        Value::Array(items) => items
            .into_iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => return Err(error()),
    };
    if names.len() > CALLERS_MAX {
        return Err(error());
    }
    names
        .into_iter()
        .map(|name| name.and_then(Text::new).ok_or_else(error))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"ContentPolicy_EndpointFullUri":"https://a/content/{contentId}/contentpolicy",
        "Discovery_EndpointFullUri":"https://a/content/{contentId}/discovery",
        "Client_RegisteredCallersFilterList":["WU Client Download","BeginLoadRange.*"],
        "ContentPolicy_EndpointUri":"https://a/","Number":5,"Flag":true,"Nothing":null}"#;

    #[test]
    fn recorded_request_is_read_and_written() {
        let text = "doClientVersion=10.1.0.13&countryCode=AU&profile=768&CacheId=7";
        let request = KeyValueRequest::from_query(text).unwrap();
        assert_eq!(request.country_code.unwrap().as_str(), "AU");
        assert_eq!(request.to_query(), text);
        assert!(KeyValueRequest::from_query("countryCode=Australia").is_err());
    }

    #[test]
    fn answer_survives_being_written_and_read() {
        let answer = KeyValueAnswer::from_json(ANSWER.as_bytes()).unwrap();
        let callers = answer.registered_callers.as_ref().unwrap();
        assert_eq!(callers[1].as_str(), "BeginLoadRange.*");
        let settings: Vec<_> = answer
            .settings
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            settings,
            [
                ("ContentPolicy_EndpointUri", "https://a/"),
                ("Flag", "true"),
                ("Number", "5")
            ]
        );
        assert_eq!(
            KeyValueAnswer::from_json(&answer.to_json()).unwrap(),
            answer
        );
        let text = ANSWER.replace(
            r#"["WU Client Download","BeginLoadRange.*"]"#,
            r#""WU Client Download; BeginLoadRange.*;""#,
        );
        assert_eq!(KeyValueAnswer::from_json(text.as_bytes()).unwrap(), answer);
    }

    #[test]
    fn malformed_answers_are_refused() {
        let many: String = (0..257).map(|i| format!("\"k{i}\":1,")).collect();
        for (from, to) in [
            ("/{contentId}/contentpolicy", "/contentpolicy"),
            ("Discovery_EndpointFullUri", "Other"),
            ("\"https://a/content/{contentId}/discovery\"", "5"),
            ("\"BeginLoadRange.*\"", "5"),
            ("https://a/\"", "\\n\""),
            ("{\"Content", &format!("{{{many}\"Content")),
            ("{\"Content", "[\"Content"),
        ] {
            let text = ANSWER.replacen(from, to, 1);
            assert_ne!(text, ANSWER);
            assert!(
                KeyValueAnswer::from_json(text.as_bytes()).is_err(),
                "{from}"
            );
        }
    }
}
