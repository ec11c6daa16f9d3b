//! What can be wrong with a request or an answer.

/// A request or an answer that breaks the protocol; the text names the field, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// More bytes than anybody needs.
    #[error("{what} has more than {max} bytes")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The most bytes it may have.
        max: usize,
    },
    /// No JSON, or JSON of another shape.
    #[error("not the expected JSON: {0}")]
    Json(String),
    /// What must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A parameter that may occur once occurs again.
    #[error("{0} occurs twice")]
    Twice(&'static str),
    /// A value that the field can't have.
    #[error("{field} is not {expected}")]
    Invalid {
        /// The field's name on the wire.
        field: &'static str,
        /// What it would have to be.
        expected: &'static str,
    },
}

impl ProtocolError {
    /// A value that the field can't have.
    pub(crate) const fn invalid(field: &'static str, expected: &'static str) -> Self {
        Self::Invalid { field, expected }
    }
}

/// Refuses what is too long before it is looked at.
pub(crate) fn bounded(what: &'static str, bytes: usize, max: usize) -> Result<(), ProtocolError> {
    if bytes > max {
        return Err(ProtocolError::TooLong { what, max });
    }
    Ok(())
}

/// Reads a JSON answer of at most [`crate::limits::ANSWER_BYTES_MAX`] bytes.
pub(crate) fn answer<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> Result<T, ProtocolError> {
    bounded("the answer", json.len(), crate::limits::ANSWER_BYTES_MAX)?;
    serde_json::from_slice(json).map_err(|error| ProtocolError::Json(error.to_string()))
}

/// Writes an answer.
pub(crate) fn json_of<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("names are strings, and no value of ours refuses to be written")
}
