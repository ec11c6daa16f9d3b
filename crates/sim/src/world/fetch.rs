//! HTTP: one fetch is one response on a connection that was kept.

use super::{Event, World};
use crate::{
    network::{FlowId, Node},
    queue::Nanos,
};
use dosvc_content::{Block, PieceIndex};
use dosvc_scheduler::{FetchEnd, FetchId, SourceId};
use std::{collections::VecDeque, time::Duration};

/// A dead origin is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// Progress is told after this many bytes.
const PROGRESS_BYTES: u32 = 128 << 10;

/// One fetch.
#[derive(Debug)]
pub(super) struct Fetch {
    at: Node,
    server: Node,
    source: SourceId,
    id: FetchId,
    /// Blocks still to come, in order.
    blocks: VecDeque<Block>,
    bytes: u64,
    /// Once the response has begun.
    flow: Option<FlowId>,
    /// Bytes of whole blocks that arrived.
    taken: u64,
    /// Bytes of the block that is arriving which the scheduler knows of.
    told: u32,
    ended: bool,
}

impl World<'_> {
    pub(super) fn fetch(
        &mut self,
        at: Node,
        server: Node,
        source: SourceId,
        id: FetchId,
        first: PieceIndex,
        count: u32,
    ) {
        let lengths = self.scenario.lengths;
        let pieces = (first.get()..first.get() + count)
            .map(|p| lengths.piece(p).expect("asked for real pieces"));
        let blocks: VecDeque<Block> = pieces.flat_map(|p| lengths.blocks(p)).collect();
        let number = u32::try_from(self.fetches.len()).expect("fewer fetches than that");
        self.fetches.push(Fetch {
            at,
            server,
            source,
            id,
            bytes: blocks.iter().map(|b| u64::from(b.len())).sum(),
            blocks,
            flow: None,
            taken: 0,
            told: 0,
            ended: false,
        });
        self.machines[at].fetches.insert(id.0, number);
        let arrives = self.now + self.network.latency(at, server);
        self.push(arrives, Event::FetchArrives(number));
    }

    pub(super) fn cancel_fetch(&mut self, at: Node, id: FetchId) {
        if let Some(number) = self.machines[at].fetches.remove(&id.0) {
            self.end_fetch(number);
        }
    }

    fn end_fetch(&mut self, number: u32) {
        let fetch = &mut self.fetches[number as usize];
        fetch.ended = true;
        fetch.blocks = VecDeque::new();
        if let Some(flow) = fetch.flow {
            self.network.close(flow);
        }
    }

    /// How much of the block is here from this source.
    pub(super) fn fetched(&self, at: Node, from: SourceId, block: Block) -> u32 {
        let running = self.machines[at].fetches.values();
        let mut running = running.map(|n| &self.fetches[*n as usize]);
        let of = |f: &&Fetch| f.source == from && f.blocks.front() == Some(&block);
        let fetch = running.find(of);
        fetch
            .and_then(|f| Some((f, f.flow?)))
            .map_or(0, |(f, flow)| {
                let here = self.network.flow(flow).delivered() - f.taken;
                u32::try_from(here).map_or(block.len(), |here| here.min(block.len()))
            })
    }

    /// The request is at the server.
    pub(super) fn fetch_arrives(&mut self, number: u32) {
        let fetch = &self.fetches[number as usize];
        if fetch.ended {
            return;
        }
        let (at, server, bytes) = (fetch.at, fetch.server, fetch.bytes);
        if !self.machines[server].alive {
            let back: Nanos = self.now + self.network.latency(at, server);
            return self.push(back, Event::FetchFails(number));
        }
        let flow = self.network.open_response(server, at);
        self.responses.push(number);
        self.fetches[number as usize].flow = Some(flow);
        self.network.flow_mut(flow).unshared = true;
        self.network.write(flow, bytes, self.now);
    }

    /// More of the response is here.
    pub(super) fn fetch_landed(&mut self, number: u32) {
        let now = self.time();
        loop {
            let fetch = &mut self.fetches[number as usize];
            let (Some(flow), Some(&block)) = (fetch.flow, fetch.blocks.front()) else {
                break;
            };
            let (at, source) = (fetch.at, fetch.source);
            let here = self.network.flow(flow).delivered() - fetch.taken;
            if here < u64::from(block.len()) {
                let here = u32::try_from(here).expect("less than a block");
                let untold = here - fetch.told;
                let tell = untold >= PROGRESS_BYTES || (fetch.told == 0 && untold > 0);
                if tell {
                    fetch.told = here;
                    let swarm = super::swarm_of(&mut self.machines[at]);
                    swarm.handle_progress(source, untold, now);
                }
                let swarm = super::swarm_of(&mut self.machines[at]);
                let offered = swarm.handle_block_part(source, block, here, now);
                self.wake_relays(at, block.piece());
                if offered || tell {
                    self.after(at);
                } else {
                    self.after_writing(at);
                }
                break;
            }
            fetch.taken += u64::from(block.len());
            fetch.told = 0;
            fetch.blocks.pop_front();
            let last = fetch.blocks.is_empty();
            let id = fetch.id;
            self.block_here(at, source, block, false);
            self.wake_relays(at, block.piece());
            if last {
                self.machines[at].fetches.remove(&id.0);
                self.end_fetch(number);
                let swarm = super::swarm_of(&mut self.machines[at]);
                swarm.handle_fetch_ended(source, id, FetchEnd::Done, now);
            }
            self.after(at);
        }
    }

    pub(super) fn fetch_fails(&mut self, number: u32) {
        let now = self.time();
        let fetch = &self.fetches[number as usize];
        let (at, source, id) = (fetch.at, fetch.source, fetch.id);
        if self.machines[at].fetches.remove(&id.0).is_none() {
            return;
        }
        self.end_fetch(number);
        let end = FetchEnd::Failed {
            retry_at: Some(now + RETRY),
        };
        if let Some(swarm) = &mut self.machines[at].swarm {
            swarm.handle_fetch_ended(source, id, end, now);
            self.after(at);
        }
    }

    /// The machine leaves: its own fetches end, and those that it serves break.
    pub(super) fn end_fetches_of(&mut self, node: Node) {
        for number in std::mem::take(&mut self.machines[node].fetches).into_values() {
            self.end_fetch(number);
        }
        if !self.scenario.machines[node].role.is_http() {
            return;
        }
        for number in 0..self.fetches.len() {
            let fetch = &self.fetches[number];
            if fetch.server == node && !fetch.ended {
                let at = self.now + self.network.latency(node, fetch.at);
                if let Some(flow) = fetch.flow {
                    self.network.close(flow);
                }
                let number = u32::try_from(number).expect("fewer fetches than that");
                self.push(at, Event::FetchFails(number));
            }
        }
    }
}
