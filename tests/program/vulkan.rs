//! The `vulkan` build against the processor. Mesa's software driver will do as a device.
#![cfg(feature = "vulkan")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Layers of the small model, its output included.
const LAYERS: u32 = 7;

fn modelve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
    command.env("NO_COLOR", "1").current_dir("/");
    // ggml leaves out devices that are a processor in truth unless they are asked for.
    if std::env::var_os("GGML_VK_VISIBLE_DEVICES").is_none() {
        command.env("GGML_VK_VISIBLE_DEVICES", "0");
    }
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The device to test, or a word on why there is none.
fn device() -> Option<Value> {
    let report: Value = serde_json::from_str(&run(modelve().args(["doctor", "--json"]))).unwrap();
    let devices = report["devices"].as_array().unwrap();
    let found = devices.iter().find(|device| device["gpu"] == true).cloned();
    if found.is_none() {
        eprintln!("skipped: no Vulkan device (Debian: mesa-vulkan-drivers); {report}");
    }
    found
}

fn complete(arguments: &[&str]) -> String {
    let prompts = ["Today is", "India is a", "Oracle is a"];
    let mut command = modelve();
    command.args(["complete", "-m", "tiny", "-n", "24"]);
    run(command.args(arguments).args(prompts))
}

#[test]
fn the_doctor_lists_the_device_with_its_memory() {
    let Some(device) = device() else { return };
    let free = device["free_bytes"].as_u64().unwrap();
    let total = device["total_bytes"].as_u64().unwrap();
    assert!(free > 0 && free <= total, "{device}");
    let text = run(modelve().arg("doctor"));
    let name = device["name"].as_str().unwrap();
    assert!(text.contains(&format!("{name}: ")), "{text}");
    assert!(text.contains("vulkan"), "{text}");
}

#[test]
fn greedy_text_is_the_same_with_any_number_of_layers_on_it() {
    if device().is_none() {
        return;
    }
    let expected = complete(&["--device", "CPU"]);
    assert!(expected.contains("a great day"), "{expected}");
    for count in 0..=LAYERS {
        let layers = count.to_string();
        assert_eq!(complete(&["--gpu-layers", &layers]), expected, "{count}");
    }
    assert_eq!(complete(&["--gpu-layers", "all"]), expected);
    assert_eq!(complete(&[]), expected, "auto");
}

#[test]
fn every_cache_type_works_on_it_or_is_refused_in_words() {
    if device().is_none() {
        return;
    }
    for (kv_type, attention) in [
        ("f32", "off"),
        ("f32", "on"),
        ("f16", "off"),
        ("f16", "on"),
        ("q8_0", "auto"),
        ("q4_0", "on"),
        ("q4_0", "off"),
    ] {
        let mut command = modelve();
        command.args(["complete", "-m", "tiny", "-n", "8", "--gpu-layers", "all"]);
        command.args(["--kv-type", kv_type, "--flash-attn", attention, "Today is"]);
        let output = command.output().unwrap();
        if (kv_type, attention) == ("q4_0", "off") {
            assert_eq!(output.status.code(), Some(1));
            assert!(said(&output).contains("needs flash attention"));
            continue;
        }
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("a great day"),
            "{kv_type} {attention}: {output:?}"
        );
    }
}

/// The small model in 32 bits. Of quantized weights the CPU's kernels are the less exact ones:
/// they round what they multiply them with to 8 bits, and a GPU's do not.
fn whole(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("tiny-F32.gguf");
    let checkpoint = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-phi3");
    let mut command = modelve();
    command.args(["convert", checkpoint, "-q", "F32", "-o"]);
    run(command.arg(&path));
    path
}

/// Probabilities of the likeliest tokens, by id.
fn next(model: &Path, arguments: &[&str]) -> Vec<(u64, f64)> {
    let mut command = modelve();
    command
        .args(["next", "--json", "-n", "50", "-m"])
        .arg(model);
    command.arg("They were playing cricket in the park. The ball hit the bat, and it");
    let report: Value = serde_json::from_str(&run(command.args(arguments))).unwrap();
    let top = report["top"].as_array().unwrap().iter();
    top.map(|t| (t["id"].as_u64().unwrap(), t["logprob"].as_f64().unwrap()))
        .collect()
}

/// The largest difference of log-probabilities among tokens likelier than 1 in 10,000.
fn distance(a: &[(u64, f64)], b: &[(u64, f64)]) -> f64 {
    let likely = a.iter().filter(|(_, logprob)| *logprob > -9.2);
    let differences = likely.map(|(id, logprob)| {
        let other = b.iter().find(|(other, _)| other == id);
        other.map_or(f64::INFINITY, |(_, other)| (logprob - other).abs())
    });
    differences.fold(0.0, f64::max)
}

#[test]
fn logits_are_within_bounds_of_the_processors() {
    if device().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (exact, quantized) = (whole(&dir), Path::new("tiny"));
    for (model, arguments, bound) in [
        (
            &*exact,
            &["--kv-type", "f32", "--flash-attn", "off"][..],
            0.003,
        ),
        (&exact, &[], 0.003),
        (&exact, &["--flash-attn", "on"], 0.003),
        (&exact, &["--kv-type", "q8_0", "--flash-attn", "on"], 0.02),
        (quantized, &[], 0.15),
    ] {
        let reference = ["--device", "CPU", "--kv-type", "f32", "--flash-attn", "off"];
        let reference = next(model, &reference);
        let mut with_layers = vec!["--gpu-layers", "all"];
        with_layers.extend(arguments);
        let far = distance(&reference, &next(model, &with_layers));
        eprintln!("{} {arguments:?}: {far:.2e}", model.display());
        assert!(far < bound, "{} {arguments:?}: {far}", model.display());
    }
}

#[test]
fn a_device_is_chosen_by_name() {
    let Some(device) = device() else { return };
    let name = device["name"].as_str().unwrap();
    let stats = |arguments: &[&str]| {
        let mut command = modelve();
        command.args(["complete", "-m", "tiny", "-n", "4", "--stats", "Today is"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    assert!(stats(&["--device", &name.to_lowercase()]).contains(name));
    assert!(!stats(&["--device", "cpu"]).contains(name));
    let mut command = modelve();
    command.args(["complete", "-m", "tiny", "--device", "Nowhere7", "x"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("Nowhere7") && said.contains(name), "{said}");
}

#[test]
fn a_device_without_enough_memory_gets_less_to_do() {
    if device().is_none() {
        return;
    }
    let poor = || {
        let mut command = modelve();
        command.args(["complete", "-m", "tiny", "-n", "24"]);
        // No tensor of a layer is as small as this.
        for limit in ["MAX_ALLOCATION_SIZE", "MAX_BUFFER_SIZE"] {
            command.env(format!("GGML_VK_FORCE_{limit}"), "50000");
        }
        command.args(["Today is", "India is a", "Oracle is a"]);
        command
    };
    let expected = complete(&["--device", "CPU"]);
    for layers in ["auto", "all", "3"] {
        let output = poor().args(["--stats", "--gpu-layers", layers]).output();
        let output = output.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{layers}"
        );
        let said = said(&output);
        assert!(said.contains("the device is full"), "{layers}: {said}");
    }
}

#[test]
fn probes_say_the_same_on_it() {
    if device().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = whole(&dir);
    let text = "It was night in the cave. The ball hit the bat, and it opened its";
    for probe in [
        &["score", "--json"][..],
        &["lens", "--json"],
        &["attention", "--json", "--layer", "3"],
    ] {
        let of = |arguments: &[&str]| -> Value {
            let mut command = modelve();
            command.args(probe).arg("-m").arg(&model).arg(text);
            serde_json::from_str(&run(command.args(arguments))).unwrap()
        };
        let far = furthest(&of(&["--device", "CPU"]), &of(&["--gpu-layers", "all"]));
        eprintln!("{probe:?}: {far:.2e}");
        assert!(far < 0.02, "{probe:?}: {far}");
    }
}

/// The largest difference between numbers at the same place of two reports; times, names and
/// what hangs on the order of near equals left out.
fn furthest(a: &Value, b: &Value) -> f64 {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => (a.as_f64().unwrap() - b.as_f64().unwrap()).abs(),
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter()
                .zip(b)
                .map(|(a, b)| furthest(a, b))
                .fold(0.0, f64::max)
        }
        (Value::Object(a), Value::Object(b)) => a
            .iter()
            .filter(|(key, _)| {
                [
                    "entropy_bits",
                    "logprob",
                    "surprise",
                    "perplexity",
                    "weights",
                ]
                .contains(&key.as_str())
                    || a[*key].is_array()
                    || a[*key].is_object()
            })
            .map(|(key, value)| furthest(value, &b[key]))
            .fold(0.0, f64::max),
        _ => 0.0,
    }
}
