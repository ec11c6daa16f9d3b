//! Swarms as bytes and back, for snapshots. Of one version only: who keeps them says which.

use super::{Array, Seconds, Shard, lock, record::Record, swarm::Admission};
use dosvc_content::ContentId;
use std::hash::BuildHasher as _;

/// Bytes that are no swarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the swarms in it can't be read")]
pub struct RestoreError;

impl Array {
    /// All swarms, a part for each shard; each is copied under its lock when it is asked for.
    pub fn export(&self) -> impl Iterator<Item = Vec<u8>> {
        self.shards.iter().map(|shard| {
            let mut out = Vec::new();
            for swarm in &lock(shard).swarms {
                let id = swarm.content_id().as_str().as_bytes();
                put_count(&mut out, id.len());
                out.extend_from_slice(id);
                put_count(&mut out, swarm.records().len());
                for record in swarm.records() {
                    out.extend_from_slice(&record.to_bytes());
                }
            }
            out
        })
    }

    /// Takes exported swarms in, within the limits, without those peers that have expired; answers how many are listed.
    ///
    /// # Errors
    /// Bytes that are no swarms; those before them are in.
    pub fn restore(&self, mut bytes: &[u8], now: Seconds) -> Result<u64, RestoreError> {
        let mut listed = 0;
        while !bytes.is_empty() {
            let length = take_count(&mut bytes)?;
            let id = take(&mut bytes, length)?;
            let id: ContentId = std::str::from_utf8(id)
                .ok()
                .and_then(|id| id.parse().ok())
                .ok_or(RestoreError)?;
            let count = take_count(&mut bytes)?;
            let hash = self.hasher.hash_one(&id);
            let mut shard = self.shard(hash);
            for _ in 0..count {
                let (record, rest) = bytes.split_first_chunk().ok_or(RestoreError)?;
                bytes = rest;
                let record = Record::from_bytes(record);
                if record.expires > now {
                    listed += u64::from(self.list(&mut shard, hash, &id, &record, now));
                }
            }
        }
        Ok(listed)
    }

    fn list(
        &self,
        shard: &mut Shard,
        hash: u64,
        id: &ContentId,
        record: &Record,
        now: Seconds,
    ) -> bool {
        let found = shard
            .swarms
            .find_mut(hash, |swarm| swarm.content_id() == id);
        let swarm = match found {
            Some(swarm) => Some(swarm),
            None => self.add_swarm(shard, hash, id),
        };
        let Some(swarm) = swarm else {
            return false;
        };
        let listed = matches!(
            swarm.admit(now, record, None, &self.gate),
            Admission::Listed(_)
        );
        if swarm.is_empty() {
            self.drop_swarm(shard, hash, id);
        }
        listed
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("ids and swarms are bounded");
    out.extend_from_slice(&count.to_le_bytes());
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], RestoreError> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(RestoreError)?;
    *bytes = rest;
    Ok(taken)
}

fn take_count(bytes: &mut &[u8]) -> Result<usize, RestoreError> {
    let (count, rest) = bytes.split_first_chunk().ok_or(RestoreError)?;
    *bytes = rest;
    Ok(u32::from_le_bytes(*count) as usize)
}
