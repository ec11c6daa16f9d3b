//! Home routers in words of nftables, and miniupnpd on them: for the tests of this crate and for those of the whole program,
//! which have the same file.

use std::net::Ipv4Addr;

/// The UDP port of clients; [`Kind::PortShift`] makes another one of it.
pub(crate) const CLIENT_PORT: u16 = 3545;

/// An address of the router that miniupnpd takes for public: it takes none of the documentation's networks.
pub(crate) const MINIUPNPD_EXTERNAL: Ipv4Addr = Ipv4Addr::new(44, 128, 0, 10);

/// Chains that miniupnpd fills.
pub(crate) const MINIUPNPD_CHAINS: &str = "table inet miniupnpd {
 chain forward { type filter hook forward priority -5; jump miniupnpd; }
 chain miniupnpd { }
 chain prerouting { type nat hook prerouting priority dstnat - 5; jump prerouting_miniupnpd; }
 chain postrouting { type nat hook postrouting priority srcnat - 5; jump postrouting_miniupnpd; }
 chain prerouting_miniupnpd { }
 chain postrouting_miniupnpd { }
}
";

/// Its configuration, on a router with this address outside and this network inside; which protocols it speaks.
pub(crate) fn miniupnpd(
    external: Ipv4Addr,
    inside: &str,
    upnp: bool,
    pcp_and_natpmp: bool,
) -> String {
    let yes = |on| if on { "yes" } else { "no" };
    format!(
        "ext_ifname=wan\nlistening_ip=lan\next_ip={external}\nhttp_port=0\nenable_upnp={}\nenable_natpmp={}\n\
         min_lifetime=1\nmax_lifetime=86400\nsecure_mode=yes\nsystem_uptime=yes\nnotify_interval=60\nclean_ruleset_interval=600\n\
         uuid=00000000-0000-4000-8000-0000000000aa\nforce_igd_desc_v1=no\nupnp_table_name=miniupnpd\n\
         upnp_nat_table_name=miniupnpd\nupnp_forward_chain=miniupnpd\nupnp_nat_chain=prerouting_miniupnpd\n\
         upnp_nat_postrouting_chain=postrouting_miniupnpd\nallow 1024-65535 {inside} 1024-65535\n\
         deny 0-65535 0.0.0.0/0 0-65535\n",
        yes(upnp),
        yes(pcp_and_natpmp),
    )
}

/// How a router translates and filters (RFC 4787).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One port towards everybody; everybody may send to it.
    Cone,
    /// One port towards everybody; who was sent something may send to it, from any port.
    Address,
    /// One port towards everybody; only what was asked for comes back.
    Port,
    /// As `Port`, with another number than inside.
    PortShift,
    /// As `Port`, but the router itself takes what was not asked for.
    Leaky,
    /// A random port for each destination.
    Symmetric,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Cone,
        Self::Address,
        Self::Port,
        Self::PortShift,
        Self::Leaky,
        Self::Symmetric,
    ];

    /// RFC 6081, figure 1, for Teredo with support of symmetric NATs.
    pub(crate) fn reaches(self, other: Self) -> bool {
        let open = |kind| matches!(kind, Self::Cone | Self::Address);
        match (self, other) {
            (Self::Symmetric, other) | (other, Self::Symmetric) => open(other),
            _ => true,
        }
    }
}

/// What makes a Linux machine such a router: `lan` inside, `wan` with this address outside.
pub(crate) fn rules(kind: Kind, wan: Ipv4Addr) -> String {
    let shifted = CLIENT_PORT + 10_000;
    let (track, inbound, outbound) = match kind {
        Kind::Cone => (
            "iifname lan meta l4proto udp update @inner { udp sport : ip saddr }",
            "iifname wan meta l4proto udp dnat to udp dport map @inner",
            String::new(),
        ),
        Kind::Address => (
            "iifname lan meta l4proto udp update @inner { udp sport : ip saddr } update @asked { ip daddr . udp sport }",
            "iifname wan meta l4proto udp ip saddr . udp dport @asked dnat to udp dport map @inner",
            String::new(),
        ),
        Kind::Port | Kind::Leaky => ("", "", String::new()),
        Kind::PortShift => (
            "",
            "",
            format!("oifname wan udp sport {CLIENT_PORT} snat to {wan}:{shifted}"),
        ),
        Kind::Symmetric => (
            "",
            "",
            "oifname wan masquerade random,fully-random".to_owned(),
        ),
    };
    let input = match kind {
        Kind::Leaky => "",
        _ => "iifname wan ct state established,related accept\n  iifname wan drop",
    };
    format!(
        "table ip gateway {{
 map inner {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 120s; size 1024; }}
 set asked {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; size 1024; }}
 chain track {{ type filter hook forward priority -10;
  {track}
 }}
 chain inbound {{ type nat hook prerouting priority dstnat;
  {inbound}
 }}
 chain outbound {{ type nat hook postrouting priority srcnat;
  {outbound}
  oifname wan masquerade persistent
 }}
 chain through {{ type filter hook forward priority 0;
  ct state established,related accept
  ct status dnat accept
  iifname wan drop
 }}
 chain own {{ type filter hook input priority 0;
  {input}
 }}
}}
"
    )
}
