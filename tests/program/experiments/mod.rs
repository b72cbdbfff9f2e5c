//! `why`, `patch` and `ablate` on the command line: schemas, manners, and the same identities.

mod patch;

use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::support::archs;
use crate::support::asking::{self, array, keys, number, numbers, objects, said};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("modelve").unwrap();
    command.args(arguments).env("MODELVE_MODEL", "tiny");
    command
}

fn text(arguments: &[&str]) -> String {
    said(&mut command(arguments))
}

/// The one object that is printed. In 32 bits, as far as the weights allow.
fn found(arguments: &[&str]) -> Value {
    let exact = ["--json", "--kv-type", "f32", "--flash-attn", "off"];
    objects(&mut command(&[arguments, &exact].concat())).remove(0)
}

fn refusal(arguments: &[&str]) -> (String, i32) {
    asking::refusal(&mut command(arguments))
}

/// What the rounding of quantized activations may change in logits of the built-in model, as the
/// shape of a batch decides how it is rounded.
const ROUNDED: f64 = 0.06;

const PARK: &str = "In the park they saw the bat, and it";
const CAVE: &str = "In the cave they saw the bat, and it";

#[test]
fn why_tells_words_parts_and_proof() {
    let why = found(&["why", PARK, "--token", "was", "--against", "fl"]);
    assert_eq!(
        keys(&why),
        [
            "model", "prompt", "ids", "pieces", "token", "against", "measure", "unit", "value",
            "logprob", "top", "words", "parts", "sum", "error", "layers", "notes", "proof",
            "complete"
        ]
    );
    assert_eq!(why["token"]["piece"], " was");
    assert_eq!(why["against"]["piece"], " fl");
    assert_eq!(why["measure"], r#"logit(" was") − logit(" fl")"#);
    assert_eq!(why["unit"], "logits");
    assert_eq!(why["model"]["name"], "tiny-phi3");
    // The measure is what `next` says of the two tokens.
    let next = found(&["next", PARK, "-c", "was,fl"]);
    let logprob = |i: usize| number(&next["candidates"][i]["logprob"]);
    let value = number(&why["value"]);
    assert!((value - (logprob(0) - logprob(1))).abs() < 1e-4, "{value}");
    assert!((number(&why["logprob"]) - logprob(0)).abs() < 1e-4);

    let words: Vec<&str> = why["words"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        words,
        [
            " In", " the", " park", " they", " saw", " the", " bat,", " and", " it"
        ]
    );
    assert_eq!(
        keys(&why["words"][6]),
        ["text", "from", "to", "without", "change", "says"]
    );
    assert_eq!(
        (&why["words"][6]["from"], &why["words"][6]["to"]),
        (&json!(6), &json!(8))
    );
    let without = found(&["next", "In the park they saw the bat, it", "-c", "was,fl"]);
    let plain =
        number(&without["candidates"][0]["logprob"]) - number(&without["candidates"][1]["logprob"]);
    assert!(
        (number(&why["words"][7]["without"]) - plain).abs() < ROUNDED,
        "{plain}"
    );

    // 6 layers of 4 heads and an MLP, and the embedding.
    let parts = why["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 31);
    assert_eq!(keys(&parts[0]), ["part", "layer", "head", "value"]);
    assert_eq!(parts[0]["part"], "embed");
    assert_eq!(parts[0]["head"], Value::Null);
    let head = parts.iter().find(|part| part["part"] == "5.3").unwrap();
    assert_eq!((&head["layer"], &head["head"]), (&json!(5), &json!(3)));
    let sum: f64 = parts.iter().map(|part| number(&part["value"])).sum();
    assert!((sum - number(&why["sum"])).abs() < 1e-9);
    assert!((value - sum - number(&why["error"])).abs() < 1e-9);
    // Its weights are quantized, and so are the activations they are multiplied with.
    assert!((value - sum).abs() < ROUNDED, "{value} {sum}");

    let proof = why["proof"].as_array().unwrap();
    assert_eq!(proof.len(), 6);
    assert_eq!(
        keys(&proof[0]),
        [
            "part",
            "contribution",
            "without",
            "change",
            "without_last",
            "change_last",
            "says"
        ]
    );
    let largest: Vec<&str> = proof[..5]
        .iter()
        .map(|p| p["part"].as_str().unwrap())
        .collect();
    assert_eq!(proof[5]["part"], largest.join(" + "));
    for one in &proof[..5] {
        let part = one["part"].as_str().unwrap();
        let measure = ["--token", "was", "--against", "fl"];
        let everywhere = found(&[&["ablate", PARK, "--part", part], &measure[..]].concat());
        let close = |a: &Value, b: &Value| (number(a) - number(b)).abs() < ROUNDED;
        assert!(close(&one["without"], &everywhere["without"]), "{part}");
        let last = format!("{part}@-1");
        let last = found(&[&["ablate", PARK, "--part", &last], &measure[..]].concat());
        assert!(close(&one["without_last"], &last["without"]), "{part}");
    }
}

#[test]
fn measures_are_named_in_several_ways() {
    let by_word = found(&["why", PARK, "--token", "was", "--against", "fl"]);
    let (t, u) = (
        by_word["token"]["id"].to_string(),
        by_word["against"]["id"].to_string(),
    );
    let by_id = found(&["why", PARK, "--token-id", &t, "--against-id", &u]);
    assert_eq!(by_word["value"], by_id["value"]);
    // Without a name the likeliest against the second.
    let likeliest = found(&["why", PARK]);
    let top = likeliest["top"].as_array().unwrap();
    assert_eq!(likeliest["token"]["id"], top[0]["id"]);
    assert_eq!(likeliest["against"]["id"], top[1]["id"]);
    // One name alone against the mean of the vocabulary, of which the logits know nothing more.
    let alone = found(&["why", PARK, "--token", "was"]);
    assert_eq!(alone["against"], Value::Null);
    assert!(
        alone["measure"]
            .as_str()
            .unwrap()
            .ends_with("the mean logit of the vocabulary")
    );
    assert!(number(&alone["error"]).abs() < ROUNDED);
    // Of several tokens the first that differ count, behind what they have in common.
    let longer = found(&[
        "why",
        PARK,
        "--token",
        "was made of",
        "--against",
        "was hung",
    ]);
    assert_eq!(longer["prompt"], format!("{PARK} was"));
    assert_eq!(longer["token"]["piece"], " made");
    assert_eq!(longer["longer"][0]["named"], " was made of");
    assert_eq!(longer["longer"][0]["tokens"], 3);
    assert_eq!(longer["longer"][1]["measured"]["piece"], " hung");
    assert!(by_word["longer"].is_null());
    let said = text(&["why", PARK, "--token", "was made"]);
    let which = "(\" was\" stands for \" was made\": its first token)";
    assert!(said.contains(which), "{said}");
    for (arguments, said) in [
        (
            &["--token", "was", "--against", "was"][..],
            "\" was\" and \" was\" are the same answer",
        ),
        (
            &["--token", "was", "--against", "was made"],
            "are the same answer",
        ),
        (&["--token", ""], "--token is empty"),
        (
            &["--token-id", "999999"],
            "token id 999999 is outside the vocabulary",
        ),
    ] {
        let (error, code) = refusal(&[&["why", PARK], arguments].concat());
        assert!(error.contains(said), "{error}");
        assert!(code > 0);
    }
}

#[test]
fn ablate_tells_before_and_after() {
    let ablated = found(&["ablate", PARK, "--part", "2.1,mlp.0@-1", "-n", "4"]);
    assert_eq!(
        keys(&ablated),
        [
            "model",
            "prompt",
            "parts",
            "with",
            "token",
            "against",
            "measure",
            "unit",
            "value",
            "without",
            "change",
            "kl",
            "before",
            "after",
            "text",
            "text_before",
            "complete"
        ]
    );
    assert_eq!(ablated["parts"], json!(["2.1", "mlp.0@-1"]));
    assert_eq!(ablated["with"], "zero");
    // Told as `next` tells it.
    let next = found(&["next", PARK]);
    let close = |a: &Value, b: &Value| (number(a) - number(b)).abs() < 1e-4;
    assert!(close(
        &ablated["before"]["top"][0]["prob"],
        &next["top"][0]["prob"]
    ));
    assert!(number(&ablated["kl"]) > 0.0);
    // What the whole model writes is what `complete` writes.
    let whole = found(&["complete", PARK, "-n", "4"]);
    assert_eq!(ablated["text_before"], whole["text"]);
    let mean = found(&["ablate", PARK, "--part", "2.1", "--with", "mean"]);
    assert_eq!(mean["with"], "mean");
    assert!(mean.get("text").is_none());

    let ranked = found(&["ablate", PARK, "--all", "heads", "--top", "3"]);
    assert_eq!(ranked["parts"].as_array().unwrap().len(), 24);
    assert_eq!(
        keys(&ranked["parts"][0]),
        ["part", "layer", "head", "without", "change", "kl", "says"]
    );
    let best = ranked["parts"][0]["part"].as_str().unwrap();
    let single = found(&["ablate", PARK, "--part", best]);
    assert!((number(&ranked["parts"][0]["without"]) - number(&single["without"])).abs() < ROUNDED);
    let shown = text(&["ablate", PARK, "--all", "heads", "--top", "3"]);
    assert!(shown.contains("and 21 with smaller changes"), "{shown}");

    for (arguments, said) in [
        (&[][..], "no part to remove"),
        (
            &["--part", "6.0"],
            "there is no 6.0: the model has 6 layers, 0 to 5",
        ),
        (
            &["--part", "2.4"],
            "there is no 2.4: layer 2 has 4 heads, 0 to 3",
        ),
        (&["--part", "mlp"], "\"mlp\" is not a part of a model"),
        (&["--part", "bias.1"], "cannot be removed alone"),
        (
            &["--part", "mlp.1@99"],
            "position 99 of a prompt with 10 tokens",
        ),
    ] {
        let (error, code) = refusal(&[&["ablate", PARK], arguments].concat());
        assert!(error.contains(said), "{error}");
        assert_eq!(code, 2, "{error}");
    }
}

#[test]
fn every_architecture_is_explained_or_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    for (arch, path) in &archs::models(dir.path()) {
        let model: PathBuf = path.clone();
        let on =
            |arguments: &[&str]| found(&[arguments, &["-m", model.to_str().unwrap()]].concat());
        let why = on(&["why", "the ball hit the bat"]);
        assert!(why["complete"].as_bool().unwrap(), "{arch}");
        assert!(why["words"].as_array().unwrap().len() >= 4, "{arch}");
        assert_eq!(why.get("soft_cap").is_some(), *arch == "gemma2");
        let patch = on(&[
            "patch",
            "the ball hit the bat",
            "the cave hit the bat",
            "--together",
        ]);
        for share in numbers(&patch["together"]) {
            assert!((share - 1.0).abs() < 0.02, "{arch}: {share}");
        }
        if *arch == "mamba" {
            let note = why["notes"][0].as_str().unwrap();
            assert!(
                note.contains("mamba: its graph has no attention output of layer 0"),
                "{note}"
            );
            let (said, _) = refusal(&[
                "ablate",
                "the ball",
                "--all",
                "heads",
                "-m",
                model.to_str().unwrap(),
            ]);
            assert!(
                said.contains("mamba: its graph does not show such parts"),
                "{said}"
            );
            continue;
        }
        assert_eq!(why["notes"], json!([]), "{arch}");
        let kinds = |prefix: &str| {
            let parts = why["parts"].as_array().unwrap().iter();
            parts
                .filter(|part| part["part"].as_str().unwrap().starts_with(prefix))
                .count()
        };
        assert_eq!(
            (kinds("1."), kinds("mlp."), kinds("attn.")),
            (4, 2, 0),
            "{arch}"
        );
        assert_eq!(kinds("bias."), if *arch == "gpt2" { 3 } else { 0 });
        let ranked = on(&["ablate", "the ball hit the bat", "--all", "heads"]);
        assert_eq!(ranked["parts"].as_array().unwrap().len(), 8, "{arch}");
    }
}

#[test]
fn pages_say_what_they_are_of() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["why", PARK][..],
        &["patch", PARK, CAVE],
        &["ablate", PARK, "--all", "heads"],
        &["ablate", PARK, "--part", "2.1"],
        &["next", PARK],
    ] {
        let page = dir.path().join("page.html");
        let printed = text(&[arguments, &["--html", page.to_str().unwrap(), "--force"]].concat());
        assert_eq!(printed, "");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, about) = page.split_once("id=\"about\">").unwrap();
        let (about, _) = about.split_once("</script>").unwrap();
        let about: Value = serde_json::from_str(about).unwrap();
        assert_eq!(about["models"][0]["name"], "tiny-phi3");
        assert!(
            about["models"][0]["quantization"]
                .as_str()
                .unwrap()
                .starts_with("Q4_K")
        );
        let line = about["command"].as_str().unwrap();
        assert!(
            line.starts_with(&format!("modelve {} 'In the park", arguments[0])),
            "{line}"
        );
        assert_eq!(about["date"].as_str().unwrap().len(), 16);
    }
}
