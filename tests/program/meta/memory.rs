//! The estimate of memory, against what llama.cpp says that it allocates.

use assert_cmd::Command;

use super::{json, meta};
use crate::support::archs::models;

/// The numbers of MiB, or of tokens, that stand in a log after `what`.
fn numbers(log: &str, what: &str) -> Vec<f64> {
    let lines = log.lines().filter_map(|line| line.split_once(what));
    let words = lines.filter_map(|(_, rest)| rest.trim_start_matches([' ', '=']).split(' ').next());
    words.map(|word| word.parse().unwrap()).collect()
}

#[test]
fn the_cache_is_as_large_as_llama_cpp_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/hub/tiny/tiny-phi3-Q4_K_M.gguf"
    );
    let mut models = models(dir.path());
    models.push(("phi3", tiny.into()));
    let mut compared = 0;
    for (arch, path) in &models {
        let report = json(&mut meta(path));
        let cache = &report["sizing"]["kv_cache"];
        if cache.is_null() || cache["upper_bound"] == true {
            continue;
        }
        let output = Command::cargo_bin("modelve")
            .unwrap()
            .args(["complete", "-v", "--trust", "-n", "300", "the ball", "-m"])
            .arg(path)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arch}: {log}");
        let made: f64 = numbers(&log, "KV buffer size").iter().sum();
        let tokens: f64 = numbers(&log, "llama_context: n_ctx  ").iter().sum();
        let per_token = cache["per_token"]["f16"].as_f64().unwrap();
        let told = tokens * per_token / f64::from(1 << 20);
        assert!(made > 0.1, "{arch}: {log}");
        // The log has two digits.
        assert!((told - made).abs() < 0.006, "{arch}: {told} and {made} MiB");
        compared += 1;
    }
    assert!(compared >= 3, "{compared}");
}
