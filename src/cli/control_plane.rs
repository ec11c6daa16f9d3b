//! The command line of `dosvc control-plane`, and of publishing to one.

use super::parse_setting;
use clap::{Args, Subcommand};
use dosvc_cloud_protocol::HttpUrl;
use dosvc_content::{ContentId, GroupId, PeerId};
use dosvc_control_plane::Service;
use jiff::Timestamp;
use std::path::PathBuf;

/// Run the fleet's own cloud services: geo, key-value, content policy, discovery and array; or look after them.
///
/// One process serves all five, with nothing else to install; --services runs some of them. What it listens on,
/// certificates and limits stand in the table control_plane of the configuration (`dosvc config --sample`). Without any
/// it answers on http://127.0.0.1:7681, and shows a page with live figures on http://127.0.0.1:7682.
/// SIGHUP reads the certificate and the networks again; SIGTERM and Ctrl-C drain and stop.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  dosvc control-plane
  dosvc control-plane --services array --set control_plane.listen=127.0.0.1:7691
  dosvc control-plane token add build-server        prints a token for `dosvc publish --to`
  dosvc publish image.iso --url https://example.org/image.iso --to http://127.0.0.1:7681
  dosvc control-plane status
  dosvc control-plane content revoke DO-bLR-YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA="
)]
pub(crate) struct ControlPlaneArgs {
    #[command(subcommand)]
    pub(crate) action: Option<ControlPlaneAction>,
    /// Run these alone: geo, key-value, content-policy, discovery, array [default: control_plane.services].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) services: Vec<Service>,
    /// Set a key of the configuration with its table; wins over every file and the environment.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Only check the configuration: all errors at once, exit 0 or 64.
    #[arg(long)]
    pub(crate) check: bool,
    /// Stop when standard input ends: for a parent process that must not leave servers behind.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ControlPlaneAction {
    /// Figures of a running control plane.
    Status {
        /// Its address for administrators [default: control_plane.admin_listen].
        #[arg(long, value_name = "URL")]
        url: Option<HttpUrl>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// API tokens, which publishers need.
    #[command(subcommand)]
    Token(TokenAction),
    /// Contents that have been published.
    #[command(subcommand)]
    Content(ContentAction),
    /// Enrolment tokens, with which devices become members of groups (dosvc enrol).
    #[command(subcommand)]
    Enrolment(EnrolmentAction),
    /// Devices that have enrolled.
    #[command(subcommand)]
    Device(DeviceAction),
    /// Print the certificate (PEM) of the authority that signs members' certificates: for group.authority_file of every
    /// machine.
    Authority,
}

#[derive(Subcommand, Debug)]
pub(crate) enum EnrolmentAction {
    /// Make an enrolment token and print it, once: only its hash is kept.
    Add {
        /// What it is called.
        name: String,
        /// The group that devices become members of; may be repeated, up to eight times.
        #[arg(long = "group", value_name = "ID", required = true)]
        groups: Vec<GroupId>,
        /// How many devices may enrol with it [default: any number].
        #[arg(long, value_name = "NUMBER")]
        uses: Option<u32>,
        /// Until when, such as 2026-12-01T08:00:00Z [default: until it is removed].
        #[arg(long, value_name = "TIME")]
        expire: Option<Timestamp>,
    },
    /// All enrolment tokens, without their secrets.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove an enrolment token; devices that have enrolled with it stay enrolled.
    Remove {
        /// What it is called.
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum DeviceAction {
    /// The devices that enrolled last.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a device no certificate any more: it is a member for as long as the one it has counts.
    Revoke {
        /// The device's peer id.
        #[arg(value_name = "PEER-ID")]
        peer: PeerId,
    },
    /// Forget a device: it, or another one with its peer id, may enrol again.
    Remove {
        /// The device's peer id.
        #[arg(value_name = "PEER-ID")]
        peer: PeerId,
    },
}

/// Get this machine a certificate that makes it a member of its groups (group.membership = "certificate").
///
/// The key is made here and stays here; the control plane signs a certificate for it, for a day by default, and the
/// daemon comes for the next one in time. It needs an enrolment token (`dosvc control-plane enrolment add`) the first
/// time. With group.enrolment_token_file the daemon enrols by itself.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dosvc control-plane enrolment add laptops --group 11111111-2222-3333-4444-555555555555 > token
  dosvc control-plane authority > group-authority.pem         for group.authority_file
  dosvc enrol --to https://control.example --token-file token")]
pub(crate) struct EnrolArgs {
    /// The control plane [default: group.enrolment_url, else that of discovery.geo_endpoint_full_uri].
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<HttpUrl>,
    /// The file with the enrolment token [default: group.enrolment_token_file, else the environment's
    /// DOSVC_ENROLMENT_TOKEN; none: as a device that has enrolled].
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TokenAction {
    /// Make a token and print it, once: only its hash is kept.
    Add {
        /// Whose it is.
        name: String,
    },
    /// The names of all tokens.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a token: it opens nothing any more, at once.
    Remove {
        /// Whose it is.
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum ContentAction {
    /// The contents published last.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a content back: clients that ask are told of it no more, and download it in simple mode.
    Revoke {
        /// The content's id.
        #[arg(value_name = "ID")]
        id: ContentId,
    },
}

impl ControlPlaneAction {
    /// Whether standard output is for a program.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Status { json, .. }
            | Self::Token(TokenAction::List { json })
            | Self::Content(ContentAction::List { json })
            | Self::Enrolment(EnrolmentAction::List { json })
            | Self::Device(DeviceAction::List { json }) => *json,
            Self::Token(_)
            | Self::Content(_)
            | Self::Enrolment(_)
            | Self::Device(_)
            | Self::Authority => false,
        }
    }
}

/// Options of `publish` that tell a control plane of the content.
#[derive(Args, Debug)]
#[command(next_help_heading = "Telling a control plane")]
pub(crate) struct RegisterArgs {
    /// The control plane to tell of the content: it gives clients the hash of hashes and the hash file.
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<HttpUrl>,
    /// The file with the API token [default: the environment's DOSVC_TOKEN].
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) token_file: Option<PathBuf>,
    /// The Ed25519 private key (PEM, PKCS #8) to sign the entry with, for clients that know its public key.
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) sign: Option<PathBuf>,
    /// Only this group may share the content; may be repeated.
    #[arg(long = "allow-group", value_name = "ID", requires = "to")]
    pub(crate) groups: Vec<GroupId>,
    /// Only so many per cent of the fleet may share it.
    #[arg(long, value_name = "PERCENT", requires = "to", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) percent: u8,
    /// From when on it may be shared, such as 2026-12-01T08:00:00Z.
    #[arg(long, value_name = "TIME", requires = "to")]
    pub(crate) start: Option<Timestamp>,
    /// Until when.
    #[arg(long, value_name = "TIME", requires = "to")]
    pub(crate) expire: Option<Timestamp>,
    /// How long clients keep it after their download, in seconds.
    #[arg(long, value_name = "SECONDS", requires = "to")]
    pub(crate) max_cache_age: Option<u64>,
    /// What peers must reach together in the foreground, bytes a second; below it HTTP helps.
    #[arg(long, value_name = "BYTES", requires = "to")]
    pub(crate) foreground_qos: Option<u64>,
    /// The same in the background.
    #[arg(long, value_name = "BYTES", requires = "to")]
    pub(crate) background_qos: Option<u64>,
}
