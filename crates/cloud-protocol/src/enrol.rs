//! Enrolment: how a device comes to a certificate that makes it a member of its groups, and to the next one. All of it is
//! ours; values are texts, as in the other services.

use crate::error::{ProtocolError, answer, bounded, json_of};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dosvc_content::PeerId;
use serde::{Deserialize, Serialize};

/// Where devices enrol, and come for their next certificate, below the service's root: `POST`.
pub const ENROL_PATH: &str = "/enrol";

/// Bytes of a request.
pub const ENROL_BYTES_MAX: usize = 8 * 1024;

/// Bytes of an enrolment token.
pub const ENROL_TOKEN_BYTES_MAX: usize = 256;

/// A device asks for a certificate: with a token for the first time, later without.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// The enrolment token; `None`: the device has enrolled before.
    pub token: Option<String>,
    /// The device's peer id.
    pub peer_id: PeerId,
    /// The request for a certificate: PKCS #10 in DER. Its signature shows that the device has the key.
    pub request: Vec<u8>,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A token is a secret.
        write!(f, "EnrolRequest({})", self.peer_id)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RequestJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    peer_id: String,
    request: String,
}

impl EnrolRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// Too many bytes, other JSON, or a field that can't be read.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        bounded("the enrolment", json.len(), ENROL_BYTES_MAX)?;
        let RequestJson {
            token,
            peer_id,
            request,
        } = serde_json::from_slice(json).map_err(|error| ProtocolError::Json(error.to_string()))?;
        let printable = |token: &String| {
            token.len() <= ENROL_TOKEN_BYTES_MAX && token.bytes().all(|b| b.is_ascii_graphic())
        };
        if !token.as_ref().is_none_or(printable) {
            return Err(ProtocolError::invalid("Token", "an enrolment token"));
        }
        Ok(Self {
            token,
            peer_id: peer_id
                .parse()
                .map_err(|_| ProtocolError::invalid("PeerId", "40 hex digits"))?,
            request: bytes("Request", &request)?,
        })
    }

    /// Writes the request.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(&RequestJson {
            token: self.token.clone(),
            peer_id: self.peer_id.to_string(),
            request: BASE64_STANDARD.encode(&self.request),
        })
    }
}

/// A certificate, and when to come for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolAnswer {
    /// X.509 in DER.
    pub certificate: Vec<u8>,
    /// Seconds until the next one is to be asked for; in time before this one ends.
    pub renew_in_seconds: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnswerJson {
    certificate: String,
    renew_in_seconds: String,
}

impl EnrolAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Too many bytes, other JSON, or a field that can't be read.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        let AnswerJson {
            certificate,
            renew_in_seconds,
        } = answer(json)?;
        Ok(Self {
            certificate: bytes("Certificate", &certificate)?,
            renew_in_seconds: renew_in_seconds
                .parse()
                .map_err(|_| ProtocolError::invalid("RenewInSeconds", "a number"))?,
        })
    }

    /// Writes the answer.
    pub fn to_json(&self) -> Vec<u8> {
        json_of(&AnswerJson {
            certificate: BASE64_STANDARD.encode(&self.certificate),
            renew_in_seconds: self.renew_in_seconds.to_string(),
        })
    }
}

fn bytes(field: &'static str, text: &str) -> Result<Vec<u8>, ProtocolError> {
    BASE64_STANDARD
        .decode(text)
        .map_err(|_| ProtocolError::invalid(field, "base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enrolments_read_back_and_spoilt_ones_are_refused() {
        let request = EnrolRequest {
            token: Some("dosvc_enrol_x".to_owned()),
            peer_id: PeerId::from([0xab; 20]),
            request: vec![0x30, 1, 2],
        };
        let json = String::from_utf8(request.to_json()).unwrap();
        assert_eq!(
            json,
            format!(
                r#"{{"Token":"dosvc_enrol_x","PeerId":"{}","Request":"MAEC"}}"#,
                "ab".repeat(20)
            )
        );
        assert_eq!(
            EnrolRequest::from_json(json.as_bytes()),
            Ok(request.clone())
        );
        let renewal = EnrolRequest {
            token: None,
            ..request.clone()
        };
        assert_eq!(EnrolRequest::from_json(&renewal.to_json()), Ok(renewal));
        for (from, to) in [
            ("MAEC", "MAE"),
            ("abab\"", "ab\""),
            ("dosvc_enrol_x", "a b"),
            ("\"Request\"", "\"Reqest\""),
        ] {
            let bad = json.replacen(from, to, 1);
            assert_ne!(bad, json);
            assert!(EnrolRequest::from_json(bad.as_bytes()).is_err(), "{from}");
        }
        let long = vec![b' '; ENROL_BYTES_MAX + 1];
        assert!(EnrolRequest::from_json(&long).is_err());
        assert!(!format!("{request:?}").contains("dosvc_enrol"));
    }

    #[test]
    fn answers_read_back_and_spoilt_ones_are_refused() {
        let answer = EnrolAnswer {
            certificate: vec![0x30, 1, 2],
            renew_in_seconds: 43_200,
        };
        let json = String::from_utf8(answer.to_json()).unwrap();
        assert_eq!(json, r#"{"Certificate":"MAEC","RenewInSeconds":"43200"}"#);
        assert_eq!(EnrolAnswer::from_json(json.as_bytes()), Ok(answer));
        for (from, to) in [("MAEC", "?"), ("43200", "-1"), ("\"43200\"", "43200")] {
            assert!(EnrolAnswer::from_json(json.replacen(from, to, 1).as_bytes()).is_err());
        }
    }
}
