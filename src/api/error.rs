//! Errors of the local API: a status and `{"code":"0x80D0…","message":"…"}`.

use axum::{
    Json,
    body::to_bytes,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use dosvc_content::HResult;
use dosvc_engine::api::JobError;

/// E_INVALIDARG: the request itself is wrong.
const INVALID_ARGUMENT: HResult = HResult(0x8007_0057);

/// Longest text of a refusal that is passed on.
const REJECTION_BYTES_MAX: usize = 4096;

/// A refusal.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    error: JobError,
}

impl ApiError {
    pub(crate) fn new(code: HResult, message: impl Into<String>) -> Self {
        JobError {
            code: code.to_string(),
            message: message.into(),
        }
        .into()
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(INVALID_ARGUMENT, message)
    }

    pub(crate) fn no_such_route() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::bad_request("the local API has no such address")
        }
    }

    pub(crate) fn wrong_method() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Self::bad_request("the local API has this address, but not for this method")
        }
    }

    pub(crate) fn too_slow() -> Self {
        Self::new(
            HResult::SERVICE_UNAVAILABLE,
            "the request took too long and was given up",
        )
    }

    /// The code and the message, for an answer after a protocol switch.
    pub(crate) fn into_job_error(self) -> JobError {
        self.error
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        Self {
            status: status_of(&error.code),
            error,
        }
    }
}

/// The HTTP status that says about the same as an HRESULT; anything unknown is the daemon's own failure.
fn status_of(code: &str) -> StatusCode {
    let number = code
        .strip_prefix("0x")
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .map(HResult);
    match number {
        Some(INVALID_ARGUMENT | HResult::NO_URI | HResult::BAD_CONTENT_ID) => {
            StatusCode::BAD_REQUEST
        }
        Some(HResult::METAINFO_INVALID | HResult::METAINFO_VERSION) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Some(HResult::BLOCKED_BY_SETTINGS | HResult::MODE_NOT_ALLOWED_BY_DEVICE) => {
            StatusCode::FORBIDDEN
        }
        Some(HResult::JOB_NOT_FOUND | HResult::NOT_FOUND | HResult::FILE_NOT_AVAILABLE) => {
            StatusCode::NOT_FOUND
        }
        Some(HResult::INVALID_STATE | HResult::PIN_NOT_PEERED | HResult::DELETE_PINNED) => {
            StatusCode::CONFLICT
        }
        Some(HResult::SERVICE_UNAVAILABLE | HResult::SWARM_NOT_RUNNING) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

/// Gives refusals that come from the HTTP layer (a path, a query, a body that cannot be read) the API's own form.
pub(super) async fn in_api_form(response: Response) -> Response {
    let plain = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|value| !value.as_bytes().starts_with(b"application/json"));
    if !(response.status().is_client_error() && plain) {
        return response;
    }
    let status = response.status();
    let text = match to_bytes(response.into_body(), REJECTION_BYTES_MAX).await {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => status.to_string(),
    };
    ApiError {
        status,
        ..ApiError::bad_request(text)
    }
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_map_to_fitting_statuses() {
        for (code, status) in [
            ("0x80D02003", 404),
            ("0x80070490", 404),
            ("0x80D06819", 409),
            ("0x80D03002", 403),
            ("0x80070057", 400),
            ("0x80D06802", 500),
            ("nonsense", 500),
        ] {
            assert_eq!(status_of(code).as_u16(), status, "{code}");
        }
    }
}
