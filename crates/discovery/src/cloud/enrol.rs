//! Enrolment: how this machine comes to a certificate that makes it a member of its groups.

use super::{
    failure::Failure,
    handle::CloudError,
    service::{Service, certificates},
};
use dosvc_cloud_protocol::{ENROL_PATH, EnrolAnswer, EnrolRequest, HttpUrl};
use std::path::Path;

/// Bytes of a refusal's text that are shown.
const REFUSAL_BYTES_MAX: usize = 256;

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The service has refused, and says why.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// The service is out of reach, or what answers is none.
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// The way to the service that issues certificates.
#[derive(Debug)]
pub struct Enrolment {
    service: Service,
    url: HttpUrl,
}

impl Enrolment {
    /// The service at this address; `ca_file`: certificates that its own may be signed by, beside the system's. Nothing
    /// is asked yet.
    ///
    /// # Errors
    /// When the file can't be used.
    pub fn new(url: HttpUrl, ca_file: Option<&Path>) -> Result<Self, CloudError> {
        let roots = match ca_file {
            None => Vec::new(),
            Some(path) => certificates(path).map_err(|why| CloudError::Certificates {
                path: path.to_owned(),
                why,
            })?,
        };
        Ok(Self {
            service: Service::new(roots),
            url,
        })
    }

    /// The service's address.
    pub fn url(&self) -> &HttpUrl {
        &self.url
    }

    /// Where the service is when nobody says: at the root of where another one of the services is.
    pub fn beside(service: &HttpUrl) -> HttpUrl {
        let mut url = service.to_url();
        url.set_query(None);
        super::handle::with_path(url, ENROL_PATH)
    }

    /// Asks for a certificate. Takes a quarter of a minute at most.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub async fn ask(&self, request: &EnrolRequest) -> Result<EnrolAnswer, EnrolError> {
        let asked = self
            .service
            .send(self.url.as_str(), Some(request.to_json()));
        let reply = asked.await.map_err(Failure::Unreachable)?;
        if matches!(reply.status, 400 | 403)
            && reply.media_type.as_deref() == Some("application/json")
        {
            return Err(EnrolError::Refused(refusal(&reply.body)));
        }
        let answer = EnrolAnswer::from_json(reply.json()?);
        answer.map_err(|error| Failure::Malformed(error).into())
    }
}

/// The text of `{"error":"…"}`.
fn refusal(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
    }
    let Ok(Refusal { error }) = serde_json::from_slice(body) else {
        return "it does not say why".to_owned();
    };
    let printable = error.chars().filter(|c| !c.is_control());
    printable.take(REFUSAL_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_at_the_root_of_its_host() {
        for (geo, expected) in [
            ("https://do.example/geo?x=1", "https://do.example/enrol"),
            ("http://10.0.0.1:7681", "http://10.0.0.1:7681/enrol"),
        ] {
            let url = Enrolment::beside(&geo.parse().unwrap());
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn refusals_are_shown_as_far_as_they_can_be() {
        assert_eq!(refusal(br#"{"error":"revoked"}"#), "revoked");
        assert_eq!(refusal(br#"{"error":"a\u001bb"}"#), "ab");
        assert_eq!(refusal(b"<html>"), "it does not say why");
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(9999));
        assert_eq!(refusal(long.as_bytes()).len(), REFUSAL_BYTES_MAX);
    }
}
