//! Which Active Directory the machine is joined to, as realmd, adcli, winbind and sssd know it. All of them are
//! optional; what they do not say in time is not known.

use crate::Root;
use std::{
    collections::BTreeMap,
    io::Read as _,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long one program may take; a domain controller that is not there keeps them waiting.
const PROGRAM_TIME: Duration = Duration::from_secs(5);
/// The most that one program's answer may have, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Every machine that was joined has its key here.
const KEYTAB: &str = "etc/krb5.keytab";
/// Where sssd keeps what it knows of a domain.
const SSSD: &str = "var/lib/sss/db";

/// What the directory says of this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directory {
    /// The site.
    pub site: Option<String>,
    /// The domain's SID.
    pub sid: Option<String>,
}

/// Asks the directory; blocks for up to 15 s. A machine that never was joined asks nobody.
pub fn directory(root: &Root) -> Directory {
    if !root.path(KEYTAB).exists() {
        return Directory::default();
    }
    let Some(domain) = ask(root, "realm", &["list"])
        .as_deref()
        .and_then(joined_domain)
    else {
        return Directory::default();
    };
    let site = ask(root, "adcli", &["info", &domain]);
    let sid = ask(root, "wbinfo", &[&format!("--domain-info={domain}")]);
    Directory {
        site: site.as_deref().and_then(site_of),
        sid: sid
            .as_deref()
            .and_then(sid_of)
            .or_else(|| sid_from_sssd(root, &domain)),
    }
}

/// What a program prints; `None` when it is missing, fails or takes too long.
fn ask(root: &Root, program: &str, arguments: &[&str]) -> Option<String> {
    let path = ["usr/bin", "usr/sbin"]
        .into_iter()
        .map(|folder| root.path(folder).join(program))
        .find(|path| path.is_file())?;
    let mut child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = child.stdout.take()?;
    let (sender, answer) = mpsc::sync_channel(1);
    // Ends when the program does, or is killed below.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
        let _ = sender.send(read.ok().map(|_| bytes));
    });
    let answer = answer.recv_timeout(PROGRAM_TIME).ok().flatten();
    if answer.is_none() {
        let _ = child.kill();
        tracing::warn!(
            program,
            "does not answer; what it knows of the domain is not used"
        );
    }
    let status = child.wait().ok()?;
    let bytes = answer.filter(|_| status.success())?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first Active Directory domain of `realm list` that the machine is a member of.
fn joined_domain(text: &str) -> Option<String> {
    // A block for each realm: its name, then indented lines of `key: value`.
    let (mut domain, mut is_member) = (None, false);
    for line in text.lines() {
        if !line.starts_with(char::is_whitespace) {
            (domain, is_member) = (None, false);
        }
        match line.trim().split_once(": ") {
            Some(("domain-name", name)) => domain = Some(name.trim().to_owned()),
            Some(("configured", how)) => is_member = how.trim() == "kerberos-member",
            _ => {}
        }
        if let (Some(domain), true) = (&domain, is_member) {
            return Some(domain.clone());
        }
    }
    None
}

/// The site that `adcli info` says the computer is in.
fn site_of(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "computer-site" && !value.trim().is_empty()).then(|| value.trim().to_owned())
    })
}

/// The SID in what `wbinfo --domain-info` prints.
fn sid_of(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let sid = domain_sids(value.as_bytes()).next()?;
        (key.trim() == "SID").then_some(sid)
    })
}

/// sssd's cache has the SIDs of users, groups and computers in plain text: nearly all of them begin with their
/// domain's. Readable for root and sssd only.
fn sid_from_sssd(root: &Root, domain: &str) -> Option<String> {
    let text = root.read(format!("{SSSD}/cache_{domain}.ldb"))?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sid in domain_sids(text.as_bytes()) {
        *counts.entry(sid).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(sid, _)| sid)
}

/// The domains of all SIDs in a text: `S-1-5-21-` and three numbers.
fn domain_sids(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    const PREFIX: &[u8] = b"S-1-5-21-";
    (0..text.len()).filter_map(|at| {
        let rest = text[at..].strip_prefix(PREFIX)?;
        let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'-');
        let rest = std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()?;
        let mut numbers = rest.splitn(4, '-').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(format!("S-1-5-21-{}-{}-{}", next()?, next()?, next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::fixture::Tree;
    use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

    const REALMS: &str = "other.example\n  type: kerberos\n  domain-name: other.example\n  configured: no\n\
        corp.example\n  type: kerberos\n  realm-name: CORP.EXAMPLE\n  domain-name: corp.example\n  configured: kerberos-member\n  server-software: active-directory\n";
    const SID: &str = "S-1-5-21-111-222-333";

    fn program(tree: &Tree, name: &str, script: &str) {
        tree.write(
            &format!("usr/bin/{name}"),
            &format!("#!/bin/sh\n{script}\n"),
        );
        let path = tree.root().path(format!("usr/bin/{name}"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn joined() -> Tree {
        let tree = Tree::new(&[(KEYTAB, "key"), ("realms", REALMS)]);
        let realms = tree.root().path("realms");
        program(&tree, "realm", &format!("cat {}", realms.display()));
        tree
    }

    #[test]
    fn joined_machine_knows_its_site_and_its_domains_sid() {
        let tree = joined();
        program(
            &tree,
            "adcli",
            "echo '[domain]'; echo domain-controller-site = Elsewhere; echo '[computer]'; echo computer-site = Berlin",
        );
        program(
            &tree,
            "wbinfo",
            &format!(
                "echo \"Name              : CORP\"; echo \"SID               : {SID}\"; echo \"Native            : $1\""
            ),
        );
        let expected = Directory {
            site: Some("Berlin".to_owned()),
            sid: Some(SID.to_owned()),
        };
        assert_eq!(directory(&tree.root()), expected);
    }

    #[test]
    fn machine_that_was_never_joined_asks_nobody() {
        let tree = Tree::new(&[]);
        let trace = tree.root().path("asked");
        program(&tree, "realm", &format!("touch {}", trace.display()));
        assert_eq!(directory(&tree.root()), Directory::default());
        assert!(!trace.exists());
    }

    #[test]
    fn sssd_vouches_for_the_sid_where_winbind_is_missing() {
        let tree = joined();
        let cache = format!(
            "\u{0}objectSIDString\u{0}{SID}-1103\u{0}x{SID}-513\u{0}S-1-5-21-9-9-9-500\u{0}S-1-5-32-544"
        );
        tree.write("var/lib/sss/db/cache_corp.example.ldb", &cache);
        assert_eq!(directory(&tree.root()).sid.as_deref(), Some(SID));
    }

    #[test]
    fn programs_that_fail_or_hang_are_given_up() {
        let tree = joined();
        program(&tree, "adcli", "echo computer-site = Berlin; exit 1");
        program(&tree, "wbinfo", "exec sleep 600");
        let started = Instant::now();
        assert_eq!(directory(&tree.root()), Directory::default());
        assert!(
            started.elapsed() < PROGRAM_TIME * 3,
            "{:?}",
            started.elapsed()
        );
    }

    #[test]
    fn sids_are_read_whole() {
        let sids = |text: &str| domain_sids(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(
            sids("S-1-5-21-1-2-3-4 S-1-5-21-1-2 S-1-5-21-99999999999-1-1"),
            ["S-1-5-21-1-2-3"]
        );
    }
}
