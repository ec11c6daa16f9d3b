//! `dosvc publish --to`: the content's entry in a control plane.

use crate::cli::RegisterArgs;
use anyhow::{Context as _, bail};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dosvc_cloud_protocol::{
    ContentPolicies, ContentPolicy, HttpUrl, PublishRequest, Rollout, UrlTemplate,
};
use dosvc_content::{ContentId, GroupId, PiecesHashFile};
use dosvc_control_plane::client::ControlPlaneClient;
use jiff::Timestamp;
use std::{env, fs, path::Path};

/// The variable with the API token.
const TOKEN_VARIABLE: &str = "DOSVC_TOKEN";
/// Bytes that are read of a token's or a key's file.
const SECRET_FILE_BYTES_MAX: usize = 16 << 10;

/// A publication that only lacks its content.
pub(super) struct Register {
    to: HttpUrl,
    token: String,
    key: Option<Ed25519KeyPair>,
    policies: ContentPolicies,
    rollout: Rollout,
}

impl Register {
    /// Reads what is needed, before the work; `None`: no control plane is to be told.
    pub(super) fn from_args(args: RegisterArgs) -> anyhow::Result<Option<Self>> {
        let RegisterArgs {
            to,
            token_file,
            sign,
            groups,
            percent,
            start,
            expire,
            max_cache_age,
            foreground_qos,
            background_qos,
        } = args;
        let Some(to) = to else {
            return Ok(None);
        };
        let key = match &sign {
            Some(path) => Some(
                signing_key(path).with_context(|| format!("read the key {}", path.display()))?,
            ),
            None => None,
        };
        let seconds =
            |time: Option<Timestamp>| time.map(|time| u64::try_from(time.as_second()).unwrap_or(0));
        Ok(Some(Self {
            token: token(token_file.as_deref())?,
            to,
            key,
            policies: ContentPolicies {
                foreground_qos_bps: foreground_qos,
                background_qos_bps: background_qos,
                max_cache_age_secs: max_cache_age,
                expire_at_secs_since_epoch: seconds(expire),
                download_to_expire: None,
            },
            rollout: Rollout {
                groups: groups.iter().map(GroupId::hash).collect(),
                percent,
                start_secs_since_epoch: seconds(start),
                expire_secs_since_epoch: seconds(expire),
                revoked: false,
            },
        }))
    }

    /// Tells the control plane; answers its address.
    pub(super) async fn publish(
        self,
        hashes: &PiecesHashFile,
        urls: &[String],
    ) -> anyhow::Result<String> {
        let id = ContentId::derived(&hashes.hash_of_hashes());
        let mut contents = Vec::new();
        for url in urls {
            contents.push(url.parse().with_context(|| format!("read the URL {url}"))?);
        }
        let mut policy = ContentPolicy {
            pieces_hash_file_cdn_urls: hash_file_urls(&self.to, &id, urls)?,
            content_id: id,
            hash_of_hashes: hashes.hash_of_hashes(),
            content_cdn_urls: (!contents.is_empty()).then_some(contents),
            is_secure: false,
            is_internal: false,
            policies: self.policies,
            rank: 0,
            publisher_signature: None,
        };
        policy.check()?;
        if let Some(key) = &self.key {
            let signature = key.sign(&policy.signed_bytes());
            policy.publisher_signature = signature.as_ref().try_into().ok();
        }
        let request = PublishRequest {
            policy,
            rollout: self.rollout,
            hash_file: Some(
                String::from_utf8(hashes.to_json()).context("write the hash file as JSON")?,
            ),
        };
        let client = ControlPlaneClient::new(self.to.clone())?;
        let told = client.publish(&self.token, &request).await;
        told.with_context(|| format!("tell the control plane {}", self.to))?;
        Ok(self.to.to_string())
    }
}

/// The control plane's own copy first, then those beside the content.
fn hash_file_urls(to: &HttpUrl, id: &ContentId, urls: &[String]) -> anyhow::Result<Vec<HttpUrl>> {
    let own: UrlTemplate = format!(
        "{}/content/{{contentId}}/pieceshash",
        to.as_str().trim_end_matches('/')
    )
    .parse()?;
    let mut found = vec![own.fill(id).parse()?];
    for url in urls {
        let plain = url.split(['?', '#']).next().unwrap_or_default();
        found.push(format!("{plain}.phf").parse()?);
    }
    Ok(found)
}

fn token(file: Option<&Path>) -> anyhow::Result<String> {
    let token = match file {
        Some(path) => {
            secret_file(path).with_context(|| format!("read the token {}", path.display()))?
        }
        None => env::var(TOKEN_VARIABLE).unwrap_or_default(),
    };
    let token = token.trim();
    if token.is_empty() {
        bail!(
            "--to needs an API token: --token-file FILE or {TOKEN_VARIABLE}; `dosvc control-plane token add NAME` makes one"
        );
    }
    Ok(token.to_owned())
}

/// What stands in a file with a token, without the white space around it.
pub(crate) fn secret_file(path: &Path) -> anyhow::Result<String> {
    Ok(read_secret(path)?.trim().to_owned())
}

fn read_secret(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path)?;
    if bytes.len() > SECRET_FILE_BYTES_MAX {
        bail!("it is larger than a key or a token can be");
    }
    Ok(String::from_utf8(bytes)?)
}

/// An Ed25519 key from PEM: PKCS #8 with or without the public key, as OpenSSL and others write it.
fn signing_key(path: &Path) -> anyhow::Result<Ed25519KeyPair> {
    let text = read_secret(path)?;
    let base64: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let der = BASE64_STANDARD
        .decode(base64)
        .context("it is no PEM file")?;
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
        .map_err(|error| anyhow::anyhow!("it is no Ed25519 key in PKCS #8: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, KeyPair as _, UnparsedPublicKey};

    #[test]
    fn hash_files_lie_at_the_control_plane_and_beside_the_content() {
        let to = "http://a.example/base/".parse().unwrap();
        let id = "DO-x=".parse().unwrap();
        let urls = hash_file_urls(&to, &id, &["http://b.example/x?y=1".to_owned()]).unwrap();
        let texts: Vec<_> = urls.iter().map(HttpUrl::as_str).collect();
        assert_eq!(
            texts,
            [
                "http://a.example/base/content/DO-x%3D/pieceshash",
                "http://b.example/x.phf"
            ]
        );
    }

    /// The key of RFC 8410, section 10.3, as OpenSSL writes it.
    #[test]
    fn keys_are_read_as_openssl_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n").unwrap();
        let key = signing_key(&path).unwrap();
        let public = BASE64_STANDARD.encode(key.public_key());
        assert_eq!(public, "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
        let signature = key.sign(b"x");
        let checked = UnparsedPublicKey::new(&ED25519, key.public_key().as_ref())
            .verify(b"x", signature.as_ref());
        assert!(checked.is_ok());
        fs::write(&path, "nothing").unwrap();
        assert!(signing_key(&path).is_err());
    }
}
