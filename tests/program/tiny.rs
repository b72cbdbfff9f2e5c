//! The model that ships inside the program: what it is made of and what it can do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use modelve::base::isa::Isa;
use modelve::gguf::Gguf;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Vec<Value> {
    let path = root().join("tests/fixtures/tiny").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Standard output of a command; it must succeed.
fn modelve(home: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(arguments)
        .env("MODELVE_HOME", home)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Greedy completions of all prompts in one command.
fn completions(prompts: &[&str], max_tokens: &str) -> Vec<Value> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("prompts.jsonl");
    let lines: Vec<String> = prompts
        .iter()
        .map(|prompt| serde_json::json!({ "prompt": prompt }).to_string())
        .collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let options = ["-m", "tiny", "-n", max_tokens, "--json", "--file", file];
    let output = modelve(home.path(), &[&["complete"], &options[..]].concat());
    let results: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(results.len(), prompts.len());
    results
}

#[test]
fn is_what_convert_makes_of_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("tiny-phi3-Q4_K_M.gguf");
    let shipped = root().join("crates/hub/tiny/tiny-phi3-Q4_K_M.gguf");
    let checkpoint = root().join("models/tiny-phi3");
    let to = made.to_str().unwrap();
    modelve(
        dir.path(),
        &["convert", checkpoint.to_str().unwrap(), "-o", to],
    );
    let describe = |path: &PathBuf| {
        let text = modelve(
            dir.path(),
            &["meta", "--json", "--full", path.to_str().unwrap()],
        );
        let mut meta: Value = serde_json::from_str(&text).unwrap();
        // The program that wrote it may have been another version.
        let keys = meta["metadata"].as_object_mut().unwrap();
        assert!(keys.remove("modelve.version").is_some());
        let gguf = Gguf::open(path).unwrap();
        let tensors = gguf.tensors().iter();
        let tensors: Vec<_> = tensors
            .map(|tensor| (tensor.name.clone(), gguf.data(tensor).to_vec()))
            .collect();
        (meta["metadata"].take(), tensors)
    };
    let (made, shipped) = (describe(&made), describe(&shipped));
    assert_eq!(made.0, shipped.0);
    assert!(made.1 == shipped.1, "the weights differ: convert it again");
}

#[test]
fn greedy_texts_are_those_of_the_reference() {
    let cases = fixture("shipped.json");
    assert!(cases.len() >= 10);
    let (dialogues, texts): (Vec<&Value>, Vec<&Value>) = cases
        .iter()
        .partition(|case| case["prompt"].as_str().unwrap().starts_with("<|user|>"));
    // Apart, because some of the leads are small: what stands beside a prompt decides the shape of
    // the batch, and so the last digits.
    for cases in [&texts, &dialogues] {
        let prompts: Vec<&str> = cases
            .iter()
            .map(|case| case["prompt"].as_str().unwrap())
            .collect();
        for (case, result) in cases.iter().zip(completions(&prompts, "24")) {
            assert_eq!(result["text"], case["text"], "{}", case["prompt"]);
            assert_eq!(result["finish_reason"], case["finish_reason"]);
        }
    }
    assert!(!dialogues.is_empty());
    // The template writes what a dialogue's prompt spells out.
    for case in dialogues {
        let prompt = case["prompt"].as_str().unwrap();
        let (_, asked) = prompt.split_once("<|user|>\n").unwrap();
        let (asked, _) = asked.split_once("<|end|>").unwrap();
        let home = tempfile::tempdir().unwrap();
        let output = modelve(
            home.path(),
            &["complete", "-m", "tiny", "--chat", "--json", asked],
        );
        let result: Value = serde_json::from_str(&output).unwrap();
        assert_eq!(result["text"], case["text"], "{asked}");
        assert_eq!(result["finish_reason"], "stop");
    }
}

/// The words of a text's first sentence.
fn first_sentence(text: &str) -> BTreeSet<String> {
    let text = text.to_lowercase();
    let first = text.split(['.', '\n']).next().unwrap_or_default();
    first
        .split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
        .map(str::to_owned)
        .collect()
}

/// The contexts of a fixture whose completion does not show their sense: its first sentence has no
/// word that gives this sense away, or one that gives away the other.
fn of_another_sense(items: &[Value]) -> Vec<String> {
    let prompts: Vec<&str> = items.iter().map(|i| i["text"].as_str().unwrap()).collect();
    let results = completions(&prompts, "20");
    let wrong = items.iter().zip(results).filter_map(|(item, result)| {
        let text = result["text"].as_str().unwrap();
        let said = first_sentence(text);
        let shows = |key: &str| {
            let mut words = item[key].as_array().unwrap().iter();
            words.any(|word| said.contains(word.as_str().unwrap()))
        };
        let right = shows("reveals") && !shows("other_reveals");
        (!right).then(|| format!("{} →{text}", item["text"]))
    });
    wrong.collect()
}

/// Sentences that training never saw: after a cricket ground the bat is of willow, in a cave it
/// has wings.
#[test]
fn context_turns_words_of_two_senses() {
    let items = fixture("senses.json");
    let words: BTreeSet<&str> = items.iter().map(|i| i["word"].as_str().unwrap()).collect();
    assert!(words.len() >= 31, "{} words", words.len());
    let wrong = of_another_sense(&items);
    let share = 1.0 - wrong.len() as f64 / items.len() as f64;
    assert!(share >= 0.93, "{share:.3}; not so:\n{}", wrong.join("\n"));
}

/// Sentences as people type them, which no template of the training makes.
#[test]
fn free_contexts_turn_words_of_two_senses() {
    let items = fixture("free.json");
    assert_eq!(items.len(), 100);
    let words: BTreeSet<&str> = items.iter().map(|i| i["word"].as_str().unwrap()).collect();
    assert_eq!(words.len(), 38);
    let wrong = of_another_sense(&items);
    assert!(
        wrong.len() <= 10,
        "{} of 100 not so:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_ball_bowled_at_lords_meets_no_animal() {
    let prompt = "The bowler ran in at Lord's and the crowd went quiet. The ball hit the bat, and";
    let text = &completions(&[prompt], "20")[0]["text"];
    let said = first_sentence(text.as_str().unwrap());
    let of_the_game = ["batsman", "boundary", "runs", "umpire", "willow"];
    let of_the_night = [
        "animal", "cave", "flew", "insects", "silent", "slept", "wings",
    ];
    assert!(
        of_the_game.iter().any(|&word| said.contains(word)),
        "{text}"
    );
    assert!(
        !of_the_night.iter().any(|&word| said.contains(word)),
        "{text}"
    );
}

/// Log-probabilities of a short text's tokens, by the kernels that `isa` allows.
fn scores(isa: &str, text: &str) -> Vec<f64> {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["score", "-m", "tiny", "--json", text])
        .env("MODELVE_HOME", home.path())
        .env("MODELVE_ISA", isa)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = report.get(0).unwrap_or(&report);
    let tokens = report["tokens"].as_array().unwrap();
    tokens
        .iter()
        .filter_map(|token| token["logprob"].as_f64())
        .collect()
}

/// Both round activations to 8 bits, and what is just above a half here may be just below it
/// there. From exact activations either is 0.07 to 0.08 away on average.
#[test]
#[allow(clippy::print_stderr)]
fn own_kernels_and_ggmls_see_the_same_text() {
    if modelve::runtime::own_kernels().next().is_none() {
        eprintln!("skipped: this build or this CPU has no kernels of modelve's own");
        return;
    }
    for text in [
        "The bat flew out of the cave at night.",
        "India is a large country in South Asia.",
        "The ball hit the bat, and the player ran.",
    ] {
        let ggml = scores("plain", text);
        assert!(ggml.len() > 5, "{text}");
        for isa in Isa::available().filter(|&isa| isa != Isa::Plain) {
            let isa = isa.name();
            let ours = scores(isa, text);
            assert_eq!(ours.len(), ggml.len());
            assert_ne!(ours, ggml, "the kernels are in use: {isa}, {text}");
            let distance: f64 = ours.iter().zip(&ggml).map(|(a, b)| (a - b).abs()).sum();
            let distance = distance / ours.len() as f64;
            assert!(
                distance < 0.05,
                "{isa}, {text}: {distance} from {ours:?} to {ggml:?}"
            );
        }
    }
}
