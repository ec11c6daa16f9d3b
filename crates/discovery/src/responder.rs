//! What we say: which questions are answered, when and to whom, what is announced, what is taken back. Pure: no
//! clock, no socket, no randomness of its own.
//!
//! RFC 6762, section 6, shapes the timing: answers that several machines can give wait 20 to 120 ms; a record is
//! multicast at most once a second on a link; what the asker knows already is not said.

use crate::{
    budget::Budget,
    label::Label,
    limits::{
        ANSWERS_ENOUGH, ANSWERS_PER_SECOND_MAX, LABELS_PER_PACKET_MAX, OWN_ADDRS_MAX, PENDING_MAX,
        RECENT_MAX, TTL,
    },
    link::{Link, LinkId},
    packet::{self, Holder, Query, Question, Us},
    random::Random,
    subject::Subject,
};
use dosvc_content::PeerId;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// An answer that others may give too waits between these, so that not all come at once.
const SHARED_DELAY_MS: std::ops::RangeInclusive<u64> = 20..=120;
/// So does one to a query whose known answers go on in another packet (RFC 6762, section 7.2).
const TRUNCATED_DELAY_MS: std::ops::RangeInclusive<u64> = 400..=500;
/// The same record is not multicast again on a link before.
const REPEAT_GAP: Duration = Duration::from_secs(1);
/// An announcement is sent twice, this far apart (RFC 6762, section 8.3).
const ANNOUNCE_GAP: Duration = Duration::from_secs(1);

/// A packet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transmit {
    pub(crate) link: LinkId,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// Ourselves and what we hold.
#[derive(Debug)]
pub(crate) struct Responder {
    peer: PeerId,
    port: u16,
    mdns_port: u16,
    held: HashSet<Label>,
    pending: Vec<Pending>,
    announcements: Vec<Announcement>,
    /// Contents no longer held that somebody may remember us by.
    goodbyes: Vec<Label>,
    leaving: bool,
    /// When a record was last multicast on a link.
    multicast: HashMap<(LinkId, Subject), Instant>,
    /// When anybody was last told that we hold a content.
    told: HashMap<Label, Instant>,
    budgets: BTreeMap<LinkId, Budget>,
    random: Random,
}

/// An answer that waits for its moment.
#[derive(Debug)]
struct Pending {
    link: LinkId,
    to: Recipient,
    due: Instant,
    answers: Vec<Answer>,
}

#[derive(Debug, PartialEq, Eq)]
enum Recipient {
    Link,
    /// An asker that wants the answer for itself.
    One(SocketAddr),
    /// An asker that does not speak multicast DNS: its id and questions are repeated.
    Legacy(SocketAddr, u16, Vec<Question>),
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    subject: Subject,
    /// Who asked, if it was only one: its further known answers make this one needless.
    asker: Option<SocketAddr>,
    /// How many others have answered the same meanwhile.
    others: u8,
}

#[derive(Debug)]
struct Announcement {
    label: Label,
    due: Instant,
    last: bool,
}

impl Responder {
    pub(crate) fn new(peer: PeerId, port: u16, mdns_port: u16, random: Random) -> Self {
        Self {
            peer,
            port,
            mdns_port,
            held: HashSet::new(),
            pending: Vec::new(),
            announcements: Vec::new(),
            goodbyes: Vec::new(),
            leaving: false,
            multicast: HashMap::new(),
            told: HashMap::new(),
            budgets: BTreeMap::new(),
            random,
        }
    }

    /// Holds a content from now on; `now_downloading` tells the link at once.
    pub(crate) fn announce(&mut self, now: Instant, label: Label, now_downloading: bool) {
        self.held.insert(label);
        self.goodbyes.retain(|gone| *gone != label);
        if now_downloading {
            self.announcements.retain(|a| a.label != label);
            self.announcements.push(Announcement {
                label,
                due: now,
                last: false,
            });
        }
    }

    /// Holds a content no more. Goodbye is said only where somebody can remember us.
    pub(crate) fn withdraw(&mut self, now: Instant, label: Label) {
        self.held.remove(&label);
        self.announcements.retain(|a| a.label != label);
        if let Some(told) = self.told.remove(&label)
            && now < told + TTL
        {
            self.goodbyes.push(label);
        }
    }

    /// Says goodbye for everything and answers no more.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.told.retain(|_, told| now < *told + TTL);
        self.leaving = !self.told.is_empty() || !self.goodbyes.is_empty();
        let mut told: Vec<_> = self.told.drain().collect();
        told.sort_by_key(|&(label, at)| (std::cmp::Reverse(at), label));
        // The instance itself is taken back too, which takes all its contents with it: more names than one packet
        // holds would say nothing more.
        self.goodbyes
            .extend(told.into_iter().map(|(label, _)| label));
        self.goodbyes.truncate(LABELS_PER_PACKET_MAX);
        self.held.clear();
        self.pending.clear();
        self.announcements.clear();
    }

    pub(crate) fn holds(&self, label: &Label) -> bool {
        self.held.contains(label)
    }

    /// Whether there is anything to answer for, or still to say.
    pub(crate) fn is_active(&self) -> bool {
        !self.held.is_empty() || !self.goodbyes.is_empty() || self.leaving
    }

    /// Takes in a query that came over `link`; whether an answer now waits.
    pub(crate) fn handle_query(
        &mut self,
        now: Instant,
        link: LinkId,
        from: SocketAddr,
        query: Query,
    ) -> bool {
        let knows = |subject: &Subject| {
            matches!(subject, Subject::Content(label) if query.known.iter().any(|holder| {
                holder.peer == self.peer
                    && holder.label == *label
                    && u64::from(holder.ttl_s) >= TTL.as_secs() / 2
            }))
        };
        for pending in self.pending.iter_mut().filter(|p| p.link == link) {
            pending
                .answers
                .retain(|answer| answer.asker != Some(from) || !knows(&answer.subject));
        }
        self.pending.retain(|p| !p.answers.is_empty());

        let ours: Vec<Question> = query
            .questions
            .iter()
            .filter(|question| self.is_ours(&question.subject) && !knows(&question.subject))
            .take(LABELS_PER_PACKET_MAX)
            .cloned()
            .collect();
        if ours.is_empty() {
            return false;
        }
        let delay = if query.truncated {
            self.random.milliseconds(TRUNCATED_DELAY_MS)
        } else if ours.iter().any(|question| question.subject.is_shared()) {
            self.random.milliseconds(SHARED_DELAY_MS)
        } else {
            Duration::ZERO
        };
        let due = now + delay;
        if from.port() != self.mdns_port {
            let answers = ours.iter().map(|q| Answer::new(q.subject, from)).collect();
            let to = Recipient::Legacy(from, query.id, ours);
            self.push(link, to, due, answers);
            return true;
        }
        let (alone, all): (Vec<_>, Vec<_>) = ours.into_iter().partition(|q| q.unicast);
        if !alone.is_empty() {
            let answers = alone.iter().map(|q| Answer::new(q.subject, from)).collect();
            self.push(link, Recipient::One(from), due, answers);
        }
        for question in all {
            self.answer_link(link, due, Answer::new(question.subject, from));
        }
        true
    }

    /// Takes in that others have named themselves as holders: with enough of them our own answer is not needed.
    pub(crate) fn handle_holders(&mut self, link: LinkId, holders: &[Holder]) {
        let waiting = self.pending.iter_mut().filter(|p| p.link == link);
        for answer in waiting.flat_map(|p| &mut p.answers) {
            let Subject::Content(label) = answer.subject else {
                continue;
            };
            let others = holders
                .iter()
                .filter(|h| h.label == label && h.peer != self.peer && h.ttl_s > 0)
                .count();
            let others = u8::try_from(others).unwrap_or(u8::MAX);
            answer.others = answer.others.saturating_add(others);
        }
        for pending in &mut self.pending {
            pending.answers.retain(|a| a.others < ANSWERS_ENOUGH);
        }
        self.pending.retain(|p| !p.answers.is_empty());
    }

    /// When [`Self::poll`] has something to say next.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        let pending = self.pending.iter().map(|p| p.due);
        pending
            .chain(self.announcements.iter().map(|a| a.due))
            .min()
    }

    /// Whether something is to be said that does not wait for a moment.
    pub(crate) fn has_goodbye(&self) -> bool {
        !self.goodbyes.is_empty() || self.leaving
    }

    /// Everything that is due to be sent.
    pub(crate) fn poll(&mut self, now: Instant, links: &[Link]) -> Vec<Transmit> {
        let mut out = Vec::new();
        self.send_goodbyes(links, &mut out);
        self.send_announcements(now, links, &mut out);
        let mut i = 0;
        while i < self.pending.len() {
            if self.pending[i].due <= now {
                let pending = self.pending.swap_remove(i);
                out.extend(self.send_answer(now, pending, links));
            } else {
                i += 1;
            }
        }
        out
    }

    fn is_ours(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Content(label) => self.held.contains(label),
            Subject::Instance(peer) | Subject::Host(peer) => *peer == self.peer && self.is_active(),
            Subject::Service | Subject::ServiceTypes => self.is_active(),
        }
    }

    /// Puts an answer to the whole link where it costs least: into one that waits for the same, into one that
    /// leaves in time, or into a packet of its own.
    fn answer_link(&mut self, link: LinkId, due: Instant, answer: Answer) {
        let last = self.multicast.get(&(link, answer.subject));
        let not_before = last.map_or(due, |&at| at + REPEAT_GAP);
        let due = due.max(not_before);
        let waiting = self
            .pending
            .iter_mut()
            .filter(|p| p.link == link && p.to == Recipient::Link);
        let mut joined = None;
        for pending in waiting {
            if let Some(same) = pending
                .answers
                .iter_mut()
                .find(|a| a.subject == answer.subject)
            {
                if same.asker != answer.asker {
                    same.asker = None;
                }
                return;
            }
            if pending.due >= not_before
                && pending.due <= due
                && pending.answers.len() < LABELS_PER_PACKET_MAX
            {
                joined = Some(pending);
            }
        }
        match joined {
            Some(pending) => pending.answers.push(answer),
            None => self.push(link, Recipient::Link, due, vec![answer]),
        }
    }

    fn push(&mut self, link: LinkId, to: Recipient, due: Instant, answers: Vec<Answer>) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push(Pending {
                link,
                to,
                due,
                answers,
            });
        }
    }

    fn send_answer(&mut self, now: Instant, pending: Pending, links: &[Link]) -> Option<Transmit> {
        let link = links.iter().find(|l| l.id == pending.link)?;
        let subjects: Vec<Subject> = pending
            .answers
            .iter()
            .map(|answer| answer.subject)
            .filter(|subject| self.is_ours(subject))
            .collect();
        let budget = self
            .budgets
            .entry(link.id)
            .or_insert_with(|| Budget::new(now, ANSWERS_PER_SECOND_MAX));
        if subjects.is_empty() || !budget.take(now) {
            return None;
        }
        let addrs = own_addrs(link);
        let us = self.us(&addrs);
        let (to, bytes) = match &pending.to {
            Recipient::Link => (
                link.id.group(self.mdns_port),
                packet::response(us, &subjects),
            ),
            Recipient::One(to) => (*to, packet::response(us, &subjects)),
            Recipient::Legacy(to, id, questions) => {
                let still_ours = |question: &&Question| subjects.contains(&question.subject);
                let questions: Vec<_> = questions.iter().filter(still_ours).cloned().collect();
                (*to, packet::legacy_response(us, *id, &questions))
            }
        };
        self.remember(now, link.id, &subjects, pending.to == Recipient::Link);
        Some(Transmit {
            link: link.id,
            to,
            bytes,
        })
    }

    fn send_announcements(&mut self, now: Instant, links: &[Link], out: &mut Vec<Transmit>) {
        let mut due = Vec::new();
        self.announcements.retain_mut(|announcement| {
            if announcement.due > now {
                return true;
            }
            due.push(Subject::Content(announcement.label));
            announcement.due = now + ANNOUNCE_GAP;
            !std::mem::replace(&mut announcement.last, true)
        });
        for subjects in due.chunks(LABELS_PER_PACKET_MAX) {
            for link in links {
                let addrs = own_addrs(link);
                out.push(Transmit {
                    link: link.id,
                    to: link.id.group(self.mdns_port),
                    bytes: packet::response(self.us(&addrs), subjects),
                });
                self.remember(now, link.id, subjects, true);
            }
        }
    }

    fn send_goodbyes(&mut self, links: &[Link], out: &mut Vec<Transmit>) {
        let labels = std::mem::take(&mut self.goodbyes);
        let leaving = std::mem::take(&mut self.leaving);
        let mut packets: Vec<&[Label]> = labels.chunks(LABELS_PER_PACKET_MAX).collect();
        if leaving && packets.is_empty() {
            packets.push(&[]);
        }
        for labels in packets {
            out.extend(links.iter().map(|link| Transmit {
                link: link.id,
                to: link.id.group(self.mdns_port),
                bytes: packet::goodbye(self.us(&[]), labels, leaving),
            }));
        }
    }

    fn us<'a>(&self, addrs: &'a [IpAddr]) -> Us<'a> {
        Us {
            peer: self.peer,
            port: self.port,
            addrs,
        }
    }

    fn remember(&mut self, now: Instant, link: LinkId, subjects: &[Subject], multicast: bool) {
        for &subject in subjects {
            if multicast {
                make_room(&mut self.multicast, now, REPEAT_GAP);
                self.multicast.insert((link, subject), now);
            }
            if let Subject::Content(label) = subject {
                make_room(&mut self.told, now, TTL);
                self.told.insert(label, now);
            }
        }
    }
}

impl Answer {
    fn new(subject: Subject, asker: SocketAddr) -> Self {
        Self {
            subject,
            asker: Some(asker),
            others: 0,
        }
    }
}

fn own_addrs(link: &Link) -> Vec<IpAddr> {
    link.own_addrs().take(OWN_ADDRS_MAX).collect()
}

/// Forgets what is older than `age` when a map is full, and everything if that is not enough.
fn make_room<K: Eq + Hash>(map: &mut HashMap<K, Instant>, now: Instant, age: Duration) {
    if map.len() >= RECENT_MAX {
        map.retain(|_, at| now < *at + age);
    }
    if map.len() >= RECENT_MAX {
        map.clear();
    }
}

#[cfg(test)]
mod tests;
