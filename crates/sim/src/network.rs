//! Links and the cells that move over them.

use crate::Link;
use dosvc_content::Block;
use dosvc_scheduler::FetchId;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// Virtual time, nanoseconds from the start of the run.
pub(crate) type Nanos = u64;
/// A machine's number.
pub(crate) type Node = usize;

/// Bytes of one cell.
const CELL: u32 = 64 << 10;
/// Cells of one transfer that were sent and are not acknowledged.
const WINDOW: u32 = 8;

pub(crate) fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).expect("runs are shorter than centuries")
}

fn transmit(bytes: u32, rate: u64) -> Nanos {
    u64::from(bytes) * 1_000_000_000 / rate.max(1)
}

/// A receiver's queue is kept at about this length: beyond it a transfer has one cell in flight, as TCP backs off.
const QUEUE_MAX: Nanos = 50_000_000;

/// What a transfer carries.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    Block(Block),
    /// Whole blocks in a row; those still to be delivered.
    Fetch(FetchId, VecDeque<Block>),
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) from: Node,
    pub(crate) to: Node,
    pub(crate) load: Load,
    /// Bytes not sent yet.
    unsent: u64,
    /// Bytes delivered of the block that is arriving.
    pub(crate) delivered: u32,
    in_flight: u32,
    /// Stands in its uplink's turn.
    queued: bool,
}

#[derive(Debug)]
struct Port {
    link: Link,
    sending: bool,
    turn: VecDeque<u64>,
    sent: u64,
}

/// What the network tells the world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell {
    /// The uplink has sent it.
    Sent {
        flow: u64,
        from: Node,
        to: Node,
        bytes: u32,
    },
    /// It is at the receiver's downlink.
    Arrived { flow: u64, to: Node, bytes: u32 },
    /// It is in the receiver's hands.
    Delivered { flow: u64, bytes: u32 },
    /// The sender knows.
    Acked { flow: u64 },
}

/// All links. Events go out through `schedule` as (time, cell).
#[derive(Debug)]
pub(crate) struct Network {
    ports: Vec<Port>,
    /// When each downlink has delivered what stands in its queue.
    down_free: Vec<Nanos>,
    flows: HashMap<u64, Flow>,
    next: u64,
    pub(crate) schedule: Vec<(Nanos, Cell)>,
}

impl Network {
    pub(crate) fn new(links: impl Iterator<Item = Link>) -> Self {
        let port = |link| Port {
            link,
            sending: false,
            turn: VecDeque::new(),
            sent: 0,
        };
        let ports: Vec<Port> = links.map(port).collect();
        Self {
            down_free: vec![0; ports.len()],
            ports,
            flows: HashMap::new(),
            next: 0,
            schedule: Vec::new(),
        }
    }

    /// One way between two machines.
    pub(crate) fn latency(&self, a: Node, b: Node) -> Nanos {
        nanos(self.ports[a].link.latency + self.ports[b].link.latency)
    }

    /// Bytes that left the machine.
    pub(crate) fn sent(&self, node: Node) -> u64 {
        self.ports[node].sent
    }

    /// Whether the machine's uplink is sending.
    pub(crate) fn is_sending(&self, node: Node) -> bool {
        self.ports[node].sending
    }

    /// Whether the machine's downlink is receiving.
    pub(crate) fn is_receiving(&self, node: Node, now: Nanos) -> bool {
        self.down_free[node] > now
    }

    pub(crate) fn flow(&mut self, flow: u64) -> Option<&mut Flow> {
        self.flows.get_mut(&flow)
    }

    pub(crate) fn start(
        &mut self,
        from: Node,
        to: Node,
        load: Load,
        bytes: u64,
        now: Nanos,
    ) -> u64 {
        self.next += 1;
        let flow = Flow {
            from,
            to,
            load,
            unsent: bytes,
            delivered: 0,
            in_flight: 0,
            queued: true,
        };
        self.flows.insert(self.next, flow);
        self.ports[from].turn.push_back(self.next);
        self.pump(from, now);
        self.next
    }

    /// Nothing more of it is sent or delivered.
    pub(crate) fn stop(&mut self, flow: u64) -> Option<Flow> {
        self.flows.remove(&flow)
    }

    /// Flows that touch the machine.
    pub(crate) fn flows_of(&self, node: Node) -> Vec<u64> {
        let mut all: Vec<u64> = self
            .flows
            .iter()
            .filter(|(_, f)| f.from == node || f.to == node)
            .map(|(id, _)| *id)
            .collect();
        all.sort_unstable();
        all
    }

    fn pump(&mut self, from: Node, now: Nanos) {
        let port = &mut self.ports[from];
        if port.sending {
            return;
        }
        while let Some(id) = port.turn.pop_front() {
            let Some(flow) = self.flows.get_mut(&id) else {
                continue;
            };
            flow.queued = false;
            let backlog = self.down_free[flow.to].saturating_sub(now);
            let room = if backlog > QUEUE_MAX { 1 } else { WINDOW };
            if flow.in_flight >= room || flow.unsent == 0 {
                continue;
            }
            let bytes = u32::try_from(flow.unsent.min(u64::from(CELL))).expect("at most a cell");
            flow.unsent -= u64::from(bytes);
            flow.in_flight += 1;
            port.sending = true;
            port.sent += u64::from(bytes);
            let at = now + transmit(bytes, port.link.up);
            let to = flow.to;
            self.schedule.push((
                at,
                Cell::Sent {
                    flow: id,
                    from,
                    to,
                    bytes,
                },
            ));
            return;
        }
    }

    fn queue(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        if !flow.queued && flow.unsent > 0 && flow.in_flight < WINDOW {
            flow.queued = true;
            self.ports[flow.from].turn.push_back(id);
        }
    }

    /// The uplink is free again. True when this was the flow's last cell.
    pub(crate) fn sent_cell(
        &mut self,
        id: u64,
        from: Node,
        to: Node,
        bytes: u32,
        now: Nanos,
    ) -> bool {
        self.ports[from].sending = false;
        let arrives = now + self.latency(from, to);
        self.schedule.push((
            arrives,
            Cell::Arrived {
                flow: id,
                to,
                bytes,
            },
        ));
        self.queue(id);
        let last = self.flows.get(&id).is_some_and(|f| f.unsent == 0);
        self.pump(from, now);
        last
    }

    pub(crate) fn arrived(&mut self, flow: u64, to: Node, bytes: u32, now: Nanos) {
        let free = &mut self.down_free[to];
        *free = (*free).max(now) + transmit(bytes, self.ports[to].link.down);
        self.schedule.push((*free, Cell::Delivered { flow, bytes }));
    }

    /// Sends the acknowledgement for a delivered cell.
    pub(crate) fn acknowledge(&mut self, flow: u64, now: Nanos) {
        if let Some(f) = self.flows.get(&flow) {
            let at = now + self.latency(f.to, f.from);
            self.schedule.push((at, Cell::Acked { flow }));
        }
    }

    pub(crate) fn acked(&mut self, id: u64, now: Nanos) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.in_flight -= 1;
        let from = flow.from;
        self.queue(id);
        self.pump(from, now);
    }
}
