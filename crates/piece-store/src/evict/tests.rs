use super::*;
use dosvc_content::{HashOfHashes, PieceLengths};
use proptest::prelude::*;
use std::collections::HashSet;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

const NOW: u64 = 1_000_000;

fn candidate(id: u8, bytes: u64, last_used: u64) -> Candidate {
    Candidate {
        info: ContentInfo {
            key: ContentKey::Hashed(HashOfHashes::from([id; 32])),
            lengths: PieceLengths::new(bytes, 1 << 16).expect("small"),
            content_id: None,
            urls: Vec::new(),
            have_count: 1,
            bytes_have: bytes,
            added: at(1),
            completed: Some(at(last_used)),
            last_used: at(last_used),
            expires: None,
            pinned_until: None,
            in_use: false,
        },
        frees_bytes: bytes,
    }
}

fn limits() -> CacheLimits {
    CacheLimits {
        bytes_max: None,
        age_max: None,
        keep_free_bytes: 0,
        now: at(NOW),
    }
}

fn ids(plan: &[Evicted]) -> Vec<u8> {
    plan.iter().map(|e| e.key.to_bytes()[1]).collect()
}

#[test]
fn nothing_goes_without_limits() {
    assert_eq!(plan_eviction(&[candidate(1, 1 << 30, 1)], &limits(), 0), []);
}

#[test]
fn expired_goes_first_then_least_recently_used() {
    let mut expired = candidate(1, 10, NOW - 1);
    expired.info.expires = Some(at(NOW));
    let all = [
        candidate(2, 10, 500),
        expired,
        candidate(3, 10, 400),
        candidate(4, 10, 900),
    ];
    let plan = plan_eviction(
        &all,
        &CacheLimits {
            bytes_max: Some(15),
            ..limits()
        },
        u64::MAX,
    );
    assert_eq!(ids(&plan), [1, 3, 2]);
    assert_eq!(plan[0].reason, EvictReason::Expired);
    assert_eq!(plan[1].reason, EvictReason::Quota);
}

#[test]
fn age_counts_from_completion_and_an_own_expiry_overrides_it() {
    let three_days = CacheLimits {
        age_max: Some(Duration::from_secs(100)),
        ..limits()
    };
    let old = candidate(1, 1, NOW - 100);
    let young = candidate(2, 1, NOW - 99);
    let mut kept = candidate(3, 1, NOW - 500);
    kept.info.expires = Some(at(NOW + 1));
    let mut unfinished = candidate(4, 1, NOW - 50);
    unfinished.info.completed = None;
    let plan = plan_eviction(&[old, young, kept, unfinished], &three_days, u64::MAX);
    assert_eq!(ids(&plan), [1]);
}

#[test]
fn a_pin_keeps_content_outside_of_quota_and_age_until_it_lapses() {
    let tight = CacheLimits {
        bytes_max: Some(0),
        age_max: Some(Duration::from_secs(1)),
        keep_free_bytes: u64::MAX,
        ..limits()
    };
    let mut pinned = candidate(1, 10, 5);
    pinned.info.pinned_until = Some(at(NOW + 1));
    assert_eq!(plan_eviction(std::slice::from_ref(&pinned), &tight, 0), []);
    let mut expired = pinned.clone();
    expired.info.expires = Some(at(NOW));
    assert_eq!(ids(&plan_eviction(&[expired], &tight, 0)), [1]);
    pinned.info.pinned_until = Some(at(NOW));
    assert_eq!(ids(&plan_eviction(&[pinned], &tight, 0)), [1]);
}

#[test]
fn low_space_spares_what_frees_nothing() {
    let mut shared = candidate(1, 100, 1);
    shared.frees_bytes = 0;
    let all = [shared, candidate(2, 100, 2), candidate(3, 100, 3)];
    let plan = plan_eviction(
        &all,
        &CacheLimits {
            keep_free_bytes: 150,
            ..limits()
        },
        60,
    );
    assert_eq!(ids(&plan), [2]);
    assert_eq!(plan[0].reason, EvictReason::LowSpace);
}

prop_compose! {
    fn any_candidate()(
        id: u8, bytes in 0u64..1000, last_used in 1..NOW, in_use: bool, shared: bool,
        expires in proptest::option::of(NOW - 5..NOW + 5),
        pinned in proptest::option::of(NOW - 5..NOW + 5),
    ) -> Candidate {
        let mut c = candidate(id, bytes, last_used);
        c.info.in_use = in_use;
        c.info.expires = expires.map(at);
        c.info.pinned_until = pinned.map(at);
        if shared { c.frees_bytes = 0; }
        c
    }
}

proptest! {
    #[test]
    fn the_plan_keeps_its_promises(
        mut all in proptest::collection::vec(any_candidate(), 0..40),
        bytes_max in proptest::option::of(0u64..20_000),
        age in proptest::option::of(1u64..NOW),
        keep_free_bytes in 0u64..20_000,
        free_bytes in 0u64..20_000,
    ) {
        let mut seen = HashSet::new();
        all.retain(|c| seen.insert(c.info.key));
        let limits = CacheLimits { bytes_max, age_max: age.map(Duration::from_secs), keep_free_bytes, now: at(NOW) };
        let plan = plan_eviction(&all, &limits, free_bytes);
        let gone: HashSet<_> = plan.iter().map(|e| e.key).collect();
        prop_assert_eq!(gone.len(), plan.len(), "nothing goes twice");
        let find = |key| all.iter().find(|c| c.info.key == key).unwrap();
        for e in &plan {
            let c = find(e.key);
            prop_assert!(!c.info.in_use, "in use never goes");
            prop_assert_eq!(e.bytes, c.info.bytes_have);
            if e.reason != EvictReason::Expired {
                prop_assert!(!c.info.is_pinned(limits.now), "pinned goes only when it expires");
            }
        }
        let stays: Vec<_> = all.iter().filter(|c| !gone.contains(&c.info.key)).collect();
        for c in &stays {
            let expired = c.info.expires.is_some_and(|e| e <= limits.now);
            prop_assert!(!expired || c.info.in_use, "expired goes unless it is in use");
        }
        let unpinned = |c: &&&Candidate| !c.info.is_pinned(limits.now);
        let left: u64 = stays.iter().filter(unpinned).map(|c| c.info.bytes_have).sum();
        let removable = |c: &&&Candidate| !c.info.in_use && c.info.bytes_have > 0;
        if bytes_max.is_some_and(|max| left > max) {
            prop_assert_eq!(stays.iter().filter(unpinned).filter(removable).count(), 0);
        }
        let freed: u64 = plan.iter().map(|e| find(e.key).frees_bytes).sum();
        if free_bytes + freed < keep_free_bytes {
            let more = stays.iter().filter(unpinned).filter(|c| !c.info.in_use && c.frees_bytes > 0);
            prop_assert_eq!(more.count(), 0, "short of space, yet something was kept");
        }
        // Least recently used first, within a reason; and never more than needed: without the last one, the limit
        // would not hold.
        for reason in [EvictReason::Quota, EvictReason::LowSpace] {
            let used: Vec<_> = plan.iter().filter(|e| e.reason == reason).map(|e| find(e.key).info.last_used).collect();
            prop_assert!(used.is_sorted());
        }
        if let Some(last) = plan.iter().rfind(|e| e.reason == EvictReason::Quota) {
            prop_assert!(left + last.bytes + plan.iter().filter(|e| e.reason == EvictReason::LowSpace).map(|e| e.bytes).sum::<u64>() > bytes_max.unwrap());
        }
        prop_assert_eq!(plan_eviction(&all, &limits, free_bytes), plan, "same input, same plan");
    }
}
