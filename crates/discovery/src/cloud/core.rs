//! The whole client without HTTP, file and clock: what to ask next, when, and what is known. Pure: `now` and the seed
//! are arguments; the same inputs give the same questions.

use super::{
    chain::{Chain, Link, read},
    failure::Failure,
    limits::{ARRAYS_FRESH, IDLE_JOIN_GAP, MEMBERS_MAX, NEIGHBOURS_MAX, QUESTIONS_MAX},
    member::{Announcement, Arrays, Context, Device, Member, Remembered, arrays_of},
    policies::{Policies, PolicyState},
    question::{Ask, Outcome, PolicyKey, Question},
};
use crate::random::Random;
use dosvc_cloud_protocol::{ArrayPeer, DiscoveryAnswer, HttpUrl, JoinAnswer, JoinEvent, Scope};
use dosvc_content::{HashOfHashes, PeerId};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Core {
    peer: PeerId,
    random: Random,
    pub(super) chain: Chain,
    pub(super) policies: Policies,
    pub(super) members: BTreeMap<HashOfHashes, Member>,
    /// What the file knows of contents that are not joined.
    pub(super) remembered: BTreeMap<HashOfHashes, Remembered>,
    device: Device,
    asking: usize,
    /// When the next content that lies idle may be joined.
    idle_due: Instant,
    /// Counts joins.
    seq: u32,
    /// Addresses of our LAN that arrays have named, and until when that counts.
    neighbours: BTreeMap<IpAddr, Instant>,
    /// The address that an array saw last.
    pub(super) external: Option<IpAddr>,
    /// Something is known now that the file does not have.
    pub(super) unsaved: bool,
}

impl Core {
    pub(crate) fn new(
        peer: PeerId,
        geo_url: HttpUrl,
        geo_version_url: HttpUrl,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            peer,
            random: Random::new(seed),
            chain: Chain::new(geo_url, geo_version_url, now),
            policies: Policies::default(),
            members: BTreeMap::new(),
            remembered: BTreeMap::new(),
            device: Device::default(),
            asking: 0,
            idle_due: now,
            seq: 0,
            neighbours: BTreeMap::new(),
            external: None,
            unsaved: false,
        }
    }

    // What is wanted

    /// What joins say of the machine from now on.
    pub(crate) fn set_device(&mut self, now: Instant, device: Device) {
        let old = std::mem::replace(&mut self.device, device);
        self.chain.set_group(device.group, now);
        let addresses = |d: &Device| (d.port, d.ipv4, d.ipv6, d.teredo);
        if addresses(&old) == addresses(&device) {
            return;
        }
        if (old.ipv4, old.ipv6) != (device.ipv4, device.ipv6) && old != Device::default() {
            // Another network: geo may say something else.
            self.chain.anew(now);
        }
        for member in self.members.values_mut() {
            member.device_changed(now, &mut self.random);
        }
    }

    /// Says this of a content from now on; false when too many are joined already.
    pub(crate) fn announce(&mut self, now: Instant, announcement: Announcement) -> bool {
        let content = announcement.content;
        let wanted = announcement.wanted;
        let Some((member, random)) = self.member(now, content) else {
            return false;
        };
        let is_new = member.announcement().is_none_or(|before| !before.wanted);
        member.announce(now, announcement, random);
        if wanted && is_new {
            self.chain.hurry(now);
        }
        true
    }

    /// Says nothing more of the content, unless it is searched.
    pub(crate) fn withdraw(&mut self, now: Instant, content: &HashOfHashes) {
        if let Some(member) = self.members.get_mut(content) {
            member.withdraw(now);
        }
        self.forget_if_over(now, content);
    }

    /// Leaves everything.
    pub(crate) fn withdraw_all(&mut self, now: Instant) {
        self.neighbours.clear();
        let contents: Vec<HashOfHashes> = self.members.keys().copied().collect();
        for content in contents {
            if let Some(member) = self.members.get_mut(&content) {
                member.drop_all(now);
            }
            self.forget_if_over(now, &content);
        }
    }

    /// Looks for peers of a content; `default` is what is said of it while nothing is announced.
    pub(crate) fn begin_search(&mut self, now: Instant, default: Announcement) -> bool {
        let Some((member, random)) = self.member(now, default.content) else {
            return false;
        };
        member.begin_search(now, default, random);
        self.chain.hurry(now);
        true
    }

    pub(crate) fn end_search(&mut self, now: Instant, content: &HashOfHashes) {
        if let Some(member) = self.members.get_mut(content) {
            member.end_search(now);
        }
        self.forget_if_over(now, content);
    }

    /// A peer that nobody has named dialled us for this content.
    pub(crate) fn stranger(&mut self, now: Instant, content: &HashOfHashes) {
        if let Some(member) = self.members.get_mut(content).filter(|m| !m.is_leaving()) {
            member.stranger(now);
        }
    }

    fn member(
        &mut self,
        now: Instant,
        content: HashOfHashes,
    ) -> Option<(&mut Member, &mut Random)> {
        if !self.members.contains_key(&content) && self.members.len() >= MEMBERS_MAX {
            return None;
        }
        let remembered = &mut self.remembered;
        let member = self
            .members
            .entry(content)
            .or_insert_with(|| Member::new(remembered.remove(&content), now));
        Some((member, &mut self.random))
    }

    /// Forgets a content of which nothing is to be said and nothing to be taken back.
    fn forget_if_over(&mut self, now: Instant, content: &HashOfHashes) {
        let Some(member) = self.members.get(content).filter(|m| m.is_over(now)) else {
            return;
        };
        let known = member.remembered();
        self.members.remove(content);
        if known.token.is_some() && self.remembered.len() < MEMBERS_MAX {
            self.remembered.insert(*content, known);
        }
    }

    /// Somebody waits for a content policy, until [`Self::unwant_policy`]. False: too many are waited for.
    pub(crate) fn want_policy(&mut self, now: Instant, key: &PolicyKey) -> bool {
        let room = self.policies.want(now, key);
        if room && self.chain.answers(now).is_none() {
            self.chain.hurry(now);
        }
        room
    }

    pub(crate) fn unwant_policy(&mut self, key: &PolicyKey) {
        self.policies.unwant(key);
    }

    /// Where the question for a policy stands for somebody who has waited since then.
    pub(crate) fn policy(&self, now: Instant, key: &PolicyKey, since: Instant) -> PolicyState {
        let state = self.policies.state(now, key, since);
        match self.chain.failure_since(since, now) {
            Some(failure) if state == PolicyState::Pending => PolicyState::Failed(failure.clone()),
            _ => state,
        }
    }

    // Questions

    /// What is to be asked now; the caller asks until there is nothing.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Ask> {
        if self.asking >= QUESTIONS_MAX || self.work_due(now).is_none_or(|at| at > now) {
            return None;
        }
        let ask = self.poll_any(now)?;
        self.asking += 1;
        Some(ask)
    }

    fn poll_any(&mut self, now: Instant) -> Option<Ask> {
        if self.needs_chain(now)
            && let Some(ask) = self.chain.poll(now, &mut self.random)
        {
            return Some(ask);
        }
        let answers = self.chain.answers(now);
        if let Some(answers) = answers
            && let Some(ask) = self
                .policies
                .poll(now, answers, self.peer, self.device.group)
        {
            return Some(ask);
        }
        loop {
            let (content, urgent) = self.next_member(now)?;
            self.seq = self.seq.wrapping_add(1);
            let context = Context {
                peer: self.peer,
                device: self.device,
                answers,
                seq: self.seq,
            };
            let member = self.members.get_mut(&content)?;
            let ask = member.ask(now, content, &context);
            // Also when discovery does not answer, contents that lie idle ask one after the other.
            if !urgent {
                self.idle_due = now + IDLE_JOIN_GAP;
            }
            match ask {
                Some(ask) => return Some(ask),
                // Nobody to tell that we leave.
                None => {
                    member.handle_left(now, false);
                    self.members.remove(&content);
                }
            }
        }
    }

    /// Whether anything but leaving is due.
    fn needs_chain(&self, now: Instant) -> bool {
        let joins = self.members.values().filter(|m| !m.is_leaving());
        let joins = joins.filter_map(|m| self.member_due(m, now));
        self.policies
            .due(now)
            .into_iter()
            .chain(joins)
            .any(|at| at <= now)
    }

    /// The content that is to be joined or left next, and whether it goes ahead of others.
    fn next_member(&self, now: Instant) -> Option<(HashOfHashes, bool)> {
        let reachable = self.chain.answers(now).is_some();
        let due = self.members.iter().filter_map(|(content, member)| {
            let is_due = self.member_due(member, now).is_some_and(|at| at <= now);
            let possible = member.is_leaving() || reachable;
            // Who has waited longest comes first, so that everybody's turn comes.
            let since = member.due().filter(|_| is_due && possible)?;
            Some((!member.is_urgent(), since, *content))
        });
        due.min().map(|(idle, _, content)| (content, !idle))
    }

    /// When a content's next question is due; contents that lie idle come one after the other.
    fn member_due(&self, member: &Member, now: Instant) -> Option<Instant> {
        if self.device.port == 0 && !member.is_leaving() {
            return None;
        }
        let due = member.due()?;
        if member.is_leaving() && member.is_over(now) {
            return None;
        }
        Some(match member.is_urgent() {
            true => due,
            false => due.max(self.idle_due),
        })
    }

    fn work_due(&self, now: Instant) -> Option<Instant> {
        let members = self.members.values();
        let members = members.filter_map(|member| self.member_due(member, now));
        self.policies.due(now).into_iter().chain(members).min()
    }

    /// When [`Self::poll`] may have something.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Instant> {
        if self.asking >= QUESTIONS_MAX {
            return None;
        }
        let leaving = self.members.values().filter(|m| m.is_leaving());
        let leaving = leaving.filter_map(|m| self.member_due(m, now)).min();
        let work = self.work_due(now)?;
        if self.chain.answers(now).is_some() {
            return Some(work);
        }
        // Without addresses everything but leaving waits for the chain.
        let joins = self.members.values().filter(|m| !m.is_leaving());
        let joins = joins.filter_map(|m| self.member_due(m, now));
        let blocked = self.policies.due(now).into_iter().chain(joins).min();
        let chained = blocked.and_then(|at| Some(at.max(self.chain.due(now)?)));
        leaving.into_iter().chain(chained).min()
    }

    // Answers

    /// What came back. The peers that an array has named, for those who look for them.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        question: Question,
        outcome: Outcome,
    ) -> Option<(HashOfHashes, Vec<ArrayPeer>)> {
        self.asking = self.asking.saturating_sub(1);
        let random = &mut self.random;
        self.unsaved |= outcome.is_ok() && !matches!(question, Question::Join(..));
        match question {
            Question::Geo => self.chain.handle_geo(now, outcome, random),
            Question::GeoVersion => self.chain.handle_geo_version(now, outcome, random),
            Question::KeyValue => self.chain.handle_key_value(now, outcome, random),
            Question::Policy(key) => self.policies.handle(now, &key, outcome, random),
            Question::Discovery(content) => self.handle_discovery(now, content, outcome),
            Question::Join(content, JoinEvent::Leave) => {
                if let Some(member) = self.members.get_mut(&content) {
                    let heard = outcome.is_ok_and(|reply| reply.status == 200);
                    self.unsaved |= heard;
                    member.handle_left(now, heard);
                }
                self.forget_if_over(now, &content);
            }
            Question::Join(content, _) => return self.handle_join(now, content, outcome),
        }
        None
    }

    fn handle_discovery(&mut self, now: Instant, content: HashOfHashes, outcome: Outcome) {
        let read = read(
            outcome,
            DiscoveryAnswer::from_json,
            ARRAYS_FRESH,
            &mut self.random,
        );
        let (arrays, fresh) = match read {
            Ok((answer, fresh)) => (self.shared_arrays(arrays_of(answer)), fresh),
            Err((failure, retry_after)) => {
                if let Some(member) = self.members.get_mut(&content) {
                    member.handle_failed(now, failure, retry_after, &mut self.random);
                }
                return self.forget_if_over(now, &content);
            }
        };
        if let Some(member) = self.members.get_mut(&content) {
            member.handle_arrays(now, arrays, fresh);
        }
        self.forget_if_over(now, &content);
    }

    /// The same list as another content has, where one has it: memory for one of them.
    fn shared_arrays(&self, arrays: Arrays) -> Arrays {
        let known = self.members.values().filter_map(|m| m.arrays.as_ref());
        let mut known = known.map(|(arrays, _)| arrays);
        known
            .find(|known| **known == arrays)
            .cloned()
            .unwrap_or(arrays)
    }

    fn handle_join(
        &mut self,
        now: Instant,
        content: HashOfHashes,
        outcome: Outcome,
    ) -> Option<(HashOfHashes, Vec<ArrayPeer>)> {
        let read = read(
            outcome,
            JoinAnswer::from_json,
            Duration::ZERO,
            &mut self.random,
        );
        let member = self.members.get_mut(&content)?;
        match read {
            Ok((answer, _)) => {
                self.external = Some(answer.external_ip);
                let before = member.token;
                member.handle_joined(now, &answer, &mut self.random);
                self.unsaved |= member.token != before;
                if member.is_leaving() {
                    self.forget_if_over(now, &content);
                    return None;
                }
                self.note_neighbours(now, &answer);
                let own = self.peer;
                let others = answer.peers.into_iter().filter(|peer| peer.peer_id != own);
                Some((content, others.collect()))
            }
            Err((failure, retry_after)) => {
                member.handle_failed(now, failure, retry_after, &mut self.random);
                self.forget_if_over(now, &content);
                None
            }
        }
    }

    /// Who is of our LAN counts until the second join from here on: then it has been named again, or has gone.
    fn note_neighbours(&mut self, now: Instant, answer: &JoinAnswer) {
        let until = now + 2 * Duration::from_secs(answer.next_join_seconds.into());
        let of_lan = answer.peers.iter().filter(|peer| peer.scope == Scope::Lan);
        let addresses = of_lan.flat_map(|peer| {
            let (v4, v6) = (peer.lan_ip.map(IpAddr::V4), peer.lan_ipv6.map(IpAddr::V6));
            v4.into_iter().chain(v6)
        });
        for address in addresses {
            if self.neighbours.len() >= NEIGHBOURS_MAX && !self.neighbours.contains_key(&address) {
                self.neighbours.retain(|_, until| *until > now);
            }
            if self.neighbours.len() < NEIGHBOURS_MAX || self.neighbours.contains_key(&address) {
                let known = self.neighbours.entry(address).or_insert(until);
                *known = until.max(*known);
            }
        }
    }

    /// Whether an array has named a peer of our LAN at this address.
    pub(crate) fn is_neighbour(&self, now: Instant, address: IpAddr) -> bool {
        let known = self.neighbours.get(&address.to_canonical());
        known.is_some_and(|until| *until > now)
    }

    /// The network may be back: what failed is tried again.
    pub(crate) fn try_again(&mut self, now: Instant) {
        if self.chain.broken(now).is_some() {
            self.chain.hurry(now);
        }
        for member in self.members.values_mut() {
            member.try_again(now, &mut self.random);
        }
    }

    /// Why nothing can be asked beyond the chain; `None` while it works, or nothing has been tried.
    pub(crate) fn broken(&self, now: Instant) -> Option<(Link, Failure)> {
        let (link, failure) = self.chain.broken(now)?;
        Some((link, failure.clone()))
    }
}

#[cfg(test)]
mod tests;
