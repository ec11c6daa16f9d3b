//! A caller's wish, checked.

use crate::api::{GetRequest, JobError};
use dosvc_content::{ContentId, DownloadMode, HResult, HashOfHashes, PiecesHashFile};
use std::net::SocketAddr;
use url::Url;

/// URLs of one content.
const URLS_MAX: usize = 16;
/// Peers that a caller may name.
const PEERS_MAX: usize = 100;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) urls: Vec<Url>,
    pub(crate) hash_file: Option<PiecesHashFile>,
    /// Where the hash file is; nothing: beside the content.
    pub(crate) hash_file_urls: Vec<Url>,
    /// The anchor of trust: given as such, or inside a derived content id.
    pub(crate) trusted: Option<HashOfHashes>,
    pub(crate) content_id: Option<ContentId>,
    pub(crate) foreground: bool,
    pub(crate) mode: Option<DownloadMode>,
    pub(crate) peers: Vec<SocketAddr>,
    pub(crate) caller: String,
}

impl Request {
    pub(crate) fn parse(raw: GetRequest) -> Result<Self, JobError> {
        let GetRequest {
            urls,
            hash_file_url,
            hash_file_json,
            hash_of_hashes,
            content_id,
            foreground,
            mode,
            peers,
            caller,
        } = raw;
        if urls.len() > URLS_MAX || peers.len() > PEERS_MAX {
            return Err(JobError::new(
                HResult::INVALID_STATE,
                format!("at most {URLS_MAX} URLs and {PEERS_MAX} peers can be given"),
            ));
        }
        let urls = urls
            .iter()
            .map(|text| parse_url(text))
            .collect::<Result<Vec<_>, _>>()?;
        let hash_file_url = hash_file_url.as_deref().map(parse_url).transpose()?;
        let hash_file_urls = hash_file_url.into_iter().collect();
        let content_id = content_id
            .map(|text| text.parse::<ContentId>())
            .transpose()
            .map_err(|e| JobError::new(HResult::BAD_CONTENT_ID, e.to_string()))?;
        let given = hash_of_hashes
            .map(|text| text.trim().parse::<HashOfHashes>())
            .transpose()
            .map_err(|e| {
                JobError::new(HResult::METAINFO_INVALID, format!("hash of hashes: {e}"))
            })?;
        let derived = content_id.as_ref().and_then(ContentId::hash_of_hashes);
        if let (Some(given), Some(derived)) = (given, derived)
            && given != derived
        {
            return Err(JobError::new(
                HResult::BAD_CONTENT_ID,
                format!(
                    "content id stands for {derived}, the hash of hashes is {given}: they name different contents"
                ),
            ));
        }
        let trusted = given.or(derived);
        let hash_file = hash_file_json
            .map(|json| parse_hash_file(json.as_bytes(), trusted.as_ref()))
            .transpose()?;
        if urls.is_empty() && trusted.is_none() && hash_file.is_none() {
            return Err(JobError::new(
                HResult::NO_URI,
                "nothing to download: give a URL, or a hash of hashes or hash file that peers can be asked for",
            ));
        }
        let mode = mode
            .map(|number| {
                DownloadMode::from_number(number.into()).ok_or_else(|| {
                    JobError::new(
                        HResult::MODE_NOT_ALLOWED_BY_DEVICE,
                        format!("download mode {number}: {}", dosvc_content::ParseModeError),
                    )
                })
            })
            .transpose()?;
        Ok(Self {
            urls,
            hash_file,
            hash_file_urls,
            trusted,
            content_id,
            foreground,
            mode,
            peers,
            caller,
        })
    }
}

/// Parses a hash file and, with an anchor, checks it against that.
pub(crate) fn parse_hash_file(
    json: &[u8],
    trusted: Option<&HashOfHashes>,
) -> Result<PiecesHashFile, JobError> {
    let file = PiecesHashFile::from_json(json)
        .and_then(|file| match trusted {
            Some(trusted) => file.expect(trusted),
            None => Ok(file),
        })
        .map_err(|e| JobError::new(HResult::METAINFO_INVALID, format!("hash file: {e}")))?;
    Ok(file)
}

/// A URL as it may be shown: without the password that it may carry.
pub(crate) fn without_password(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            // Only a URL without a host refuses it, and such a URL has no password.
            let _ = url.set_password(Some("***"));
            url.to_string()
        }
        _ => text.to_owned(),
    }
}

fn parse_url(text: &str) -> Result<Url, JobError> {
    let refused = |why: String| {
        let shown = without_password(text);
        JobError::new(HResult::NO_URI, format!("URL {shown:?}: {why}"))
    };
    let url = Url::parse(text).map_err(|e| refused(e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refused(
            "only http:// and https:// URLs can be downloaded".to_owned(),
        ));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(raw: GetRequest) -> String {
        Request::parse(raw).expect_err("refused").code
    }

    #[test]
    fn nonsense_is_refused_with_its_code() {
        assert_eq!(code(GetRequest::default()), HResult::NO_URI.to_string());
        let url = |text: &str| GetRequest {
            urls: vec![text.to_owned()],
            ..GetRequest::default()
        };
        for bad in ["file:///etc/passwd", "ftp://h/x", "http://", "x"] {
            assert_eq!(code(url(bad)), HResult::NO_URI.to_string(), "{bad}");
        }
        let good = || url("http://h/x");
        assert_eq!(
            code(GetRequest {
                hash_of_hashes: Some("abc".into()),
                ..good()
            }),
            HResult::METAINFO_INVALID.to_string()
        );
        assert_eq!(
            code(GetRequest {
                mode: Some(7),
                ..good()
            }),
            HResult::MODE_NOT_ALLOWED_BY_DEVICE.to_string()
        );
        let hash = HashOfHashes::from([1; 32]);
        let other = HashOfHashes::from([2; 32]);
        assert_eq!(
            code(GetRequest {
                content_id: Some(ContentId::derived(&hash).to_string()),
                hash_of_hashes: Some(other.to_string()),
                ..good()
            }),
            HResult::BAD_CONTENT_ID.to_string()
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = without_password("https://me:secret@h.test/a?b=c");
        assert_eq!(shown, "https://me:***@h.test/a?b=c");
        assert_eq!(without_password("http://h/x"), "http://h/x");
        let refused = parse_url("ftp://me:secret@h/x").expect_err("not HTTP");
        assert!(!refused.message.contains("secret"), "{refused}");
    }

    #[test]
    fn a_derived_content_id_is_an_anchor() {
        let hash = HashOfHashes::from([1; 32]);
        let request = Request::parse(GetRequest {
            content_id: Some(ContentId::derived(&hash).to_string()),
            ..GetRequest::default()
        })
        .expect("fine");
        assert_eq!(request.trusted, Some(hash));
    }
}
