//! Name resolution, which for redirects that a public server chose leads to public addresses only.

use std::collections::HashSet;
use std::env;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use url::Url;

use crate::address;
use crate::connector::BoxError;

/// Resolves by the system.
#[derive(Debug, Clone)]
pub(crate) enum Resolver {
    /// To whatever there is.
    Open,
    /// Leaves out addresses that are not public, at the moment of connecting: a name that was public when a redirect was
    /// judged can't be pointed at a private address afterwards. But these hosts, the environment's proxies, are ours,
    /// wherever they are.
    PublicOnly(Arc<HashSet<String>>),
}

impl Resolver {
    /// The addresses of a host, at least one.
    ///
    /// # Errors
    /// [`NotPublic`], or what the system says.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, BoxError> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        let may = |ip: &IpAddr| match self {
            Self::Open => true,
            Self::PublicOnly(proxies) => proxies.contains(name) || address::is_public(*ip),
        };
        let mut ips: Vec<IpAddr> = Vec::new();
        for ip in found.map(|address| address.ip()).filter(may) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        if ips.is_empty() {
            return Err(NotPublic.into());
        }
        Ok(ips)
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
        let guarded = Resolver::PublicOnly(Arc::default());
        let Err(refused) = guarded.resolve("localhost").await else {
            panic!("localhost resolved to a public address");
        };
        assert!(refused.is::<NotPublic>(), "{refused}");

        let proxies = HashSet::from(["localhost".to_owned()]);
        let with_proxy = Resolver::PublicOnly(Arc::new(proxies));
        for resolver in [with_proxy, Resolver::Open] {
            assert!(!resolver.resolve("localhost").await.unwrap().is_empty());
        }
    }
}
