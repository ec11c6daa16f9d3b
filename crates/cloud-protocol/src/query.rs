//! Queries of the GET services. Names are read in any case (records have `countryCode` and `CountryCode`) and
//! written as they were recorded.

use crate::{
    error::{ProtocolError, bounded},
    limits::{QUERY_BYTES_MAX, TAG_BYTES_MAX, VERSION_BYTES_MAX},
    text::{Text, decimal},
};
use std::{borrow::Cow, str::FromStr};
use url::form_urlencoded;

/// A query that was read: names in the order in which they came.
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// The most parameters of a query; those beyond are an error.
const PARAMETERS_MAX: usize = 64;

impl<'a> Query<'a> {
    /// Takes a query apart.
    pub(crate) fn parse(query: &'a str) -> Result<Self, ProtocolError> {
        bounded("the query", query.len(), QUERY_BYTES_MAX)?;
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .take(PARAMETERS_MAX + 1)
            .collect();
        if pairs.len() > PARAMETERS_MAX {
            return Err(ProtocolError::invalid(
                "the query",
                "64 parameters or fewer",
            ));
        }
        Ok(Self(pairs))
    }

    /// A parameter's value; an empty one counts as none.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<&str>, ProtocolError> {
        let mut found = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next();
        if found.next().is_some() {
            return Err(ProtocolError::Twice(name));
        }
        Ok(value.map(|(_, v)| v.as_ref()).filter(|v| !v.is_empty()))
    }

    /// A parameter that is text of bounded length.
    pub(crate) fn bounded<const MAX: usize>(
        &self,
        name: &'static str,
    ) -> Result<Option<Text<MAX>>, ProtocolError> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        let error = ProtocolError::invalid(name, "printable text of bounded length");
        Text::new(value).map(Some).ok_or(error)
    }

    /// A parameter that passes through a parser.
    pub(crate) fn parsed<T: FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, ProtocolError> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        let error = |_| ProtocolError::invalid(name, expected);
        value.parse().map(Some).map_err(error)
    }

    /// A parameter that is a number.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u32>, ProtocolError> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        let error = ProtocolError::invalid(name, "a number");
        decimal(value).map(Some).ok_or(error)
    }

    /// `doClientVersion`, which every request has.
    pub(crate) fn client_version(&self) -> Result<Text<VERSION_BYTES_MAX>, ProtocolError> {
        Ok(self.bounded("doClientVersion")?.unwrap_or_default())
    }

    /// A tag that is passed on without being understood.
    pub(crate) fn tag(
        &self,
        name: &'static str,
    ) -> Result<Option<Text<TAG_BYTES_MAX>>, ProtocolError> {
        self.bounded(name)
    }
}

/// A query that is being written.
pub(crate) struct QueryText(form_urlencoded::Serializer<'static, String>);

impl QueryText {
    pub(crate) fn new() -> Self {
        Self(form_urlencoded::Serializer::new(String::new()))
    }

    /// Adds a parameter.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.append_pair(name, &value.to_string());
        self
    }

    /// Adds a parameter if there is a value.
    pub(crate) fn with_some(self, name: &str, value: Option<&impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value.to_string()),
            None => self,
        }
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.finish()
    }
}
