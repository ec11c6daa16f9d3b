//! `restrict_peer_selection_by`: who is dialled and who is let in, in the mode that restricts least by itself.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::{Daemon, SWARM_PORT},
    namespace::Lab,
    nginx::Nginx,
    peer::knock,
    process::wait_for,
};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

fn policies(restrict: u8) -> String {
    format!("download_mode = 3\nrestrict_peer_selection_by = {restrict}")
}

/// Policies with DNS-SD switched off: only configured peers are known then.
fn start_without_dns_sd(lab: &Lab, at: usize, restrict: u8) -> Daemon {
    let policies = policies(restrict);
    let tables = format!("[delivery_optimization]\n{policies}\n[discovery]\ndns_sd = false");
    Daemon::start_with(lab.at(at), "", &tables)
}

#[test]
#[ignore = "needs root and network namespaces"]
fn subnet_restriction_shuts_out_who_is_behind_a_router_and_nobody_else() {
    for (restrict, outsider_is_let_in) in [(0, true), (1, false), (2, false)] {
        let mut lab = Lab::new(3, None);
        let outsider = lab.outsider();
        let content = Content::random(1, scenario_bytes(64));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name);
        let seed = Daemon::start(lab.at(1), &policies(restrict));
        seed.get(&url, &content, &[]);
        seed.wait_until_shared(&content);
        let address = lab.at(1).address(SWARM_PORT);
        let heard = knock(&outsider, address, &content, PATIENCE);
        let heard = heard.map_or(0, |knock| knock.answer.len());
        assert_eq!(
            heard > 0,
            outsider_is_let_in,
            "restricted by {restrict}: {heard} bytes"
        );
        // Nor does it dial who is outside.
        let outside = Daemon::start(&outsider, &policies(restrict));
        let result = outside.get(&url, &content, &["--peer", &address.to_string()]);
        let from = result.status.downloaded;
        assert_eq!(
            from.internet > 0,
            outsider_is_let_in,
            "restricted by {restrict}: {from:?}"
        );
        assert_eq!(
            from.peers() > 0,
            outsider_is_let_in,
            "restricted by {restrict}: {from:?}"
        );
        // The link's own machines find each other in every case.
        let inside = Daemon::start(lab.at(2), &policies(restrict));
        let from = inside.get(&url, &content, &[]).status.downloaded;
        assert!(from.link_local > 0, "restricted by {restrict}: {from:?}");
        assert_eq!(
            from.peers(),
            from.link_local,
            "restricted by {restrict}: {from:?}"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn local_discovery_restriction_leaves_configured_peers_alone_both_ways() {
    for (restrict, is_used) in [(1, true), (2, false)] {
        let lab = Lab::new(3, None);
        let content = Content::random(1, scenario_bytes(64));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name);
        let seed = start_without_dns_sd(&lab, 1, restrict);
        seed.get(&url, &content, &[]);
        seed.wait_until_shared(&content);
        let address = lab.at(1).address(SWARM_PORT);
        // Who is on the link cannot have found a machine that does not announce itself.
        let answer = wait_for("the port to answer or close", PATIENCE * 2, || {
            knock(lab.at(2), address, &content, PATIENCE).ok()
        });
        assert_eq!(
            !answer.answer.is_empty(),
            is_used,
            "restricted by {restrict}"
        );
        // One that lets everybody in is not dialled either, by who restricts itself.
        let leech = start_without_dns_sd(&lab, 2, restrict);
        let open = start_without_dns_sd(&lab, 0, 0);
        open.get(&url, &content, &[]);
        open.wait_until_shared(&content);
        let open = lab.at(0).address(SWARM_PORT).to_string();
        let from = leech
            .get(&url, &content, &["--peer", &open])
            .status
            .downloaded;
        assert_eq!(
            from.peers() > 0,
            is_used,
            "restricted by {restrict}: {from:?}"
        );
    }
}
