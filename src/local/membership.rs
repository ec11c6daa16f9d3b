//! What the members of a group prove, from the configuration and the files that it names.

use crate::config::{Config, GroupConfig};
use dosvc_discovery::cloud::Enrolment;
use dosvc_engine::{Demand, EnrolmentSettings, GroupSecret, MembershipSettings};
use dosvc_membership::Trust;
use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
};

/// Bytes of a secret.
const SECRET_BYTES_MAX: u64 = 4096;
/// Bytes of the authorities' certificates.
const AUTHORITIES_BYTES_MAX: u64 = 64 << 10;

/// The same for a machine that is to enrol, whatever is demanded at present.
pub(crate) fn for_enrolment(config: &Config) -> MembershipSettings {
    let mut config = config.clone();
    config.group.membership = Demand::Certificate;
    config.group.secret_file = None;
    settings(&config)
}

/// The part of the configuration that is about membership; files that are named are read. What can't be used is said in
/// the settings: then nobody is a member.
pub(crate) fn settings(config: &Config) -> MembershipSettings {
    let GroupConfig {
        membership,
        secret_file,
        authority_file,
        enrolment_url,
        enrolment_token_file,
        public_addresses,
    } = &config.group;
    let mut problems = Vec::new();
    let secret = secret_file
        .as_ref()
        .filter(|_| *membership >= Demand::Secret)
        .and_then(|path| usable(path, secret_bytes(path), &mut problems));
    let trust = authority_file
        .as_ref()
        .filter(|_| *membership >= Demand::Certificate)
        .and_then(|path| usable(path, authorities(path), &mut problems));
    let beside_geo = config.discovery.geo_url.as_ref().map(Enrolment::beside);
    MembershipSettings {
        demand: *membership,
        secret: secret.and_then(|bytes| GroupSecret::new(&bytes)),
        trust: trust.map(Arc::new),
        enrolment: enrolment_url
            .clone()
            .or(beside_geo)
            .map(|url| EnrolmentSettings {
                url,
                ca_file: config.discovery.cloud_ca_file.clone(),
                token_file: enrolment_token_file.clone(),
            }),
        public_addresses: public_addresses.clone(),
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
    }
}

/// What was read of a file; else what is wrong with it is noted.
fn usable<T>(path: &Path, read: io::Result<T>, problems: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| problems.push(format!("{}: {error}", path.display())))
        .ok()
}

fn authorities(path: &Path) -> io::Result<Trust> {
    let pem = bytes_of(path, AUTHORITIES_BYTES_MAX)?;
    Trust::from_pem(&pem).map_err(io::Error::other)
}

/// A secret without the white space around it; only its owner may read it.
fn secret_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    let ours = rustix::process::geteuid().as_raw();
    if found.mode() & 0o077 != 0 || ![0, ours].contains(&found.uid()) {
        return Err(io::Error::other(
            "others than the daemon's user may read or change it (chown, chmod 600)",
        ));
    }
    let bytes = bytes_of(path, SECRET_BYTES_MAX)?;
    let secret = bytes.trim_ascii();
    if secret.len() < GroupSecret::BYTES_MIN {
        return Err(io::Error::other(format!(
            "a secret has at least {} bytes",
            GroupSecret::BYTES_MIN
        )));
    }
    Ok(secret.to_vec())
}

fn bytes_of(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(io::Error::other(format!("it has more than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadOptions;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    fn config(set: &[(&str, &str)]) -> Config {
        let overrides = set
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()));
        let options = LoadOptions {
            overrides: overrides.collect(),
            default_file: "/nonexistent".into(),
            managed_file: "/nonexistent".into(),
            ..LoadOptions::default()
        };
        Config::load(options).unwrap()
    }

    #[test]
    fn a_secret_that_others_may_read_or_that_is_short_makes_nobody_a_member() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let with = |mode, text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            settings(&config(&[
                ("group.membership", "secret"),
                ("group.secret_file", path.to_str().unwrap()),
            ]))
        };
        let good = with(0o600, "0123456789abcdef\n");
        assert_eq!(good.problem, None);
        assert_eq!(good.secret, GroupSecret::new(b"0123456789abcdef"));
        assert!(!format!("{good:?}").contains("0123456789"));
        for (mode, text) in [
            (0o640, "0123456789abcdef"),
            (0o602, "0123456789abcdef"),
            (0o600, "0123456789abcde\n\n\n"),
            (0o600, ""),
            (0o600, &"x".repeat(4097)),
        ] {
            let bad = with(mode, text);
            assert_eq!(bad.secret, None, "{mode:o} {text}");
            let problem = bad.problem.expect("it is said");
            assert!(problem.contains(path.to_str().unwrap()), "{problem}");
        }
        // Where no secret is demanded none is read.
        let path = path.to_str().unwrap();
        let unused = settings(&config(&[("group.secret_file", path)]));
        assert_eq!((unused.secret, unused.problem), (None, None));
    }

    #[test]
    fn certificates_are_issued_beside_geo_unless_somebody_says_where() {
        let geo = (
            "discovery.geo_endpoint_full_uri",
            "https://do.example/x/geo",
        );
        let url = |set: &[_]| {
            let enrolment = settings(&config(set)).enrolment?;
            Some(enrolment.url.to_string())
        };
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[geo]).unwrap(), "https://do.example/enrol");
        let own = ("group.enrolment_url", "https://ca.example/e");
        assert_eq!(url(&[geo, own]).unwrap(), "https://ca.example/e");
    }

    #[test]
    fn an_authority_that_cannot_be_read_makes_nobody_a_member() {
        let broken = settings(&config(&[
            ("group.membership", "certificate"),
            ("group.authority_file", "/dev/null"),
        ]));
        let problem = broken.problem.expect("it is said");
        assert!(problem.contains("no certificate"), "{problem}");
    }
}
