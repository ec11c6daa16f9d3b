//! The values that go in and out of the engine: requests, job states, counters, cache entries.
//!
//! They are plain data, serialised as JSON by the local API and by every command's `--json`. Field names follow
//! Get-DeliveryOptimizationStatus (monitoring, section 2) in snake_case; bytes and milliseconds are named in the
//! field.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
};

/// What a download is named by while the daemon runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A wish to download one content.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GetRequest {
    /// HTTP or HTTPS addresses of the content, in order of preference. May be empty when `hash_of_hashes` is given
    /// and peers are expected to have everything.
    pub urls: Vec<String>,
    /// Where the hash file is: an HTTP(S) address. The caller reads a local file itself into `hash_file_json`.
    pub hash_file_url: Option<String>,
    /// The hash file itself, when the caller has it.
    pub hash_file_json: Option<String>,
    /// The trusted hash of hashes, base64. With it the hash file may come from anywhere.
    pub hash_of_hashes: Option<String>,
    /// The content's id, when the caller has one.
    pub content_id: Option<String>,
    /// Foreground: somebody waits for it. Default: background.
    pub foreground: bool,
    /// A download mode for this content only (its number); must not be wider than the device's.
    pub mode: Option<u8>,
    /// Peers to try beside those that are discovered.
    pub peers: Vec<SocketAddr>,
    /// What asked for the content, shown in status (PredefinedCallerApplication).
    pub caller: String,
}

/// A wish to take a file of this machine into the cache; the file itself comes open beside it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The file's hash file.
    pub hash_file_json: String,
    /// Where it can be fetched from.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The cache may be a hard link to the file instead of a copy: whoever edits the file in place then edits the
    /// cache. Only done to files of the daemon's own user.
    #[serde(default)]
    pub link: bool,
}

/// Where a download stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its turn (foreground before background).
    Queued,
    /// Looks for the hash file.
    Metadata,
    /// Bytes are wanted; `waiting` says when nobody can give them now.
    Downloading,
    /// Every byte is here and verified; the caller has not taken the file yet.
    Complete,
    /// Stopped by the caller; goes on with resume.
    Paused,
    /// Ended with an error; nothing more happens.
    Failed,
    /// Ended by the caller.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended, well or not.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Cancelled)
    }
}

/// Bytes by the kind of source they came from, or of peer they went to. Content bytes only, without overhead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceBytes {
    /// HTTP origin.
    pub http: u64,
    /// Connected Cache.
    pub cache_server: u64,
    /// Peers behind the same NAT.
    pub lan: u64,
    /// Peers found by DNS-SD on the link.
    pub link_local: u64,
    /// Peers of the same group that are not on the LAN.
    pub group: u64,
    /// Peers anywhere.
    pub internet: u64,
}

impl SourceBytes {
    /// Bytes of all peers.
    pub fn peers(&self) -> u64 {
        self.lan + self.link_local + self.group + self.internet
    }

    /// Bytes of all sources.
    pub fn total(&self) -> u64 {
        self.peers() + self.http + self.cache_server
    }
}

/// An error as a person and a script see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JobError {
    /// The HRESULT, as `0x80D03002`.
    pub code: String,
    /// What failed, where, and what to do.
    pub message: String,
}

/// A download's state, as of one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job.
    pub id: JobId,
    /// The job's state.
    pub state: JobState,
    /// Id of the file in status and cache commands: hex of the hash of hashes, or of the URL's hash in simple mode.
    /// Empty until it is known.
    pub file_id: String,
    /// The first HTTP source.
    pub source_url: Option<String>,
    /// Bytes of the whole content, once known.
    pub file_size: Option<u64>,
    /// Bytes that are here and verified (in simple mode: here), those found in the cache included.
    pub bytes_done: u64,
    /// Bytes that were in the cache when the job began.
    pub bytes_from_cache: u64,
    /// Bytes downloaded by this job, by source. Bytes that had to be thrown away are not in here.
    pub downloaded: SourceBytes,
    /// Bytes received and thrown away (bad pieces, duplicates, cut connections).
    pub wasted_bytes: u64,
    /// Present rate, all sources, bytes a second.
    pub rate_bps: u64,
    /// Open connections by kind of source; the same kinds as `downloaded`.
    pub connections: SourceBytes,
    /// Peers known for this content, connected or not.
    pub num_peers: u32,
    /// Foreground or background.
    pub foreground: bool,
    /// The cache host that gave something last.
    #[serde(default)]
    pub cache_host: Option<String>,
    /// Effective mode of this content (download-modes, section 2.5): 99 when there is no hash file.
    pub download_mode: u8,
    /// True when every byte is checked against a hash file.
    pub verified_by_hash_file: bool,
    /// Why nothing moves just now, in plain words ("no source can be reached; trying again in 4 s").
    pub waiting: Option<String>,
    /// Things the caller should know ("no hash file found: plain HTTP, not shared").
    pub notes: Vec<String>,
    /// Why the job failed.
    pub error: Option<JobError>,
    /// Time since the job began to run, pauses left out.
    pub duration_ms: u64,
    /// What asked for the content.
    pub caller: String,
}

/// One entry of the cache, with what it was used for (Get-DeliveryOptimizationStatus prints one record per file).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Hex of the hash of hashes.
    pub file_id: String,
    /// The hash of hashes in base64.
    pub hash_of_hashes: String,
    /// Bytes of the whole content.
    pub file_size: u64,
    /// Bytes of it that are in the cache.
    pub file_size_in_cache: u64,
    /// Where it can be fetched from.
    pub urls: Vec<String>,
    /// Kept until its expiry, outside the quota.
    pub is_pinned: bool,
    /// When it expires, seconds since 1970; `None`: when space is needed.
    pub expire_on: Option<i64>,
    /// Seconds since 1970 when it was added.
    pub added: i64,
    /// Seconds since 1970 when it was last downloaded from or served.
    pub last_used: i64,
    /// Bytes sent to peers since the daemon started.
    pub uploaded: SourceBytes,
    /// Whether it is offered to peers now.
    pub shared: bool,
}

/// One peer of one content, connected or not (`-PeerInfo`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerInfo {
    /// The content.
    pub file_id: String,
    /// The peer's address.
    pub ip: SocketAddr,
    /// `Lan`, `Group`, `Internet` or `LinkLocal`.
    pub peer_type: String,
    /// Connected now.
    pub connection_established: bool,
    /// Bytes sent on this connection.
    pub bytes_sent: u64,
    /// Bytes received on this connection.
    pub bytes_received: u64,
    /// Bytes a second sent, over the last seconds.
    pub upload_rate_bytes: u64,
    /// Bytes a second received, over the last seconds.
    pub download_rate_bytes: u64,
    /// How many pieces the peer has, of how many.
    pub pieces: (u32, u32),
}

/// A gate that is closed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GateStatus {
    /// A word for scripts: `ram`, `disk`, `group`, `membership`, `vpn`, `vpn_cache_host`, `battery`, `metered`, `monthly_cap`.
    pub name: String,
    /// The HRESULT, as `0x80D03804`.
    pub code: String,
    /// Why, in plain words.
    pub message: String,
    /// What it closes.
    pub closes: Vec<String>,
    /// What an administrator can do about it.
    #[serde(default)]
    pub remedy: String,
}

impl GateStatus {
    pub(crate) fn of(gate: &dosvc_policy::Gate) -> Self {
        let closes = gate.closes().names();
        Self {
            name: gate.name().to_owned(),
            code: gate.hresult().to_string(),
            message: gate.to_string(),
            closes: closes.into_iter().map(str::to_owned).collect(),
            remedy: gate.remedy().to_owned(),
        }
    }
}

/// The engine as a whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the engine started.
    pub uptime_s: u64,
    /// Our peer id.
    pub peer_id: String,
    /// The configured mode.
    pub download_mode: u8,
    /// Addresses that peers can reach us at; empty when the mode allows no peers.
    pub listening: Vec<SocketAddr>,
    /// Where the state lies.
    pub state_dir: PathBuf,
    /// Where the cache lies.
    pub cache_dir: PathBuf,
    /// Bytes of the cache on disk.
    pub cache_bytes: u64,
    /// The most the cache may take, pinned content left out.
    pub cache_bytes_max: u64,
    /// Total and available bytes of the disk the cache lies on.
    pub disk_total_bytes: u64,
    /// Bytes of that disk that are free for us.
    pub disk_available_bytes: u64,
    /// What is closed although the mode permits it, and why; empty when nothing is.
    pub gates: Vec<GateStatus>,
    /// Bytes downloaded since the start.
    pub downloaded: SourceBytes,
    /// Bytes uploaded since the start.
    pub uploaded: SourceBytes,
    /// What downloads and uploads may take just now.
    pub bandwidth: BandwidthStatus,
    /// What was uploaded in this calendar month.
    pub month: MonthStatus,
    /// Where the fleet's cloud stands; nothing when none is configured, or the mode asks none.
    #[serde(default)]
    pub cloud: Option<CloudStatus>,
    /// What this machine proves to be of its group with; nothing where the group's id is enough.
    #[serde(default)]
    pub membership: Option<MembershipStatus>,
    /// The peer port at the machine's gateway; nothing when it is not to be mapped.
    #[serde(default)]
    pub port_mapping: Option<PortMappingStatus>,
}

/// What this machine proves to be of its group with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MembershipStatus {
    /// `secret` or `certificate`.
    pub proof: String,
    /// When the certificate ends, in seconds since 1970; nothing when there is none that counts.
    pub not_after: Option<u64>,
    /// Why the last attempt to come by a certificate has failed.
    pub failure: Option<String>,
}

/// The peer port at the machine's gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortMappingStatus {
    /// `off`, `no_gateway`, `asking`, `mapped` or `failed`.
    pub state: String,
    /// `PCP`, `NAT-PMP` or `UPnP`, while mapped.
    pub method: Option<String>,
    /// The gateway.
    pub gateway: Option<Ipv4Addr>,
    /// What is mapped.
    pub mappings: Vec<MappedPort>,
    /// Why nothing is.
    pub failure: Option<String>,
    /// Times that ports were mapped or renewed.
    pub granted: u64,
    /// Times that the gateway did not.
    pub failed: u64,
}

/// A port that the gateway has mapped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MappedPort {
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Its number here.
    pub port: u16,
    /// What leads to it, says the gateway.
    pub external: SocketAddrV4,
    /// Whether that is an address of the Internet; not behind a second NAT.
    pub public: bool,
}

/// The client of the fleet's cloud.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloudStatus {
    /// Where geo is asked.
    pub geo_url: String,
    /// The address that the services see.
    pub external_ip: Option<String>,
    /// Contents that an array lists us for.
    pub joined: u64,
    /// Contents that are to be joined, those included.
    pub contents: u64,
    /// The services, in the order in which they are asked.
    pub services: Vec<CloudService>,
}

/// One service of the fleet's cloud.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloudService {
    /// `geo`, `key_value`, `content_policy` or `array` (with discovery, which names it).
    pub service: String,
    /// `not_asked`, `asking`, `answered`, `stale` (an older answer is used) or `failing`.
    pub state: String,
    /// When it is asked next at the earliest, if somebody wants it then, in milliseconds.
    pub next_ms: Option<u64>,
    /// What is known from it.
    pub known: String,
    /// Why it did not answer.
    pub failure: Option<CloudFailure>,
}

/// Why a service of the fleet's cloud did not answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloudFailure {
    /// A word for scripts: `captive_portal`, `unreachable`, `status`, `media_type` or `malformed`.
    pub name: String,
    /// The HRESULT: `0x80D0380A`.
    pub code: String,
    /// In plain words.
    pub message: String,
}

/// What downloads and uploads may take, in bytes a second.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BandwidthStatus {
    /// What is available toward the sources, as measured last; nothing before the first time.
    pub available_bps: Option<u64>,
    /// All foreground downloads together.
    pub foreground: LimitStatus,
    /// All background downloads together.
    pub background: LimitStatus,
    /// Uploads to Internet peers; nothing: no limit.
    pub upload_bps: Option<u64>,
}

/// A limit in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Bytes a second; nothing: no limit, or it is being measured what there is to have a share of.
    pub bps: Option<u64>,
    /// Where it comes from, in words.
    pub source: String,
}

/// Bytes that went to peers in a calendar month (local time).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MonthStatus {
    /// The month, such as `2026-11`.
    pub month: String,
    /// To peers in the LAN.
    pub lan_bytes: u64,
    /// To peers found by DNS-SD on the link.
    pub link_local_bytes: u64,
    /// To peers of the group beyond the LAN.
    pub group_bytes: u64,
    /// To Internet peers. After a crash up to 32 MiB more than were sent.
    pub internet_bytes: u64,
    /// The monthly cap keeps more from Internet peers.
    pub upload_limit_reached: bool,
}

/// Why a content is downloaded and shared the way it is, as of one moment (`dosvc explain`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The content; empty while the download looks for its hash file.
    pub file_id: String,
    /// The download that asks for it, the latest when there are several; `None`: it lies in the cache only.
    pub download: Option<JobStatus>,
    /// What the cache has of it.
    pub cache: Option<CacheEntry>,
    /// The mode in effect, and why.
    pub mode: ModeExplanation,
    /// Why there are no peers for it; empty when peers may be used.
    pub no_peers: Vec<String>,
    /// Every gate that is closed, and what it closes.
    pub gates: Vec<GateStatus>,
    /// What narrows the peers that the mode permits (`restrict_peer_selection_by`); `None`: nothing.
    pub restriction: Option<String>,
    /// Where the content stands with the fleet's array; `None`: no cloud is configured, or the mode asks none.
    #[serde(default)]
    pub array: Option<String>,
    /// What all downloads of its priority may take together; `None`: nothing is downloaded.
    pub limit: Option<LimitStatus>,
    /// What waits for what, in the order in which sources are turned to. Empty while nothing is downloaded.
    pub delays: Vec<DelayExplanation>,
    /// Why nothing moves just now.
    pub waiting: Option<String>,
    /// Every source that is known or was tried.
    pub sources: Vec<SourceExplanation>,
    /// The sources are those of the download when it ended.
    #[serde(default)]
    pub sources_are_past: bool,
    /// What can be done, by whom it concerns; empty when nothing need be.
    #[serde(default)]
    pub advice: Vec<String>,
}

/// The mode of one content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModeExplanation {
    /// The device's mode.
    pub configured: u8,
    /// Who set it.
    pub provider: String,
    /// The mode in effect for this content.
    pub effective: u8,
    /// Everything that narrowed it; empty when it is the device's.
    pub reasons: Vec<String>,
}

/// A time that one kind of source is held back for others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DelayExplanation {
    /// What is held back, and for whom.
    pub what: String,
    /// The policy that says so; empty when it is no policy.
    pub policy: String,
    /// All of it, in milliseconds.
    pub total_ms: u64,
    /// What is left of it; 0 when it is over.
    pub left_ms: u64,
}

/// One source of a content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceExplanation {
    /// `Lan`, `LinkLocal`, `Group`, `Internet`, `CacheServer`, `Http`; empty for an address nobody answered at yet.
    pub kind: String,
    /// A peer's address, or the address of an HTTP source without a password.
    pub address: String,
    /// How it stands with us.
    pub state: SourceStanding,
    /// Bytes a second while it was asked for something; `None` before the first byte.
    pub rate_bps: Option<u64>,
    /// Bytes that it delivered.
    pub delivered_bytes: u64,
    /// Bytes that we gave it.
    pub uploaded_bytes: u64,
    /// Blocks or pieces asked of it.
    pub in_flight: u64,
    /// Pieces that it has and we lack; `None` for HTTP sources, and where nobody is connected.
    pub useful_pieces: Option<u32>,
    /// Why it is used or not, in plain words.
    pub why: String,
}

/// How a source stands with us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceStanding {
    /// Delivers, or was asked to.
    Active,
    /// Could be asked.
    Idle,
    /// A peer that does not let us ask.
    Choking,
    /// Went silent; others took over.
    Demoted,
    /// Being dialled or greeted.
    Connecting,
    /// Out of order, or could not be reached; it is tried again.
    Down,
    /// Not used at all.
    Refused,
}
