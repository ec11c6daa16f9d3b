//! The command line: what can be asked, and the help that teaches it.

mod control_plane;

pub(crate) use control_plane::{
    ContentAction, ControlPlaneAction, ControlPlaneArgs, DeviceAction, EnrolArgs, EnrolmentAction,
    RegisterArgs, TokenAction,
};

use crate::teredo::args::TeredoArgs;
use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use dosvc_content::{ContentId, DownloadMode, HashOfHashes};
use std::{net::SocketAddr, path::PathBuf};

const AFTER_HELP: &str = "\
Examples:
  dosvc demo                    see it work: an origin, a seed and four peers
  dosvc run                     the daemon, with defaults: LAN peers, TCP port 7680
  dosvc get https://example.org/image.iso
  dosvc publish image.iso       write image.iso.phf, to lie beside image.iso on a server
  dosvc status                  what the daemon is doing
  dosvc control-plane           the fleet's own cloud services, for peers beyond one link

Environment:
  DOSVC_SOCKET                  the daemon's socket
  DOSVC_LOG                     log level: error, warn, info, debug, trace
  DOSVC_TABLE__KEY              any key of the configuration, such as DOSVC_DAEMON__LISTEN
  NO_COLOR                      no colour

Exit codes: 0 done, 1 failed, 64 bad usage or configuration, 130 interrupted. With --json a command that fails
prints {\"error\":{\"code\":…,\"message\":…}} as its last line; the text goes to standard error as ever.";

/// An open Delivery Optimization service: content from peers, caches and the origin at once, every piece verified.
#[derive(Parser, Debug)]
#[command(name = "dosvc", version, after_help = AFTER_HELP, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command has.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The daemon's socket [default: api_socket of the configuration].
    #[arg(long, global = true, env = "DOSVC_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The configuration file [default: /etc/dosvc/dosvc.toml, if it exists].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// No colour; NO_COLOR in the environment does the same.
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Run(RunArgs),
    Get(GetArgs),
    Publish(PublishArgs),
    Verify(VerifyArgs),
    Status(StatusArgs),
    Explain(ExplainArgs),
    Cache(CacheArgs),
    Mode(ModeArgs),
    Config(ConfigArgs),
    /// Pause a download; `resume` goes on where it stopped.
    Pause(JobArgs),
    /// Go on with a paused download.
    Resume(JobArgs),
    /// End a download; what was fetched stays in the cache.
    Cancel(JobArgs),
    Demo(DemoArgs),
    ControlPlane(ControlPlaneArgs),
    Enrol(EnrolArgs),
    Teredo(TeredoArgs),
}

impl Command {
    /// Whether standard output is for a program.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Get(args) => args.json,
            Self::Publish(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Status(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Cache(args) => matches!(args.action, CacheAction::List { json: true }),
            Self::Mode(args) => args.json,
            Self::Config(args) => args.json,
            Self::Demo(args) => args.json,
            Self::ControlPlane(args) => args
                .action
                .as_ref()
                .is_some_and(ControlPlaneAction::wants_json),
            Self::Enrol(args) => args.json,
            Self::Teredo(args) => args.wants_json(),
            Self::Run(_) | Self::Pause(_) | Self::Resume(_) | Self::Cancel(_) => false,
        }
    }
}

/// Run the daemon in the foreground, as a service manager wants it.
///
/// It follows changes of its configuration files, and reads them again on SIGHUP (what is faulty is refused, the old
/// configuration stays). SIGTERM and Ctrl-C drain and stop.
/// With no configuration at all it serves and uses peers of the local network.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dosvc run
  dosvc run --config ./dosvc.toml
  dosvc run --check            only check the configuration, exit 0 or 64
  dosvc run --set download_mode=2 --set daemon.listen=127.0.0.1:0
  DOSVC_LOG=debug dosvc run")]
pub(crate) struct RunArgs {
    /// Only check the configuration: all errors at once, exit 0 or 64.
    #[arg(long)]
    pub(crate) check: bool,
    /// Set a policy or, with its table, another key; wins over every file and the environment.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Stop when standard input ends: for a parent process that must not leave daemons behind.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// Download a file: through the running daemon or, without one, in this process.
///
/// Bytes come from peers, a cache and the URLs at once. Every piece is checked against the content's hash file; the
/// file appears under its name only when all of it is right. Several URLs are sources of the same content.
#[derive(Args, Debug)]
#[command(after_help = "\
Where the hash file comes from, and how far it counts:
  --hash-of-hashes    the anchor of trust; the hash file may then come from anywhere
  --hash-file         this file or URL counts
  neither             URL.phf or URL/pieceshash: as trustworthy as the server itself
  none found          plain HTTP, not shared with peers; you are told

Examples:
  dosvc get https://example.org/image.iso -o image.iso
  dosvc get https://a.example/i.iso https://b.example/i.iso -o i.iso --foreground
  dosvc get https://example.org/i.iso --hash-of-hashes bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA=
  dosvc get --hash-file i.iso.phf --peer 192.0.2.7:7680 -o i.iso     from peers alone

Ctrl-C leaves a resumable state: the same command goes on. A second Ctrl-C stops at once.")]
pub(crate) struct GetArgs {
    /// HTTP or HTTPS addresses of the content, best first.
    #[arg(value_name = "URL", value_parser = NonEmptyStringValueParser::new(), required_unless_present_any = ["hash_file", "hash_of_hashes"])]
    pub(crate) urls: Vec<String>,
    /// Where the file goes [default: the URL's last part, in this folder].
    #[arg(short, long, value_name = "FILE", required_unless_present = "urls")]
    pub(crate) output: Option<PathBuf>,
    /// The content's hash file: a local file or a URL.
    #[arg(long, value_name = "FILE|URL", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) hash_file: Option<String>,
    /// The trusted hash of hashes, base64 of 32 bytes, as `dosvc publish` prints it.
    #[arg(long, value_name = "B64")]
    pub(crate) hash_of_hashes: Option<HashOfHashes>,
    /// The content's id.
    #[arg(long, value_name = "ID")]
    pub(crate) content_id: Option<ContentId>,
    /// Somebody waits for it: goes before background downloads, under the foreground limits.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Download mode of this content alone, number or name; never wider than the device's.
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<DownloadMode>,
    /// Return only when the file would survive a power cut.
    #[arg(long)]
    pub(crate) sync: bool,
    /// A peer to try beside those that are found; may be repeated.
    #[arg(long = "peer", value_name = "ADDR:PORT")]
    pub(crate) peers: Vec<SocketAddr>,
    /// Status as JSON lines on standard output; the last line is the result.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress and no summary; errors only.
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// Write the hash file of a file, so that peers can share and verify it.
#[derive(Args, Debug)]
#[command(after_help = "\
Put the hash file beside the content on the server: `dosvc get` finds URL.phf by itself. Hand out the hash of hashes
over a channel you trust, and nothing on the way can change the content.

Examples:
  dosvc publish image.iso
  dosvc publish image.iso --url https://example.org/image.iso --seed
  dosvc publish image.iso --piece-size 4MB --out /srv/www/image.iso.phf
  DOSVC_TOKEN=dosvc_… dosvc publish image.iso --url https://example.org/image.iso --to https://do.example.org --percent 10")]
pub(crate) struct PublishArgs {
    /// The file to publish.
    pub(crate) file: PathBuf,
    /// Where it will be found; shown in the command to fetch it, and kept with the seed.
    #[arg(long = "url", value_name = "URL")]
    pub(crate) urls: Vec<String>,
    /// Bytes of a piece: a power of two from 64KB to 16MB.
    #[arg(long, value_name = "SIZE", default_value = "1MB", value_parser = parse_piece_size)]
    pub(crate) piece_size: u32,
    /// Where the hash file goes [default: FILE.phf].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Hand the file to the running daemon's cache, which then serves it to peers. The cache gets bytes of its own
    /// (a reflink, else a copy): what happens to FILE later does not matter to it.
    #[arg(long)]
    pub(crate) seed: bool,
    /// With --seed: let the cache be a hard link to FILE where the daemon's user owns it, which saves the copy. Then
    /// FILE should be replaced, not edited in place: an edit is an edit of the cache, which drops what was changed.
    #[arg(long, requires = "seed")]
    pub(crate) link: bool,
    #[command(flatten)]
    pub(crate) register: RegisterArgs,
    /// The result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check a file against its hash file; bad pieces are named.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 when every byte is right, 1 when not.

Example:
  dosvc verify image.iso --hash-file image.iso.phf")]
pub(crate) struct VerifyArgs {
    /// The file to check.
    pub(crate) file: PathBuf,
    /// Its hash file [default: FILE.phf].
    #[arg(long, value_name = "FILE")]
    pub(crate) hash_file: Option<PathBuf>,
    /// The trusted hash of hashes that the hash file must have.
    #[arg(long, value_name = "B64")]
    pub(crate) hash_of_hashes: Option<HashOfHashes>,
    /// The result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the daemon and its files (Get-DeliveryOptimizationStatus).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dosvc status
  dosvc status --watch
  dosvc status --peer-info
  dosvc status --json | jq '.Files[] | {FileId, PercentPeerCaching}'")]
pub(crate) struct StatusArgs {
    /// The peers of each file, connected or not; those that gave most first.
    #[arg(long)]
    pub(crate) peer_info: bool,
    /// At most this many peers of each file.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "peer_info")]
    pub(crate) select_peer_count: usize,
    /// Show again every second until Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// JSON, with the field names of Get-DeliveryOptimizationStatus.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Look at the content cache and steer it.
#[derive(Args, Debug)]
#[command(after_help = "\
A FILE-ID is what `dosvc cache list` shows; any beginning that fits one file will do.

Examples:
  dosvc cache list
  dosvc cache pin 6cb47e6245
  dosvc cache delete 6cb47e6245
  dosvc cache delete --all")]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) action: CacheAction,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CacheAction {
    /// What is in the cache.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keep a file until it expires, outside the quota.
    Pin {
        /// The file.
        file_id: String,
    },
    /// Back into the quota.
    Unpin {
        /// The file.
        file_id: String,
    },
    /// Delete one file, or all that are not in use.
    Delete {
        /// The file.
        #[arg(required_unless_present = "all")]
        file_id: Option<String>,
        /// All files.
        #[arg(long, conflicts_with = "file_id")]
        all: bool,
        /// Pinned ones too.
        #[arg(long)]
        include_pinned: bool,
    },
}

/// Why one content is downloaded and shared the way it is: mode, gates, delays, every source.
///
/// Says which mode is in effect and what narrowed it, what keeps peers away, what waits for what, and of every source
/// that is known or was tried whether it is used and why.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dosvc explain 1                the download with this number
  dosvc explain 6cb47e62         the content whose file id begins like this
  dosvc explain 1 --json")]
pub(crate) struct ExplainArgs {
    /// A download's number or the beginning of a file id, as `dosvc status` shows them.
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub(crate) id: String,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show or set the download mode (Get- and Set-DODownloadMode).
#[derive(Args, Debug)]
#[command(after_help = "\
Modes:
    0 CdnOnly    HTTP sources only; every piece is still verified
    1 Lan        and peers behind the same NAT (the default)
    2 Group      and peers of the same group
    3 Internet   and peers anywhere
   99 Simple     plain HTTP, no peers, no checks beyond those of HTTP
  100 Bypass     refuse downloads (0x80D03002)

A mode that is set here lasts until the daemon stops; to keep it, write download_mode into the configuration.")]
pub(crate) struct ModeArgs {
    /// The new mode, number or name; without it the present one is shown.
    #[arg(value_name = "MODE")]
    pub(crate) mode: Option<DownloadMode>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the settings in force (Get-DOConfig): those of the daemon or, when none runs, of the files here.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dosvc config --verbose
  dosvc config --sample > dosvc.toml        every key, explained")]
pub(crate) struct ConfigArgs {
    /// Print a configuration file to start from instead: every key, explained.
    #[arg(long, conflicts_with_all = ["verbose", "json"])]
    pub(crate) sample: bool,
    /// All of them, with what provided each: default, file, environment, the fleet's management, command.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    /// The download's number, as `dosvc status` shows it.
    pub(crate) id: u64,
}

/// See it work: an origin, a seed and several peers on loopback, one download, bytes per source.
///
/// Everything lies in a temporary folder and is gone afterwards. Nothing leaves this machine.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dosvc demo
  dosvc demo --size 1GB --peers 8
  TMPDIR=/var/tmp dosvc demo --size 4GB")]
pub(crate) struct DemoArgs {
    /// Bytes of the file.
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = parse_size)]
    pub(crate) size: u64,
    /// Peers that download it at once, beside the seed.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) peers: u16,
    /// Start without the seed: the origin has the only copy.
    #[arg(long)]
    pub(crate) no_seed: bool,
    /// The result as JSON, nothing else on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A download's number, or the beginning of a file id: hexadecimal digits, after `url-` where there is no hash file.
fn parse_id(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("url-").unwrap_or(text);
    let is_id = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_id
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "expected a download's number or the beginning of a file id".to_owned())
}

/// Reads `256MB`, `1.5 GiB` or plain bytes; powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<dosvc_content::ByteRate>()
        .map(dosvc_content::ByteRate::bps)
        .map_err(|_| {
            "expected a size such as 64KB, 256MB or 1GB (powers of 1024), or plain bytes".to_owned()
        })
}

/// Reads `KEY=VALUE`; what the value may be is for the configuration to say.
fn parse_setting(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE, such as download_mode=2".to_owned())
}

fn parse_piece_size(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    dosvc_content::PieceLengths::new(0, size)
        .map(|lengths| lengths.piece_size())
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_a_first_line() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn get_takes_urls_peers_and_modes() {
        let cli = Cli::try_parse_from([
            "dosvc",
            "get",
            "http://a/x",
            "http://b/x",
            "-o",
            "x",
            "--peer",
            "[::1]:7680",
            "--peer",
            "10.0.0.1:1",
            "--mode",
            "lan",
            "--socket",
            "/run/s",
        ])
        .unwrap();
        assert_eq!(cli.global.socket, Some("/run/s".into()));
        let Command::Get(get) = cli.command else {
            panic!("not get")
        };
        assert_eq!(get.urls.len(), 2);
        assert_eq!(get.peers.len(), 2);
        assert_eq!(get.mode, Some(DownloadMode::Lan));
    }

    #[test]
    fn get_without_a_source_is_refused() {
        assert!(Cli::try_parse_from(["dosvc", "get", "-o", "x"]).is_err());
        assert!(Cli::try_parse_from(["dosvc", "get", "-o", "x", "--hash-file", "x.phf"]).is_ok());
        assert!(Cli::try_parse_from(["dosvc", "get", "--hash-file", "x.phf"]).is_err());
        assert!(
            Cli::try_parse_from(["dosvc", "get", "http://a/x", "--hash-of-hashes", "short"])
                .is_err()
        );
    }

    #[test]
    fn sizes_are_powers_of_1024_and_piece_sizes_powers_of_two() {
        assert_eq!(parse_size("256MB"), Ok(256 << 20));
        assert_eq!(parse_piece_size("64KB"), Ok(64 << 10));
        assert!(parse_piece_size("3MB").is_err());
        assert!(parse_piece_size("32MB").is_err());
    }
}
