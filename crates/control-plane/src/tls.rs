//! Certificate and key from files, taken anew when the files change.

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

/// Files that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read, or is no PEM.
    #[error("{0}: {1}")]
    File(String, String),
    /// A key that does not fit the certificate, or of an unknown kind.
    #[error("certificate and key: {0}")]
    Pair(#[from] rustls::Error),
}

/// What clients are shown.
#[derive(Debug)]
pub(crate) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    present: RwLock<Present>,
}

#[derive(Debug)]
struct Present {
    key: Arc<CertifiedKey>,
    changed: Option<[SystemTime; 2]>,
}

impl Certificate {
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let changed = times(certificate, key);
        let present = Present {
            key: read(certificate, key)?,
            changed,
        };
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            present: RwLock::new(present),
        }))
    }

    /// A configuration that shows this certificate, whatever it is by then: TLS 1.2 and 1.3, HTTP/1.1.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Takes changed files over; answers whether there were any. Files that can't be used leave everything as it was.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        let changed = times(&self.certificate, &self.key);
        if self.present().changed == changed {
            return Ok(false);
        }
        let key = read(&self.certificate, &self.key)?;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Present { key, changed };
        Ok(true)
    }

    fn present(&self) -> std::sync::RwLockReadGuard<'_, Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present().key.clone())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let error = |path: &Path, error: &dyn ToString| {
        TlsError::File(path.display().to_string(), error.to_string())
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| error(certificate, &e))?;
    if chain.is_empty() {
        return Err(error(certificate, &"there is no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| error(key, &e))?;
    let pair = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())?;
    Ok(Arc::new(pair))
}

/// When the files were last changed; `None`: one of them is not there, which is no change.
fn times(certificate: &Path, key: &Path) -> Option<[SystemTime; 2]> {
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    Some([time(certificate)?, time(key)?])
}
