//! One swarm: its peers, and who of them is drawn for whom.

use super::{
    Seconds, SwarmView,
    gate::Gate,
    ordered::Ordered,
    plan::{self, Class, IN_VAIN_MAX, OPEN_PER_SITE_MAX, Part, Place, Stretch},
    record::{Key, List, Record, Site},
    sample::{Drawn, Draws},
};
use dosvc_cloud_protocol::{JoinToken, Scope};
use dosvc_content::{ContentId, PeerId};
use fastrand::Rng;
use hashbrown::HashTable;
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    ops::Range,
    sync::LazyLock,
};

/// Records are addressed by 31 bits: the last one of a number says which list an entry stands in.
const GROUP_BIT: u32 = 1 << 31;

/// Peer ids are chosen by peers; where they lie in tables is not.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// How a join ended for the peer's entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Listed, with this token.
    Listed(u64),
    /// Without its token: still listed as it was.
    Renewed,
    /// Another has this id.
    Foreign,
    /// A limit is reached.
    Full,
}

#[derive(Debug)]
pub(super) struct Swarm {
    content_id: ContentId,
    /// Dense; the last one takes the place of one that goes.
    records: Vec<Record>,
    by_id: HashTable<u32>,
    order: Ordered,
}

impl Swarm {
    pub(super) fn new(content_id: ContentId) -> Self {
        Self {
            content_id,
            records: Vec::new(),
            by_id: HashTable::new(),
            order: Ordered::default(),
        }
    }

    pub(super) fn content_id(&self) -> &ContentId {
        &self.content_id
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Groups with their entries.
    pub(super) fn groups(&self) -> HashMap<u128, usize> {
        let mut groups = HashMap::new();
        for group in self.records.iter().filter_map(Record::group) {
            *groups.entry(group).or_default() += 1;
        }
        groups
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes a peer in, or what is new of it.
    pub(super) fn admit(
        &mut self,
        now: Seconds,
        record: &Record,
        token: Option<JoinToken>,
        gate: &Gate,
    ) -> Admission {
        let Some(number) = self.find(&record.id()) else {
            return self.add(record, gate);
        };
        let known = self.records[number as usize];
        if known.expires <= now {
            gate.release(&self.take(number));
            return self.add(record, gate);
        }
        match token {
            Some(token) if token.0 == known.token() => {
                let mut record = *record;
                record.set_token(token.0);
                self.replace(number, record, gate)
            }
            None if known.same_addresses(record) => {
                let mut renewed = known;
                renewed.renew(record);
                match self.replace(number, renewed, gate) {
                    Admission::Listed(_) => Admission::Renewed,
                    other => other,
                }
            }
            _ => Admission::Foreign,
        }
    }

    fn add(&mut self, record: &Record, gate: &Gate) -> Admission {
        if self.records.len() >= GROUP_BIT as usize || !gate.admit(record) {
            return Admission::Full;
        }
        self.put(*record);
        Admission::Listed(record.token())
    }

    /// The peer says something new of itself. Most say nothing new, and then nothing moves.
    fn replace(&mut self, number: u32, mut record: Record, gate: &Gate) -> Admission {
        let known = self.records[number as usize];
        let may_be_open = record.may_be_open();
        record.set_open(may_be_open && (known.is_open() || self.has_open_place(&record)));
        let lists = |r: &Record| r.lists().map(|list| r.key(list)).collect::<Vec<_>>();
        if known.external() == record.external() && lists(&known) == lists(&record) {
            self.records[number as usize] = record;
            return Admission::Listed(record.token());
        }
        gate.release(&self.take(number));
        self.add(&record, gate)
    }

    /// Removes a peer that says so itself.
    pub(super) fn leave(&mut self, id: &PeerId, token: Option<JoinToken>) -> Option<Record> {
        let number = self.find(id)?;
        let its_own = token.is_some_and(|t| t.0 == self.records[number as usize].token());
        its_own.then(|| self.take(number))
    }

    /// Removes what nobody has renewed; answers how many.
    pub(super) fn expire(&mut self, now: Seconds, gate: &Gate) -> u64 {
        let mut gone = 0;
        // Backwards: what takes the place of one that goes has been looked at.
        for at in (0..self.records.len()).rev() {
            if self.records[at].expires <= now {
                let number = u32::try_from(at).expect("records have numbers of 31 bits");
                gate.release(&self.take(number));
                gone += 1;
            }
        }
        if self.records.len() < self.records.capacity() / 2 {
            self.records.shrink_to_fit();
            self.by_id
                .shrink_to_fit(|number| hash(&self.records[*number as usize].id()));
        }
        gone
    }

    fn find(&self, id: &PeerId) -> Option<u32> {
        let same = |number: &u32| self.records[*number as usize].id() == *id;
        self.by_id.find(hash(id), same).copied()
    }

    fn put(&mut self, mut record: Record) {
        let number = u32::try_from(self.records.len()).expect("counted before");
        record.set_open(record.may_be_open() && self.has_open_place(&record));
        if self.records.len() == self.records.capacity() {
            self.records.reserve_exact((self.records.len() / 8).max(4));
        }
        self.records.push(record);
        let records = &self.records;
        self.by_id
            .insert_unique(hash(&record.id()), number, |number| {
                hash(&records[*number as usize].id())
            });
        for list in record.lists() {
            let key = record.key(list);
            self.order
                .insert(entry(number, list), |e| key_of(&self.records, e) < key);
        }
    }

    fn take(&mut self, number: u32) -> Record {
        let gone = self.records[number as usize];
        self.unlist(number, &gone);
        let last = u32::try_from(self.records.len() - 1).expect("records have numbers of 31 bits");
        if last != number {
            // It stands under both numbers while the lists change from one to the other.
            let moved = self.records[last as usize];
            self.records[number as usize] = moved;
            for list in moved.lists() {
                let key = moved.key(list);
                self.order
                    .renumber(entry(last, list), entry(number, list), |e| {
                        key_of(&self.records, e) < key
                    });
            }
            if let Some(slot) = self.by_id.find_mut(hash(&moved.id()), |n| *n == last) {
                *slot = number;
            }
        }
        self.records.pop();
        gone
    }

    fn unlist(&mut self, number: u32, record: &Record) {
        for list in record.lists() {
            let key = record.key(list);
            let records = &self.records;
            let was_there = self
                .order
                .remove(entry(number, list), |e| key_of(records, e) < key);
            debug_assert!(was_there, "a listed peer stands in its lists");
        }
        if let Ok(found) = self.by_id.find_entry(hash(&record.id()), |n| *n == number) {
            found.remove();
        }
    }

    /// Whether strangers may be told of another peer of the record's site.
    fn has_open_place(&self, record: &Record) -> bool {
        let open = [false, true].map(|seed| {
            let place = (List::Open, seed, record.country().into(), record.site().0);
            let here = Stretch {
                first: place,
                last: place,
            };
            self.ranks(&here).len()
        });
        open[0] + open[1] < OPEN_PER_SITE_MAX
    }

    /// The ranks of a stretch of the order.
    fn ranks(&self, stretch: &Stretch) -> Range<usize> {
        let key = |(list, seed, major, site): Place, id| Key {
            list,
            seed,
            major,
            site,
            id,
        };
        let (low, high) = (key(stretch.first, [0; 20]), key(stretch.last, [0xff; 20]));
        let start = self.order.rank(|e| key_of(&self.records, e) < low);
        let end = self.order.rank(|e| key_of(&self.records, e) <= high);
        start..end
    }

    /// Draws peers for one that asks, the best first.
    pub(super) fn draw(
        &self,
        now: Seconds,
        asks: &Record,
        wanted: usize,
        random: &mut Rng,
    ) -> Vec<Drawn> {
        let mut hand = Hand {
            swarm: self,
            now,
            asks,
            wanted,
            random,
            drawn: Vec::with_capacity(wanted.min(self.records.len())),
        };
        for class in plan::classes(asks) {
            if hand.drawn.len() >= wanted {
                break;
            }
            hand.deal(&class);
        }
        hand.drawn
    }

    pub(super) fn view(&self) -> SwarmView {
        let sites: HashSet<Site> = self.records.iter().map(Record::site).collect();
        SwarmView {
            content_id: self.content_id.clone(),
            peers: self.records.len(),
            seeds: self.records.iter().filter(|r| r.is_seed()).count(),
            groups: self.groups().len(),
            sites: sites.len(),
        }
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
            + self.by_id.allocation_size()
            + self.order.memory_bytes()
            + self.content_id.as_str().len()
    }
}

/// One answer in the making.
struct Hand<'a> {
    swarm: &'a Swarm,
    now: Seconds,
    asks: &'a Record,
    wanted: usize,
    random: &'a mut Rng,
    drawn: Vec<Drawn>,
}

impl Hand<'_> {
    /// Draws from a class until the hand is full, or too many were drawn in vain.
    fn deal(&mut self, class: &Class) {
        let swarm = self.swarm;
        let ranges: Vec<_> = class.parts.iter().flat_map(|p| self.ranges(p)).collect();
        let mut draws = Draws::from(&ranges);
        let mut in_vain = 0;
        let mut entries = Vec::with_capacity(self.wanted);
        while self.drawn.len() < self.wanted && in_vain < IN_VAIN_MAX {
            // As many at once as are missing: what is looked up far apart in memory is then looked up together.
            entries.clear();
            for _ in self.drawn.len()..self.wanted {
                let rank = draws.next(self.random);
                entries.extend(rank.and_then(|rank| swarm.order.at(rank)));
            }
            if entries.is_empty() {
                return;
            }
            for entry in &entries {
                let record = &swarm.records[(entry & !GROUP_BIT) as usize];
                if self.fits(record) && !(class.strangers && self.asks.is_near(record)) {
                    self.drawn.push((class.scope, *record));
                } else {
                    in_vain += 1;
                }
            }
        }
    }

    fn fits(&self, record: &Record) -> bool {
        record.expires > self.now && record.id() != self.asks.id()
    }

    /// The ranks of a part: before and behind what is left out.
    fn ranges(&self, part: &Part) -> [Range<usize>; 2] {
        let all = self.swarm.ranks(&part.all);
        let without = part.without.map(|inner| self.swarm.ranks(&inner));
        match without.filter(|inner| !inner.is_empty()) {
            Some(inner) => [all.start..inner.start, inner.end..all.end],
            None => [all.clone(), all.end..all.end],
        }
    }
}

fn entry(number: u32, list: List) -> u32 {
    match list {
        List::Group | List::GroupToo => number | GROUP_BIT,
        List::Lan | List::Open => number,
    }
}

fn key_of(records: &[Record], entry: u32) -> Key {
    let record = &records[(entry & !GROUP_BIT) as usize];
    let list = match (entry & GROUP_BIT != 0, record.scope()) {
        (true, Scope::Internet) => List::GroupToo,
        (true, _) => List::Group,
        (false, _) if record.is_open() => List::Open,
        (false, _) => List::Lan,
    };
    record.key(list)
}

fn hash(id: &PeerId) -> u64 {
    HASHER.hash_one(id)
}
