//! Who a peer is: the one that has a key.

use dosvc_content::PeerId;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use sha2::{Digest as _, Sha256};
use std::{fmt, sync::Arc};

/// What the names in our certificates end with. Nobody looks them up.
const SUFFIX: &str = ".peer.dosvc.invalid";
/// The name that is asked for when any peer will do.
const ANYBODY: &str = "anybody";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key is no key, or can't make a certificate.
    #[error("the peer's key: {0}")]
    Key(#[from] rcgen::Error),
    /// TLS does not take what was made of it.
    #[error("the peer's certificate: {0}")]
    Tls(#[from] Error),
}

/// A key and what follows from it.
pub struct Identity {
    key: Vec<u8>,
    certificate: CertificateDer<'static>,
    peer_id: PeerId,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id)
    }
}

impl Identity {
    /// A new key.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn generate() -> Result<Self, IdentityError> {
        Self::of(&KeyPair::generate()?)
    }

    /// The identity of a key that was kept: PKCS #8, as [`key`](Self::key) gave it.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn from_key(pkcs8: &[u8]) -> Result<Self, IdentityError> {
        Self::of(&KeyPair::try_from(pkcs8)?)
    }

    fn of(key: &KeyPair) -> Result<Self, IdentityError> {
        let certificate =
            CertificateParams::new(vec![format!("{ANYBODY}{SUFFIX}")])?.self_signed(key)?;
        let certificate = certificate.der().clone();
        Ok(Self {
            key: key.serialize_der(),
            peer_id: peer_id(&certificate)?,
            certificate,
        })
    }

    /// The key, to be kept secret.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Who has this key.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(super) fn server(&self) -> Result<rustls::ServerConfig, Error> {
        let verifier = Arc::new(Verifier::new());
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![super::PROTOCOL.to_vec()];
        Ok(config)
    }

    pub(super) fn client(&self) -> Result<rustls::ClientConfig, Error> {
        let verifier = Arc::new(Verifier::new());
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![super::PROTOCOL.to_vec()];
        Ok(config)
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The peer id that follows from the key in a certificate: 122 bits of its SHA-256.
///
/// # Errors
/// When it is no certificate.
pub fn peer_id(certificate: &CertificateDer<'_>) -> Result<PeerId, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let hash: [u8; 32] = Sha256::digest(key).into();
    let [first, _] = hash.as_chunks::<16>().0 else {
        return Err(Error::General("SHA-256 has 32 bytes".into()));
    };
    Ok(PeerId::from_random(*first))
}

/// The name to dial by: which peer is expected, if any in particular.
pub(super) fn name(expected: Option<PeerId>) -> String {
    match expected {
        Some(peer) => {
            let hex: String = peer
                .as_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("{hex}{SUFFIX}")
        }
        None => format!("{ANYBODY}{SUFFIX}"),
    }
}

/// Takes any certificate whose key the other end has; of whom we dial, the one that we expect.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new() -> Self {
        Self {
            provider: provider(),
        }
    }
}

/// What both ends do with signatures: TLS 1.2 is never offered.
macro_rules! tls13_alone {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let algorithms = &self.provider.signature_verification_algorithms;
            algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = peer_id(certificate)?;
        let asked = server_name.to_str();
        let expected = [name(Some(found)), name(None)];
        if expected.iter().any(|name| *name == asked) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    tls13_alone!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        peer_id(certificate).map(|_| ClientCertVerified::assertion())
    }

    tls13_alone!();
}
