//! Documents that come from the table: the page of policies and the commented sample of the configuration.

use crate::{Allowed, Evidence, POLICIES, PolicySpec, Unit};

/// What stands in `docs/policies.md` before the table.
const INTRODUCTION: &str = "\
# Policies

Every Delivery Optimization policy, with Windows' name, unit, range and default. They stand in the table
`[delivery_optimization]` of the configuration; the original name (`DODownloadMode`, in any case of the letters, `DO` may be left out)
is read as well as the key. `dosvc config --verbose` shows the value of each and who set it.

This page is generated from `crates/policy/src/table.rs`. To write it anew after a change there:
`DOSVC_UPDATE_FILES=1 cargo test -p dosvc-policy --test documents`.

- GB, MB and KB are powers of 1024. KB/s are 1024 bytes a second.
- Numbers are whole; anything out of range is refused with the range. A choice is given by its number or its name.
- Lists are TOML lists or one text with commas.
- Tests in `tests/lab` see the effect from outside, with the real program: `cargo test --test lab NAME` runs one (those that need
  root are run as the README says).
- Who wins: default < file < `conf.d` < environment < managed < command; see below.
- A running daemon takes changes of its files over by itself within two seconds, and on SIGHUP, in running downloads too.
  A new limit drops no connection; a mode drops those that it forbids. What is wrong changes nothing.
- Sources: *CSP* is Microsoft's page policy-csp-deliveryoptimization, *reference* waas-delivery-optimization-reference, *configure*
  delivery-optimization-configure, each with the month of the text.
";

/// What stands in `docs/policies.md` after the table.
const CHOICES: &str = "\
## Who sets what

| Provider | Where | As Get-DOConfig has it |
|---|---|---|
| default | the table above | Default Provider (99) |
| file | `/etc/dosvc/dosvc.toml`, or what `--config` names | File Provider, with the path (5, Windows' registry) |
| `conf.d` | `conf.d/*.toml` beside it, sorted by name | the same |
| environment | `DOSVC_DOWNLOAD_MODE=2`, `DOSVC_DELIVERY_OPTIMIZATION__DOWNLOAD_MODE=2` | Environment Provider |
| managed | `/etc/dosvc/managed.toml`, or `managed.file` | Mdm Provider (7) |
| command | `dosvc run --set download_mode=2`, `dosvc mode 2` | Admin Provider (9) |

The managed file is what the fleet's management writes, so it counts only when nobody else can have written it: it belongs
to root, in a folder of root's, nobody else may write either, and the daemon's user can read it. Or, with `managed.public_key`, it is signed, and then
anybody may carry it:

```sh
openssl genpkey -algorithm ed25519 -out fleet.pem
openssl pkey -in fleet.pem -pubout | sed -n 2p          # managed.public_key
openssl pkeyutl -sign -rawin -inkey fleet.pem -in managed.toml -out managed.toml.sig
```

Put the signature in place before the file, or both within a fraction of a second. A file that is not trusted is refused
with its reason: a running daemon keeps what it has, one that starts does not start. A signature does not say when it was
made, so whoever may write the file can put an older signed one back.

## How bandwidth is measured

Shares (percentages, hours, \"dynamic\") are of what is available toward the sources: HTTP servers, group and Internet
peers, all downloads together. Nothing but a download itself can tell how much that is, so it is measured as it runs: for
about four seconds limits that are shares are lifted, and the rate that was kept up for three seconds is what is
available. The first half second is left out, for it brings what had piled up in buffers. A measurement begins with a
download, unless the last one is less than half a minute old, and every three minutes; a link that changes is noticed
then. Downloads under an absolute limit alone show that limit, not what is available: nothing is measured then. What was
measured is forgotten after ten minutes without a download. An absolute limit holds all the time, while measuring too, and
a share of 100 is no limit.

What peers send is what they have to give, not what there is: each passes on what it gets itself. A swarm of which all members take
90 % of that has less and less to give. So where at least half of what was measured came from peers, the dynamic limit of foreground
downloads stays lifted until the next measurement. The one of background downloads holds, and so does every limit that is configured.

## What is limited, and how exactly

- Limits count bytes on the wire, as the interface's counters show them: content and whatever carries it, TLS and headers
  (Ethernet, IP, TCP), and acknowledgements in the same direction. The kernel counts bytes and segments of each connection;
  nothing is guessed. What is sent twice counts with its headers alone. On virtual links whose packets are up to 64 KiB
  long the interface's counters see hardly any headers, on others without Ethernet 14 bytes a segment fewer.
- Downloads of one priority share one limit, over all contents and connections. Peers in the LAN are exempt from every
  limit, the machine's own uploads to them too; an HTTP server in the LAN is exempt from the dynamic share alone.
- Over ten seconds limits are exact within 3 %, absolute ones from the first byte on, and shares of what was measured as
  soon as that is (mostly they are within 1 %). How: no byte is asked for before it is paid for, in the kernel's buffers
  no more waits than little above what the limit brings in a round trip, and what is charged is what the kernel counted.
- No more passes at a time than 26 ms of the limit and about 18 KB for each connection; the first blocks of a peer beyond
  the LAN, and before Linux 5.14 the first bytes of a server, may bring 64 KiB more, once. When a limit comes into force
  while a download runs without one, what others had been told that they may send still comes, and is paid for before
  anything else does.
- A new limit is in force within two seconds, usually at once, and drops no connection.
- `dosvc config --verbose` shows what is configured and by whom; `dosvc status` the limits in force, where each comes from
  and what is available (`bandwidth` in `--json`).

## Choices

Where Microsoft's pages contradict each other, [compatibility.md](compatibility.md) says what was chosen. Where they say
nothing, or too little, this is what dosvc does.

| Topic | What the pages say | Choice |
|---|---|---|
| `group_id` that is no GUID | nothing | refused; other text can be a group id through `group_id_source` only |
| `group_id_source` out of range | \"ignored\" | refused with the range, as every other value |
| What the LAN is (mode 1) | peers that share the public IP, as the service sees it | an address in a subnet of one of the machine's interfaces, or loopback to loopback: needs no service and gives nothing to a stranger behind the same NAT |
| LAN peers in mode 2 | \"LAN first\" | must prove the group as well; their bytes are counted as LAN bytes |
| Peers found by DNS-SD | peer type LinkLocal | counted as LinkLocal; an address off the link is not believed |
| A mode for one content | nothing | must be within the device's; Lan is not within Group, since it would open to machines outside the group |
| `absolute_max_cache_size` = 0 | Intune: unlimited, cleaned when the disk runs low | only the free part of the disk limits the cache |
| \"Available\" space of `max_cache_size` | nothing on the cache's own bytes | free space plus what the cache takes, so that a cache that fills does not shrink its limit |
| The last part of a disk | cleaned when the disk runs low | the last 10 % of a disk (`cache.keep_free_percent`) are never taken; when others fill the disk the cache gives way, at once during downloads, within a minute otherwise |
| \"10 MB\" below which a content is Simple | unit not said | 10 × 2²⁰ bytes |
| `min_file_size_to_cache` under 10 MB | recommended for large groups, but the 10 MB rule would undo it | the policy wins: contents from its value on are exchanged, smaller ones are Simple |
| Contents between 10 MB and `min_file_size_to_cache` | \"take no part in peering\" | effective mode 0 (CdnOnly): hash checks, no peers |
| Hash checks in mode 99 | none | no hash file is looked for; one that the caller gives is checked all the same |
| \"Dynamic\" (0) | at most 90 % of what is available toward the source in the foreground, 45 % in the background; a speed test every few minutes | the same, see below; an HTTP server in one of the machine's own subnets is spared, as LAN peers are: the share is one of the way to the Internet |
| A percentage and an absolute limit, both set | nothing | the share is one of what is available under the absolute limit |
| Absolute and percentage limits: what they hold for | HTTP, group and Internet peers; LAN peers are exempt | the same; a server in the LAN is limited by them |
| Headers | nothing | limits and shares are of what crosses the interface, headers as the kernel counts them |
| Hours: 0 per cent | nothing | the other policies hold then: percentage, absolute, dynamic |
| Hours and a percentage, both set | nothing | hours win while they name a share |
| Hours: which clock, past midnight | nothing | local time with its changes; `from` is inside, `to` is not; `from` after `to` crosses midnight; equal: the whole day |
| What a metered connection closes | nothing for peering; a cost policy for downloads | peers beyond the LAN, and HTTP for background downloads |
| What a VPN closes | no peering, or no uploads | peers both ways; with `restrict_peer_selection_by` = 2 nothing |
| Letters of `vpn_keywords` | nothing | their case does not matter |
| AD site and domain SID (`group_id_source` 1 and 2) | the domain controller says | sssd's or winbind's tools are asked (`realm`, `adcli`, `wbinfo`, sssd's cache). Tested with programs that answer as these do, not on a machine that is joined to a domain |
| `group_id_source` 1, 2 or 5 that has nothing | only 3 and 4 fall back to the automatic order | as written: no group, and no peers |
| Scheme and port in `cache_host` | nothing; the Linux agent takes a scheme | both may be given |
| `cache_host_source` = 0 | not in the CSP's range; the troubleshooter knows it | allowed |
| Deprecated policies | mapped to nothing that is written down | `max_download_bandwidth` and `percentage_max_download_bandwidth` stand for both their successors while these are not set; `max_upload_bandwidth` still limits uploads, and as older notes have it those to Internet peers only |
| What `min_background_qos` is in the foreground | no floor documented | 20 MB/s, fixed: the policy is for background downloads alone |
| `monthly_upload_data_cap`: the month, and crashes | calendar month | by local time; no block is promised that the cap has no room for; what was promised before is still sent, and what its peer withdraws first is not counted; a crash forgets nothing, and may count up to 32 MiB that were not sent |
| Four files are offered at a time | \"an internal rule rotates\" | everything is announced; four contents are uploaded at a time (`transfers.max_active_uploads`), and while others are wanted too they take turns of ten seconds |
| `modify_cache_drive` | variable, drive letter or folder | an absolute folder, which must exist; `%SYSTEMDRIVE%` is the default, the folder `cache` in the state folder. Database and identity stay in the state folder |
| The cache when `modify_cache_drive` changes | nothing | at the next start; what the old folder holds stays there, unused, and the log says so. Moved by hand while the daemon is stopped, it is known in the new one |
";

/// Where Microsoft's pages contradict each other, and what was chosen: the rows of a table in `docs/compatibility.md`.
pub const CONTRADICTIONS: &str = "\
| `group_id` and `group_id_source` both set | 2022: the source wins; 2025: the id wins | the id wins (newest text) |
| Default of `restrict_peer_selection_by` | Windows 10: none; Windows 11: subnet, or DNS-SD, or one of both by edition | 0, nothing beyond the mode: a Linux host's \"LAN\" is already its own subnets, and a default of 2 would shut out peers wherever multicast is filtered |
| `restrict_peer_selection_by` in mode 3 | reference: no; configure: yes | it applies: a restriction that is configured must not open up in the widest mode |
| Default of `min_background_qos` | 500 KB/s (2022), 2500 KB/s (2024), 20 MB/s (2025) | 20 MB/s = 20480 KB/s (newest text) |
| Default of `absolute_max_cache_size` | 10 GB (2022), not configured (2025) | not set (newest text) |
| Lower bound of `min_battery_percentage_allowed_to_upload` | CSP 0, reference 1 | 0 is allowed and means: never on battery |
| `min_ram_allowed_to_peer` | total (CSP) or available (reference) memory | total; up to an eighth may be missing, so that a machine sold with 4 GB passes with what the kernel leaves of it |
| `min_disk_size_allowed_to_peer` | capacity (reference) or free space (troubleshooter) | capacity of the disk that the cache lies on |
| Fallback delay with several cache hosts | the first server only (older), or per file (2025) | per file (newest text) |
| Order of `cache_host` | in order, or round robin | in order from the first; the next one after a failure |
";

/// The page `docs/policies.md`.
pub fn policies_page() -> String {
    let mut page = format!(
        "{INTRODUCTION}\n## The {} policies\n\n{HEADER}",
        POLICIES.iter().filter(|s| s.deprecated.is_none()).count()
    );
    for spec in POLICIES.iter().filter(|s| s.deprecated.is_none()) {
        page += &row(spec);
    }
    page += &format!("\n## Deprecated\n\nRead, obeyed and warned about.\n\n{HEADER}");
    for spec in POLICIES.iter().filter(|s| s.deprecated.is_some()) {
        page += &row(spec);
    }
    page + "\n" + CHOICES
}

const HEADER: &str = "\
| Key | Windows' name | Unit | Allowed | Default | What it does | How to see it; the test that shows it | Source |
|---|---|---|---|---|---|---|---|
";

fn row(spec: &PolicySpec) -> String {
    let allowed = match spec.allowed {
        Allowed::Hours => format!("`{}`", Allowed::Hours),
        other => other.to_string(),
    };
    let Evidence {
        shown,
        test_file,
        test,
    } = spec.policy.evidence();
    format!(
        "| `{}` | {} | {} | {allowed} | {} | {} | {shown}; `{test}` ({test_file}) | {} |\n",
        spec.key,
        spec.name,
        spec.unit,
        spec.default_text(),
        spec.doc,
        spec.source
    )
}

/// The table `[delivery_optimization]` of the commented sample: every key with what it does, what is allowed and
/// its default. Keys are commented out, so that the sample configures nothing.
pub fn sample_table() -> String {
    let mut text = "[delivery_optimization]\n".to_owned();
    for spec in POLICIES {
        text += &format!("\n# {}\n", spec.doc);
        text += &format!("# {}", spec.name);
        if spec.unit != Unit::None {
            text += &format!(", {}", spec.unit);
        }
        text += &format!("; allowed: {}", spec.allowed);
        if spec.deprecated.is_some() {
            text += "; deprecated";
        }
        text += ".\n";
        text += &match spec.default {
            Some(number) => format!("#{} = {number}\n", spec.key),
            None => format!(
                "#{} = {}    # not set by default\n",
                spec.key,
                example(spec)
            ),
        };
    }
    text
}

/// A value that is allowed, for a key without default.
fn example(spec: &PolicySpec) -> String {
    match spec.allowed {
        Allowed::Number(min, max) => 60.clamp(min, max).to_string(),
        Allowed::Choice(choices) => choices.last().map_or(0, |(n, _)| *n).to_string(),
        Allowed::Flag => "1".to_owned(),
        Allowed::Guid => "\"00000000-0000-0000-0000-000000000001\"".to_owned(),
        Allowed::Hosts => "[\"cache.example.com\", \"10.10.1.7\"]".to_owned(),
        Allowed::Words => "[\"Contoso Tunnel\"]".to_owned(),
        Allowed::Folder => "\"/srv/dosvc/cache\"".to_owned(),
        Allowed::Hours => "{ from = 8, to = 17, in = 20, out = 0 }".to_owned(),
    }
}
