//! `modelve get`: a file as it is, by any label that people write.

use std::fs;
use std::path::PathBuf;

use super::{Bench, LABELS, REPO, file};
use crate::support::hub_server::{Fault, HubServer};

/// The path that a command printed, which must be there.
fn path(out: &str) -> PathBuf {
    let path = PathBuf::from(out.trim_end());
    assert!(path.exists(), "{out}");
    path
}

#[test]
fn labels_as_people_write_them_get_the_file_and_find_it_again() {
    let bench = Bench::new();
    for (typed, label) in [
        ("fp16", "fp16"),
        ("F16", "fp16"),
        ("q4", "q4"),
        ("UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("q4_k_xl", "UD-Q4_K_XL"),
        ("iq2_m", "IQ2_M"),
        ("MXFP4_MOE", "MXFP4_MOE"),
        ("mxfp4", "MXFP4_MOE"),
    ] {
        let id = format!("{REPO}:{typed}");
        let ran = bench.run(&["get", &id]);
        assert_eq!(ran.code, Some(0), "{}", ran.said);
        let there = path(&ran.out);
        assert!(there.ends_with(file(label)), "{typed}: {}", ran.out);
        // The same rule finds it without the network, for every command.
        let offline = bench.good(&["get", &id, "--offline"]);
        assert_eq!(path(&offline), there);
        let meta = bench.good(&["meta", &id, "--json", "--offline"]);
        let meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
        assert_eq!(meta["file"].as_str().map(PathBuf::from), Some(there));
        // What it proposes works.
        assert!(
            ran.said.contains("run it: modelve complete"),
            "{}",
            ran.said
        );
        bench.paste_all(&ran.said);
    }
}

#[test]
fn parts_come_together_and_projectors_are_no_models() {
    let server = HubServer::start();
    let repo = "org/Split-GGUF";
    server.repo(repo);
    for name in [
        "BF16/Big-BF16-00001-of-00002.gguf",
        "BF16/Big-BF16-00002-of-00002.gguf",
        "Big-Q8_0.gguf",
        "mmproj-Big-F16.gguf",
    ] {
        server.large(repo, name, name.as_bytes());
    }
    let bench = Bench::of(server);
    let first = path(&bench.good(&["get", &format!("{repo}:bf16")]));
    assert!(first.ends_with("BF16/Big-BF16-00001-of-00002.gguf"));
    let second = first.with_file_name("Big-BF16-00002-of-00002.gguf");
    assert!(second.is_file());
    let (said, _) = bench.hinted(&["get", repo]);
    assert!(said.contains("BF16") && said.contains("Q8_0"), "{said}");
    assert!(
        !said.contains("F16.gguf") && !said.contains("mmproj"),
        "{said}"
    );
}

#[test]
fn an_interrupted_transfer_goes_on_and_a_wrong_hash_is_an_error() {
    let bench = Bench::new();
    let name = file("q4");
    let id = format!("{REPO}:q4");
    bench.server.spoil(&name, 99, Fault::CutAfter(1 << 20));
    let ran = bench.run(&["get", &id]);
    // Each attempt receives a part, so that in the end all of it is here.
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let ranges = bench.server.ranges(&name);
    assert!(ranges.len() > 1 && ranges[1].is_some(), "{ranges:?}");

    let bench = Bench::new();
    bench.server.spoil(&name, 99, Fault::Flip(12_345));
    let ran = bench.run(&["get", &id]);
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(ran.said.contains("has the hash"), "{}", ran.said);
    assert!(ran.out.is_empty(), "{}", ran.out);
    let ran = bench.run(&["meta", &id, "--offline"]);
    assert_eq!(
        ran.code,
        Some(1),
        "nothing half right is found: {}",
        ran.said
    );
}

#[test]
fn what_cannot_be_got_is_told_with_what_can() {
    let bench = Bench::new();
    let (said, command) = bench.hinted(&["get", &format!("{REPO}:Q4_K_XS")]);
    assert!(said.contains("has no GGUF file Q4_K_XS"), "{said}");
    for label in LABELS {
        assert!(said.contains(label), "{label}: {said}");
    }
    assert_eq!(command, format!("modelve get {REPO}:UD-Q4_K_XL"));

    let ran = bench.run(&["get", &format!("{REPO}:fp16"), "--offline"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("the network is off"), "{}", ran.said);
    assert!(
        bench
            .server
            .requests()
            .iter()
            .all(|r| !r.path.contains("fp16"))
    );

    for (arguments, said) in [
        (vec!["get"], "required"),
        (vec!["get", "tiny"], "is built in"),
        (vec!["get", "tiny"], "run it: modelve complete -m tiny"),
        (vec!["get", "./nothing"], "\"./nothing\" is not a Hub id"),
        (vec!["get", "."], "already on this machine"),
        (vec!["get", "."], "look inside: modelve meta ."),
    ] {
        let ran = bench.run(&arguments);
        assert_eq!(ran.code, Some(2), "{}", ran.said);
        assert!(ran.said.contains(said), "{}", ran.said);
    }
}

#[test]
fn a_checkpoint_is_got_as_it_is_and_made_into_a_type_by_convert() {
    let server = HubServer::start();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-phi3");
    server.folder("org/tiny", folder.as_ref()).unwrap();
    let bench = Bench::of(server);
    let (said, command) = bench.hinted(&["get", "org/tiny:Q4_0"]);
    assert!(said.contains("has a checkpoint, but no GGUF"), "{said}");
    assert_eq!(command, "modelve convert org/tiny:Q4_0");

    let ran = bench.run(&["get", "org/tiny", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let got: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(got["kind"], "checkpoint");
    assert_eq!(got["received_bytes"], 0, "convert fetched it");
    let there = PathBuf::from(got["path"].as_str().unwrap());
    let weights = fs::read(there.join("model.safetensors")).unwrap();
    let ours = PathBuf::from(folder).join("model.safetensors");
    assert!(weights == fs::read(ours).unwrap());
    let ran = bench.run(&["get", "org/tiny"]);
    assert!(ran.said.contains("convert it"), "{}", ran.said);
    bench.paste_all(&ran.said);
}
