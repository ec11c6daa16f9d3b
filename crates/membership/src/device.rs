//! The device's side: its key, and the request for a certificate.

use crate::KeyError;
use dosvc_content::PeerId;
use rcgen::{
    CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SigningKey as _,
};
use std::fmt;

/// A device's key on P-256. It is shown nowhere.
pub struct DeviceKey(KeyPair);

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey")
    }
}

impl DeviceKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// A key that was kept, as [`Self::to_pem`] gave it.
    ///
    /// # Errors
    /// Text that is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Ok(Self(KeyPair::from_pkcs8_pem_and_sign_algo(
            pem,
            &PKCS_ECDSA_P256_SHA256,
        )?))
    }

    /// The key itself, to be kept secret: PKCS #8 in PEM.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public key, as certificates have it (SubjectPublicKeyInfo in DER).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// A request for a certificate (PKCS #10 in DER). It is signed, which shows that whoever asks has the key.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn request(&self, peer: &PeerId) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, peer.to_string());
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// A signature (ECDSA with SHA-256, DER).
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.0.sign(message)?)
    }
}
