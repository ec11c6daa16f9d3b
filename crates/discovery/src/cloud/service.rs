//! HTTP: made when the first question is asked, with the certificates that the system and the configuration trust.

use super::{
    limits::{QUESTION_TIME, QUESTIONS_MAX},
    question::{Ask, Outcome, Reply},
};
use dosvc_cloud_protocol::limits::ANSWER_BYTES_MAX;
use dosvc_origin::{CertificateDer, OriginClient, OriginConfig, Url};
use rustls_pki_types::pem::PemObject as _;
use std::{path::Path, sync::OnceLock};

/// Certificates of one file, at most.
const CERTIFICATES_MAX: usize = 64;

/// The way to the services.
#[derive(Debug, Default)]
pub(crate) struct Service {
    roots: Vec<CertificateDer<'static>>,
    client: OnceLock<OriginClient>,
}

impl Service {
    pub(crate) fn new(roots: Vec<CertificateDer<'static>>) -> Self {
        Self {
            roots,
            client: OnceLock::new(),
        }
    }

    /// Sends a question and waits for what comes back.
    pub(crate) async fn ask(&self, ask: Ask) -> Outcome {
        self.send(&ask.url, ask.body).await
    }

    /// The same for an address, with a body (POST) or without (GET).
    pub(crate) async fn send(&self, url: &str, body: Option<Vec<u8>>) -> Outcome {
        let client = self.client.get_or_init(|| {
            let config = OriginConfig {
                pool_idle_per_host: QUESTIONS_MAX,
                extra_roots: self.roots.clone(),
                ..OriginConfig::default()
            };
            OriginClient::new(config)
        });
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let reply = client
            .ask(&url, body.map(Into::into), ANSWER_BYTES_MAX, QUESTION_TIME)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Reply {
            status: reply.status,
            media_type: reply.media_type,
            max_age: reply.max_age,
            retry_after: reply.retry_after,
            body: reply.body.into(),
        })
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// What is wrong with the file: not there, none in it, more than 64.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let found: Vec<_> = found
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    match found.len() {
        0 => Err("there is no certificate in it".to_owned()),
        count if count > CERTIFICATES_MAX => {
            Err(format!("it has more than {CERTIFICATES_MAX} certificates"))
        }
        _ => Ok(found),
    }
}
