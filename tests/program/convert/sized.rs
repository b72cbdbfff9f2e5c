//! `convert --size` and `--bits`: types that are chosen for a size, and the proof of what they do.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use assert_cmd::cargo::CommandCargoExt;
use modelve::gguf::{GgmlType, Gguf};
use serde_json::Value;

use super::Bench;

/// The built-in model's checkpoint, whose rows are multiples of 256.
fn tiny() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("models/tiny-phi3").display().to_string()
}

/// An importance matrix of the built-in model, on a part of the text.
fn imatrix(bench: &Bench) {
    let output = Command::cargo_bin("modelve")
        .unwrap()
        .current_dir(bench.dir.path())
        .args(["imatrix", "tiny", "-n", "2048", "-o", "m.imatrix.gguf"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn json(bench: &Bench, arguments: &[&str]) -> Value {
    serde_json::from_str(&bench.good(arguments)).unwrap()
}

#[test]
fn a_file_has_at_most_the_size_that_was_asked_for() {
    let bench = Bench::new();
    let tiny = tiny();
    let mut losses = Vec::new();
    for (flag, limit) in [
        ("--size", "2.5MiB"),
        ("--size", "3.2MB"),
        ("--size", "4000000"),
        ("--bits", "4.6"),
    ] {
        let arguments = [
            &*tiny,
            flag,
            limit,
            "--quick",
            "--force",
            "-o",
            "out/m.gguf",
        ];
        let said = json(&bench, &[&arguments[..], &["--json"]].concat());
        let bytes = fs::metadata(bench.path("out/m.gguf")).unwrap().len();
        assert_eq!(said["file_bytes"], bytes);
        match flag {
            "--size" => {
                let limit = said["mix"]["limit_bytes"].as_u64().unwrap();
                assert!(
                    bytes <= limit && bytes > limit * 97 / 100,
                    "{bytes} {limit}"
                );
                losses.push(said["mix"]["expected_kl"].as_f64().unwrap());
            }
            _ => {
                let bits = said["bits_per_weight"].as_f64().unwrap();
                assert!(bits <= 4.6 && bits > 4.5, "{bits}");
            }
        }
        assert!(said["quality"].is_null() && said["mix"]["measured"].is_null());
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    // Without the model nothing is known of the file's predictions.
    let gguf = Gguf::open(&bench.path("out/m.gguf")).unwrap();
    assert!(gguf.get("modelve.quality.kl_mean").is_none());
}

#[test]
fn the_choice_is_the_same_for_any_number_of_threads() {
    let bench = Bench::new();
    let tiny = tiny();
    for (threads, name) in [("1", "out/a"), ("3", "out/b")] {
        let arguments = ["--size", "2.7MiB", "--quick", "-t", threads, "-o", name];
        bench.good(&[&[&*tiny], &arguments[..]].concat());
    }
    assert_eq!(bench.sha256("out/a"), bench.sha256("out/b"));
}

#[test]
fn a_dry_run_says_why_and_writes_nothing() {
    let bench = Bench::new();
    let tiny = tiny();
    let arguments = [&*tiny, "--size", "2.7MiB", "--quick", "-o", "out/m.gguf"];
    let plan = json(&bench, &[&arguments[..], &["--dry-run", "--json"]].concat());
    assert_eq!(bench.outputs(), [""; 0]);
    let text = bench.good(&[&arguments[..], &["--dry-run"]].concat());
    assert!(text.contains("KL ") && text.contains("estimated"), "{text}");
    bench.good(&arguments);
    let gguf = Gguf::open(&bench.path("out/m.gguf")).unwrap();
    assert_eq!(plan["file_bytes"], gguf.size_bytes());
    for tensor in plan["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let written = gguf.tensor(name).unwrap();
        assert_eq!(tensor["type"], written.ty.to_string(), "{name}");
    }
    // Every tensor with a chosen type says what else was considered.
    let considered = plan["mix"]["candidates"].as_array().unwrap();
    assert_eq!(plan["mix"]["tensors"], considered.len());
    for tensor in considered {
        let errors = tensor["types"].as_array().unwrap().iter();
        let errors: Vec<f64> = errors
            .map(|ty| ty["relative_error"].as_f64().unwrap())
            .collect();
        assert!(errors.len() > 5, "{tensor}");
        // The smallest type is by far the worst, and the largest nearly exact.
        let last = errors[errors.len() - 1];
        assert!(errors[0] > 1e-3 && last < 1e-6, "{tensor}");
    }
}

#[test]
fn given_types_are_kept() {
    let bench = Bench::new();
    let tiny = tiny();
    let pins = [
        "--keep",
        "attn_output=Q8_0",
        "--output-tensor-type",
        "Q6_K",
        "--size",
        "3MB",
        "--quick",
    ];
    bench.good(&[&[&*tiny], &pins[..], &["-o", "out/m.gguf"]].concat());
    let gguf = Gguf::open(&bench.path("out/m.gguf")).unwrap();
    assert!(gguf.size_bytes() <= 3_000_000);
    let ty = |name: &str| gguf.tensor(name).unwrap().ty;
    assert_eq!(ty("output.weight"), GgmlType::Q6_K);
    for layer in 0..3 {
        assert_eq!(
            ty(&format!("blk.{layer}.attn_output.weight")),
            GgmlType::Q8_0
        );
    }
}

#[test]
fn a_size_that_cannot_be_had_is_refused_with_the_smallest_that_can() {
    let bench = Bench::new();
    let tiny = tiny();
    let said = bench.bad(
        &[&tiny, "--size", "100KB", "--quick", "-o", "out/m.gguf"],
        1,
    );
    assert!(said.contains("a file of 97.7 KiB is asked for"), "{said}");
    let (_, hint) = said.split_once("--size ").unwrap();
    let least = hint.split_whitespace().next().unwrap();
    bench.good(&[&tiny, "--size", least, "--quick", "-o", "out/m.gguf"]);
    let bytes = fs::metadata(bench.path("out/m.gguf")).unwrap().len();
    assert_eq!(format!("{bytes}B"), least);

    for (arguments, said) in [
        (vec!["--size", "2MB", "-q", "Q4_K_M"], "--quant"),
        (vec!["--size", "2MB", "--bits", "4"], "--bits"),
        (vec!["--bits", "99"], "bits for each weight"),
        (vec!["--quick"], "--size"),
    ] {
        let output = bench.run(&[&[&*tiny], &arguments[..]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn what_was_measured_is_proven_and_in_the_file() {
    let bench = Bench::new();
    let tiny = tiny();
    bench.good(&[&tiny, "-q", "Q3_K_M", "-o", "out/fixed.gguf"]);
    bench.good(&[&tiny, "-q", "F16", "-o", "out/F16.gguf"]);
    let limit = fs::metadata(bench.path("out/fixed.gguf")).unwrap().len();
    let size = format!("{limit}B");
    let arguments = [&*tiny, "--size", &size, "-o", "out/m.gguf", "--json"];
    let said = json(&bench, &arguments);
    // No temporary files are left.
    assert_eq!(bench.outputs(), ["F16.gguf", "fixed.gguf", "m.gguf"]);
    let mix = &said["mix"];
    let measured = &mix["measured"];
    assert_eq!(measured["tensors"], mix["tensors"]);
    let number = |value: &Value| value.as_f64().unwrap();
    // What single tensors do adds up, about.
    let ratio = number(&mix["expected_kl"]) / number(&measured["together_kl"]);
    assert!((0.5..2.0).contains(&ratio), "{mix}");

    let gguf = Gguf::open(&bench.path("out/m.gguf")).unwrap();
    assert!(gguf.size_bytes() <= limit);
    for key in [
        "kl_mean",
        "kl_error",
        "kl_p99",
        "same_top",
        "perplexity",
        "perplexity_source",
    ] {
        let stored = gguf.get(&format!("modelve.quality.{key}")).unwrap();
        let stored = stored.as_f64().unwrap();
        let quality = number(&said["quality"][key]);
        assert!(
            (stored / quality - 1.0).abs() < 1e-6,
            "{key} {stored} {quality}"
        );
    }
    assert!(gguf.get("quantize.imatrix.entries_count").is_some());

    // `compare` finds the same on the same text, and the fixed recipe of the same size worse.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = root.join("crates/probe/src/calibration/held_out.txt");
    let compare = |file: &str| -> Value {
        let mut command = Command::cargo_bin("modelve").unwrap();
        let output = command
            .current_dir(bench.dir.path())
            .args(["compare", "out/F16.gguf", file, "--file"])
            .arg(&text)
            .args(["--greedy", "0", "--worst", "0", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (mixed, fixed) = (compare("out/m.gguf"), compare("out/fixed.gguf"));
    let ratio = number(&mixed["kl_mean"]) / number(&said["quality"]["kl_mean"]);
    assert!((0.99..1.01).contains(&ratio), "{mixed}");
    assert!(number(&mixed["kl_p99"]) <= number(&mixed["kl_max"]));
    assert!(
        number(&mixed["kl_mean"]) < 0.85 * number(&fixed["kl_mean"]),
        "{mixed} {fixed}"
    );
}

#[test]
fn a_divergence_that_may_not_be_exceeded_is_kept_by_the_smallest_file() {
    let bench = Bench::new();
    let tiny = tiny();
    imatrix(&bench);
    let arguments = [
        "--target-kl",
        "0.05",
        "--imatrix",
        "m.imatrix.gguf",
        "-o",
        "out",
        "--json",
    ];
    let said = json(&bench, &[&[&*tiny], &arguments[..]].concat());
    assert_eq!(bench.outputs(), ["tiny-phi3-KL0.05.gguf"]);
    let found = said["quality"]["kl_mean"].as_f64().unwrap();
    assert!(found <= 0.05 && found > 0.03, "{said}");
    let bytes = said["file_bytes"].as_u64().unwrap();
    assert_eq!(said["mix"]["target_kl"], 0.05);
    let least = said["mix"]["least_bytes"].as_u64().unwrap();
    let most = said["mix"]["most_bytes"].as_u64().unwrap();
    assert!(bytes > least && bytes < most / 2, "{said}");
    // `meta` says how good the file is.
    let output = Command::cargo_bin("modelve")
        .unwrap()
        .current_dir(bench.dir.path())
        .args(["meta", "out/tiny-phi3-KL0.05.gguf"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = format!("mean KL {found:.4} from its checkpoint");
    assert!(text.contains(&line), "{line}\n{text}");
}

#[test]
fn the_curve_has_a_mix_for_each_recipe_and_writes_nothing() {
    let bench = Bench::new();
    let tiny = tiny();
    imatrix(&bench);
    let arguments = [
        "--curve",
        "--imatrix",
        "m.imatrix.gguf",
        "--html",
        "out/curve.html",
        "--json",
    ];
    let curve = json(&bench, &[&[&*tiny], &arguments[..]].concat());
    assert_eq!(bench.outputs(), ["curve.html"]);
    let points = curve["points"].as_array().unwrap();
    assert!(points.len() > 5, "{curve}");
    let mut better = 0;
    for point in points {
        let number = |key: &str| point[key].as_f64().unwrap();
        assert!(number("mix_bytes") <= number("bytes"), "{point}");
        better += usize::from(number("mix_kl") < number("kl"));
    }
    assert!(better + 1 >= points.len(), "{curve}");
    let sizes = points.iter().map(|point| point["bytes"].as_u64().unwrap());
    assert!(sizes.is_sorted());
}

#[test]
fn an_interrupted_choice_leaves_nothing() {
    let bench = Bench::new();
    let tiny = tiny();
    let mut child = bench
        .command(&[&tiny, "--size", "3MB", "-o", "out/m.gguf"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The temporary folder is there once the model is being prepared.
    while bench.outputs().is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(bench.outputs(), [""; 0]);
}
