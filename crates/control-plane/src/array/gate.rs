//! What one address, one network and everybody may take.

use super::{ArrayLimits, record::Record};
use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Counters of one row: with four million entries of as many addresses a counter has four of them on average, which is
/// nothing beside the limits.
const WIDTH: usize = 1 << 20;

/// Entries by address and by network, in memory that does not grow: a count-min sketch (Cormode and Muthukrishnan,
/// 2005) of two rows with secret hashes. It never counts too few. It counts too many for an address whose counters in
/// both rows are shared with somebody who takes very much, by a chance of about one in 10¹² for each pair.
#[derive(Debug)]
pub(super) struct Gate {
    rows: [Row; 2],
    entries: AtomicU32,
    entries_max: u32,
    address_max: u32,
    network_max: u32,
}

#[derive(Debug)]
struct Row {
    hasher: RandomState,
    counters: Box<[AtomicU32]>,
}

impl Row {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            counters: (0..WIDTH).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn counter(&self, of: &Counted) -> &AtomicU32 {
        let hash = self.hasher.hash_one(of);
        &self.counters[usize::try_from(hash % WIDTH as u64).unwrap_or(0)]
    }
}

/// What is counted.
#[derive(Hash)]
enum Counted {
    Address(u128),
    Network(u128),
}

impl Gate {
    pub(super) fn new(limits: &ArrayLimits) -> Self {
        Self {
            rows: [Row::new(), Row::new()],
            entries: AtomicU32::new(0),
            entries_max: limits.entries_max,
            address_max: limits.entries_per_address_max,
            network_max: limits.entries_per_network_max,
        }
    }

    /// Counts an entry, unless it would be one too many. Entries that come at the same moment may pass a limit by as many
    /// as there are threads.
    pub(super) fn admit(&self, record: &Record) -> bool {
        let [address, network] = counted(record);
        if self.entries.load(Relaxed) >= self.entries_max
            || self.count(&address) >= self.address_max
            || self.count(&network) >= self.network_max
        {
            return false;
        }
        self.entries.fetch_add(1, Relaxed);
        for row in &self.rows {
            row.counter(&address).fetch_add(1, Relaxed);
            row.counter(&network).fetch_add(1, Relaxed);
        }
        true
    }

    /// Takes an entry back that was admitted with the same address.
    pub(super) fn release(&self, record: &Record) {
        self.entries.fetch_sub(1, Relaxed);
        let [address, network] = counted(record);
        for row in &self.rows {
            row.counter(&address).fetch_sub(1, Relaxed);
            row.counter(&network).fetch_sub(1, Relaxed);
        }
    }

    fn count(&self, of: &Counted) -> u32 {
        let counts = self
            .rows
            .each_ref()
            .map(|row| row.counter(of).load(Relaxed));
        counts[0].min(counts[1])
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Relaxed).into()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.rows.len() * WIDTH * size_of::<AtomicU32>()
    }
}

fn counted(record: &Record) -> [Counted; 2] {
    let site = record.site();
    [Counted::Address(site.0), Counted::Network(site.network())]
}
