//! Array, the tracker: join, and who else is there. What a client sends is recorded, every value as text. The answer
//! is not; ours has text for every value too, so that one reader serves both directions.

use crate::{
    error::{ProtocolError, bounded},
    http_url::HttpUrl,
    limits::{ANSWER_BYTES_MAX, JOIN_BYTES_MAX, NEXT_JOIN_SECONDS, PEERS_MAX, URL_BYTES_MAX},
    text::{Text, decimal},
};
use dosvc_content::{ContentId, DownloadMode, GroupHash, GroupId, PeerId};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    fmt,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The port that a peer listens on when it does not say: 7680.
pub const SWARM_PORT: u16 = 7680;

/// Where joins go: the base address from discovery, and `join/`.
pub fn join_url(array: &HttpUrl) -> String {
    let base = array.as_str();
    let slash = if base.ends_with('/') { "" } else { "/" };
    format!("{base}{slash}join/")
}

/// How far peers may be away: the modes that have peers, with the modes' numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Scope {
    /// 1: the same external address.
    Lan = 1,
    /// 2: the same group, LAN first.
    Group = 2,
    /// 3: anybody; LAN, then group, then the nearest.
    Internet = 3,
}

impl Scope {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Group, Self::Internet];

    /// The scope of a mode, if it has peers.
    pub fn of_mode(mode: DownloadMode) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.number() == mode.number())
    }

    /// The mode's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    fn of_text(text: &str) -> Option<Self> {
        let number: u8 = decimal(text)?;
        Self::ALL.into_iter().find(|scope| scope.number() == number)
    }
}

/// Why a client joins. Only 1 is recorded; the others are ours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum JoinEvent {
    /// 0, and every number that we don't know: still here.
    Update = 0,
    /// 1: here now.
    #[default]
    Join = 1,
    /// 2: gone; nobody is to be told of me.
    Leave = 2,
}

/// The version of a client's protocol: four numbers, such as 10.1.0.12.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ClientDialect {
    /// 10.
    pub major: u32,
    /// 1.
    pub minor: u32,
    /// 0.
    pub build: u32,
    /// 12.
    pub revision: u32,
}

/// What shows that a join comes from who joined first: the array hands it out with its answer. 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JoinToken(pub u64);

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who knows it can speak for the peer: it stays out of logs.
        f.write_str("JoinToken")
    }
}

impl FromStr for JoinToken {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number
            .map(Self)
            .ok_or(ProtocolError::invalid("Token", "16 hex digits"))
    }
}

/// `POST <CollectiveArray>join/`. Empty and missing fields are the same; only content id, peer id and scope must be
/// there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRequest {
    /// The content.
    pub content_id: ContentId,
    /// The content's URL, without its query.
    pub alt_catalog_id: Option<Text<URL_BYTES_MAX>>,
    /// Who joins.
    pub peer_id: PeerId,
    /// The address in the peer's own network.
    pub reported_ip: Option<Ipv4Addr>,
    /// The mask of that network.
    pub subnet_mask: Option<Ipv4Addr>,
    /// The IPv6 address in the peer's own network.
    pub ipv6: Option<Ipv6Addr>,
    /// The Teredo address: ours.
    pub teredo_ipv6: Option<Ipv6Addr>,
    /// Where the peer listens (TCP): ours, [`SWARM_PORT`] without it.
    pub port: u16,
    /// Whether nobody waits for the download.
    pub is_background: bool,
    /// The version of the client's protocol.
    pub client_dialect: ClientDialect,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes from peers.
    pub downloaded: u64,
    /// Bytes from the origin.
    pub downloaded_cdn: u64,
    /// Bytes from a cache host.
    pub downloaded_doinc: u64,
    /// Bytes that are still missing; 0: a seed.
    pub left: u64,
    /// Why.
    pub event: JoinEvent,
    /// The peer takes, and does not give (a month's limit, battery).
    pub restricted_upload: bool,
    /// How many peers are wanted at most; Windows asks for 255.
    pub peers_wanted: u16,
    /// The group's hash.
    pub group_id: Option<GroupHash>,
    /// How far peers may be away.
    pub scope: Scope,
    /// Bytes a second to peers.
    pub uploaded_bps: u64,
    /// Bytes a second from all sources.
    pub downloaded_bps: u64,
    /// The kind of device.
    pub profile: u32,
    /// Counts a client's joins.
    pub seq: u32,
    /// From the last answer: ours.
    pub token: Option<JoinToken>,
}

/// The request as it lies on the wire, in the recorded order; ours at the end.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct JoinText<'a> {
    #[serde(borrow)]
    content_id: Cow<'a, str>,
    #[serde(borrow)]
    alt_catalog_id: Cow<'a, str>,
    #[serde(borrow)]
    peer_id: Cow<'a, str>,
    #[serde(borrow)]
    reported_ip: Cow<'a, str>,
    #[serde(borrow)]
    subnet_mask: Cow<'a, str>,
    #[serde(borrow)]
    ipv6: Cow<'a, str>,
    #[serde(borrow)]
    is_background: Cow<'a, str>,
    #[serde(borrow)]
    client_dialect_version_major: Cow<'a, str>,
    #[serde(borrow)]
    client_dialect_version_minor: Cow<'a, str>,
    #[serde(borrow)]
    client_dialect_version_build: Cow<'a, str>,
    #[serde(borrow)]
    client_dialect_version_revision: Cow<'a, str>,
    #[serde(borrow)]
    uploaded: Cow<'a, str>,
    #[serde(borrow)]
    downloaded: Cow<'a, str>,
    #[serde(borrow)]
    downloaded_cdn: Cow<'a, str>,
    #[serde(borrow)]
    downloaded_doinc: Cow<'a, str>,
    #[serde(borrow)]
    left: Cow<'a, str>,
    #[serde(borrow)]
    join_request_event: Cow<'a, str>,
    #[serde(borrow)]
    restricted_upload: Cow<'a, str>,
    #[serde(borrow)]
    peers_wanted: Cow<'a, str>,
    #[serde(borrow)]
    group_id: Cow<'a, str>,
    #[serde(borrow)]
    scope: Cow<'a, str>,
    #[serde(rename = "UploadedBPS", borrow)]
    uploaded_bps: Cow<'a, str>,
    #[serde(rename = "DownloadedBPS", borrow)]
    downloaded_bps: Cow<'a, str>,
    #[serde(borrow)]
    profile: Cow<'a, str>,
    #[serde(borrow)]
    seq: Cow<'a, str>,
    #[serde(borrow)]
    teredo_ipv6: Cow<'a, str>,
    #[serde(borrow)]
    port: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
}

impl JoinRequest {
    /// A join of a peer that has nothing yet, with everything else at what is sent when nothing is known.
    pub fn new(content_id: ContentId, peer_id: PeerId, scope: Scope) -> Self {
        Self {
            content_id,
            alt_catalog_id: None,
            peer_id,
            reported_ip: None,
            subnet_mask: None,
            ipv6: None,
            teredo_ipv6: None,
            port: SWARM_PORT,
            is_background: false,
            client_dialect: ClientDialect::default(),
            uploaded: 0,
            downloaded: 0,
            downloaded_cdn: 0,
            downloaded_doinc: 0,
            left: 0,
            event: JoinEvent::Join,
            restricted_upload: false,
            peers_wanted: 255,
            group_id: None,
            scope,
            uploaded_bps: 0,
            downloaded_bps: 0,
            profile: crate::PROFILE_PC,
            seq: 0,
            token: None,
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Too many bytes, other JSON, or the first field that is malformed.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        bounded("the join", json.len(), JOIN_BYTES_MAX)?;
        let text: JoinText<'_> =
            serde_json::from_slice(json).map_err(|error| ProtocolError::Json(error.to_string()))?;
        let peers_wanted: u64 =
            number("PeersWanted", &text.peers_wanted)?.unwrap_or(PEERS_MAX as u64);
        Ok(Self {
            content_id: needed("ContentId", &text.content_id, "1 to 256 printable bytes")?,
            alt_catalog_id: match text.alt_catalog_id.as_ref() {
                "" => None,
                url => Some(Text::new(url).ok_or(ProtocolError::invalid(
                    "AltCatalogId",
                    "printable text of bounded length",
                ))?),
            },
            peer_id: needed("PeerId", &text.peer_id, "40 hex digits")?,
            reported_ip: address("ReportedIp", &text.reported_ip, |a: &Ipv4Addr| {
                usable((*a).into())
            })?,
            subnet_mask: address("SubnetMask", &text.subnet_mask, |_: &Ipv4Addr| true)?,
            ipv6: address("Ipv6", &text.ipv6, |a: &Ipv6Addr| usable((*a).into()))?,
            teredo_ipv6: address("TeredoIpv6", &text.teredo_ipv6, is_teredo)?,
            port: match number("Port", &text.port)? {
                Some(0) => return Err(ProtocolError::invalid("Port", "a port")),
                Some(port) => port,
                None => SWARM_PORT,
            },
            is_background: flag("IsBackground", &text.is_background)?,
            client_dialect: ClientDialect {
                major: or_0(
                    "ClientDialectVersionMajor",
                    &text.client_dialect_version_major,
                )?,
                minor: or_0(
                    "ClientDialectVersionMinor",
                    &text.client_dialect_version_minor,
                )?,
                build: or_0(
                    "ClientDialectVersionBuild",
                    &text.client_dialect_version_build,
                )?,
                revision: or_0(
                    "ClientDialectVersionRevision",
                    &text.client_dialect_version_revision,
                )?,
            },
            uploaded: or_0("Uploaded", &text.uploaded)?,
            downloaded: or_0("Downloaded", &text.downloaded)?,
            downloaded_cdn: or_0("DownloadedCdn", &text.downloaded_cdn)?,
            downloaded_doinc: or_0("DownloadedDoinc", &text.downloaded_doinc)?,
            left: or_0("Left", &text.left)?,
            event: match number::<u32>("JoinRequestEvent", &text.join_request_event)? {
                None | Some(1) => JoinEvent::Join,
                Some(2) => JoinEvent::Leave,
                Some(_) => JoinEvent::Update,
            },
            restricted_upload: flag("RestrictedUpload", &text.restricted_upload)?,
            peers_wanted: u16::try_from(peers_wanted).unwrap_or(u16::MAX),
            group_id: group(&text.group_id)?,
            scope: match text.scope.as_ref() {
                "" => return Err(ProtocolError::Missing("Scope")),
                text => Scope::of_text(text).ok_or(ProtocolError::invalid(
                    "Scope",
                    "1, 2 or 3, a mode with peers",
                ))?,
            },
            uploaded_bps: or_0("UploadedBPS", &text.uploaded_bps)?,
            downloaded_bps: or_0("DownloadedBPS", &text.downloaded_bps)?,
            profile: or_0("Profile", &text.profile)?,
            seq: or_0("Seq", &text.seq)?,
            token: match text.token.as_ref() {
                "" => None,
                text => Some(text.parse()?),
            },
        })
    }

    /// Writes the body.
    pub fn to_json(&self) -> Vec<u8> {
        fn text<'a>(value: impl fmt::Display) -> Cow<'a, str> {
            Cow::Owned(value.to_string())
        }
        fn some<'a>(value: Option<&impl fmt::Display>) -> Cow<'a, str> {
            value.map_or(Cow::Borrowed(""), text)
        }
        crate::error::json_of(&JoinText {
            content_id: self.content_id.as_str().into(),
            alt_catalog_id: some(self.alt_catalog_id.as_ref()),
            peer_id: text(self.peer_id),
            reported_ip: some(self.reported_ip.as_ref()),
            subnet_mask: some(self.subnet_mask.as_ref()),
            ipv6: some(self.ipv6.as_ref()),
            is_background: text(u8::from(self.is_background)),
            client_dialect_version_major: text(self.client_dialect.major),
            client_dialect_version_minor: text(self.client_dialect.minor),
            client_dialect_version_build: text(self.client_dialect.build),
            client_dialect_version_revision: text(self.client_dialect.revision),
            uploaded: text(self.uploaded),
            downloaded: text(self.downloaded),
            downloaded_cdn: text(self.downloaded_cdn),
            downloaded_doinc: text(self.downloaded_doinc),
            left: text(self.left),
            join_request_event: text(self.event as u8),
            restricted_upload: text(u8::from(self.restricted_upload)),
            peers_wanted: text(self.peers_wanted),
            group_id: some(self.group_id.as_ref()),
            scope: text(self.scope.number()),
            uploaded_bps: text(self.uploaded_bps),
            downloaded_bps: text(self.downloaded_bps),
            profile: text(self.profile),
            seq: text(self.seq),
            teredo_ipv6: some(self.teredo_ipv6.as_ref()),
            port: text(self.port),
            token: some(self.token.as_ref()),
        })
    }
}

fn needed<T: FromStr>(
    field: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<T, ProtocolError> {
    if text.is_empty() {
        return Err(ProtocolError::Missing(field));
    }
    text.parse()
        .map_err(|_| ProtocolError::invalid(field, expected))
}

fn number<T: FromStr>(field: &'static str, text: &str) -> Result<Option<T>, ProtocolError> {
    match text {
        "" => Ok(None),
        text => decimal(text)
            .map(Some)
            .ok_or_else(|| ProtocolError::invalid(field, "a number as text")),
    }
}

fn or_0<T: FromStr + Default>(field: &'static str, text: &str) -> Result<T, ProtocolError> {
    Ok(number(field, text)?.unwrap_or_default())
}

fn flag(field: &'static str, text: &str) -> Result<bool, ProtocolError> {
    match text {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(ProtocolError::invalid(field, "\"0\" or \"1\"")),
    }
}

fn address<T: FromStr>(
    field: &'static str,
    text: &str,
    usable: impl Fn(&T) -> bool,
) -> Result<Option<T>, ProtocolError> {
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .ok()
            .filter(usable)
            .map(Some)
            .ok_or_else(|| ProtocolError::invalid(field, "an address of one machine")),
    }
}

/// Whether one machine can have this address.
fn usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

/// 2001::/32, RFC 4380.
fn is_teredo(address: &Ipv6Addr) -> bool {
    address.segments()[..2] == [0x2001, 0]
}

/// Whether Windows sends the id or its hash is not known: what is no hash is taken for the id and hashed.
fn group(text: &str) -> Result<Option<GroupHash>, ProtocolError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(hash) = text.parse() {
        return Ok(Some(hash));
    }
    let id: Result<GroupId, _> = text.parse();
    id.map(|id| Some(id.hash()))
        .map_err(|_| ProtocolError::invalid("GroupId", "a group's id or its hash"))
}

/// A peer that the array names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayPeer {
    /// Its id.
    pub peer_id: PeerId,
    /// How it was matched: as a LAN, group or Internet peer.
    pub scope: Scope,
    /// Its address in its own network; only for peers of the same LAN or group.
    pub lan_ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub lan_ipv6: Option<Ipv6Addr>,
    /// The address that the array saw.
    pub external_ip: Option<IpAddr>,
    /// Its Teredo address.
    pub teredo_ipv6: Option<Ipv6Addr>,
    /// Where it listens (TCP).
    pub port: u16,
}

/// The array's answer, ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinAnswer {
    /// Others, those in front that match best; never who asks.
    pub peers: Vec<ArrayPeer>,
    /// When to join again, in seconds.
    pub next_join_seconds: u32,
    /// The address that the array saw.
    pub external_ip: IpAddr,
    /// To be shown with every further join of this content. `None`: the peer is not listed, because another has joined under
    /// its id or for lack of room; or it was renewed without its token, from the addresses that it joined with.
    pub token: Option<JoinToken>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnswerText<'a> {
    #[serde(borrow)]
    peers: Vec<PeerText<'a>>,
    #[serde(borrow)]
    next_join_seconds: Cow<'a, str>,
    #[serde(borrow)]
    external_ip: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct PeerText<'a> {
    #[serde(borrow)]
    peer_id: Cow<'a, str>,
    #[serde(borrow)]
    scope: Cow<'a, str>,
    #[serde(borrow)]
    lan_ip: Cow<'a, str>,
    #[serde(borrow)]
    lan_ipv6: Cow<'a, str>,
    #[serde(borrow)]
    external_ip: Cow<'a, str>,
    #[serde(borrow)]
    teredo_ipv6: Cow<'a, str>,
    #[serde(borrow)]
    port: Cow<'a, str>,
}

impl JoinAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Too many bytes or peers, other JSON, or the first field that is malformed.
    pub fn from_json(json: &[u8]) -> Result<Self, ProtocolError> {
        bounded("the answer", json.len(), ANSWER_BYTES_MAX)?;
        let text: AnswerText<'_> =
            serde_json::from_slice(json).map_err(|error| ProtocolError::Json(error.to_string()))?;
        if text.peers.len() > PEERS_MAX {
            return Err(ProtocolError::invalid("Peers", "255 peers or fewer"));
        }
        let next: u32 = number("NextJoinSeconds", &text.next_join_seconds)?
            .ok_or(ProtocolError::Missing("NextJoinSeconds"))?;
        Ok(Self {
            peers: text
                .peers
                .iter()
                .map(ArrayPeer::of_text)
                .collect::<Result<_, _>>()?,
            next_join_seconds: next.clamp(*NEXT_JOIN_SECONDS.start(), *NEXT_JOIN_SECONDS.end()),
            external_ip: address("ExternalIp", &text.external_ip, |a: &IpAddr| usable(*a))?
                .ok_or(ProtocolError::Missing("ExternalIp"))?,
            token: match text.token.as_ref() {
                "" => None,
                text => Some(text.parse()?),
            },
        })
    }

    /// Writes the answer. By hand: no value needs escaping, and it is what a busy array does most.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + 192 * self.peers.len());
        out.extend_from_slice(b"{\"Peers\":[");
        for (at, peer) in self.peers.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            peer.write(&mut out);
        }
        out.push(b']');
        put(&mut out, "NextJoinSeconds", self.next_join_seconds);
        put(&mut out, "ExternalIp", self.external_ip);
        if let Some(token) = self.token {
            put(&mut out, "Token", token);
        }
        out.push(b'}');
        out
    }
}

/// `,"name":"value"`; the value needs no escaping.
fn put(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    write!(out, ",\"{name}\":\"{value}\"").expect("memory takes what is written");
}

impl ArrayPeer {
    fn of_text(text: &PeerText<'_>) -> Result<Self, ProtocolError> {
        let scope = Scope::of_text(&text.scope).ok_or(ProtocolError::invalid(
            "Scope",
            "1, 2 or 3, a mode with peers",
        ))?;
        let this = Self {
            peer_id: needed("PeerId", &text.peer_id, "40 hex digits")?,
            scope,
            lan_ip: address("LanIp", &text.lan_ip, |a: &Ipv4Addr| usable((*a).into()))?,
            lan_ipv6: address("LanIpv6", &text.lan_ipv6, |a: &Ipv6Addr| {
                usable((*a).into())
            })?,
            external_ip: address("ExternalIp", &text.external_ip, |a: &IpAddr| usable(*a))?,
            teredo_ipv6: address("TeredoIpv6", &text.teredo_ipv6, is_teredo)?,
            port: match number("Port", &text.port)? {
                None | Some(0) => return Err(ProtocolError::invalid("Port", "a port")),
                Some(port) => port,
            },
        };
        let reachable = this.lan_ip.is_some()
            || this.lan_ipv6.is_some()
            || this.external_ip.is_some()
            || this.teredo_ipv6.is_some();
        reachable
            .then_some(this)
            .ok_or(ProtocolError::Missing("a peer's address"))
    }

    fn write(&self, out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        out.extend_from_slice(b"{\"PeerId\":\"");
        let mut id = [[0; 2]; 20];
        for (hex, byte) in id.iter_mut().zip(self.peer_id.as_bytes()) {
            *hex = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        }
        out.extend_from_slice(id.as_flattened());
        out.push(b'"');
        put_number(out, "Scope", self.scope.number().into());
        if let Some(address) = self.lan_ip {
            put_v4(out, "LanIp", address);
        }
        if let Some(address) = self.lan_ipv6 {
            put(out, "LanIpv6", address);
        }
        match self.external_ip {
            Some(IpAddr::V4(address)) => put_v4(out, "ExternalIp", address),
            Some(IpAddr::V6(address)) => put(out, "ExternalIp", address),
            None => {}
        }
        if let Some(address) = self.teredo_ipv6 {
            put(out, "TeredoIpv6", address);
        }
        put_number(out, "Port", self.port);
        out.push(b'}');
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
}

fn put_number(out: &mut Vec<u8>, name: &str, number: u16) {
    put_name(out, name);
    put_digits(out, number);
    out.push(b'"');
}

fn put_v4(out: &mut Vec<u8>, name: &str, address: Ipv4Addr) {
    put_name(out, name);
    for (at, byte) in address.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        put_digits(out, byte.into());
    }
    out.push(b'"');
}

fn put_digits(out: &mut Vec<u8>, number: u16) {
    // Divisions by constants: an answer has hundreds of these numbers.
    let digits = [
        number / 10_000,
        number / 1000 % 10,
        number / 100 % 10,
        number / 10 % 10,
        number % 10,
    ]
    .map(|digit| b'0' + digit.to_le_bytes()[0]);
    let zeros = match number {
        0..=9 => 4,
        10..=99 => 3,
        100..=999 => 2,
        1000..=9999 => 1,
        _ => 0,
    };
    out.extend_from_slice(&digits[zeros..]);
}

#[cfg(test)]
mod tests;
