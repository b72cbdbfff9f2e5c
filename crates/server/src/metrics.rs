//! What was counted, as Prometheus reads it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine_thread::Snapshot;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests over HTTP.
    pub requests: Counter,
    /// Those that were refused for want of room.
    pub refused: Counter,
    /// Completions that the engine took.
    pub completions: Counter,
    /// Those whose client hung up.
    pub cancelled: Counter,
    /// Tokens of prompts.
    pub prompt: Counter,
    /// Those among them that were taken over from another text.
    pub reused: Counter,
    /// Tokens chosen.
    pub generated: Counter,
    /// Decode calls.
    pub decodes: Counter,
    /// Time in them.
    pub busy_micros: Counter,
    /// Probes that were computed.
    pub probes: Counter,
}

/// The text that Prometheus reads.
pub fn text(counters: &Counters, snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: String| {
        let _ = write!(
            out,
            "# HELP modelve_{name} {help}\n# TYPE modelve_{name} {kind}\nmodelve_{name} {value}\n"
        );
    };
    let of = |counter: &Counter| counter.get().to_string();
    for (name, help, counter) in [
        (
            "http_requests_total",
            "Requests over HTTP.",
            &counters.requests,
        ),
        (
            "http_refused_total",
            "Requests refused for want of room.",
            &counters.refused,
        ),
        (
            "completions_total",
            "Completions the engine took.",
            &counters.completions,
        ),
        (
            "cancelled_total",
            "Completions whose client hung up.",
            &counters.cancelled,
        ),
        (
            "prompt_tokens_total",
            "Tokens of prompts.",
            &counters.prompt,
        ),
        (
            "reused_tokens_total",
            "Tokens of prompts that were not computed again.",
            &counters.reused,
        ),
        (
            "generated_tokens_total",
            "Tokens chosen.",
            &counters.generated,
        ),
        ("decode_calls_total", "Decode calls.", &counters.decodes),
        ("probes_total", "Probes computed.", &counters.probes),
    ] {
        one(name, "counter", help, of(counter));
    }
    let seconds = counters.busy_micros.get() as f64 / 1e6;
    one(
        "busy_seconds_total",
        "counter",
        "Time in decode calls.",
        format!("{seconds}"),
    );
    one(
        "completions_active",
        "gauge",
        "Completions that are computed.",
        snapshot.active.to_string(),
    );
    one(
        "completions_waiting",
        "gauge",
        "Completions that wait.",
        snapshot.waiting.to_string(),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_its_help_and_type() {
        let counters = Counters::default();
        counters.generated.add(3);
        let text = text(
            &counters,
            &Snapshot {
                active: 2,
                ..Snapshot::default()
            },
        );
        let values = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(text.lines().count(), 3 * values);
        assert!(text.contains("\nmodelve_generated_tokens_total 3\n"));
        assert!(text.contains("\nmodelve_completions_active 2\n"));
    }
}
