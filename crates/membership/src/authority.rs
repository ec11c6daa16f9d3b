//! The authority of groups: it signs certificates with a key that only the control plane has.

use crate::{GROUP_URI, GROUPS_MAX, KeyError, PEER_URI, REQUEST_BYTES_MAX, hex};
use dosvc_content::{GroupHash, PeerId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer, pem::PemObject as _,
};
use std::fmt;
use time::OffsetDateTime;

/// How long an authority lasts: until somebody replaces it.
const AUTHORITY_SECS: u64 = 20 * 366 * 24 * 3600;
/// Clocks may differ by so much: certificates count from a little earlier on.
const CLOCK_SKEW_SECS: u64 = 600;

/// What can't be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// Bytes that are no request, or one whose signature is not its key's.
    #[error("the request for a certificate: {0}")]
    Request(String),
    /// Another kind of key than P-256.
    #[error("the key in the request is not one of P-256")]
    KeyKind,
    /// No group, or too many for a certificate.
    #[error("a certificate is for 1 to {GROUPS_MAX} groups")]
    Groups,
    /// The authority itself.
    #[error("the authority: {0}")]
    Authority(String),
}

/// A request whose signature holds.
#[derive(Debug)]
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Reads and checks one (PKCS #10 in DER).
    ///
    /// # Errors
    /// [`IssueError::Request`], [`IssueError::KeyKind`].
    pub fn from_der(der: &[u8]) -> Result<Self, IssueError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(IssueError::Request("it is too long".to_owned()));
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
                .map_err(|error| IssueError::Request(error.to_string()))?;
        // An uncompressed point.
        let point = request.public_key.der_bytes();
        let is_p256 = *request.public_key.algorithm() == PKCS_ECDSA_P256_SHA256;
        if !is_p256 || point.len() != 65 || point.first() != Some(&4) {
            return Err(IssueError::KeyKind);
        }
        Ok(Self(request))
    }

    /// The public key, as certificates have it (SubjectPublicKeyInfo in DER).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key.subject_public_key_info()
    }
}

/// See the module's documentation.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one. `random` tells it from others of its name.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(now: u64, random: [u8; 8]) -> Result<Self, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("dosvc group authority {}", hex(&random));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from_slice(&random));
        set_times(&mut params, now, AUTHORITY_SECS)?;
        let certificate = params.self_signed(&key)?.der().clone();
        Self::new(certificate, key)
    }

    /// One that was kept: certificate and key, as [`Self::to_pem`] gave them.
    ///
    /// # Errors
    /// Text that does not have both.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let wrong =
            |what: &str, error: rustls_pki_types::pem::Error| KeyError(format!("{what}: {error}"));
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| wrong("certificate", error))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| wrong("private key", error))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?;
        Self::new(certificate, key)
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, KeyError> {
        let key_pem = key.serialize_pem();
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            certificate,
            issuer,
            key_pem,
        })
    }

    /// Everything, the secret key too, in PEM.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.certificate_pem(), self.key_pem)
    }

    /// The certificate alone, in PEM: what the fleet is told.
    pub fn certificate_pem(&self) -> String {
        crate::certificate_pem(&self.certificate)
    }

    /// Issues a certificate for `lifetime_secs` from now on; answers with its DER.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(
        &self,
        request: &Request,
        peer: &PeerId,
        groups: &[GroupHash],
        (now, lifetime_secs): (u64, u64),
        serial: [u8; 16],
    ) -> Result<Vec<u8>, IssueError> {
        if groups.is_empty() || groups.len() > GROUPS_MAX {
            return Err(IssueError::Groups);
        }
        let failed = |error: KeyError| IssueError::Authority(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, peer.to_string());
        let groups = groups
            .iter()
            .map(|group| format!("{GROUP_URI}{}", hex(group.as_bytes())));
        for uri in std::iter::once(format!("{PEER_URI}{peer}")).chain(groups) {
            let uri = uri
                .try_into()
                .map_err(|error: rcgen::Error| failed(error.into()))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_times(&mut params, now, lifetime_secs).map_err(failed)?;
        let issued = params
            .signed_by(&request.0.public_key, &self.issuer)
            .map_err(|error| failed(error.into()))?;
        Ok(issued.der().to_vec())
    }
}

fn set_times(params: &mut CertificateParams, now: u64, lifetime_secs: u64) -> Result<(), KeyError> {
    let at = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| KeyError("the system's clock is out of range".to_owned()))
    };
    params.not_before = at(now.saturating_sub(CLOCK_SKEW_SECS))?;
    params.not_after = at(now.saturating_add(lifetime_secs))?;
    Ok(())
}
