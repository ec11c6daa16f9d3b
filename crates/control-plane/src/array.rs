//! The array, or tracker: who has or wants which content, and whom to tell whom about.
//!
//! A pure core behind locks: time, randomness and what is known of the asker's address are arguments; the same inputs
//! lead to the same answers. Swarms are spread over shards by their content, each with a lock of its own that is held
//! for one join; answers are written outside of it.
//!
//! **Who is told of whom.** Both sides' modes must permit it: a LAN peer is shown to its own LAN alone, a peer in group
//! mode to its group alone.
//!
//! | who asks | gets, in this order, until the answer is full |
//! |---|---|
//! | LAN (1) | the same external address |
//! | Group (2) | the same group: the same external address first |
//! | Internet (3) | the same external address; the same group; the same country and network (IPv4 /16, IPv6 /32); the same country; anybody |
//!
//! Within each line peers are drawn at random, seeds and others alike; who has everything is told only of those who
//! don't. Nobody is told of itself.
//!
//! **Who may speak for a peer.** The answer to the first join carries a token. Later joins under that id need it; without
//! it, from exactly the same addresses, a join can say that the peer is still here and how far it is, nothing else. Who
//! doesn't have it is answered, and not listed. What nobody renews expires.
//!
//! **What one network can take.** [`ArrayLimits`]: entries of an address, of a network and in all; and only the first 64
//! peers of an address in a swarm are shown to strangers, so that whoever invents peers fills nobody else's answers.

mod export;
mod gate;
mod ordered;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod sample;
mod swarm;

use dosvc_cloud_protocol::{
    CountryCode, JoinAnswer, JoinEvent, JoinRequest, JoinToken,
    limits::{NEXT_JOIN_SECONDS, PEERS_MAX},
};
use dosvc_content::ContentId;
pub use export::RestoreError;
use fastrand::Rng;
use gate::Gate;
use hashbrown::HashTable;
use record::Record;
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use swarm::{Admission, Swarm};

/// Seconds since 1970: enough until 2106, in half the memory.
pub type Seconds = u32;

/// Locks: so many that four processors seldom want the same one.
const SHARDS: usize = 64;

/// What the array may grow to, and how often peers come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayLimits {
    /// Seconds between two joins of a peer; answers vary it by a tenth.
    pub join_interval: u32,
    /// Peers in one answer.
    pub peers_per_answer: usize,
    /// Entries (a peer in a swarm) in all.
    pub entries_max: u32,
    /// Entries of one external address (IPv4), or one network of 64 bits (IPv6).
    pub entries_per_address_max: u32,
    /// Entries of one network around the address: 24 bits of IPv4, 48 of IPv6.
    pub entries_per_network_max: u32,
    /// Swarms in all.
    pub swarms_max: u32,
}

impl Default for ArrayLimits {
    fn default() -> Self {
        Self {
            join_interval: 300,
            peers_per_answer: 50,
            entries_max: 4_000_000,
            entries_per_address_max: 100_000,
            entries_per_network_max: 400_000,
            swarms_max: 200_000,
        }
    }
}

impl ArrayLimits {
    /// The same, within what the protocol permits.
    pub(crate) fn permitted(self) -> Self {
        Self {
            join_interval: self
                .join_interval
                .clamp(*NEXT_JOIN_SECONDS.start(), *NEXT_JOIN_SECONDS.end() / 2),
            peers_per_answer: self.peers_per_answer.clamp(1, PEERS_MAX),
            ..self
        }
    }

    /// How long a peer is listed after a join: two intervals, the longest there are, and a minute.
    pub fn lifetime(&self) -> Seconds {
        2 * (self.join_interval + self.join_interval / 10) + 60
    }

    /// Peers for one that wants so many.
    pub(crate) fn wanted(&self, request: &JoinRequest) -> usize {
        usize::from(request.peers_wanted).min(self.peers_per_answer)
    }

    /// When a peer is to come back, in seconds.
    pub(crate) fn next_join(&self, random: &mut Rng) -> u32 {
        let width = self.join_interval / 10;
        self.join_interval - width + random.u32(..2 * width + 1)
    }
}

/// What the service knows of an asker beside its request.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The address that the request came from.
    pub address: IpAddr,
    /// The country of that address.
    pub country: CountryCode,
}

/// Randomness for one join. Both from a generator whose numbers nobody can guess.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The token of the peer if it is new.
    pub token: u64,
    /// What decides which peers are drawn.
    pub seed: u64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrayStats {
    /// Entries now: a peer in a swarm.
    pub entries: u64,
    /// Swarms now.
    pub swarms: u64,
    /// Joins and updates that were answered.
    pub joins: u64,
    /// Peers named in answers.
    pub peers_named: u64,
    /// Entries that left by themselves.
    pub left: u64,
    /// Entries that nobody renewed.
    pub expired: u64,
    /// Joins that were not listed: under another's id.
    pub unlisted_foreign: u64,
    /// Joins that were not listed: a limit of [`ArrayLimits`].
    pub unlisted_full: u64,
    /// Bytes of memory that swarms and their peers take.
    pub memory_bytes: u64,
}

/// What a page shows of one swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmView {
    /// The content.
    pub content_id: ContentId,
    /// Peers that are listed.
    pub peers: usize,
    /// Those of them that have everything.
    pub seeds: usize,
    /// Groups that they are in.
    pub groups: usize,
    /// External addresses or networks that they are behind.
    pub sites: usize,
}

/// What a page shows of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The beginning of the group's hash.
    pub group: String,
    /// Entries of its peers in all swarms.
    pub entries: usize,
    /// Swarms that they are in.
    pub swarms: usize,
}

/// All swarms of one process.
#[derive(Debug)]
pub struct Array {
    limits: ArrayLimits,
    gate: Gate,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    swarms: AtomicU64,
    counts: Counts,
}

/// Swarms whose content's hash ends in the same bits.
#[derive(Debug, Default)]
struct Shard {
    swarms: HashTable<Swarm>,
}

/// What a process has counted since its start, whatever keeps its swarms.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) joins: AtomicU64,
    pub(crate) peers_named: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) unlisted_foreign: AtomicU64,
    pub(crate) unlisted_full: AtomicU64,
}

impl Counts {
    /// The counts, with nothing said of what there is now.
    pub(crate) fn stats(&self) -> ArrayStats {
        ArrayStats {
            entries: 0,
            swarms: 0,
            joins: self.joins.load(Relaxed),
            peers_named: self.peers_named.load(Relaxed),
            left: self.left.load(Relaxed),
            expired: self.expired.load(Relaxed),
            unlisted_foreign: self.unlisted_foreign.load(Relaxed),
            unlisted_full: self.unlisted_full.load(Relaxed),
            memory_bytes: 0,
        }
    }
}

impl Array {
    /// An array without swarms. The limits are brought into what the protocol permits.
    pub fn new(limits: ArrayLimits) -> Self {
        let limits = limits.permitted();
        Self {
            gate: Gate::new(&limits),
            limits,
            // Finds things; no decision depends on it.
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            swarms: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// Carries out a join, an update or a leave.
    pub fn join(&self, now: Seconds, draw: Draw, seen: Seen, request: &JoinRequest) -> JoinAnswer {
        let mut random = Rng::with_seed(draw.seed);
        let record = Record::of(request, seen, draw.token, now + self.limits.lifetime());
        let wanted = self.limits.wanted(request);
        let (token, peers) = self.visit(now, &record, request, wanted, &mut random);
        self.counts.joins.fetch_add(1, Relaxed);
        self.counts
            .peers_named
            .fetch_add(peers.len() as u64, Relaxed);
        JoinAnswer {
            peers: peers
                .iter()
                .map(|(scope, peer)| peer.shown(*scope))
                .collect(),
            next_join_seconds: self.limits.next_join(&mut random),
            external_ip: seen.address.to_canonical(),
            token: token.map(JoinToken),
        }
    }

    /// What happens under the lock.
    fn visit(
        &self,
        now: Seconds,
        record: &Record,
        request: &JoinRequest,
        wanted: usize,
        random: &mut Rng,
    ) -> (Option<u64>, Vec<sample::Drawn>) {
        let id = &request.content_id;
        let hash = self.hasher.hash_one(id);
        let mut shard = self.shard(hash);
        let found = shard
            .swarms
            .find_mut(hash, |swarm| swarm.content_id() == id);
        if request.event == JoinEvent::Leave {
            if let Some(swarm) = found
                && let Some(gone) = swarm.leave(&record.id(), request.token)
            {
                self.gate.release(&gone);
                self.counts.left.fetch_add(1, Relaxed);
                if swarm.is_empty() {
                    self.drop_swarm(&mut shard, hash, id);
                }
            }
            return (None, Vec::new());
        }
        // A peer whose mode is the group's, without a group, has nobody to meet.
        if !record.can_meet_anybody() {
            return (None, Vec::new());
        }
        let swarm = match found {
            Some(swarm) => swarm,
            None => match self.add_swarm(&mut shard, hash, id) {
                Some(swarm) => swarm,
                None => {
                    self.counts.unlisted_full.fetch_add(1, Relaxed);
                    return (None, Vec::new());
                }
            },
        };
        let token = match swarm.admit(now, record, request.token, &self.gate) {
            Admission::Listed(token) => Some(token),
            Admission::Renewed => None,
            Admission::Foreign => {
                self.counts.unlisted_foreign.fetch_add(1, Relaxed);
                None
            }
            Admission::Full => {
                self.counts.unlisted_full.fetch_add(1, Relaxed);
                None
            }
        };
        let peers = swarm.draw(now, record, wanted, random);
        if swarm.is_empty() {
            self.drop_swarm(&mut shard, hash, id);
        }
        (token, peers)
    }

    fn add_swarm<'a>(
        &self,
        shard: &'a mut Shard,
        hash: u64,
        id: &ContentId,
    ) -> Option<&'a mut Swarm> {
        if self.swarms.load(Relaxed) >= u64::from(self.limits.swarms_max) {
            return None;
        }
        self.swarms.fetch_add(1, Relaxed);
        let swarm = Swarm::new(id.clone());
        let entry = shard
            .swarms
            .insert_unique(hash, swarm, |s| self.hasher.hash_one(s.content_id()));
        Some(entry.into_mut())
    }

    fn drop_swarm(&self, shard: &mut Shard, hash: u64, id: &ContentId) {
        if let Ok(entry) = shard.swarms.find_entry(hash, |s| s.content_id() == id) {
            entry.remove();
            self.swarms.fetch_sub(1, Relaxed);
        }
    }

    /// Removes what nobody has renewed, shard by shard, and gives the memory of swarms back that have shrunk. To be
    /// called every half a minute or so; expired peers are never named, however long they stay.
    pub fn expire(&self, now: Seconds) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let mut expired = 0;
            let mut gone_swarms = 0;
            shard.swarms.retain(|swarm| {
                expired += swarm.expire(now, &self.gate);
                gone_swarms += u64::from(swarm.is_empty());
                !swarm.is_empty()
            });
            let hasher = |s: &Swarm| self.hasher.hash_one(s.content_id());
            if shard.swarms.capacity() > 64 && shard.swarms.len() < shard.swarms.capacity() / 4 {
                shard.swarms.shrink_to_fit(hasher);
            }
            self.counts.expired.fetch_add(expired, Relaxed);
            self.swarms.fetch_sub(gone_swarms, Relaxed);
        }
    }

    /// Counts, and the memory in use; looks at every swarm.
    pub fn stats(&self) -> ArrayStats {
        let memory: usize = self
            .shards
            .iter()
            .map(|shard| {
                let shard = lock(shard);
                let swarms: usize = shard.swarms.iter().map(Swarm::memory_bytes).sum();
                swarms + shard.swarms.allocation_size()
            })
            .sum();
        ArrayStats {
            entries: self.gate.entries(),
            swarms: self.swarms.load(Relaxed),
            memory_bytes: (memory + self.gate.memory_bytes()) as u64,
            ..self.counts.stats()
        }
    }

    /// The largest swarms, at most `count` of them; ties in the order of their ids.
    pub fn largest_swarms(&self, count: usize) -> Vec<SwarmView> {
        let mut sizes: Vec<(usize, ContentId)> = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            sizes.extend(
                shard
                    .swarms
                    .iter()
                    .map(|s| (s.len(), s.content_id().clone())),
            );
            // What can't be among the largest need not be kept.
            if sizes.len() > 4 * count + 1024 {
                keep_largest(&mut sizes, count);
            }
        }
        keep_largest(&mut sizes, count);
        sizes.iter().filter_map(|(_, id)| self.swarm(id)).collect()
    }

    /// What there is to know of one swarm.
    pub fn swarm(&self, id: &ContentId) -> Option<SwarmView> {
        let hash = self.hasher.hash_one(id);
        let shard = self.shard(hash);
        shard
            .swarms
            .find(hash, |swarm| swarm.content_id() == id)
            .map(Swarm::view)
    }

    /// The groups with most entries, at most `count` of them: the first eight bytes of a group's hash as hex digits, its
    /// entries, and swarms with any. Looks at every entry.
    pub fn largest_groups(&self, count: usize) -> Vec<GroupView> {
        let mut groups: HashMap<u128, (usize, usize)> = HashMap::new();
        for shard in &self.shards {
            for swarm in &lock(shard).swarms {
                for (group, entries) in swarm.groups() {
                    let sums = groups.entry(group).or_default();
                    sums.0 += entries;
                    sums.1 += 1;
                }
            }
        }
        let mut views: Vec<GroupView> = groups
            .into_iter()
            .map(|(group, (entries, swarms))| GroupView {
                group: format!("{:016x}", group >> 64),
                entries,
                swarms,
            })
            .collect();
        views.sort_by(|a, b| {
            b.entries
                .cmp(&a.entries)
                .then_with(|| a.group.cmp(&b.group))
        });
        views.truncate(count);
        views
    }

    /// The limits in force.
    pub fn limits(&self) -> &ArrayLimits {
        &self.limits
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the low and the topmost bits.
        let at = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        lock(&self.shards[at])
    }
}

fn keep_largest(sizes: &mut Vec<(usize, ContentId)>, count: usize) {
    sizes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    sizes.truncate(count);
}

/// A panic under a lock of ours would be a fault of this program; what the lock protects is used as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
