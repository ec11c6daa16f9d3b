use super::*;
use crate::portmap::{LEASE, Protocol};
use std::{net::Ipv4Addr, num::NonZeroU16};

const ROUTE: Route = Route {
    gateway: Ipv4Addr::new(192, 168, 1, 1),
    local: Ipv4Addr::new(192, 168, 1, 20),
};
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

fn port(protocol: Protocol) -> Port {
    Port {
        protocol,
        number: NonZeroU16::new(7680).unwrap(),
    }
}

fn both() -> Ports {
    [port(Protocol::Tcp), port(Protocol::Udp)].into()
}

fn granted(external: Ipv4Addr, lease: Duration) -> Granted {
    let mapping = |port| Mapping {
        port,
        external: SocketAddrV4::new(external, 7680),
    };
    Granted {
        method: Method::Pcp,
        mappings: both().into_iter().map(|p| (mapping(p), lease)).collect(),
    }
}

/// A mapper with a clock.
struct Rig {
    mapper: Mapper,
    start: Instant,
    now: Instant,
}

impl Rig {
    /// It wants both ports, and has begun to ask for them.
    fn new() -> (Self, u64) {
        let start = Instant::now();
        let mut rig = Self {
            mapper: Mapper::new(LEASE, [7; 32]),
            start,
            now: start,
        };
        rig.mapper.handle_route(Some(ROUTE));
        rig.mapper.handle_ports(both());
        assert_eq!(rig.mapper.poll_action(), Some(Action::Forget));
        let id = rig.asked(true);
        (rig, id)
    }

    /// What is asked now.
    fn asked(&mut self, searching: bool) -> u64 {
        let action = self.mapper.poll_action();
        let Some(Action::Map {
            id,
            search,
            ports,
            route,
            lease,
        }) = action
        else {
            panic!("{action:?}")
        };
        assert_eq!(
            (search, ports, route, lease),
            (searching, both(), ROUTE, LEASE)
        );
        assert_eq!(self.mapper.poll_action(), None);
        id
    }

    fn answer(&mut self, id: u64, answer: Result<Granted, Failure>) -> Status {
        self.mapper.handle_answer(self.now, id, answer);
        self.mapper.status()
    }

    /// Goes on to the next timer; the time since the start.
    fn sleep(&mut self) -> Duration {
        let next = self.mapper.poll_timeout().unwrap();
        assert!(next >= self.now);
        self.now = next;
        self.mapper.handle_timeout(self.now);
        self.now - self.start
    }
}

#[test]
fn leases_are_renewed_at_half_their_time_for_ever() {
    let (mut rig, id) = Rig::new();
    let status = rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
    assert_eq!(status.state, State::Mapped(Method::Pcp));
    assert_eq!(
        status.public(Protocol::Udp, 7680),
        Some(SocketAddrV4::new(EXTERNAL, 7680))
    );
    assert!(!status.is_nested());
    let mut last = Duration::ZERO;
    for _ in 0..100 {
        let time = rig.sleep();
        let part = (time - last).as_secs_f64() / LEASE.as_secs_f64();
        assert!((0.5..=0.625).contains(&part), "{part}");
        last = time;
        let id = rig.asked(false);
        assert_eq!(
            rig.mapper.status().mappings.len(),
            2,
            "kept while it is asked"
        );
        rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
    }
}

#[test]
fn a_gateway_that_grants_seconds_is_not_asked_every_second() {
    let (mut rig, mut id) = Rig::new();
    for _ in 0..20 {
        rig.answer(id, Ok(granted(EXTERNAL, Duration::ZERO)));
        let before = rig.now;
        while rig.mapper.poll_action().is_none_or(|action| match action {
            Action::Map { id: next, .. } => {
                id = next;
                false
            }
            _ => true,
        }) {
            rig.sleep();
        }
        assert!(rig.now - before >= LEASE / 60);
    }
    // And one that grants a hundred years is asked every day.
    rig.answer(
        id,
        Ok(granted(EXTERNAL, Duration::from_secs(u32::MAX.into()))),
    );
    let before = rig.now;
    rig.sleep();
    assert!(rig.now - before <= Duration::from_secs(24 * 3600));
}

#[test]
fn what_the_gateway_does_not_renew_is_searched_for_then_dropped() {
    let (mut rig, id) = Rig::new();
    rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
    rig.sleep();
    let id = rig.asked(false);
    rig.answer(id, Err(Failure::Silent));
    let mut searches = 0;
    while !rig.mapper.status().mappings.is_empty() {
        if let Some(Action::Map { id, search, .. }) = rig.mapper.poll_action() {
            assert!(search);
            searches += 1;
            rig.answer(id, Err(Failure::Silent));
        }
        rig.sleep();
        assert!(
            rig.now - rig.start <= LEASE,
            "nothing is held longer than granted"
        );
    }
    assert!((2..=8).contains(&searches), "{searches} searches");
}

#[test]
fn failures_are_repeated_ever_more_rarely() {
    let (mut rig, mut id) = Rig::new();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let status = rig.answer(id, Err(Failure::Silent));
        assert_eq!(status.state, State::Failed(Failure::Silent));
        let before = rig.now;
        rig.sleep();
        waits.push(rig.now - before);
        id = rig.asked(true);
    }
    assert!(waits[0] >= RETRY && waits[11] >= RETRY_MAX && waits[11] <= RETRY_MAX * 5 / 4);
    assert!(rig.answer(id, Ok(granted(EXTERNAL, LEASE))).mappings.len() == 2);
}

#[test]
fn only_what_was_asked_for_and_can_be_is_believed() {
    let bad = |change: fn(&mut Mapping)| {
        let (mut rig, id) = Rig::new();
        let mut answer = granted(EXTERNAL, LEASE);
        answer.mappings.iter_mut().for_each(|(m, _)| change(m));
        rig.answer(id, Ok(answer)).state
    };
    let nonsense = State::Failed(Failure::Nonsense);
    assert_eq!(
        bad(|m| m.port.number = NonZeroU16::new(22).unwrap()),
        nonsense
    );
    assert_eq!(bad(|m| m.external.set_port(0)), nonsense);
    for ip in [
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "0.1.2.3",
        "250.0.0.1",
    ] {
        let (mut rig, id) = Rig::new();
        assert_eq!(
            rig.answer(id, Ok(granted(ip.parse().unwrap(), LEASE)))
                .state,
            nonsense,
            "{ip}"
        );
    }
    let (mut rig, id) = Rig::new();
    let nowhere = granted(Ipv4Addr::UNSPECIFIED, LEASE);
    assert_eq!(
        rig.answer(id, Ok(nowhere)).state,
        State::Failed(Failure::NoExternalAddress)
    );
    // Twice the same port counts once.
    let (mut rig, id) = Rig::new();
    let mut twice = granted(EXTERNAL, LEASE);
    twice.mappings.extend(twice.mappings.clone());
    assert_eq!(rig.answer(id, Ok(twice)).mappings.len(), 2);
}

#[test]
fn a_gateway_behind_another_nat_is_known_as_that() {
    for ip in ["192.168.178.2", "10.0.0.1", "100.64.7.7"] {
        let (mut rig, id) = Rig::new();
        let status = rig.answer(id, Ok(granted(ip.parse().unwrap(), LEASE)));
        assert!(status.is_nested(), "{ip}");
        assert_eq!(status.public(Protocol::Tcp, 7680), None);
        assert_eq!(status.mappings.len(), 2);
    }
}

#[test]
fn a_restart_is_asked_about_once_however_often_it_is_said() {
    let (mut rig, id) = Rig::new();
    rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
    let mut asked = 0;
    for _ in 0..1000 {
        rig.now += Duration::from_millis(10);
        rig.mapper.handle_restart(rig.now);
        if let Some(Action::Map { id, search, .. }) = rig.mapper.poll_action() {
            assert!(!search);
            asked += 1;
            rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
        }
    }
    assert_eq!(asked, 1);
}

#[test]
fn another_gateway_is_asked_anew_and_none_is_not() {
    let (mut rig, id) = Rig::new();
    rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
    rig.mapper.handle_route(None);
    assert_eq!(rig.mapper.status().state, State::NoGateway);
    assert_eq!(rig.mapper.status().mappings, []);
    assert_eq!(rig.mapper.poll_action(), Some(Action::Forget));
    assert_eq!(
        (rig.mapper.poll_action(), rig.mapper.poll_timeout()),
        (None, None)
    );
    rig.mapper.handle_route(Some(ROUTE));
    assert_eq!(rig.mapper.poll_action(), Some(Action::Forget));
    let new = rig.asked(true);
    // What the old one says late doesn't count.
    assert_eq!(
        rig.answer(id, Ok(granted(EXTERNAL, LEASE))).state,
        State::Asking
    );
    assert_eq!(
        rig.answer(new, Ok(granted(EXTERNAL, LEASE))).mappings.len(),
        2
    );
}

#[test]
fn ports_that_nobody_wants_any_more_are_removed() {
    let (mut rig, id) = Rig::new();
    rig.answer(id, Ok(granted(EXTERNAL, LEASE)));
    rig.mapper.handle_ports([port(Protocol::Tcp)].into());
    assert_eq!(
        rig.mapper.poll_action(),
        Some(Action::Unmap(vec![port(Protocol::Udp)]))
    );
    assert_eq!(rig.mapper.status().mappings.len(), 1);
    assert!(matches!(
        rig.mapper.poll_action(),
        Some(Action::Map { search: false, .. })
    ));
    rig.mapper.handle_ports(Ports::new());
    assert_eq!(
        rig.mapper.poll_action(),
        Some(Action::Unmap(vec![port(Protocol::Tcp)]))
    );
    assert_eq!(
        (rig.mapper.status().state, rig.mapper.poll_timeout()),
        (State::Off, None)
    );
}

#[test]
fn no_more_than_a_few_ports_are_mapped() {
    let mut mapper = Mapper::new(LEASE, [7; 32]);
    mapper.handle_route(Some(ROUTE));
    let many = (1..=100).map(|number| Port {
        protocol: Protocol::Tcp,
        number: NonZeroU16::new(number).unwrap(),
    });
    mapper.handle_ports(many.collect());
    let asked = std::iter::from_fn(|| mapper.poll_action()).last();
    let Some(Action::Map { ports, .. }) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(ports.len(), PORTS_MAX);
}
