//! Name resolution that leads to public addresses only: for redirects that a public server chose.

use std::collections::HashSet;
use std::env;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use crate::address;

/// Resolves by the system and leaves out addresses that are not public, at the moment of connecting: a name that
/// was public when a redirect was judged can't be pointed at a private address afterwards.
#[derive(Debug)]
pub(crate) struct PublicOnly {
    /// The environment's proxies: they are ours, wherever they are.
    proxies: Arc<HashSet<String>>,
}

impl PublicOnly {
    /// Resolves everything but the hosts in `proxies` to public addresses only.
    pub(crate) fn new(proxies: Arc<HashSet<String>>) -> Self {
        Self { proxies }
    }
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self.proxies.contains(name.as_str());
        Box::pin(async move {
            // Port 0 is replaced by the URL's.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found
                .filter(|address| is_proxy || address::is_public(address.ip()))
                .collect();
            if found.is_empty() {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

/// The name resolves, but to no public address.
#[derive(Debug)]
pub(crate) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name has no public address")
    }
}

impl Error for NotPublic {}

/// The host names of the proxies that the environment names.
pub(crate) fn environment_proxies() -> HashSet<String> {
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        .into_iter()
        .flat_map(|name| [name.to_owned(), name.to_lowercase()])
        .filter_map(|name| env::var(name).ok())
        .filter_map(|value| proxy_host(&value))
        .collect()
}

/// The host of a proxy setting, which may lack its scheme.
fn proxy_host(value: &str) -> Option<String> {
    let url = match value.contains("://") {
        true => Url::parse(value),
        false => Url::parse(&format!("http://{value}")),
    };
    url.ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_host_is_read_with_and_without_scheme() {
        for value in [
            "http://u:p@proxy.corp:3128",
            "proxy.corp:3128",
            "https://proxy.corp/",
        ] {
            assert_eq!(proxy_host(value).as_deref(), Some("proxy.corp"), "{value}");
        }
        assert_eq!(proxy_host(""), None);
    }

    #[tokio::test]
    async fn name_of_a_private_address_resolves_only_for_a_proxy() {
        let guarded = PublicOnly::new(Arc::default());
        let Err(refused) = guarded.resolve("localhost".parse().unwrap()).await else {
            panic!("localhost resolved to a public address");
        };
        assert!(refused.is::<NotPublic>(), "{refused}");

        let proxies = HashSet::from(["localhost".to_owned()]);
        let with_proxy = PublicOnly::new(Arc::new(proxies));
        let found = with_proxy
            .resolve("localhost".parse().unwrap())
            .await
            .unwrap();
        assert!(found.count() > 0);
    }
}
