//! Checking a certificate, as rustls checks those of servers.

use crate::{AUTHORITIES_MAX, CERTIFICATE_BYTES_MAX, GROUP_URI, PEER_URI};
use dosvc_content::{GroupHash, PeerId};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use std::time::Duration;
use webpki::{EndEntityCert, Error, KeyUsage, aws_lc_rs::ECDSA_P256_SHA256};

/// Why a certificate does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Its time is over, by so many seconds.
    #[error("it expired {0} s ago")]
    Expired(u64),
    /// Its time has not come: a clock is wrong.
    #[error("it counts only in {0} s: is a clock wrong?")]
    NotYet(u64),
    /// Somebody else has issued it.
    #[error("it is not of an authority of group.authority_file")]
    Authority,
    /// It is of another peer, or names none.
    #[error("it is not of this peer")]
    Peer,
    /// It is for other groups.
    #[error("it is for other groups")]
    Group,
    /// The signature is not its key's.
    #[error("its key has not signed this connection")]
    Signature,
    /// It is no certificate, or not one for this.
    #[error("{0}")]
    Other(String),
}

/// What a certificate says that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub peer: PeerId,
    /// Which groups it is for.
    pub groups: Vec<GroupHash>,
    /// Its end, in seconds since 1970.
    pub not_after: u64,
    /// Its public key (SubjectPublicKeyInfo in DER).
    pub public_key: Vec<u8>,
}

/// The authorities whose certificates count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust(Vec<TrustAnchor<'static>>);

impl Trust {
    /// Reads the certificates of one or more authorities, in PEM; what else stands there is left out.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate);
            anchors.push(anchor.map_err(|error| error.to_string())?.to_owned());
            if anchors.len() > AUTHORITIES_MAX {
                return Err(format!("it has more than {AUTHORITIES_MAX} certificates"));
            }
        }
        if anchors.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        Ok(Self(anchors))
    }

    /// Checks a certificate (DER) as of `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, certificate: &[u8], now: u64) -> Result<Verified, CertificateError> {
        if certificate.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::Other("it is too long".to_owned()));
        }
        let der = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&der).map_err(|error| other(&error))?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        parsed
            .verify_for_usage(
                &[ECDSA_P256_SHA256],
                &self.0,
                &[],
                now,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| refusal(&error))?;
        let mut peer = None;
        let mut groups = Vec::new();
        for uri in parsed.valid_uri_names() {
            if let Some(id) = uri.strip_prefix(PEER_URI) {
                // A certificate of two peers would be of neither.
                if peer.is_some() {
                    return Err(CertificateError::Peer);
                }
                peer = Some(id.parse::<PeerId>().map_err(|_| CertificateError::Peer)?);
            } else if let Some(group) = uri.strip_prefix(GROUP_URI) {
                groups.push(group_of(group).ok_or(CertificateError::Group)?);
            }
        }
        Ok(Verified {
            peer: peer.ok_or(CertificateError::Peer)?,
            groups,
            not_after: not_after(certificate)?,
            public_key: parsed.subject_public_key_info().to_vec(),
        })
    }

    /// Checks that a certificate counts as of `now`, is of this peer and for this group, and that its key has signed
    /// `message`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify_member(
        &self,
        (certificate, signature): (&[u8], &[u8]),
        message: &[u8],
        (peer, group): (&PeerId, &GroupHash),
        now: u64,
    ) -> Result<Verified, CertificateError> {
        let verified = self.verify(certificate, now)?;
        if verified.peer != *peer {
            return Err(CertificateError::Peer);
        }
        if !verified.groups.contains(group) {
            return Err(CertificateError::Group);
        }
        let der = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&der).map_err(|error| other(&error))?;
        parsed
            .verify_signature(ECDSA_P256_SHA256, message, signature)
            .map_err(|_| CertificateError::Signature)?;
        Ok(verified)
    }
}

/// The certificate's end; asked only of one that an authority has signed.
fn not_after(certificate: &[u8]) -> Result<u64, CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| CertificateError::Other(error.to_string()))?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

fn group_of(hex: &str) -> Option<GroupHash> {
    let mut hash = [0; 32];
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (out, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash.into())
}

fn refusal(error: &Error) -> CertificateError {
    let between = |from: UnixTime, to: UnixTime| to.as_secs().saturating_sub(from.as_secs());
    match *error {
        Error::CertExpired { time, not_after } => {
            CertificateError::Expired(between(not_after, time))
        }
        Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotYet(between(time, not_before))
        }
        Error::UnknownIssuer
        | Error::InvalidSignatureForPublicKey
        | Error::PathLenConstraintViolated => CertificateError::Authority,
        _ => other(error),
    }
}

fn other(error: &Error) -> CertificateError {
    CertificateError::Other(error.to_string())
}
