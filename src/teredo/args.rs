//! The options of `dosvc teredo`.

use clap::{Args, Subcommand};
use dosvc_nat::teredo::is_global;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// Peers across NATs: a Teredo server, a client to try it, and what a client sees.
///
/// Teredo (RFC 4380) gives a machine behind a NAT an IPv6 address that others behind NATs can reach: IPv6 in UDP, on
/// paths that are opened with the help of a server. No piece of content ever passes the server.
#[derive(Args, Debug)]
#[command(after_help = "\
A server needs two public IPv4 addresses and UDP port 3544 on both; clients expect the second one right after the first.

Examples:
  dosvc teredo server --primary 198.51.100.10 --secondary 198.51.100.11
  dosvc teredo client --server 198.51.100.10          on two machines behind different NATs
  dosvc teredo client --server 198.51.100.10 --tun teredo     the same for all programs of the machine, as root
  dosvc teredo status                                 the address, and what kind of NAT is in the way
  dosvc teredo ping 2001:0:c633:640a:2c5a:63bf:34ff:8ef5")]
pub(crate) struct TeredoArgs {
    #[command(subcommand)]
    pub(crate) action: TeredoAction,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TeredoAction {
    Server(ServerArgs),
    Relay(RelayArgs),
    Client(ClientArgs),
    Ping(PingArgs),
    Status(StatusArgs),
}

impl TeredoArgs {
    /// Whether standard output is for a program.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.action {
            TeredoAction::Server(_) | TeredoAction::Relay(_) | TeredoAction::Client(_) => false,
            TeredoAction::Ping(args) => args.json,
            TeredoAction::Status(args) => args.json,
        }
    }
}

/// Run a server, until SIGTERM or Ctrl-C.
///
/// It tells clients where the Internet sees them, and passes on the small packets with which two of them open their NATs
/// for each other. It keeps nothing about anybody, forwards no data, and nothing to private or otherwise special addresses.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    /// The address that is part of its clients' addresses.
    #[arg(long, value_name = "IP", value_parser = public_address)]
    pub(crate) primary: Ipv4Addr,
    /// The other address: what shows clients whether their NAT is symmetric [default: the one after the primary].
    #[arg(long, value_name = "IP", value_parser = public_address)]
    pub(crate) secondary: Option<Ipv4Addr>,
    /// Serve counters for Prometheus at http://ADDR/metrics, without a password: for the administrators' network.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// Run a relay, until SIGTERM or Ctrl-C: hosts with native IPv6 reach Teredo clients through it, and get their answers.
///
/// It makes a network interface, which becomes this machine's way to 2001::/32: needs CAP_NET_ADMIN. The machine must have
/// native IPv6, forward it (sysctl net.ipv6.conf.all.forwarding=1), and be the way to 2001::/32 for those that it shall
/// serve. It sends nothing to private or otherwise special addresses, and never more than comes.
#[derive(Args, Debug)]
pub(crate) struct RelayArgs {
    /// The public IPv4 address that it sends from.
    #[arg(long, value_name = "IP", value_parser = public_address)]
    pub(crate) address: Ipv4Addr,
    /// The UDP port; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// The name of the interface that it makes.
    #[arg(long, value_name = "NAME", default_value = "teredo-relay", value_parser = interface_name)]
    pub(crate) tun: String,
    /// Serve counters for Prometheus at http://ADDR/metrics, without a password: for the administrators' network.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// An address that others can send to from anywhere: Teredo sends to no other, and takes nothing from there.
fn public_address(text: &str) -> Result<Ipv4Addr, String> {
    let address = text
        .parse()
        .map_err(|error: std::net::AddrParseError| error.to_string())?;
    is_global(address)
        .then_some(address)
        .ok_or_else(|| "not a public IPv4 address".to_owned())
}

/// What Linux takes for an interface's name.
fn interface_name(name: &str) -> Result<String, String> {
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    (fits && plain).then(|| name.to_owned()).ok_or_else(|| {
        "an interface's name has 1 to 15 characters, without / : % and space".to_owned()
    })
}

/// Run a client, until SIGTERM or Ctrl-C: it gets an address and answers pings. Needs no privileges, but for --tun.
#[derive(Args, Debug)]
pub(crate) struct ClientArgs {
    /// The server's primary address.
    #[arg(long, value_name = "IP", value_parser = public_address)]
    pub(crate) server: Ipv4Addr,
    /// Its secondary address [default: the one after the primary].
    #[arg(long, value_name = "IP", value_parser = public_address)]
    pub(crate) server2: Option<Ipv4Addr>,
    /// The local UDP port; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// Write the address to this file whenever there is a new one; the file is empty while there is none.
    #[arg(long, value_name = "FILE")]
    pub(crate) addr_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) control: Control,
    /// Don't look for peers of the same network by multicast.
    #[arg(long)]
    pub(crate) no_local_discovery: bool,
    /// Make a network interface with the address and a route to 2001::/32, so that all programs of this machine use it
    /// and can be reached: needs CAP_NET_ADMIN, and wants a firewall.
    #[arg(long, value_name = "NAME", value_parser = interface_name)]
    pub(crate) tun: Option<String>,
    /// Take packets of hosts with native IPv6, too, when a relay brings them; the machine's way back to them must lead
    /// over the interface (ip route add default dev NAME).
    #[arg(long, requires = "tun")]
    pub(crate) native: bool,
}

/// Have the client ping a Teredo address, and show how long the answers took.
///
/// A daemon answers no pings: that the path to it opens shows that it can be reached.
#[derive(Args, Debug)]
pub(crate) struct PingArgs {
    /// The Teredo address.
    pub(crate) address: Ipv6Addr,
    /// How often.
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=30))]
    pub(crate) count: u8,
    #[command(flatten)]
    pub(crate) control: Control,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the tunnel of the daemon: address, NAT, server, peers and counters; where it has none, that of `dosvc teredo client`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) control: Control,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Control {
    /// The Unix socket of `dosvc teredo client` [default: teredo.sock beside the daemon's].
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}
