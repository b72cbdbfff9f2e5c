//! What the program says of itself: version, devices, completions, manual pages.

use assert_cmd::Command;
use serde_json::Value as Json;

fn stdout(arguments: &[&str]) -> String {
    let mut command = Command::cargo_bin("modelve").unwrap();
    let output = command
        .args(arguments)
        .assert()
        .success()
        .get_output()
        .clone();
    assert!(output.stderr.is_empty(), "llama.cpp's log does not leak");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_doctor_knows_devices_features_and_memory() {
    let report: Json = serde_json::from_str(&stdout(&["doctor", "--json"])).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["backends"][0], "cpu");
    let devices = report["devices"].as_array().unwrap();
    assert!(devices.iter().any(|device| device["name"] == "CPU"));
    assert!(report["threads"].as_u64().unwrap() >= 1);
    assert_eq!(report["features"][0]["backend"], "CPU");
    if cfg!(target_os = "linux") {
        let memory = &report["memory"];
        assert!(memory["available"].as_u64().unwrap() <= memory["total"].as_u64().unwrap());
        let cpu = devices.iter().find(|device| device["name"] == "CPU");
        assert_eq!(cpu.unwrap()["free_bytes"], memory["available"]);
    }
    // The kernels are compiled for what the compiler of this test was told to use.
    if cfg!(target_feature = "avx2") {
        let on = report["features"][0]["on"].as_array().unwrap();
        assert!(
            on.contains(&Json::from("AVX2")),
            "llama.cpp was built without AVX2"
        );
    }
    let text = stdout(&["doctor"]);
    assert!(text.contains("device") && text.contains("CPU features"));
    assert_eq!(stdout(&["--version", "--verbose"]), text);
    assert!(text.starts_with(&stdout(&["--version"])));
}

#[test]
fn the_doctor_says_what_auto_would_choose_and_why() {
    let report = |model: &str| -> Json {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command
            .env("MODELVE_MODEL", model)
            .args(["doctor", "--json"]);
        serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
    };
    let told = report("tiny");
    let auto = &told["auto"];
    assert_eq!(
        (&auto["layers"], &auto["longest_text"]),
        (&7.into(), &1024.into())
    );
    let gpu = told["devices"]
        .as_array()
        .unwrap()
        .iter()
        .any(|d| d["gpu"] == true);
    assert_eq!(auto["gpu_layers"].as_u64().unwrap() > 0, gpu, "{auto}");
    // Of a type with kernels of its own no copy is made, however long the answer.
    let own = told["own_kernels"].as_array().unwrap();
    let from = auto["repacked_from_tokens"].as_u64();
    match own.contains(&"Q4_K".into()) {
        true => assert_eq!(from, None),
        false => assert!(from.unwrap() > 1),
    }
    for why in ["gpu_why", "weights_why", "context_why"] {
        assert!(auto[why].as_str().unwrap().len() > 20, "{why}");
    }
    assert_eq!(told["auto_unknown"], Json::Null);

    let told = report("/nowhere/there-is-none.gguf");
    assert_eq!(told["auto"], Json::Null);
    let reason = told["auto_unknown"].as_str().unwrap();
    assert!(reason.contains("there-is-none.gguf"), "{reason}");
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completions", shell]);
        assert!(
            script.contains("vocab") && script.contains("explain"),
            "{shell}"
        );
    }
    assert!(stdout(&["man"]).contains(".TH modelve 1"));
    let folder = tempfile::tempdir().unwrap();
    stdout(&["man", "--folder", folder.path().to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.path().join("modelve-meta.1")).unwrap();
    assert!(page.contains("fastest") || page.contains("explain"));
}

#[test]
fn every_command_has_examples() {
    let help = stdout(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let mut seen = 0;
    for line in commands {
        // A description too long for its line goes on further right.
        let Some(name) = line
            .strip_prefix("  ")
            .filter(|rest| !rest.starts_with(' '))
        else {
            continue;
        };
        let name = name.split_whitespace().next().unwrap();
        if name == "help" {
            continue;
        }
        let help = stdout(&[name, "--help"]);
        assert!(help.contains("Example"), "{name}");
        seen += 1;
    }
    assert!(seen >= 5);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    use std::io::Read;
    use std::process::Stdio;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(said, "");
}
