//! The array's swarms in Redis or Valkey, for any number of processes in front of one store.
//!
//! What the embedded [`Array`](crate::array::Array) decides is decided here in the same order: the classes of an answer
//! (`array::plan`) and the record of a peer come from the same code, and one script carries a join out, all or nothing, in a
//! bounded number of steps of O(log n), whatever the size of the swarm.
//!
//! | key, behind the prefix | what it holds |
//! |---|---|
//! | `record:CONTENT` | hash: peer id → record |
//! | `order:CONTENT` | sorted set of one score: the keys by which peers are found, in the order of their bytes |
//! | `due:CONTENT` | sorted set: peer id by when it expires, or by an earlier moment |
//! | `count:CONTENT` | hash: seeds, entries by site and by group |
//! | `due` | sorted set: contents by when somebody in them may have expired |
//! | `sizes`, `groups`, `groupswarms` | contents and groups by their entries, for administrators |
//! | `gate` | hash: entries in all, by address and by network |
//!
//! The scripts name their keys themselves, so this is no store for Redis in cluster mode: discovery is what spreads
//! contents.

mod link;
mod url;

use crate::array::{
    ArrayLimits, ArrayStats, Counts, Draw, GroupView, Seconds, Seen, SwarmView,
    plan::{self, Class, IN_VAIN_MAX, OPEN_PER_SITE_MAX, Place, Stretch},
    record::{RECORD_BYTES, Record},
};
use dosvc_cloud_protocol::{JoinAnswer, JoinEvent, JoinRequest, JoinToken, Scope};
use dosvc_content::ContentId;
use fastrand::Rng;
use link::Link;
pub use link::{RedisError, Unavailable};
use redis::{Script, ScriptInvocation, cmd, pipe};
use std::{path::PathBuf, sync::atomic::Ordering::Relaxed};
use tokio_util::sync::CancellationToken;
pub use url::{ParseRedisUrlError, RedisUrl};

/// Entries that one call of the sweep looks at: others wait for as long as that takes, about a millisecond.
const SWEEP_ENTRIES: usize = 100;
/// Calls of one sweep. What is left is removed by the next one; it is named to nobody.
const SWEEP_CALLS_MAX: usize = 100_000;

/// Where the array's swarms are, when that is not this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisConfig {
    /// The primary and its replicas, in any order; the one that says that it is the primary is used. None: the swarms are
    /// in this process.
    pub servers: Vec<RedisUrl>,
    /// The name of the primary: then `servers` are Sentinels, which know where it is.
    pub sentinel: Option<String>,
    /// A file whose first line is the password; read for every connection.
    pub password_file: Option<PathBuf>,
    /// The certificates that a server's own must be signed by, for TLS; `None`: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// What the names of all keys begin with.
    pub prefix: String,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            sentinel: None,
            password_file: None,
            ca_file: None,
            prefix: "dosvc:".to_owned(),
        }
    }
}

/// The swarms of all processes that are told of the same Redis and prefix.
#[derive(Debug)]
pub struct RedisArray {
    limits: ArrayLimits,
    prefix: String,
    link: Link,
    join: Script,
    sweep: Script,
    counts: Counts,
}

/// What the script for joins answers.
type Joined = (String, Vec<u8>, Vec<u8>, Vec<Vec<u8>>);

impl RedisArray {
    /// Connects, and stays connected until `stop`. A store that is out of reach is waited for: until it is there, joins
    /// are [`Unavailable`].
    ///
    /// # Errors
    /// A server that answers, and will never do: another service, a wrong password, cluster mode, a version before 5.
    pub async fn open(
        config: &RedisConfig,
        limits: ArrayLimits,
        stop: CancellationToken,
    ) -> Result<Self, RedisError> {
        let script =
            |text: &str| Script::new(&format!("{}{text}", include_str!("remote/swarm.lua")));
        Ok(Self {
            limits: limits.permitted(),
            prefix: config.prefix.clone(),
            link: Link::open(config.clone(), stop).await?,
            join: script(include_str!("remote/join.lua")),
            sweep: script(include_str!("remote/sweep.lua")),
            counts: Counts::default(),
        })
    }

    /// Whether a primary is connected.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// The limits in force.
    pub fn limits(&self) -> &ArrayLimits {
        &self.limits
    }

    /// Carries out a join, an update or a leave.
    ///
    /// # Errors
    /// When the store can't be asked now. The join may have been carried out all the same.
    pub async fn join(
        &self,
        now: Seconds,
        draw: Draw,
        seen: Seen,
        request: &JoinRequest,
    ) -> Result<JoinAnswer, Unavailable> {
        let mut random = Rng::with_seed(draw.seed);
        let record = Record::of(request, seen, draw.token, now + self.limits.lifetime());
        let mut answer = JoinAnswer {
            peers: Vec::new(),
            next_join_seconds: self.limits.next_join(&mut random),
            external_ip: seen.address.to_canonical(),
            token: None,
        };
        // A peer whose mode is the group's, without a group, has nobody to meet.
        if request.event == JoinEvent::Leave || record.can_meet_anybody() {
            let call = self.join_call(now, &record, request, &mut random);
            let (status, token, scopes, records): Joined = self.link.run(&call).await?;
            self.count(&status);
            answer.token = token.try_into().ok().map(u64::from_le_bytes).map(JoinToken);
            answer.peers.extend(
                scopes
                    .into_iter()
                    .zip(&records)
                    .filter_map(|(scope, record)| {
                        let record: &[u8; RECORD_BYTES] = record.as_slice().try_into().ok()?;
                        let scope = Scope::ALL.into_iter().find(|s| s.number() == scope)?;
                        Some(Record::from_bytes(record).shown(scope))
                    }),
            );
        }
        self.counts.joins.fetch_add(1, Relaxed);
        let named = answer.peers.len() as u64;
        self.counts.peers_named.fetch_add(named, Relaxed);
        Ok(answer)
    }

    fn join_call<'a>(
        &'a self,
        now: Seconds,
        record: &Record,
        request: &JoinRequest,
        random: &mut Rng,
    ) -> ScriptInvocation<'a> {
        let limits = &self.limits;
        let leaves = request.event == JoinEvent::Leave;
        let token = request.token.map(|token| token.0.to_le_bytes());
        let mut plan = Vec::new();
        if !leaves {
            for class in plan::classes(record) {
                put_class(&mut plan, &class);
            }
        }
        let mut call = self.join.prepare_invoke();
        call.arg(self.prefix.as_str())
            .arg(now)
            .arg(request.content_id.as_str())
            .arg(&record.to_bytes()[..])
            .arg(token.as_ref().map_or(&[][..], |token| &token[..]))
            .arg(if leaves { "leave" } else { "join" })
            .arg(limits.wanted(request))
            .arg(random.u32(..1 << 31))
            .arg(plan)
            .arg(limits.entries_max)
            .arg(limits.entries_per_address_max)
            .arg(limits.entries_per_network_max)
            .arg(limits.swarms_max)
            .arg(OPEN_PER_SITE_MAX)
            .arg(IN_VAIN_MAX);
        call
    }

    fn count(&self, status: &str) {
        let counter = match status {
            "left" => &self.counts.left,
            "foreign" => &self.counts.unlisted_foreign,
            "full" => &self.counts.unlisted_full,
            _ => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Removes what nobody has renewed, a part at a time. Any number of processes may do so.
    ///
    /// # Errors
    /// When the store can't be asked now.
    pub async fn expire(&self, now: Seconds) -> Result<(), Unavailable> {
        for _ in 0..SWEEP_CALLS_MAX {
            let mut call = self.sweep.prepare_invoke();
            call.arg(self.prefix.as_str()).arg(now).arg(SWEEP_ENTRIES);
            let (gone, more): (u64, u64) = self.link.run(&call).await?;
            self.counts.expired.fetch_add(gone, Relaxed);
            if more == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Entries and swarms of all processes, the memory of the whole server, and what this process has counted.
    ///
    /// # Errors
    /// When the store can't be asked now.
    pub async fn stats(&self) -> Result<ArrayStats, Unavailable> {
        let mut asks = pipe();
        asks.cmd("HGET").arg(self.key("gate")).arg("all");
        asks.cmd("ZCARD").arg(self.key("sizes"));
        asks.cmd("INFO").arg("memory");
        let (entries, swarms, memory): (Option<u64>, u64, String) = self.link.pipe(&asks).await?;
        Ok(ArrayStats {
            entries: entries.unwrap_or_default(),
            swarms,
            memory_bytes: link::info(&memory, "used_memory").unwrap_or_default(),
            ..self.counts.stats()
        })
    }

    /// The largest swarms, at most `count` of them.
    ///
    /// # Errors
    /// When the store can't be asked now.
    pub async fn largest_swarms(&self, count: usize) -> Result<Vec<SwarmView>, Unavailable> {
        let largest: Vec<(String, usize)> = self.largest("sizes", count).await?;
        if largest.is_empty() {
            return Ok(Vec::new());
        }
        let mut asks = pipe();
        for (content, _) in &largest {
            let key = self.key(&format!("count:{content}"));
            asks.cmd("HMGET").arg(key).arg(&["seed", "group", "site"]);
        }
        let counts: Vec<[Option<usize>; 3]> = self.link.pipe(&asks).await?;
        let views = largest.into_iter().zip(counts);
        Ok(views
            .filter_map(|((content, peers), counts)| {
                let [seeds, groups, sites] = counts.map(Option::unwrap_or_default);
                Some(SwarmView {
                    content_id: content.parse().ok()?,
                    peers,
                    seeds,
                    groups,
                    sites,
                })
            })
            .collect())
    }

    /// What there is to know of one swarm.
    ///
    /// # Errors
    /// When the store can't be asked now.
    pub async fn swarm(&self, id: &ContentId) -> Result<Option<SwarmView>, Unavailable> {
        let mut asks = pipe();
        asks.cmd("ZSCORE").arg(self.key("sizes")).arg(id.as_str());
        let key = self.key(&format!("count:{id}"));
        asks.cmd("HMGET").arg(key).arg(&["seed", "group", "site"]);
        let (peers, counts): (Option<usize>, [Option<usize>; 3]) = self.link.pipe(&asks).await?;
        let [seeds, groups, sites] = counts.map(Option::unwrap_or_default);
        Ok(peers.map(|peers| SwarmView {
            content_id: id.clone(),
            peers,
            seeds,
            groups,
            sites,
        }))
    }

    /// The groups with most entries, at most `count` of them.
    ///
    /// # Errors
    /// When the store can't be asked now.
    pub async fn largest_groups(&self, count: usize) -> Result<Vec<GroupView>, Unavailable> {
        let largest: Vec<(Vec<u8>, usize)> = self.largest("groups", count).await?;
        if largest.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&[u8]> = largest.iter().map(|(group, _)| group.as_slice()).collect();
        let mut asks = pipe();
        asks.cmd("HMGET").arg(self.key("groupswarms")).arg(&names);
        let (swarms,): (Vec<Option<usize>>,) = self.link.pipe(&asks).await?;
        let views = largest.iter().zip(swarms);
        Ok(views
            .map(|((group, entries), swarms)| GroupView {
                group: group.iter().take(8).map(|b| format!("{b:02x}")).collect(),
                entries: *entries,
                swarms: swarms.unwrap_or_default(),
            })
            .collect())
    }

    async fn largest<T: redis::FromRedisValue>(
        &self,
        key: &str,
        count: usize,
    ) -> Result<T, Unavailable> {
        let mut ask = cmd("ZREVRANGE");
        ask.arg(self.key(key)).arg(0).arg(count.saturating_sub(1));
        self.link.ask(ask.arg("WITHSCORES")).await
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// A class as the script reads it.
fn put_class(out: &mut Vec<u8>, class: &Class) {
    let parts = u8::try_from(class.parts.len()).expect("a class has few parts");
    out.extend_from_slice(&[class.scope.number(), class.strangers.into(), parts]);
    for part in &class.parts {
        put_stretch(out, &part.all);
        out.push(part.without.is_some().into());
        if let Some(without) = &part.without {
            put_stretch(out, without);
        }
    }
}

/// Both of its bounds as the server reads them: before all ids of the first place, and behind all of the last.
fn put_stretch(out: &mut Vec<u8>, stretch: &Stretch) {
    let mut put = |sign, (list, seed, major, site): Place| {
        out.push(sign);
        out.push(2 * list as u8 + u8::from(seed));
        out.extend_from_slice(&major.to_be_bytes());
        out.extend_from_slice(&site.to_be_bytes());
    };
    put(b'(', stretch.first);
    put(b'[', stretch.last);
    out.extend_from_slice(&[0xff; 20]);
}
