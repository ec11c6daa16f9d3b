//! One content at the array: what is said of it, when it is joined again, what the array answered. Pure.

use super::{
    chain::client_version,
    failure::Failure,
    limits::{ARRAYS_KEPT_MAX, DEVICE_SPREAD, HURRY_GAP, IDLE_JOIN_SPREAD, JOIN_GAP, STRANGER_GAP},
    question::{Ask, Question},
    slot::Slot,
};
use crate::random::Random;
use dosvc_cloud_protocol::{
    ClientDialect, DiscoveryRequest, GeoAnswer, HttpUrl, JoinAnswer, JoinEvent, JoinRequest,
    JoinToken, KeyValueAnswer, PROFILE_PC, Scope, Text, join_url, limits::URL_BYTES_MAX,
};
use dosvc_content::{ContentId, GroupHash, HashOfHashes, PeerId};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};
use url::Url;

/// The version of the protocol that joins carry: the one that was recorded.
const DIALECT: ClientDialect = ClientDialect {
    major: 10,
    minor: 1,
    build: 0,
    revision: 12,
};

/// Peers that are asked for: as many as Windows does.
const PEERS_WANTED: u16 = 255;
/// Of a content that lies idle others dial us; the array names those first that are nearest, which may be of our LAN. In
/// mode 1 all are needed, for nobody else may dial.
const PEERS_WANTED_IDLE: u16 = 16;

/// How much of a content is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Nothing yet.
    Nothing,
    /// Some pieces.
    Some,
    /// Everything.
    All,
}

/// What the array is told of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The content; the array knows it by the id that is derived from this.
    pub content: HashOfHashes,
    /// Where it can be downloaded, without query: [`Announcement::catalog_id`].
    pub url: Option<Text<URL_BYTES_MAX>>,
    /// How far peers may be away.
    pub scope: Scope,
    /// The group that peers must be of; only with [`Scope::Group`].
    pub group: Option<GroupHash>,
    /// It is being downloaded: peers are wanted, and soon.
    pub wanted: bool,
    /// Somebody waits for the download.
    pub foreground: bool,
    /// Nothing is given to peers at present.
    pub restricted_upload: bool,
    /// How much is here.
    pub part: Part,
    /// Bytes that are missing.
    pub left: u64,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes from peers.
    pub downloaded: u64,
    /// Bytes from the origin.
    pub downloaded_cdn: u64,
    /// Bytes from cache hosts.
    pub downloaded_doinc: u64,
    /// Bytes a second to peers.
    pub uploaded_bps: u64,
    /// Bytes a second from all sources.
    pub downloaded_bps: u64,
}

impl Announcement {
    /// A content of which nothing more is known.
    pub fn new(content: HashOfHashes, scope: Scope, group: Option<GroupHash>) -> Self {
        Self {
            content,
            url: None,
            scope,
            group: group.filter(|_| scope == Scope::Group),
            wanted: false,
            foreground: false,
            restricted_upload: false,
            part: Part::Nothing,
            left: 0,
            uploaded: 0,
            downloaded: 0,
            downloaded_cdn: 0,
            downloaded_doinc: 0,
            uploaded_bps: 0,
            downloaded_bps: 0,
        }
    }

    /// A URL as services are told of it ([`dosvc_cloud_protocol::catalog_id`]).
    pub fn catalog_id(url: &Url) -> Option<Text<URL_BYTES_MAX>> {
        dosvc_cloud_protocol::catalog_id(url)
    }

    /// What makes another join worth it before it is due.
    fn core(&self) -> (Scope, Option<GroupHash>, bool, bool, Part) {
        let Self {
            scope,
            group,
            wanted,
            restricted_upload,
            part,
            ..
        } = self;
        (*scope, *group, *wanted, *restricted_upload, *part)
    }
}

/// What the array is told of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Device {
    /// Where peers can connect to (TCP); 0: nowhere, then nothing is joined.
    pub port: u16,
    /// The address in the machine's network, and its mask.
    pub ipv4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// A global or unique local IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The Teredo address.
    pub teredo: Option<Ipv6Addr>,
    /// The group that geo and key-value are told; in mode 2.
    pub group: Option<GroupHash>,
}

/// Array services as discovery named them; contents with the same ones share the list.
pub(crate) type Arrays = Arc<[HttpUrl]>;

/// What is worth remembering of a content that is not joined.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    pub(crate) arrays: Option<(Arrays, Instant)>,
    pub(crate) token: Option<JoinToken>,
}

#[derive(Debug, Clone, Copy)]
struct Joined {
    at: Instant,
    core: (Scope, Option<GroupHash>, bool, bool, Part),
    peers: u32,
    /// Whether the array names us to others.
    listed: bool,
    /// When the array wants us to come again.
    next: Instant,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Member {
    announced: Option<Announcement>,
    searched: Option<Announcement>,
    searches: u32,
    pub(crate) arrays: Option<(Arrays, Instant)>,
    pub(crate) token: Option<JoinToken>,
    slot: Slot,
    joined: Option<Joined>,
    /// What was said in the join under way, or last.
    said: Option<(Scope, Option<GroupHash>, bool, bool, Part)>,
    /// It must be joined again: the machine has changed.
    stale: bool,
    /// Discovery has just answered: the join follows at once.
    found: bool,
}

impl Member {
    pub(crate) fn new(remembered: Option<Remembered>, now: Instant) -> Self {
        let Remembered { arrays, token } = remembered.unwrap_or(Remembered {
            arrays: None,
            token: None,
        });
        Self {
            announced: None,
            searched: None,
            searches: 0,
            arrays,
            token,
            slot: Slot::new(now),
            joined: None,
            said: None,
            stale: false,
            found: false,
        }
    }

    pub(crate) fn announcement(&self) -> Option<&Announcement> {
        self.announced.as_ref().or(self.searched.as_ref())
    }

    /// Says something else of it from now on.
    pub(crate) fn announce(
        &mut self,
        now: Instant,
        announcement: Announcement,
        random: &mut Random,
    ) {
        let is_new = self.announcement().is_none();
        self.announced = Some(announcement);
        self.review(now, is_new, random);
    }

    pub(crate) fn withdraw(&mut self, now: Instant) {
        self.announced = None;
        self.leave_unless_wanted(now);
    }

    pub(crate) fn begin_search(
        &mut self,
        now: Instant,
        default: Announcement,
        random: &mut Random,
    ) {
        let is_new = self.announcement().is_none();
        self.searches += 1;
        self.searched = Some(default);
        self.review(now, is_new, random);
    }

    pub(crate) fn end_search(&mut self, now: Instant) {
        self.searches = self.searches.saturating_sub(1);
        if self.searches == 0 {
            self.searched = None;
            self.leave_unless_wanted(now);
        }
    }

    /// Nothing is to be said of it any more.
    pub(crate) fn drop_all(&mut self, now: Instant) {
        self.announced = None;
        self.searched = None;
        self.leave_unless_wanted(now);
    }

    fn leave_unless_wanted(&mut self, now: Instant) {
        if self.announcement().is_none() && self.is_listed(now) {
            self.slot.answered_unless_asking(now);
        }
    }

    /// Whether the array may still name us.
    fn is_listed(&self, now: Instant) -> bool {
        let joined = self.joined.as_ref();
        joined.is_some_and(|joined| joined.listed && now < joined.next + (joined.next - joined.at))
    }

    /// Whether it can be forgotten: nothing is to be said, and nothing is under way or to be taken back.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.announcement().is_none() && !self.slot.is_asking() && !self.is_listed(now)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.announcement().is_none()
    }

    /// Whether it may go ahead of contents that lie idle.
    pub(crate) fn is_urgent(&self) -> bool {
        self.found || self.announcement().is_none_or(|a| a.wanted)
    }

    /// When it is to be joined, or left; `None`: a question is under way.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.slot.due()
    }

    /// Sets when to join after something has changed.
    fn review(&mut self, now: Instant, is_new: bool, random: &mut Random) {
        let Some(announcement) = self.announcement() else {
            return;
        };
        let wanted = announcement.wanted;
        let changed = self.said != Some(announcement.core());
        let gap_over = self
            .slot
            .last_asked()
            .map_or(now, |at| now.max(at + JOIN_GAP));
        let joined = self.joined.is_some();
        if is_new && !joined {
            let due = match wanted {
                true => gap_over,
                false => gap_over + random.up_to(IDLE_JOIN_SPREAD),
            };
            self.slot.answered_unless_asking(due);
        } else if changed && self.slot.failure().is_none() {
            self.slot.at_most(gap_over);
        } else if changed && wanted {
            self.slot.hurry(now);
        }
    }

    /// The machine's addresses or port have changed.
    pub(crate) fn device_changed(&mut self, now: Instant, random: &mut Random) {
        self.stale = true;
        let spread = if self.is_urgent() {
            DEVICE_SPREAD
        } else {
            IDLE_JOIN_SPREAD
        };
        self.slot.at_most(now + random.up_to(spread));
    }

    /// The network may be back: what failed is tried again, each member at another moment.
    pub(crate) fn try_again(&mut self, now: Instant, random: &mut Random) {
        if self.slot.failure().is_some() {
            let last = self.slot.last_asked();
            let soonest = last.map_or(now, |at| now.max(at + HURRY_GAP));
            self.slot.at_most(soonest + random.up_to(DEVICE_SPREAD));
        }
    }

    /// Somebody unknown has dialled for it: the array may know who that is.
    pub(crate) fn stranger(&mut self, now: Instant) {
        let last = self.slot.last_asked();
        self.slot
            .at_most(last.map_or(now, |at| now.max(at + STRANGER_GAP)));
    }

    /// The next question, which counts as being asked from here on.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        content: HashOfHashes,
        context: &Context<'_>,
    ) -> Option<Ask> {
        let array = self.array();
        if self.is_leaving() {
            let (array, token) = (array?, self.token);
            self.slot.asked(now);
            let scope = self.said.map_or(Scope::Lan, |said| said.0);
            let mut request = JoinRequest::new(ContentId::derived(&content), context.peer, scope);
            request.group_id = self.said.and_then(|said| said.1);
            request.event = JoinEvent::Leave;
            request.token = token;
            request.port = context.device.port.max(1);
            return Some(join(content, &array, &request));
        }
        let fresh = self.arrays.as_ref().is_some_and(|(_, until)| *until > now);
        let (geo, key_value) = context.answers?;
        self.slot.asked(now);
        self.found = false;
        match array.filter(|_| fresh) {
            None => Some(self.discovery(content, geo, key_value)),
            Some(array) => {
                let request = self.join_request(context)?;
                self.said = self.announcement().map(Announcement::core);
                self.stale = false;
                Some(join(content, &array, &request))
            }
        }
    }

    /// The array to ask: another one after each failure.
    fn array(&self) -> Option<HttpUrl> {
        let (arrays, _) = self.arrays.as_ref()?;
        let at = usize::try_from(self.slot.failures()).unwrap_or(0) % arrays.len().max(1);
        arrays.get(at).cloned()
    }

    fn discovery(&self, content: HashOfHashes, geo: &GeoAnswer, key_value: &KeyValueAnswer) -> Ask {
        let announcement = self.announcement();
        let request = DiscoveryRequest {
            partition_id: Some(0),
            country_code: Some(geo.country_code),
            alt_catalog_id: announcement.and_then(|a| a.url.clone()),
            do_client_version: client_version(),
            profile: Some(PROFILE_PC),
            e_id: announcement
                .and_then(|a| a.group)
                .and_then(|group| Text::new(group.to_string())),
        };
        let template = &key_value.discovery_endpoint_full_uri;
        let address = template.fill(&ContentId::derived(&content));
        let joint = if address.contains('?') { '&' } else { '?' };
        super::chain::get(
            Question::Discovery(content),
            format!("{address}{joint}{}", request.to_query()),
        )
    }

    fn join_request(&self, context: &Context<'_>) -> Option<JoinRequest> {
        let a = self.announcement()?;
        let device = context.device;
        let id = ContentId::derived(&a.content);
        let event = match self.joined {
            Some(_) => JoinEvent::Update,
            None => JoinEvent::Join,
        };
        Some(JoinRequest {
            alt_catalog_id: a.url.clone(),
            reported_ip: device.ipv4.map(|(address, _)| address),
            subnet_mask: device.ipv4.map(|(_, mask)| mask),
            ipv6: device.ipv6,
            teredo_ipv6: device.teredo,
            port: device.port,
            is_background: !a.foreground,
            client_dialect: DIALECT,
            uploaded: a.uploaded,
            downloaded: a.downloaded,
            downloaded_cdn: a.downloaded_cdn,
            downloaded_doinc: a.downloaded_doinc,
            left: a.left,
            event,
            restricted_upload: a.restricted_upload,
            group_id: a.group,
            uploaded_bps: a.uploaded_bps,
            downloaded_bps: a.downloaded_bps,
            seq: context.seq,
            token: self.token,
            peers_wanted: if a.wanted || a.scope == Scope::Lan {
                PEERS_WANTED
            } else {
                PEERS_WANTED_IDLE
            },
            ..JoinRequest::new(id, context.peer, a.scope)
        })
    }

    pub(crate) fn handle_arrays(&mut self, now: Instant, arrays: Arrays, fresh: Duration) {
        self.arrays = Some((arrays, now + fresh));
        // On to the join, at once.
        self.found = true;
        self.slot.answered(now);
    }

    /// Takes an answer in; the peers in it, for a content that is still wanted.
    pub(crate) fn handle_joined(&mut self, now: Instant, answer: &JoinAnswer, random: &mut Random) {
        let told = Duration::from_secs(answer.next_join_seconds.into());
        // Earlier than told, and each time differently early: neither too late nor all at once.
        let wait = told - random.up_to(told / 5);
        self.token = answer.token.or(self.token);
        let said = self
            .said
            .unwrap_or((Scope::Lan, None, false, false, Part::Nothing));
        self.joined = Some(Joined {
            at: now,
            core: said,
            peers: u32::try_from(answer.peers.len()).unwrap_or(u32::MAX),
            listed: answer.token.is_some(),
            next: now + told,
        });
        self.slot.answered(now + wait);
        match self.announcement() {
            None => self.slot.at_most(now),
            Some(a) if a.core() != said || self.stale => self.slot.at_most(now + JOIN_GAP),
            Some(_) => {}
        }
    }

    /// The array has heard that we leave, or can't be told.
    pub(crate) fn handle_left(&mut self, now: Instant, heard: bool) {
        if heard {
            self.token = None;
        }
        self.joined = None;
        self.said = None;
        self.slot.answered(now);
    }

    pub(crate) fn handle_failed(
        &mut self,
        now: Instant,
        failure: Failure,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) {
        // Discovery may know better where the content's swarm is by now.
        if let (Failure::Status { .. }, Some((_, until))) = (&failure, &mut self.arrays) {
            *until = now;
        }
        self.said = self.joined.map(|joined| joined.core);
        self.slot.failed(now, failure, retry_after, random);
    }

    pub(crate) fn remembered(&self) -> Remembered {
        Remembered {
            arrays: self.arrays.clone(),
            token: self.token,
        }
    }

    /// The slot, the number of peers that the array named last, and whether it names us.
    pub(crate) fn standing(&self) -> (&Slot, Option<(u32, bool)>) {
        (&self.slot, self.joined.map(|j| (j.peers, j.listed)))
    }
}

/// What joins say of the machine.
pub(crate) struct Context<'a> {
    pub(crate) peer: PeerId,
    pub(crate) device: Device,
    pub(crate) answers: Option<(&'a GeoAnswer, &'a KeyValueAnswer)>,
    pub(crate) seq: u32,
}

fn join(content: HashOfHashes, array: &HttpUrl, request: &JoinRequest) -> Ask {
    Ask {
        question: Question::Join(content, request.event),
        url: join_url(array),
        body: Some(request.to_json()),
    }
}

/// The first of what discovery named.
pub(crate) fn arrays_of(answer: dosvc_cloud_protocol::DiscoveryAnswer) -> Arrays {
    let arrays = answer.0.into_iter().map(|array| array.collective_array);
    arrays.take(ARRAYS_KEPT_MAX).collect()
}
