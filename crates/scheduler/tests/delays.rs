//! The four delay policies in every combination, against cache hosts that work, fail, or never will work: when the
//! cache host is asked first, and when the origin.

use dosvc_content::{Bitfield, PeerId, PieceLengths};
use dosvc_policy::{Policies, Provider, RawValue, http_delays};
use dosvc_scheduler::{Command, FetchEnd, SourceId, SourceInfo, SourceKind, Swarm, SwarmConfig};
use std::time::{Duration, Instant};

/// The policies, each with a value that no sum of others has, in seconds.
const POLICIES: [(&str, u64); 4] = [
    ("delay_foreground_download_from_http", 3),
    ("delay_background_download_from_http", 5),
    ("delay_cache_server_fallback_foreground", 16),
    ("delay_cache_server_fallback_background", 30),
];
const CACHE: SourceId = SourceId(1);
const ORIGIN: SourceId = SourceId(2);
const STEP: Duration = Duration::from_millis(50);
const END: Duration = Duration::from_secs(60);

/// What becomes of requests to the cache host.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Cache {
    /// There is none.
    None,
    /// It delivers.
    Works,
    /// Every request fails; it may be asked again a second later.
    Fails,
    /// It says for good that it has not got the content.
    Refuses,
}

/// When cache host and origin were asked first, in milliseconds since the start.
fn first_asked(config: SwarmConfig, cache: Cache) -> (Option<u128>, Option<u128>) {
    let lengths = PieceLengths::new(8 << 20, 1 << 20).expect("as set up");
    let start = Instant::now();
    let mut swarm = Swarm::new(lengths, Bitfield::new(8), config, start);
    let mut add = |id, kind| {
        let info = SourceInfo {
            kind,
            peer_id: None,
            extended: false,
            relays: false,
        };
        swarm.handle_source_added(id, info, start);
    };
    if cache != Cache::None {
        add(CACHE, SourceKind::CacheHost);
    }
    add(ORIGIN, SourceKind::Origin);
    let (mut cache_at, mut origin_at) = (None, None);
    let mut now = start;
    while now < start + END {
        while let Some(command) = swarm.poll_command() {
            let Command::Fetch {
                source,
                fetch,
                first,
                count,
            } = command
            else {
                continue;
            };
            let since = (now - start).as_millis();
            let asked = if source == CACHE {
                &mut cache_at
            } else {
                &mut origin_at
            };
            asked.get_or_insert(since);
            let end = match cache {
                Cache::Fails if source == CACHE => FetchEnd::Failed {
                    retry_at: Some(now + Duration::from_secs(1)),
                },
                Cache::Refuses if source == CACHE => {
                    swarm.handle_source_down(CACHE, None, now);
                    FetchEnd::Failed { retry_at: None }
                }
                _ => {
                    for piece in first.get()..first.get() + count {
                        let piece = lengths.piece(piece).expect("of this content");
                        for block in lengths.blocks(piece) {
                            let _used = swarm.handle_block(source, block, now);
                        }
                        swarm.handle_piece_verified(piece, now);
                    }
                    FetchEnd::Done
                }
            };
            swarm.handle_fetch_ended(source, fetch, end, now);
        }
        // What is due is done when the swarm asks for it, not because somebody looks again and again.
        now += STEP;
        if swarm.poll_timeout().is_some_and(|at| at <= now) {
            swarm.handle_timeout(now);
        }
    }
    (cache_at, origin_at)
}

#[test]
fn every_combination_of_the_delays_holds_back_what_it_must_and_no_longer() {
    for set in 0..16_u32 {
        let mut policies = Policies::default();
        let is_set = |at: usize| set & (1 << at) != 0;
        for (at, (key, seconds)) in POLICIES
            .into_iter()
            .enumerate()
            .filter(|(at, _)| is_set(*at))
        {
            let value = RawValue::Untyped(seconds.to_string());
            policies
                .set(key, &value, &Provider::Command)
                .expect("allowed");
            assert!(at < 4);
        }
        for foreground in [true, false] {
            let delay = |at: usize| {
                if is_set(at) {
                    u128::from(POLICIES[at].1) * 1000
                } else {
                    0
                }
            };
            let (peers, cache) = match foreground {
                true => (delay(0), delay(2)),
                false => (delay(1), delay(3)),
            };
            let delays = http_delays(&policies, foreground);
            let mut config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
            config.foreground = foreground;
            config.http_delay = delays.for_peers;
            config.cache_fallback_delay = delays.cache_fallback;
            config.discovery_grace = Duration::ZERO;
            let table = [
                (Cache::None, None, Some(peers)),
                (Cache::Works, Some(peers), None),
                // Peers have their time first, then the cache host has its.
                (Cache::Fails, Some(peers), Some(peers + cache)),
                // Nobody waits for what will never come.
                (Cache::Refuses, Some(peers), Some(peers)),
            ];
            for (kind, cache_expected, origin_expected) in table {
                let found = first_asked(config.clone(), kind);
                let is_right = |found: Option<u128>, expected: Option<u128>| match (found, expected)
                {
                    (Some(found), Some(expected)) => (expected..=expected + 200).contains(&found),
                    (found, expected) => found == expected,
                };
                assert!(
                    is_right(found.0, cache_expected) && is_right(found.1, origin_expected),
                    "policies {set:04b}, foreground {foreground}, cache host {kind:?}: asked at {found:?} ms, \
                     expected {cache_expected:?} and {origin_expected:?}"
                );
            }
        }
    }
}
