//! TLS to other servers. Their certificates are checked as the system does, or against a file of the fleet's own.

use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use std::{io, path::Path, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Why TLS with a server can't be spoken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsClientError {
    /// The file with the certificates that are trusted can't be used.
    #[error("{0}")]
    Authorities(String),
    /// Its certificate is not to be trusted.
    #[error("its certificate is not trusted: {0}")]
    Distrusted(CertificateError),
    /// This machine can do no TLS, or the two agree on nothing.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The connection.
    #[error("{0}")]
    Io(io::Error),
}

impl TlsClientError {
    /// Whether waiting mends it as little as trying again.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Authorities(_) | Self::Distrusted(_))
    }
}

impl From<io::Error> for TlsClientError {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Distrusted(why.clone()),
            Some(other) => Self::Tls(other.clone()),
            None => Self::Io(error),
        }
    }
}

/// How a server is spoken with whose certificate one in `authorities` (PEM) must have signed; without that file, one that
/// the system trusts.
pub(crate) fn config(authorities: Option<&Path>) -> Result<ClientConfig, TlsClientError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match authorities {
        Some(file) => builder.with_root_certificates(read(file)?),
        None => builder.with_platform_verifier()?,
    };
    Ok(builder.with_no_client_auth())
}

fn read(file: &Path) -> Result<RootCertStore, TlsClientError> {
    let problem = |why: String| TlsClientError::Authorities(format!("{}: {why}", file.display()));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| problem(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| problem(e.to_string()))?;
        roots.add(certificate).map_err(|e| problem(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(problem("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// Speaks TLS with the server of this name or address.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: &str,
    authorities: Option<&Path>,
) -> Result<TlsStream<S>, TlsClientError> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config(authorities)?));
    Ok(connector.connect(name, stream).await?)
}
