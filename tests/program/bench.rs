//! `scripts/bench` works: on the built-in model, without peers. No time is asserted.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn measures_the_built_in_model_without_peers() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|found| found.status.success()) {
        eprintln!("skipped: there is no python3");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut bench = Command::new(root.join("scripts/bench"));
    bench
        .args(["--quick", "--no-peers", "--runs", "1", "--modelve"])
        .arg(env!("CARGO_BIN_EXE_modelve"))
        .arg("--work")
        .arg(work.path())
        // Rows of every kind, and not all of them.
        .args(["--only", "convert to Q4_K_M", "--only", "metadata for"])
        .args(["--only", "launch to first token", "--only", "compare"])
        .args(["--only", "other programs", "--only", "curve"])
        // Beside other tests, threads that wait for each other had better sleep.
        .env("OMP_WAIT_POLICY", "passive");
    let output = bench.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let json = std::fs::read_to_string(work.path().join("docs/benchmarks.json")).unwrap();
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found["complete"], false, "rows were left out");
    let rows = found["rows"].as_array().unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["row"].as_str().unwrap())
        .collect();
    let expected = [
        "convert to Q4_K_M",
        "metadata for a person",
        "Q4_K_M: launch to first token",
        "Q4_0: launch to first token",
        "compare Q4_K_M with Q4_0",
        "other programs, Q4_K_M: 16 tokens from launch",
    ];
    assert_eq!(names, expected, "{said}");
    for row in rows {
        let [ours, peers @ ..] = row["contenders"].as_array().unwrap().as_slice() else {
            panic!("{row} has no contender");
        };
        assert!(ours["wall_s"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert!(ours["peak_mb"]["median"].as_f64().unwrap() > 1.0, "{row}");
        for peer in peers {
            assert_eq!(peer["not_measured"], "left out by --no-peers", "{row}");
        }
    }
    // Layers wait for an example program that only a full build makes; prompts do not.
    let prompts = found["curve"]["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 7, "{said}");

    let text = std::fs::read_to_string(work.path().join("BENCHMARKS.md")).unwrap();
    for name in expected {
        assert!(text.contains(&format!("| {name} | modelve ")), "{text}");
    }
    assert!(text.contains("Incomplete"), "{text}");
    let left: Vec<_> = work.path().read_dir().unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "models are cleaned up: {left:?}");
}
