//! Who is there, who finds whom, and who may be whose peer.

use super::{Event, World, swarm_of};
use crate::{
    Role,
    network::{Node, nanos},
};
use dosvc_content::DownloadMode;
use dosvc_policy::{
    ContentFacts, EffectiveMode, Gates, PeerClass, Permits, RemoteFacts, effective_mode, peer_class,
};
use dosvc_scheduler::{SourceId, SourceInfo, SourceKind, Swarm, SwarmConfig};
use std::time::Duration;

/// Connections of one machine, as the engine has it.
const CONNECTIONS_MAX: usize = 200;
/// How long discovery may still find peers, in the background and in the foreground, as the engine has it.
const GRACE: [Duration; 2] = [Duration::from_millis(1500), Duration::from_millis(500)];

/// Machines that are there.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// Those that have something to give from the start.
    givers: Vec<Node>,
    leeches: Vec<Node>,
    http: Vec<Node>,
}

impl Present {
    fn list(&mut self, role: Role) -> &mut Vec<Node> {
        match role {
            Role::Leech => &mut self.leeches,
            Role::Seed | Role::Silent | Role::Corrupt => &mut self.givers,
            Role::Origin | Role::CacheHost => &mut self.http,
        }
    }
}

impl World<'_> {
    /// The mode that the machine's policies leave for this content.
    fn mode(&self, node: Node) -> DownloadMode {
        let content = ContentFacts {
            length: Some(self.scenario.length()),
            has_hash_file: Some(true),
        };
        let policies = &self.scenario.machines[node].policies;
        let mode = effective_mode(policies, None, &content, &Gates::default());
        mode.map_or(DownloadMode::Simple, |m: EffectiveMode| m.mode)
    }

    fn permits(&self, node: Node) -> Permits {
        dosvc_policy::permits(self.mode(node))
    }

    /// What `other` is to `node`: nothing when it is outside the scope.
    fn class(&self, node: Node, other: Node) -> Option<PeerClass> {
        let (us, them) = (
            &self.scenario.machines[node],
            &self.scenario.machines[other],
        );
        let near = us.site == them.site;
        let facts = RemoteFacts {
            on_link: near,
            link_local_discovered: near,
            group_proven: us.group.is_some() && us.group == them.group,
            loopback: false,
            behind_same_nat: false,
        };
        let restrict = us.policies.restrict_peer_selection_by();
        peer_class(self.machines[node].mode, facts, restrict).ok()
    }

    pub(super) fn join(&mut self, node: Node) {
        let role = self.scenario.machines[node].role;
        self.machines[node].alive = true;
        if role.is_http() {
            self.present.list(role).push(node);
            for peer in 0..self.machines.len() {
                self.know_http(peer, node);
            }
            return;
        }
        let id = self.id_of();
        let seed = self.random();
        let mode = self.mode(node);
        let config = self.config(node, id, seed);
        let swarm = Swarm::new(
            self.scenario.lengths,
            self.scenario.have(role),
            config,
            self.time(),
        );
        let machine = &mut self.machines[node];
        machine.id = Some(id);
        machine.mode = mode;
        machine.swarm = Some(swarm);
        for i in 0..self.present.http.len() {
            self.know_http(node, self.present.http[i]);
        }
        if self.permits(node).peers {
            self.meet(node);
            self.present.list(role).push(node);
        }
        self.after(node);
    }

    fn config(&self, node: Node, id: dosvc_content::PeerId, seed: u64) -> SwarmConfig {
        let machine = &self.scenario.machines[node];
        let peers = self.permits(node).peers;
        let delay = if machine.foreground {
            machine.policies.delay_foreground_download_from_http()
        } else {
            machine.policies.delay_background_download_from_http()
        };
        let grace = GRACE[usize::from(machine.foreground)];
        SwarmConfig {
            foreground: machine.foreground,
            http_delay: if peers { delay } else { Duration::ZERO },
            discovery_grace: if peers { grace } else { Duration::ZERO },
            qos_bps: Some(machine.policies.min_background_qos().bps()),
            ..SwarmConfig::new(id, seed)
        }
    }

    /// The machine learns of an HTTP source, when its mode lets it use that.
    fn know_http(&mut self, node: Node, server: Node) {
        if self.machines[node].swarm.is_none() || !self.machines[server].alive {
            return;
        }
        let permits = self.permits(node);
        let (kind, may) = match self.scenario.machines[server].role {
            Role::CacheHost => (SourceKind::CacheHost, permits.cache_host),
            _ => (SourceKind::Origin, permits.http),
        };
        if !may {
            return;
        }
        let id = self.machines[node].new_source(super::machine::Other::Http(server));
        let info = SourceInfo {
            kind,
            peer_id: None,
            extended: false,
            relays: false,
        };
        let now = self.time();
        swarm_of(&mut self.machines[node]).handle_source_added(id, info, now);
        self.after(node);
    }

    /// Finds neighbours: those that have something first, then others at random.
    fn meet(&mut self, node: Node) {
        let mut givers = self.present.givers.clone();
        self.shuffle(&mut givers, usize::MAX);
        let max = self.scenario.neighbours.min(CONNECTIONS_MAX);
        let mut leeches = std::mem::take(&mut self.present.leeches);
        self.shuffle(&mut leeches, max);
        let chosen: Vec<Node> = givers.iter().chain(&leeches).copied().take(max).collect();
        self.present.leeches = leeches;
        for peer in chosen {
            // Then two round trips for the handshakes.
            let wait = self.random() % (nanos(self.scenario.discovery) + 1)
                + 4 * self.network.latency(node, peer);
            let (a, b) = (number(node), number(peer));
            self.push(self.now + wait, Event::Connect(a, b));
        }
    }

    /// Puts `first` machines, chosen at random, to the front.
    fn shuffle(&mut self, list: &mut [Node], first: usize) {
        for i in 0..list.len().min(first) {
            let rest = (list.len() - i) as u64;
            let j = usize::try_from(self.random() % rest).expect("an index");
            list.swap(i, i + j);
        }
    }

    pub(super) fn connect(&mut self, a: Node, b: Node) {
        let there = |n: Node| {
            let m = &self.machines[n];
            m.alive && m.swarm.is_some() && m.peers.len() < CONNECTIONS_MAX
        };
        let pair = (a.min(b), a.max(b));
        if !there(a)
            || !there(b)
            || self.machines[a].peers.contains_key(&b)
            || self.banned.contains(&pair)
        {
            return;
        }
        // Each side looks at the other with its own policies; both must agree.
        let (Some(seen), Some(sees)) = (self.class(a, b), self.class(b, a)) else {
            return;
        };
        self.open_link([a, b], [kind(seen), kind(sees)]);
    }

    pub(super) fn leave(&mut self, node: Node) {
        if !std::mem::take(&mut self.machines[node].alive) {
            return;
        }
        let role = self.scenario.machines[node].role;
        let unfinished = role == Role::Leech && self.machines[node].done.is_none();
        if unfinished {
            self.waiting -= 1;
        }
        self.present.list(role).retain(|n| *n != node);
        self.end_fetches_of(node);
        let links: Vec<u32> = self.machines[node].peers.values().map(|e| e.0).collect();
        for link in links {
            self.cut(link, node);
        }
        let machine = &mut self.machines[node];
        if let Some(swarm) = machine.swarm.take().filter(|_| machine.done.is_none()) {
            machine.stats = *swarm.stats();
        }
    }

    /// Two peers that both have everything have nothing more to say to each other.
    pub(super) fn part_from_complete(&mut self, node: Node) {
        let all = self.scenario.lengths.piece_count();
        let ends: Vec<super::End> = self.machines[node].peers.values().copied().collect();
        for end in ends {
            if self.end(end).peer_pieces == all {
                self.drop_peer(end);
            }
        }
    }

    /// One end closes; its scheduler forgets the peer.
    pub(super) fn drop_peer(&mut self, end: super::End) {
        let (node, source) = (self.node(end), self.end(end).source);
        let greeting = self.end(end).greeting;
        self.cut(end.0, node);
        let now = self.time();
        if let Some(swarm) = self.machines[node].swarm.as_mut().filter(|_| !greeting) {
            swarm.handle_source_removed(source, now);
        }
    }
}

fn kind(class: PeerClass) -> SourceKind {
    match class {
        PeerClass::Lan => SourceKind::LanPeer,
        PeerClass::LinkLocal => SourceKind::LinkLocalPeer,
        PeerClass::Group => SourceKind::GroupPeer,
        PeerClass::Internet => SourceKind::InternetPeer,
    }
}

pub(super) fn number(node: Node) -> u32 {
    u32::try_from(node).expect("fewer machines than that")
}

/// Names a source by its number.
pub(super) fn source(number: usize) -> SourceId {
    SourceId(u32::try_from(number).expect("fewer sources than that"))
}
