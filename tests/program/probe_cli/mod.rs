//! The probing commands on the command line: schemas, manners, pages.

mod lens;
mod printing;

use crate::support::asking::{self, array, keys, number, objects, said};
use crate::support::tiny_gguf;
use std::path::PathBuf;

use crate::support::tiny_gguf::Tiny;
use assert_cmd::Command;
use serde_json::Value;

struct Bench {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("random.gguf");
        Tiny::default().write(&model);
        Bench { dir, model }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command.args(arguments).env("MODELVE_MODEL", &self.model);
        command
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        objects(&mut self.command(arguments))
    }

    fn refusal(&self, arguments: &[&str]) -> (String, i32) {
        asking::refusal(&mut self.command(arguments))
    }
}

/// What a command prints as text.
fn text(bench: &Bench, arguments: &[&str]) -> String {
    said(&mut bench.command(arguments))
}

/// The data of a page.
fn data(page: &std::path::Path) -> Value {
    let page = std::fs::read_to_string(page).unwrap();
    let (_, data) = page.split_once(r#"id="data">"#).unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn next_has_an_object_per_prompt() {
    let bench = Bench::new();
    let found = bench.lines(&[
        "next",
        "the ball",
        "the cave",
        "-n",
        "3",
        "-c",
        "hit,cave hit",
        "--tree",
        "2x2",
        "--json",
    ]);
    assert_eq!(found.len(), 2);
    for (next, prompt) in found.iter().zip(["the ball", "the cave"]) {
        assert_eq!(next["prompt"], prompt);
        assert_eq!(next["top"].as_array().unwrap().len(), 3);
        assert_eq!(keys(&next["top"][0]), ["id", "piece", "prob", "logprob"]);
        let (prob, log) = (&next["top"][0]["prob"], &next["top"][0]["logprob"]);
        assert!((prob.as_f64().unwrap().ln() - log.as_f64().unwrap()).abs() < 1e-6);
        assert_eq!(next["candidates"][1]["text"], "cave hit");
        assert_eq!(next["candidates"][1]["ids"].as_array().unwrap().len(), 2);
        assert!(next["entropy_bits"].as_f64().unwrap() > 0.0);
        // After a token that ends the text there is no branch.
        let mut branches = next["tree"].as_array().unwrap().iter();
        let two = |branch: &Value| branch["branches"].as_array().is_some_and(|b| b.len() == 2);
        assert!(branches.any(two), "{}", next["tree"]);
    }
    assert!(found[0].get("moved").is_none());
    assert_eq!(found[1]["moved"].as_array().unwrap().len(), 3);
    let forced = bench.lines(&["next", "the", "--then", "ball", "-n", "3", "--json"]);
    assert_eq!(forced[0]["prompt"], "the ball");
    assert_eq!(forced[0]["top"], found[0]["top"]);
}

#[test]
fn score_judges_texts_files_and_standard_input_alike() {
    let bench = Bench::new();
    let text = "the ball hit the cave in the weather";
    let file = bench.dir.path().join("text");
    std::fs::write(&file, text).unwrap();
    let argument = bench.lines(&["score", text, "--json"]);
    let score = &argument[0];
    assert_eq!(score["tokens"][0]["logprob"], Value::Null);
    let tokens = score["tokens"].as_array().unwrap();
    let sum: f64 = tokens[1..]
        .iter()
        .map(|t| t["logprob"].as_f64().unwrap())
        .sum();
    assert!((sum - score["total_logprob"].as_f64().unwrap()).abs() < 1e-6);
    // What was expected instead is likelier, and is told only where it is another token.
    for token in &tokens[1..] {
        let instead = &token["instead"];
        match token["rank"].as_u64().unwrap() {
            1 => assert!(instead.is_null(), "{token}"),
            _ => assert!(
                instead["id"] != token["id"]
                    && instead["logprob"].as_f64() >= token["logprob"].as_f64(),
                "{token}"
            ),
        }
    }
    assert!(tokens[1..].iter().any(|token| !token["instead"].is_null()));
    for key in ["bits_per_token", "bits_per_byte", "perplexity"] {
        assert!(score[key].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        argument,
        bench.lines(&["score", "--file", file.to_str().unwrap(), "--json"])
    );
    let piped = bench
        .command(&["score", "--json"])
        .write_stdin(text)
        .assert()
        .success();
    let piped: Value = serde_json::from_slice(&piped.get_output().stdout).unwrap();
    assert_eq!(&piped, score);
    let piped = bench
        .command(&["score", "--file", "-", "--json"])
        .write_stdin(text)
        .assert()
        .success();
    let piped: Value = serde_json::from_slice(&piped.get_output().stdout).unwrap();
    assert_eq!(&piped, score);
    let shown = bench
        .command(&["score", text, "the ball"])
        .assert()
        .success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    assert!(shown.starts_with(text), "{shown}");
    assert!(shown.contains("likeliest first"), "{shown}");
}

#[test]
fn compare_needs_two_files_and_no_text() {
    let bench = Bench::new();
    let other = bench.dir.path().join("other.gguf");
    let seed = 2;
    Tiny {
        seed,
        ..Tiny::default()
    }
    .write(&other);
    let (a, b) = (bench.model.to_str().unwrap(), other.to_str().unwrap());
    let found = &bench.lines(&["compare", a, b, "-n", "60", "--json", "--swap", "2"])[0];
    assert_eq!(
        (&found["a"], &found["b"], &found["n_tokens"]),
        (&a.into(), &b.into(), &59.into())
    );
    assert!(found["kl_mean"].as_f64().unwrap() > found["kl_error"].as_f64().unwrap());
    assert!((0.0..1.0).contains(&found["same_top"].as_f64().unwrap()));
    assert_eq!(found["worst"].as_array().unwrap().len(), 10);
    assert!(
        found["tensors"][0]["error"].as_f64().unwrap() > 1.0,
        "other random weights"
    );
    assert_eq!(found["swap"].as_array().unwrap().len(), 2);
    assert_eq!(
        bench
            .lines(&["compare", a, b, a, "-n", "20", "--json"])
            .len(),
        2
    );
    assert_eq!(bench.refusal(&["compare", a]).1, 2);
}

#[test]
fn a_swap_does_not_depend_on_the_windows() {
    // Windows beyond 256 tokens take this model's long RoPE factors, the short text of a swap
    // does not: a session of another size would measure that difference too.
    let bench = Bench::new();
    let other = bench.dir.path().join("other.gguf");
    let mut parts = Tiny::default().parts();
    let (_, _, _, data) = parts
        .tensors
        .iter_mut()
        .find(|tensor| tensor.0 == "blk.0.ffn_up.weight")
        .unwrap();
    for weight in data.chunks_exact_mut(4) {
        let bytes: [u8; 4] = (&*weight).try_into().unwrap();
        weight.copy_from_slice(&(f32::from_le_bytes(bytes) * 1.1).to_le_bytes());
    }
    parts.write(&other);
    let (a, b) = (bench.model.to_str().unwrap(), other.to_str().unwrap());
    let exact = [
        "--kv-type",
        "f32",
        "--flash-attn",
        "off",
        "--greedy",
        "0",
        "--json",
    ];
    let run = |more: &[&str]| {
        bench
            .lines(&[&["compare", a, b], more, &exact].concat())
            .remove(0)
    };
    let whole = run(&["-n", "129"]);
    let swap = run(&["-n", "600", "--window", "512", "--swap"]);
    assert_eq!(swap["swap"][0]["name"], "blk.0.ffn_up.weight");
    let of = |value: &Value| value["kl_mean"].as_f64().unwrap();
    let (one, all) = (of(&swap["swap"][0]), of(&whole));
    assert!((one - all).abs() < 1e-3 * all, "{one} {all}");
}

#[test]
fn a_prompt_says_the_same_beside_a_longer_one() {
    // Beyond 256 tokens this model takes its long RoPE factors.
    let bench = Bench::new();
    let long = "the ball hit the bat and ".repeat(60);
    let exact = ["--kv-type", "f32", "--flash-attn", "off", "--json"];
    let short = "the ball hit the cave";
    let ask = |texts: &[&str], command: &str| {
        let found = bench.lines(&[&[command], texts, &exact].concat());
        assert_eq!(found.len(), texts.len());
        found
    };
    let (alone, beside) = (ask(&[short], "next"), ask(&[&long, short], "next"));
    assert!(beside[0]["ids"].as_array().unwrap().len() > 256);
    assert_eq!(alone[0]["top"], beside[1]["top"]);
    let score = |texts: &[&str]| {
        let window = ["--window", "300"];
        bench.lines(&[&["score"], texts, &window, &exact].concat())
    };
    assert_eq!(
        score(&[short])[0]["tokens"],
        score(&[&long, short])[1]["tokens"]
    );
}

#[test]
fn a_smaller_context_makes_smaller_windows() {
    let bench = Bench::new();
    let text = "the ball hit the bat and ".repeat(20);
    let found = &bench.lines(&["score", &text, "--ctx-size", "32", "--json"])[0];
    assert_eq!(found["windows"]["size"], 32);
    assert!(found["n_scored"].as_u64().unwrap() > 64);
}

#[test]
fn refusals_are_clear() {
    let bench = Bench::new();
    let small = bench.dir.path().join("small.gguf");
    let mut parts = Tiny::default().parts();
    let (mut texts, _, _) = tiny_gguf::vocabulary();
    texts[300] = "something else".to_owned();
    parts.set(
        "tokenizer.ggml.tokens",
        modelve::gguf::Value::Array(texts.iter().collect()),
    );
    parts.write(&small);
    let (a, b) = (bench.model.to_str().unwrap(), small.to_str().unwrap());
    let cases: [(&[&str], &str, i32); 16] = [
        (
            &["attention", "the ball", "--kv-type", "q8_0"],
            "a quantized KV cache needs flash attention",
            2,
        ),
        (&["score", "t"], "a single token", 2),
        (
            &["attention", "the ball", "--head", "9"],
            "head 9 of a layer with 4",
            2,
        ),
        (&["lens", "the", "--positions", "7"], "position 7 of 1", 2),
        (&["next", ""], "the prompt is empty", 2),
        (&["lens", ""], "the prompt is empty", 2),
        (&["score", ""], "text 1 is empty", 2),
        (
            &["score", "the", "--window", "8", "--stride", "8"],
            "stride",
            2,
        ),
        (
            &["next", "the", "--candidates", "ball,,hit"],
            "candidate 2 is empty",
            2,
        ),
        (
            &["next", "the", "--then", "ball cave"],
            "is not one token but",
            2,
        ),
        (
            &["next", "the", "--then", "123456"],
            "token 123456 is outside the vocabulary",
            2,
        ),
        (&["next", "the", "--tree", "20x9"], "nodes", 2),
        (
            &["lens", "the ball", "--layers", "99"],
            "layer 99 of 2, which are 0 to 1",
            2,
        ),
        (
            &["attention", "the ball", "--layer", "99"],
            "layer 99 of 2, which are 0 to 1",
            2,
        ),
        (
            &["attention", "the ball", "--flash-attn", "on"],
            "flash attention keeps no weights",
            2,
        ),
        (
            &["compare", a, b],
            "have different vocabularies: token 300",
            1,
        ),
    ];
    for (arguments, expected, code) in cases {
        let (said, got) = bench.refusal(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(got, code, "{arguments:?}: {said}");
    }
}

#[test]
fn bytes_that_are_no_characters_look_the_same_everywhere() {
    let bench = Bench::new();
    // Tokens 3 + 0xc3 and 3 + 0xa9 spell a letter.
    let (one, two) = ((3 + 0xc3).to_string(), (3 + 0xa9).to_string());
    let then = ["next", "the", "--then", &one, "--then", &two, "-n", "1"];
    assert!(text(&bench, &then).starts_with("theé _"));
    let shown = text(&bench, &["score", "☃", "--tokens"]);
    assert!(
        shown.contains("\"\\xe2\"") && shown.contains("\"\\x98\""),
        "{shown}"
    );
    let shown = text(&bench, &["lens", "☃", "--positions", "-1"]);
    assert!(
        !shown.contains("<0x") && !shown.contains("\\\\x"),
        "{shown}"
    );
}
