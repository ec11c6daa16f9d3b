//! Where a redirect may lead. Pure.

use url::Url;

use crate::address;
use crate::error::RedirectRefusal;
use crate::limits::LOCATION_BYTES_MAX;

/// The rules for one request's redirects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RedirectPolicy {
    /// Hops that are followed at most.
    pub(crate) hops_max: u8,
    /// Whether https may lead to http.
    pub(crate) allow_downgrade: bool,
}

/// The way of one request: where it has been, where it is.
#[derive(Debug)]
pub(crate) struct Trail {
    policy: RedirectPolicy,
    visited: Vec<Url>,
}

impl Trail {
    /// A request that starts at `url`.
    pub(crate) fn new(policy: RedirectPolicy, url: Url) -> Self {
        Self {
            policy,
            visited: vec![url],
        }
    }

    /// Where the request is now.
    pub(crate) fn current(&self) -> &Url {
        self.visited.last().expect("a trail starts with one URL")
    }

    /// Goes where `Location` says, if that is allowed. `guarded`: the original host is public, so addresses
    /// that are not public are out of bounds. (A name that resolves to such an address is refused when the
    /// connection is made; see the guarded resolver.)
    pub(crate) fn follow(
        &mut self,
        location: Option<&[u8]>,
        guarded: bool,
    ) -> Result<(), RedirectRefusal> {
        let next = self.target(location)?;
        if self.current().scheme() == "https"
            && next.scheme() == "http"
            && !self.policy.allow_downgrade
        {
            return Err(RedirectRefusal::Downgrade);
        }
        if guarded && address::host_is_public(&next) == Some(false) {
            return Err(RedirectRefusal::PrivateAddress);
        }
        if self.visited.contains(&next) {
            return Err(RedirectRefusal::Loop);
        }
        if self.visited.len() > usize::from(self.policy.hops_max) {
            return Err(RedirectRefusal::TooMany {
                hops_max: self.policy.hops_max,
            });
        }
        self.visited.push(next);
        Ok(())
    }

    fn target(&self, location: Option<&[u8]>) -> Result<Url, RedirectRefusal> {
        let location = location.ok_or(RedirectRefusal::NoLocation)?;
        if location.len() > LOCATION_BYTES_MAX {
            return Err(RedirectRefusal::BadLocation);
        }
        let text = std::str::from_utf8(location).map_err(|_| RedirectRefusal::BadLocation)?;
        let mut next = self
            .current()
            .join(text)
            .map_err(|_| RedirectRefusal::BadLocation)?;
        if !matches!(next.scheme(), "http" | "https") {
            return Err(RedirectRefusal::Scheme);
        }
        if next.host_str().is_none_or(str::is_empty) {
            return Err(RedirectRefusal::BadLocation);
        }
        next.set_fragment(None);
        // Credentials are the caller's to give: those of our own URL go no further than its server, and a
        // server does not choose any for us.
        let same_server = next.origin() == self.current().origin();
        let (user, password) = match same_server {
            true => (self.current().username(), self.current().password()),
            false => ("", None),
        };
        let (user, password) = (user.to_owned(), password.map(str::to_owned));
        next.set_username(&user)
            .and_then(|()| next.set_password(password.as_deref()))
            .map_err(|()| RedirectRefusal::BadLocation)?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trail(url: &str) -> Trail {
        let policy = RedirectPolicy {
            hops_max: 3,
            allow_downgrade: false,
        };
        Trail::new(policy, Url::parse(url).unwrap())
    }

    fn refused(url: &str, location: &str) -> RedirectRefusal {
        trail(url)
            .follow(Some(location.as_bytes()), true)
            .unwrap_err()
    }

    #[test]
    fn relative_and_absolute_locations_are_followed() {
        let mut trail = trail("http://cdn.test/a/b?x=1");
        for (location, url) in [
            ("c", "http://cdn.test/a/c"),
            ("//other.test/d#frag", "http://other.test/d"),
            ("https://other.test/e?sig=1", "https://other.test/e?sig=1"),
        ] {
            trail.follow(Some(location.as_bytes()), true).unwrap();
            assert_eq!(trail.current().as_str(), url);
        }
    }

    #[test]
    fn hops_are_counted_and_loops_seen() {
        let mut counted = trail("http://cdn.test/0");
        for hop in 1..=3 {
            counted
                .follow(Some(format!("/{hop}").as_bytes()), true)
                .unwrap();
        }
        assert_eq!(
            counted.follow(Some(b"/4"), true),
            Err(RedirectRefusal::TooMany { hops_max: 3 })
        );

        let mut looped = trail("http://cdn.test/0");
        looped.follow(Some(b"/1"), true).unwrap();
        assert_eq!(looped.follow(Some(b"/0"), true), Err(RedirectRefusal::Loop));
    }

    #[test]
    fn downgrade_is_refused_unless_allowed() {
        assert_eq!(
            refused("https://cdn.test/", "http://cdn.test/x"),
            RedirectRefusal::Downgrade
        );
        let policy = RedirectPolicy {
            hops_max: 3,
            allow_downgrade: true,
        };
        let mut allowed = Trail::new(policy, Url::parse("https://cdn.test/").unwrap());
        assert_eq!(allowed.follow(Some(b"http://cdn.test/x"), true), Ok(()));
    }

    #[test]
    fn other_schemes_are_refused() {
        for location in [
            "file:///etc/passwd",
            "ftp://cdn.test/x",
            "data:,x",
            "gopher://127.0.0.1/",
        ] {
            assert_eq!(
                refused("http://cdn.test/", location),
                RedirectRefusal::Scheme,
                "{location}"
            );
        }
    }

    #[test]
    fn private_address_is_refused_from_a_public_host_only() {
        for location in [
            "http://127.0.0.1/",
            "http://169.254.169.254/latest",
            "//localhost:9/",
            "http://[fd00::1]/",
            "http://0x7f000001/",
            "http://[::ffff:192.168.0.1]/",
        ] {
            assert_eq!(
                refused("http://cdn.test/", location),
                RedirectRefusal::PrivateAddress,
                "{location}"
            );
        }
        assert_eq!(
            trail("http://10.0.0.1/").follow(Some(b"http://10.0.0.2/"), false),
            Ok(())
        );
    }

    #[test]
    fn credentials_stay_with_their_server() {
        let mut same = trail("http://me:pw@cdn.test/a");
        same.follow(Some(b"/b"), true).unwrap();
        assert_eq!(same.current().as_str(), "http://me:pw@cdn.test/b");
        same.follow(Some(b"http://evil.test/c"), true).unwrap();
        assert_eq!(same.current().as_str(), "http://evil.test/c");
        same.follow(Some(b"http://you:ru@other.test/d"), true)
            .unwrap();
        assert_eq!(same.current().as_str(), "http://other.test/d");
    }

    #[test]
    fn missing_and_broken_locations_are_refused() {
        assert_eq!(
            trail("http://h/").follow(None, true),
            Err(RedirectRefusal::NoLocation)
        );
        assert_eq!(
            trail("http://h/").follow(Some(b"http://"), true),
            Err(RedirectRefusal::BadLocation)
        );
        assert_eq!(
            trail("http://h/").follow(Some(&[0xff, 0xfe]), true),
            Err(RedirectRefusal::BadLocation)
        );
        let long = format!("/{}", "x".repeat(LOCATION_BYTES_MAX));
        assert_eq!(refused("http://h/", &long), RedirectRefusal::BadLocation);
    }

    proptest! {
        #[test]
        fn hostile_locations_never_panic_and_never_leave_http(location: Vec<u8>, near in "(https?:)?(//)?[a-z0-9@:.\\[\\]%/?#]{0,40}") {
            for location in [location.as_slice(), near.as_bytes()] {
                let mut trail = trail("https://cdn.test/a");
                if trail.follow(Some(location), true).is_ok() {
                    prop_assert_eq!(trail.current().scheme(), "https");
                    prop_assert!(address::host_is_public(trail.current()) != Some(false));
                }
            }
        }
    }
}
