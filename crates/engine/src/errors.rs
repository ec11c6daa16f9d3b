//! Errors of the rooms below, as jobs show them: a code and a sentence.

use crate::api::JobError;
use dosvc_content::HResult;
use dosvc_origin::OriginError;
use dosvc_piece_store::{DeliverError, StoreError};

impl JobError {
    /// An error with its code and what a person should know.
    pub fn new(code: HResult, message: impl Into<String>) -> Self {
        Self {
            code: code.to_string(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for JobError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for JobError {}

pub(crate) fn origin_error(error: &OriginError) -> JobError {
    JobError::new(error.hresult(), error.to_string())
}

/// Win32 codes as HRESULTs where Delivery Optimization has none of its own.
pub(crate) const DISK_FULL: HResult = HResult(0x8007_0070);
const WRITE_PROTECT: HResult = HResult(0x8007_0013);
const ACCESS_DENIED: HResult = HResult(0x8007_0005);
const FAIL: HResult = HResult(0x8000_4005);

pub(crate) fn storage_error(error: &StoreError) -> JobError {
    let code = match error {
        StoreError::DiskFull { .. } => DISK_FULL,
        StoreError::ReadOnly { .. } => WRITE_PROTECT,
        StoreError::Denied { .. } => ACCESS_DENIED,
        StoreError::Vanished { .. } => HResult::CACHE_FOLDER_MISSING,
        StoreError::Unknown { .. } => HResult::NOT_FOUND,
        StoreError::Pinned { .. } => HResult::DELETE_PINNED,
        StoreError::InUse { .. } => HResult::INVALID_STATE,
        StoreError::NotShared { .. } => HResult::PIN_NOT_PEERED,
        StoreError::NotTheContent { .. } => HResult::PIECE_DATA_BAD,
        _ => FAIL,
    };
    JobError::new(code, error.to_string())
}

pub(crate) fn deliver_error(error: &DeliverError) -> JobError {
    let code = match error {
        DeliverError::Store(inner) => return storage_error(inner),
        DeliverError::DiskFull { .. } => DISK_FULL,
        DeliverError::ReadOnly { .. } => WRITE_PROTECT,
        DeliverError::Denied { .. } => ACCESS_DENIED,
        DeliverError::Damaged { .. } => HResult::PIECE_DATA_BAD,
        _ => FAIL,
    };
    JobError::new(code, error.to_string())
}

pub(crate) fn internal_error(error: &dyn std::fmt::Display) -> JobError {
    JobError::new(
        FAIL,
        format!("a task of the engine ended unexpectedly: {error}"),
    )
}

/// Work of the store, on a thread that may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| internal_error(&e))?
        .map_err(|e| storage_error(&e))
}
