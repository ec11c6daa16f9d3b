//! Links, and the bytes of blocks that move over them.
//!
//! Nothing here knows what the bytes mean: a [`Flow`] is one direction of one connection, an ordered stream of bytes
//! with a send buffer, a congestion window and two queues on its way.

mod flow;
mod tcp;

use crate::{Link, queue::Nanos};
use flow::{Cell, Flow};
use std::{
    ops::{Index, IndexMut},
    time::Duration,
};
use tcp::Window;

/// A machine's number.
pub(crate) type Node = usize;
/// A flow's number.
pub(crate) type FlowId = u32;

/// Cells on their way in the model of ideal links.
const IDEAL_WINDOW: u32 = 8;
/// A receiver lets each sender have so many bytes under way at least.
const RECEIVE_MIN: u64 = 40 << 10;
/// Bytes of a packet beside what it carries.
const PACKET: f64 = 66.0;

/// One end of a connection: its number, and which of the two.
pub(crate) type End = (u32, u8);

/// Whose bytes a flow carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// What this end sends to the other.
    End(End),
    /// An HTTP response: which of all.
    Response(u32),
}

/// The numbers of responses' flows begin here.
const RESPONSES: FlowId = 1 << 31;

/// The flow of what an end sends. It follows from the end, so that neither need be looked at to find the other.
pub(crate) fn flow_of((link, side): End) -> FlowId {
    link * 2 + u32::from(side)
}

/// The other way round.
pub(crate) fn owner_of(flow: FlowId) -> Owner {
    match flow.checked_sub(RESPONSES) {
        Some(response) => Owner::Response(response),
        None => Owner::End((flow / 2, u8::from(flow % 2 == 1))),
    }
}

/// Which model the links follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkModel {
    /// Send buffers, slow start, CUBIC, queues that overflow.
    Tcp,
    /// Links that are used fully while anybody has something to send, and lose nothing.
    Ideal,
}

/// How links behave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Network {
    /// The model.
    pub model: NetworkModel,
    /// A downlink's queue is at most this long; what comes then is lost.
    pub queue: Duration,
    /// Bytes that a link lets through at once after a pause (of a token bucket).
    pub burst: u64,
    /// Bytes that a send buffer holds, sent or not, until they are acknowledged; `None`: as Linux grows it, six windows
    /// and at most 4 MiB.
    pub send_buffer: Option<u64>,
    /// Bytes in the send buffer that have not been sent, at most (TCP_NOTSENT_LOWAT); `None`: what the driver asks for.
    pub notsent_lowat: Option<u64>,
    /// A receiver lets all of those that send to it have no more under way than it takes in in this time and two round
    /// trips, each an equal share of that; `None`: whatever their windows allow.
    pub receive_queue: Option<Duration>,
    /// Bytes on the link for one byte of content: headers.
    pub overhead: f64,
    /// Content moves in cells of this many bytes, as with segmentation offload.
    pub cell: u32,
    /// Bytes a second at which a machine checks what has arrived.
    pub verify_bps: u64,
}

impl Network {
    /// What a namespace with a token bucket (burst 128 kB, latency 50 ms) on both sides of its link does.
    pub fn tcp() -> Self {
        Self {
            model: NetworkModel::Tcp,
            queue: Duration::from_millis(50),
            burst: 128_000,
            send_buffer: None,
            notsent_lowat: None,
            receive_queue: Some(Duration::from_millis(4)),
            overhead: 1514.0 / 1448.0,
            cell: 64 << 10,
            verify_bps: 1_000_000_000,
        }
    }

    /// Ideal links: nothing is lost, buffered or added.
    pub fn ideal() -> Self {
        Self {
            model: NetworkModel::Ideal,
            burst: 0,
            notsent_lowat: Some(64 << 10),
            receive_queue: None,
            overhead: 1.0,
            ..Self::tcp()
        }
    }

    /// Cells of one flow that may stand in its machine's uplink queue: as TCP small queues allow, or one in turn.
    fn uplink_cells(&self) -> u32 {
        match self.model {
            NetworkModel::Tcp => 2,
            NetworkModel::Ideal => 1,
        }
    }

    fn window(&self) -> Window {
        match self.model {
            NetworkModel::Tcp => Window::cubic(),
            NetworkModel::Ideal => Window::fixed(IDEAL_WINDOW * self.cell),
        }
    }
}

pub(crate) fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).expect("runs are shorter than centuries")
}

#[derive(Debug)]
struct Port {
    latency: Nanos,
    /// When the uplink has sent what stands in its queue.
    up_free: Nanos,
    /// The same for the downlink.
    down_free: Nanos,
    /// Nanoseconds for a byte.
    up_byte: f64,
    down_byte: f64,
    /// Nanoseconds by which a link may be ahead after a pause.
    up_burst: Nanos,
    down_burst: Nanos,
    sent: u64,
    /// Flows that bring content.
    senders: u64,
    role: usize,
}

impl Port {
    fn send(&mut self, bytes: f64, now: Nanos) -> Nanos {
        let took = duration(bytes * self.up_byte);
        self.up_free = self.up_free.max(now.saturating_sub(self.up_burst)) + took;
        self.up_free.max(now)
    }

    /// Bytes that each of those who send may have under way when all of it is to come in within this time.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size"
    )]
    fn share(&self, time: Nanos) -> u64 {
        let bytes = (time as f64 / self.down_byte) as u64;
        (bytes / self.senders.max(1)).max(RECEIVE_MIN)
    }

    fn receive(&mut self, bytes: f64, at: Nanos) -> Nanos {
        let took = duration(bytes * self.down_byte);
        self.down_free = self.down_free.max(at.saturating_sub(self.down_burst)) + took;
        self.down_free.max(at)
    }
}

/// What happens in the network. Each names its flow; cells of one flow stay in order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NetEvent {
    /// A cell has left the uplink.
    Depart(FlowId),
    /// It is at the receiver's downlink.
    Arrive(FlowId),
    /// It is in the receiver's hands.
    Land(FlowId),
    /// An acknowledgement may let the sender go on.
    Wake(FlowId),
    /// The sender notices a loss.
    Lost(FlowId),
}

/// All flows, by their numbers.
#[derive(Debug, Default)]
struct Flows {
    /// Two of each connection.
    of_links: Vec<Flow>,
    responses: Vec<Flow>,
}

impl Index<FlowId> for Flows {
    type Output = Flow;

    fn index(&self, id: FlowId) -> &Flow {
        match id.checked_sub(RESPONSES) {
            Some(response) => &self.responses[response as usize],
            None => &self.of_links[id as usize],
        }
    }
}

impl IndexMut<FlowId> for Flows {
    fn index_mut(&mut self, id: FlowId) -> &mut Flow {
        match id.checked_sub(RESPONSES) {
            Some(response) => &mut self.responses[response as usize],
            None => &mut self.of_links[id as usize],
        }
    }
}

/// All links. Events go out through `schedule`.
#[derive(Debug)]
pub(crate) struct Links {
    params: Network,
    queue: Nanos,
    /// The parameter in nanoseconds.
    receive_queue: Option<Nanos>,
    ports: Vec<Port>,
    flows: Flows,
    /// All machines are equally far from the middle: cells reach a downlink in the order in which they left.
    equally_far: bool,
    pub(crate) schedule: Vec<(Nanos, NetEvent)>,
    /// Cells lost in full queues.
    pub(crate) losses: u64,
    /// Bytes of content that left the machines of each of three roles, those sent twice counted once.
    pub(crate) sent_by: [u64; 3],
}

impl Links {
    /// Of each machine its link and its role.
    pub(crate) fn new(params: Network, links: impl Iterator<Item = (Link, usize)>) -> Self {
        let burst = |rate: u64| params.burst * 1_000_000_000 / rate;
        let ports: Vec<Port> = links
            .map(|(link, role)| Port {
                up_byte: 1e9 / link.up as f64,
                down_byte: 1e9 / link.down as f64,
                role,
                latency: nanos(link.latency),
                up_free: 0,
                down_free: 0,
                up_burst: burst(link.up),
                down_burst: burst(link.down),
                sent: 0,
                senders: 0,
            })
            .collect();
        Self {
            equally_far: ports.iter().all(|p| p.latency == ports[0].latency),
            queue: nanos(params.queue),
            receive_queue: params.receive_queue.map(nanos),
            params,
            ports,
            flows: Flows::default(),
            schedule: Vec::new(),
            losses: 0,
            sent_by: [0; 3],
        }
    }

    /// One way between two machines.
    pub(crate) fn latency(&self, a: Node, b: Node) -> Nanos {
        self.ports[a].latency + self.ports[b].latency
    }

    /// Bytes of content that left the machine, those sent twice counted once.
    pub(crate) fn sent(&self, node: Node) -> u64 {
        self.ports[node].sent
    }

    /// Whether the machine's uplink is sending.
    pub(crate) fn is_sending(&self, node: Node, now: Nanos) -> bool {
        self.ports[node].up_free > now
    }

    /// Whether the machine's downlink is receiving.
    pub(crate) fn is_receiving(&self, node: Node, now: Nanos) -> bool {
        self.ports[node].down_free > now
    }

    pub(crate) fn flow(&self, flow: FlowId) -> &Flow {
        &self.flows[flow]
    }

    pub(crate) fn flow_mut(&mut self, flow: FlowId) -> &mut Flow {
        &mut self.flows[flow]
    }

    pub(crate) fn open_response(&mut self, from: Node, to: Node) -> FlowId {
        let number = FlowId::try_from(self.flows.responses.len()).expect("fewer than that");
        let flow = Flow::new(from, to, self.params.window());
        self.flows.responses.push(flow);
        RESPONSES + number
    }

    /// Both ways of the next connection, between its two ends.
    pub(crate) fn open_link(&mut self, ends: [Node; 2]) {
        let [first, second] = ends;
        assert!(
            self.flows.of_links.len() < RESPONSES as usize,
            "a number for each flow"
        );
        for (from, to) in [(first, second), (second, first)] {
            let flow = Flow::new(from, to, self.params.window());
            self.flows.of_links.push(flow);
        }
    }

    /// Nothing more of it is sent or delivered.
    pub(crate) fn close(&mut self, flow: FlowId) {
        let flow = &mut self.flows[flow];
        self.ports[flow.to].senders -= u64::from(flow.is_active());
        flow.open = false;
        flow.starving = false;
        flow.forget();
    }

    pub(crate) fn is_open(&self, flow: FlowId) -> bool {
        self.flows[flow].open
    }

    /// Bytes that the send buffer takes now.
    pub(crate) fn room(&self, flow: FlowId) -> u64 {
        let flow = &self.flows[flow];
        let buffer = match self.params.model {
            NetworkModel::Ideal => u64::MAX,
            NetworkModel::Tcp => self
                .params
                .send_buffer
                .unwrap_or_else(|| flow.window.buffer()),
        };
        let held = flow.unsent() + flow.in_flight + flow.lost_bytes;
        let room = buffer.saturating_sub(held);
        let unsent_max = self.params.notsent_lowat.unwrap_or(flow.unsent_max);
        room.min(unsent_max.saturating_sub(flow.unsent()))
    }

    /// Puts bytes of content into the send buffer.
    pub(crate) fn write(&mut self, flow: FlowId, bytes: u64, now: Nanos) {
        let f = &mut self.flows[flow];
        let to = f.to;
        let before = f.is_active();
        f.written += bytes;
        self.ports[to].senders += u64::from(!before && f.is_active());
        self.push(flow, now);
    }

    /// A message of `bytes` bytes goes out behind what was written: when it arrives, if nothing of that is left to be
    /// sent; with it otherwise.
    pub(crate) fn message(&mut self, flow: FlowId, bytes: usize, now: Nanos) -> Option<Nanos> {
        let f = &mut self.flows[flow];
        if f.unsent() > 0 || f.lost_bytes > 0 {
            return None;
        }
        let (from, to) = (f.from, f.to);
        let latency = self.ports[from].latency + self.ports[to].latency;
        let at = match self.params.model {
            NetworkModel::Tcp => {
                let left = self.ports[from].send(bytes as f64 + PACKET, now);
                // What arrives before it is not all known yet; what is known goes first.
                self.ports[to].down_free.max(left + latency)
            }
            NetworkModel::Ideal => now + latency,
        };
        let f = &mut self.flows[flow];
        f.message_at = f.message_at.max(at);
        Some(f.message_at)
    }

    /// Sends what window and queues allow.
    fn push(&mut self, id: FlowId, now: Nanos) {
        let flow = &mut self.flows[id];
        if !flow.open {
            return;
        }
        flow.absorb(now);
        // Ideal senders back off at once and altogether where a receiver's queue grows; they lose nothing.
        let backlog = self.ports[flow.to].down_free.saturating_sub(now);
        let yields = self.params.model == NetworkModel::Ideal && backlog > self.queue;
        let bound = self.receive_queue.filter(|_| !flow.unshared);
        let receiver = bound.map_or(u64::MAX, |queue| {
            let trips = 4 * (self.ports[flow.from].latency + self.ports[flow.to].latency);
            self.ports[flow.to].share(queue + trips)
        });
        let port = &mut self.ports[flow.from];
        while flow.queued < self.params.uplink_cells() {
            let again = flow.first_lost();
            let ready = again.map_or_else(|| flow.unsent(), |c| u64::from(c.len));
            if ready == 0 {
                break;
            }
            let window = match yields {
                true => u64::from(self.params.cell),
                false => flow.window.bytes().min(receiver),
            };
            let want = ready.min(u64::from(self.params.cell));
            let room = window.saturating_sub(flow.in_flight);
            // A packet waits until it is worth sending.
            if flow.in_flight > 0 && room < want.min(window / 4) {
                break;
            }
            flow.window.sending(flow.in_flight == 0, now);
            let len = u32::try_from(want.min(room.max(1448))).expect("at most a cell");
            let start = match again {
                Some(cell) => {
                    flow.send_again(len);
                    cell.start
                }
                None => {
                    flow.sent += u64::from(len);
                    port.sent += u64::from(len);
                    self.sent_by[port.role] += u64::from(len);
                    flow.sent - u64::from(len)
                }
            };
            flow.in_flight += u64::from(len);
            flow.queued += 1;
            flow.under_way.send(Cell {
                start,
                len,
                pushed: now,
                acked: 0,
            });
            let leaves = port.send(f64::from(len) * self.params.overhead, now);
            self.schedule.push((leaves, NetEvent::Depart(id)));
        }
        self.arm(id, now);
    }

    /// A flow that waits for an acknowledgement hears of the next one.
    fn arm(&mut self, id: FlowId, now: Nanos) {
        let flow = &mut self.flows[id];
        let waits = flow.starving || flow.unsent() > 0 || flow.lost_bytes > 0;
        if waits
            && flow.queued == 0
            && !flow.armed
            && let Some(cell) = flow.under_way.first_landed()
        {
            flow.armed = true;
            self.schedule
                .push((cell.acked.max(now), NetEvent::Wake(id)));
        }
    }

    /// Handles an event. True when it was a landing: there may be news for the receiver.
    pub(crate) fn handle(&mut self, event: NetEvent, now: Nanos) -> bool {
        match event {
            NetEvent::Depart(id) => self.depart(id, now),
            NetEvent::Arrive(id) => self.arrive(id, now),
            NetEvent::Land(id) => return self.land(id, now),
            NetEvent::Wake(id) => {
                self.flows[id].armed = false;
                self.push(id, now);
            }
            NetEvent::Lost(id) => self.notice_loss(id, now),
        }
        false
    }

    fn depart(&mut self, id: FlowId, now: Nanos) {
        let flow = &mut self.flows[id];
        if !flow.open {
            return;
        }
        flow.queued -= 1;
        let (from, to) = (flow.from, flow.to);
        let arrives = now + self.latency(from, to);
        if self.equally_far {
            self.arrive(id, arrives);
        } else {
            self.schedule.push((arrives, NetEvent::Arrive(id)));
        }
        self.push(id, now);
    }

    fn arrive(&mut self, id: FlowId, at: Nanos) {
        let flow = &mut self.flows[id];
        let Some(cell) = flow.under_way.first_in_air() else {
            return;
        };
        let port = &mut self.ports[flow.to];
        let backlog = port.down_free.saturating_sub(at);
        let tcp = self.params.model == NetworkModel::Tcp;
        if tcp && backlog > self.queue {
            self.losses += 1;
            flow.drop_first_in_air();
            let others = flow.unsent() > 0 || flow.under_way.any_in_air() || flow.queued > 0;
            let notice = if others {
                backlog
            } else {
                flow.window.probe_after()
            };
            let back = self.ack_at(id, at + notice);
            self.schedule.push((back, NetEvent::Lost(id)));
            return;
        }
        let lands = port.receive(f64::from(cell.len) * self.params.overhead, at);
        flow.under_way.arrive();
        self.schedule.push((lands, NetEvent::Land(id)));
    }

    fn land(&mut self, id: FlowId, now: Nanos) -> bool {
        let flow = &mut self.flows[id];
        let Some(cell) = flow.under_way.first_landing() else {
            return false;
        };
        let before = flow.delivered;
        let active = flow.is_active();
        flow.take(cell.start, cell.len);
        self.ports[flow.to].senders -= u64::from(active && !flow.is_active());
        let news = flow.delivered > before;
        let at = self.ack_at(id, now);
        self.flows[id].under_way.land(at);
        self.arm(id, now);
        news
    }

    /// When an acknowledgement that the receiver sends at `from` is with the sender.
    fn ack_at(&self, id: FlowId, from: Nanos) -> Nanos {
        let flow = &self.flows[id];
        let there = self.latency(flow.from, flow.to);
        if self.params.model == NetworkModel::Ideal {
            return from + there;
        }
        let left = self.ports[flow.to].up_free.max(from);
        self.ports[flow.from].down_free.max(left + there)
    }

    fn notice_loss(&mut self, id: FlowId, now: Nanos) {
        let flow = &mut self.flows[id];
        let Some(cell) = flow.notice_loss() else {
            return;
        };
        flow.window.lost(cell.pushed, now);
        self.push(id, now);
    }

    /// The flow's machine may write again.
    pub(crate) fn wants_bytes(&self, id: FlowId) -> bool {
        let flow = &self.flows[id];
        flow.starving && self.room(id) > 0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a short time"
)]
fn duration(nanos: f64) -> Nanos {
    nanos as Nanos
}
