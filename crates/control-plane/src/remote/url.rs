//! Where a Redis is.

use std::{fmt, path::PathBuf, str::FromStr};

/// The port of Redis; Sentinel's is 26379, and has to be said.
const PORT: u16 = 6379;

/// `redis://[USER@]HOST[:PORT][/DATABASE]`, the same with `rediss` for TLS, or `unix:///PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisUrl {
    text: String,
    pub(super) place: Place,
    pub(super) user: Option<String>,
    pub(super) database: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// Text that is no [`RedisUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected redis://HOST[:PORT][/DATABASE], rediss://… or unix:///PATH, without a password")]
pub struct ParseRedisUrlError;

impl FromStr for RedisUrl {
    type Err = ParseRedisUrlError;

    fn from_str(text: &str) -> Result<Self, ParseRedisUrlError> {
        let error = ParseRedisUrlError;
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.strip_prefix('/') {
                Some(rest) if !rest.is_empty() => Ok(Self {
                    text: text.to_owned(),
                    place: Place::Unix(path.into()),
                    user: None,
                    database: 0,
                }),
                _ => Err(error),
            };
        }
        let url = ::url::Url::parse(text).map_err(|_| error)?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(error),
        };
        // A password in the configuration would be shown wherever that is shown.
        if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(error);
        }
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => number.parse::<u16>().map_err(|_| error)?.into(),
        };
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(error)?;
        let user = Some(url.username()).filter(|user| !user.is_empty());
        Ok(Self {
            text: text.to_owned(),
            place: Place::Tcp {
                // IPv6 stands in brackets in a URL alone.
                host: host.trim_matches(['[', ']']).to_owned(),
                port: url.port().unwrap_or(PORT),
                tls,
            },
            user: user.map(str::to_owned),
            database,
        })
    }
}

impl RedisUrl {
    /// Whether it is spoken with by TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.place, Place::Tcp { tls: true, .. })
    }

    /// The same, at another address: of a primary that a Sentinel names.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let tls = self.is_tls();
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        Self {
            text: format!("redis{}://{bracketed}:{port}", if tls { "s" } else { "" }),
            place: Place::Tcp {
                host: host.to_owned(),
                port,
                tls,
            },
            user: self.user.clone(),
            database: self.database,
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_no_password() {
        let url: RedisUrl = "redis://do@[2001:db8::1]:7000/3".parse().unwrap();
        let tcp = |host: &str, port, tls| Place::Tcp {
            host: host.to_owned(),
            port,
            tls,
        };
        assert_eq!(url.place, tcp("2001:db8::1", 7000, false));
        assert_eq!((url.user.as_deref(), url.database), (Some("do"), 3));
        let plain: RedisUrl = "rediss://cache.example".parse().unwrap();
        assert_eq!(plain.place, tcp("cache.example", PORT, true));
        assert_eq!(plain.at("::1", 1).to_string(), "rediss://[::1]:1");
        let unix: RedisUrl = "unix:///run/redis.sock".parse().unwrap();
        assert_eq!(unix.place, Place::Unix("/run/redis.sock".into()));
        for bad in [
            "redis://u:secret@host",
            "http://host",
            "redis://",
            "redis:///3",
            "redis://host/x",
            "redis://host:99999",
            "unix://",
            "unix:///",
            "unix://x",
            "host:6379",
        ] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }
}
