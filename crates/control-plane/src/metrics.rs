//! Counters, and how Prometheus reads them.

use crate::{array::ArrayStats, config::Service};
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets for the time that a request takes, in microseconds.
const BUCKETS: [u64; 7] = [100, 300, 1000, 3000, 10_000, 100_000, 1_000_000];

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    services: [ServiceMetrics; Service::ALL.len()],
    /// Requests to no service: 404, publishing, health.
    pub(crate) others: AtomicU64,
    /// Requests that came too fast.
    pub(crate) too_fast: AtomicU64,
    /// Connections that were closed at once: too many of one address.
    pub(crate) connections_refused: AtomicU64,
    /// Connections now.
    pub(crate) connections: AtomicU64,
    /// TLS handshakes that failed.
    pub(crate) handshakes_failed: AtomicU64,
}

#[derive(Debug, Default)]
struct ServiceMetrics {
    /// 2xx, 4xx, 5xx.
    classes: [AtomicU64; 3],
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
}

const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

impl Metrics {
    /// Counts an answer of a service.
    pub(crate) fn answered(&self, service: Service, status: u16, took: Duration) {
        let metrics = &self.services[service as usize];
        let class = match status {
            500.. => 2,
            400.. => 1,
            _ => 0,
        };
        metrics.classes[class].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        metrics.micros.fetch_add(micros, Relaxed);
        if let Some(bucket) = BUCKETS.iter().position(|bound| micros <= *bound) {
            metrics.buckets[bucket].fetch_add(1, Relaxed);
        }
    }

    /// Requests that a service has answered.
    pub(crate) fn requests(&self, service: Service) -> u64 {
        let classes = &self.services[service as usize].classes;
        classes.iter().map(|class| class.load(Relaxed)).sum()
    }

    /// Everything, in Prometheus' text format.
    pub(crate) fn text(&self, array: &ArrayStats, array_up: bool) -> String {
        let mut out = String::new();
        head(
            &mut out,
            "requests_total",
            "counter",
            "Requests by service and class of status.",
        );
        for service in Service::ALL {
            let classes = &self.services[service as usize].classes;
            for (class, count) in CLASSES.iter().zip(classes) {
                let labels = format!("{{service=\"{service}\",code=\"{class}\"}}");
                line(&mut out, "requests_total", &labels, count.load(Relaxed));
            }
        }
        head(
            &mut out,
            "request_seconds",
            "histogram",
            "Time that a request takes.",
        );
        for service in Service::ALL {
            let metrics = &self.services[service as usize];
            let mut below = 0;
            for (bound, count) in BUCKETS.iter().zip(&metrics.buckets) {
                below += count.load(Relaxed);
                let labels = format!("{{service=\"{service}\",le=\"{}\"}}", seconds(*bound));
                line(&mut out, "request_seconds_bucket", &labels, below);
            }
            let count = self.requests(service).max(below);
            let all = format!("{{service=\"{service}\",le=\"+Inf\"}}");
            line(&mut out, "request_seconds_bucket", &all, count);
            let labels = format!("{{service=\"{service}\"}}");
            let sum = seconds(metrics.micros.load(Relaxed));
            line(&mut out, "request_seconds_sum", &labels, sum);
            line(&mut out, "request_seconds_count", &labels, count);
        }
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        for (name, kind, help, value) in [
            (
                "other_requests_total",
                "counter",
                "Requests to no service.",
                load(&self.others),
            ),
            (
                "too_fast_total",
                "counter",
                "Requests refused for their rate.",
                load(&self.too_fast),
            ),
            (
                "connections_refused_total",
                "counter",
                "Connections closed for their number.",
                load(&self.connections_refused),
            ),
            (
                "connections",
                "gauge",
                "Connections now.",
                load(&self.connections),
            ),
            (
                "handshakes_failed_total",
                "counter",
                "TLS handshakes that failed.",
                load(&self.handshakes_failed),
            ),
            (
                "array_up",
                "gauge",
                "Whether the array's store can be asked.",
                array_up.into(),
            ),
            (
                "array_entries",
                "gauge",
                "Peers in swarms now.",
                array.entries,
            ),
            ("array_swarms", "gauge", "Swarms now.", array.swarms),
            (
                "array_joins_total",
                "counter",
                "Joins and updates answered.",
                array.joins,
            ),
            (
                "array_peers_named_total",
                "counter",
                "Peers named in answers.",
                array.peers_named,
            ),
            (
                "array_left_total",
                "counter",
                "Peers that left.",
                array.left,
            ),
            (
                "array_expired_total",
                "counter",
                "Peers that nobody renewed.",
                array.expired,
            ),
            (
                "array_unlisted_foreign_total",
                "counter",
                "Joins under another's id.",
                array.unlisted_foreign,
            ),
            (
                "array_unlisted_full_total",
                "counter",
                "Joins beyond a limit.",
                array.unlisted_full,
            ),
            (
                "array_memory_bytes",
                "gauge",
                "Memory of swarms and peers.",
                array.memory_bytes,
            ),
        ] {
            head(&mut out, name, kind, help);
            line(&mut out, name, "", value);
        }
        out
    }
}

const PREFIX: &str = "dosvc_control_plane_";

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        out,
        "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}"
    );
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{PREFIX}{name}{labels} {value}");
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        for (status, micros) in [(200, 50), (200, 5000), (404, 200), (500, 2_000_000)] {
            metrics.answered(Service::Geo, status, Duration::from_micros(micros));
        }
        let text = metrics.text(
            &ArrayStats {
                entries: 7,
                ..ArrayStats::default()
            },
            true,
        );
        for line in [
            "dosvc_control_plane_requests_total{service=\"geo\",code=\"2xx\"} 2",
            "dosvc_control_plane_requests_total{service=\"geo\",code=\"5xx\"} 1",
            "dosvc_control_plane_request_seconds_bucket{service=\"geo\",le=\"0.0001\"} 1",
            "dosvc_control_plane_request_seconds_bucket{service=\"geo\",le=\"1\"} 3",
            "dosvc_control_plane_request_seconds_bucket{service=\"geo\",le=\"+Inf\"} 4",
            "dosvc_control_plane_request_seconds_sum{service=\"geo\"} 2.00525",
            "dosvc_control_plane_array_entries 7",
            "dosvc_control_plane_array_up 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        for line in text.lines() {
            assert!(
                line.starts_with("# ") || line.split(' ').count() == 2,
                "{line}"
            );
        }
    }
}
