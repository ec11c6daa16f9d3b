//! What makes a device a member of its groups: a certificate of the groups' authority for a key that the device has made
//! and never gives away.
//!
//! - [`DeviceKey`]: the device's key; it makes requests for certificates, and signs.
//! - [`Authority`]: who issues certificates; the control plane has it.
//! - [`Trust`]: what others know of the authority, by which they check certificates.
//!
//! Certificates are X.509 (RFC 5280) with keys on the curve P-256, so that they serve TLS as well. Who a device is and
//! which groups it is of stands in the subject's alternative names, as URIs: `urn:dosvc:peer:` with 40 hex digits, and for
//! each group `urn:dosvc:group:` with the 64 hex digits of its hash. One authority issues them directly: there are no
//! certificates in between, and no lists of revoked ones; they are short-lived instead.
//!
//! No file, no socket and no clock here: times are seconds since 1970 from the caller.

mod authority;
mod device;
mod trust;

pub use authority::{Authority, IssueError, Request};
pub use device::DeviceKey;
pub use trust::{CertificateError, Trust, Verified};

/// Bytes of a certificate, in DER.
pub const CERTIFICATE_BYTES_MAX: usize = 2048;

/// Bytes of a request for one, in DER.
pub const REQUEST_BYTES_MAX: usize = 2048;

/// Groups in one certificate; it must not become too long.
pub const GROUPS_MAX: usize = 8;

/// Authorities that are trusted at once: the old and the new one while they change.
pub const AUTHORITIES_MAX: usize = 8;

const PEER_URI: &str = "urn:dosvc:peer:";
const GROUP_URI: &str = "urn:dosvc:group:";

/// A key that can't be read or made, or can't sign.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

impl From<rcgen::Error> for KeyError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// A certificate (DER) in PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
