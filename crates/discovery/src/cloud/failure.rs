//! Why a service gave no answer that counts.

use dosvc_cloud_protocol::ProtocolError;
use dosvc_content::HResult;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A web page came instead: somebody has to log in to the network first, or a proxy answers for itself.
    #[error(
        "a web page came instead of the service's answer: a captive portal, where somebody has to log in, or a proxy"
    )]
    CaptivePortal,
    /// No connection, no name, no valid certificate, no answer in time, or one that is too long.
    #[error("{0}")]
    Unreachable(String),
    /// Another status than was due.
    #[error("it answered HTTP {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// Another media type than JSON.
    #[error("it answered with {0:?} instead of JSON")]
    MediaType(String),
    /// JSON that is no answer to the question.
    #[error("its answer cannot be used: {0}")]
    Malformed(ProtocolError),
}

impl Failure {
    /// A word for scripts: `captive_portal`, `unreachable`, `status`, `media_type` or `malformed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CaptivePortal => "captive_portal",
            Self::Unreachable(_) => "unreachable",
            Self::Status { .. } => "status",
            Self::MediaType(_) => "media_type",
            Self::Malformed(_) => "malformed",
        }
    }

    /// The code that a download gets which did without peers for it: a service that can't be used is an unreachable
    /// one.
    pub fn hresult(&self) -> HResult {
        HResult::CLOUD_UNREACHABLE
    }
}
