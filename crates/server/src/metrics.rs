//! Counters in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine_thread::Snapshot;

/// A counter that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
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
    /// Number of HTTP requests.
    pub requests: Counter,
    /// Number of requests refused because the queue was full.
    pub refused: Counter,
    /// Number of completions accepted by the engine.
    pub completions: Counter,
    /// Number of completions cancelled because the client disconnected.
    pub cancelled: Counter,
    /// Number of prompt tokens.
    pub prompt: Counter,
    /// Number of prompt tokens whose KV cache was reused from another text.
    pub reused: Counter,
    /// Number of generated tokens.
    pub generated: Counter,
    /// Number of decode calls.
    pub decodes: Counter,
    /// Time spent in decode calls, in microseconds.
    pub busy_micros: Counter,
    /// Number of probes and experiments computed.
    pub probes: Counter,
}

/// Returns the metrics in Prometheus' text format.
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
            "Requests refused because the queue was full.",
            &counters.refused,
        ),
        (
            "completions_total",
            "Completions accepted by the engine.",
            &counters.completions,
        ),
        (
            "cancelled_total",
            "Completions whose client disconnected.",
            &counters.cancelled,
        ),
        (
            "prompt_tokens_total",
            "Tokens of prompts.",
            &counters.prompt,
        ),
        (
            "reused_tokens_total",
            "Prompt tokens whose KV cache was reused.",
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
        "Completions being computed.",
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
