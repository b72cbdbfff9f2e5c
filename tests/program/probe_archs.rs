//! Probes on other architectures than Phi-3.

use crate::support::archs::models;
use assert_cmd::Command;
use serde_json::Value as Json;

fn ask(arguments: &[&str]) -> Result<Json, String> {
    let out = Command::cargo_bin("modelve")
        .unwrap()
        .args(arguments)
        .args(["--json", "--kv-type", "f32"])
        .output()
        .unwrap();
    if !out.status.success() {
        return Err(String::from_utf8(out.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&out.stdout).unwrap())
}

#[test]
fn every_probe_runs_or_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let models = models(dir.path());
    assert_eq!(models.len(), 4);
    for (arch, path) in &models {
        let model = ["-m", path.to_str().unwrap()];
        let on = |arguments: &[&str]| ask(&[arguments, &model].concat());
        let text = "the ball hit the bat";
        let next = on(&["next", text, "-c", "cave hit", "--tree", "2x2"]).expect(arch);
        let lens = on(&["lens", text]).expect(arch);
        let cells = lens["cells"].as_array().unwrap();
        let end = &cells.last().unwrap()["top"][0];
        assert_eq!(end["id"], next["top"][0]["id"], "{arch}");
        // The state after the first layer is not the answer.
        let first = &cells[cells.len() - 2];
        assert_eq!(first["layer"], 0, "{arch}");
        assert!(first["kl_to_final"].as_f64().unwrap() > 1e-4, "{arch}");
        let score = on(&["score", text]).expect(arch);
        let scored = score["tokens"].as_array().unwrap().last().unwrap();
        let before = on(&["next", "the ball hit the", "-c", "bat"]).expect(arch);
        let (a, b) = (&scored["logprob"], &before["candidates"][0]["logprob"]);
        let difference = a.as_f64().unwrap() - b.as_f64().unwrap();
        assert_eq!(before["candidates"][0]["ids"].as_array().unwrap().len(), 1);
        assert!(difference.abs() < 1e-2, "{arch}: {a} {b}");
        match (*arch, on(&["attention", text, "--layer", "0"])) {
            ("mamba", Err(said)) => assert!(said.contains("mamba: layer 0 has no attention")),
            ("mamba", Ok(_)) => panic!("a model without attention has attention weights"),
            (_, found) => {
                let found = found.expect(arch);
                for head in found["heads"].as_array().unwrap() {
                    for row in head["weights"].as_array().unwrap() {
                        let row = row.as_array().unwrap().iter();
                        let sum: f64 = row.map(|weight| weight.as_f64().unwrap()).sum();
                        assert!((sum - 1.0).abs() < 1e-3, "{arch}: {sum}");
                    }
                }
            }
        }
    }
}
