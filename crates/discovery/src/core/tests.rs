use super::*;
use crate::link::tests::link;
use proptest::prelude::*;
use std::time::Duration;

const PORT: u16 = 5353;

fn content(n: u8) -> HashOfHashes {
    HashOfHashes::from([n; 32])
}

fn peer(n: u8) -> PeerId {
    PeerId::from_random([n; 16])
}

/// Machines on one link, in virtual time; packets take no time and come back to their sender, as multicast does.
struct Wire {
    now: Instant,
    cores: Vec<Core>,
    packets: usize,
}

impl Wire {
    /// `count` machines; the n-th is 10.0.0.n.
    fn new(count: u8) -> Self {
        let now = Instant::now();
        let cores = (0..count)
            .map(|n| {
                let mut core = Core::new(peer(n), 7680, None, PORT, n.into());
                core.set_links(now, vec![Self::link(n)]);
                core
            })
            .collect();
        Self {
            now,
            cores,
            packets: 0,
        }
    }

    fn link(n: u8) -> Link {
        link(2, false, &[(&format!("10.0.0.{n}"), 24)])
    }

    /// Runs until nothing happens any more, or until the end.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.cores.iter().filter_map(|c| c.timeout(self.now)).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            for n in 0..self.cores.len() {
                let from = SocketAddr::from(([10, 0, 0, u8::try_from(n).unwrap()], PORT));
                for packet in self.cores[n].poll(self.now) {
                    self.packets += 1;
                    for core in &mut self.cores {
                        core.handle_packet(self.now, packet.link, from, &packet.bytes);
                    }
                }
            }
        }
        self.now = end;
    }

    fn found(&mut self, n: usize, id: SearchId) -> Vec<PeerId> {
        std::iter::from_fn(|| self.cores[n].take_found(id))
            .map(|found| found.peer_id)
            .collect()
    }
}

#[test]
fn holders_are_found_within_120_ms_and_nobody_else() {
    let mut wire = Wire::new(10);
    let now = wire.now;
    for n in 1..5 {
        wire.cores[n].announce(now, &content(1), false);
    }
    wire.cores[5].announce(now, &content(2), false);
    wire.run(Duration::from_secs(60));
    assert_eq!(wire.packets, 0, "holding is silent");
    let id = wire.cores[0].find(wire.now, &content(1));
    wire.run(Duration::from_millis(120));
    let mut found = wire.found(0, id);
    found.sort();
    assert_eq!(found, [peer(1), peer(2), peer(3), peer(4)]);
    assert_eq!(wire.packets, 5);
}

#[test]
fn a_searcher_that_holds_the_content_itself_does_not_answer_itself() {
    let mut wire = Wire::new(1);
    wire.cores[0].announce(wire.now, &content(1), false);
    wire.cores[0].find(wire.now, &content(1));
    wire.run(Duration::from_millis(900));
    assert_eq!(wire.packets, 1, "only the question");
}

#[test]
fn a_long_search_with_known_peers_is_nearly_silent() {
    let mut wire = Wire::new(8);
    let now = wire.now;
    for core in &mut wire.cores {
        core.announce(now, &content(1), false);
    }
    let id = wire.cores[0].find(now, &content(1));
    wire.run(Duration::from_secs(600));
    assert_eq!(wire.found(0, id).len(), 7);
    // 14 questions, and seven answers every other minute.
    assert!(wire.packets <= 14 + 7 * 7, "{}", wire.packets);
}

/// Of 250 holders some dozens answer, not all; a second question brings others.
#[test]
fn a_link_full_of_holders_is_not_flooded() {
    let mut wire = Wire::new(250);
    let now = wire.now;
    for core in &mut wire.cores[1..] {
        core.announce(now, &content(1), false);
    }
    let id = wire.cores[0].find(now, &content(1));
    wire.run(Duration::from_millis(900));
    let first = wire.found(0, id);
    assert!((20..60).contains(&first.len()), "{}", first.len());
    wire.run(Duration::from_millis(1000));
    assert!(!wire.found(0, id).is_empty());
}

#[test]
fn eight_that_begin_at_once_know_each_other_soon() {
    let mut wire = Wire::new(8);
    let now = wire.now;
    let ids: Vec<SearchId> = wire
        .cores
        .iter_mut()
        .map(|core| {
            core.announce(now, &content(1), true);
            core.find(now, &content(1))
        })
        .collect();
    wire.run(Duration::from_millis(300));
    for (n, id) in ids.into_iter().enumerate() {
        assert_eq!(wire.found(n, id).len(), 7, "{n}");
    }
}

#[test]
fn packets_from_off_the_link_and_answers_from_other_ports_are_ignored() {
    let now = Instant::now();
    let mut holder = Core::new(peer(1), 7680, None, PORT, 1);
    holder.set_links(now, vec![Wire::link(1)]);
    holder.announce(now, &content(1), true);
    let announcement = holder.poll(now).remove(0);
    let mut seeker = Core::new(peer(2), 7680, None, PORT, 2);
    seeker.set_links(now, vec![Wire::link(2)]);
    let id = seeker.find(now, &content(1));
    let question = seeker.poll(now).remove(0);
    for from in ["192.168.0.1:5353", "127.0.0.1:5353", "10.0.0.1:5354"] {
        let from = from.parse().unwrap();
        seeker.handle_packet(now, announcement.link, from, &announcement.bytes);
        assert_eq!(seeker.take_found(id), None, "{from}");
    }
    let from = "192.168.0.2:5353".parse().unwrap();
    let outcome = holder.handle_packet(now, question.link, from, &question.bytes);
    assert!(outcome.off_link && !outcome.output);
    let unknown = LinkId {
        index: 77,
        v6: false,
    };
    let from = "10.0.0.2:5353".parse().unwrap();
    let outcome = holder.handle_packet(now, unknown, from, &question.bytes);
    assert_eq!(outcome, Outcome::default());
    let outcome = holder.handle_packet(now, question.link, from, &question.bytes);
    assert!(outcome.output);
}

#[test]
fn a_new_link_is_asked_at_once() {
    let start = Instant::now();
    let mut core = Core::new(peer(1), 7680, None, PORT, 1);
    core.find(start, &content(1));
    assert_eq!(core.poll(start), [], "no link yet");
    let later = start + Duration::from_millis(1500);
    core.poll(later);
    let appeared = start + Duration::from_secs(10);
    core.set_links(appeared, vec![Wire::link(1)]);
    assert_eq!(core.timeout(appeared), Some(appeared));
    assert_eq!(core.poll(appeared).len(), 1);
}

/// Whoever floods the link makes us read no more than a bounded number of packets.
#[test]
fn a_flood_of_packets_is_not_read() {
    let now = Instant::now();
    let mut core = Core::new(peer(1), 7680, None, PORT, 1);
    core.set_links(now, vec![Wire::link(1)]);
    core.announce(now, &content(1), false);
    let question = packet::query(Label::of(&content(1), None), &[], &[]).remove(0);
    let from = "10.0.0.2:5353".parse().unwrap();
    let id = Wire::link(1).id;
    let read = (0..10_000)
        .filter(|_| core.handle_packet(now, id, from, &question).output)
        .count();
    assert_eq!(read, 2 * usize::try_from(PACKETS_PER_SECOND_MAX).unwrap());
}

proptest! {
    /// Whatever comes over the link, from whomever: nothing panics, and what is sent stays bounded.
    #[test]
    fn any_packets_are_survived(
        packets in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..200), any::<bool>(), 0..4usize), 0..60),
    ) {
        let start = Instant::now();
        let mut core = Core::new(peer(1), 7680, None, PORT, 1);
        core.set_links(start, vec![Wire::link(1)]);
        core.announce(start, &content(1), true);
        let id = core.find(start, &content(1));
        let label = Label::of(&content(1), None);
        let addrs = ["10.0.0.9".parse().unwrap()];
        let us = packet::Us { peer: peer(9), port: 1, addrs: &addrs };
        let templates = [
            packet::query(label, &[peer(1)], &[]).remove(0),
            packet::response(us, &[crate::subject::Subject::Content(label)]),
            packet::goodbye(us, &[label], true),
            Vec::new(),
        ];
        let mut sent = 0;
        for (n, (noise, legacy, template)) in packets.iter().enumerate() {
            let now = start + Duration::from_millis(10) * u32::try_from(n).unwrap();
            let mut bytes = templates[*template].clone();
            for pair in noise.chunks_exact(2).take(6) {
                if !bytes.is_empty() {
                    let at = usize::from(pair[0]) % bytes.len();
                    bytes[at] = pair[1];
                }
            }
            if bytes.is_empty() {
                bytes = noise.clone();
            }
            let port = if *legacy { 4000 } else { PORT };
            let from = SocketAddr::from(([10, 0, 0, 9], port));
            core.handle_packet(now, Wire::link(1).id, from, &bytes);
            sent += core.poll(now).len();
            while core.take_found(id).is_some() {}
        }
        prop_assert!(sent <= 64, "{sent}");
    }
}
