//! `modelve vocab` from the command line: on a vocabulary of our own, and on Phi-3's real one
//! against ids that sentencepiece and transformers computed.

use crate::support::tiny_gguf;
use std::path::{Path, PathBuf};

use crate::support::tiny_gguf::Tiny;
use assert_cmd::Command;
use modelve::gguf::{Array, Value};
use modelve::runtime::{Reading, Token, Vocab};
use serde_json::Value as Json;

/// A vocabulary that spells one token in bytes that are not UTF-8.
fn written() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    Tiny::default().write(&path);
    (dir, path)
}

fn vocab(model: &Path) -> Command {
    let mut command = Command::cargo_bin("modelve").unwrap();
    command.arg("vocab").arg("-m").arg(model);
    command
}

fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "stderr is for trouble");
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: &mut Command) -> Json {
    serde_json::from_str(&stdout(command.arg("--json"))).unwrap()
}

fn stderr(command: &mut Command) -> String {
    let output = command.assert().failure().code(1).get_output().clone();
    assert!(output.stdout.is_empty(), "stdout is for data");
    String::from_utf8(output.stderr).unwrap()
}

/// The real vocabulary, where this checkout has one beside it.
#[allow(clippy::print_stderr)]
fn phi3() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/phi3");
    let path = folder.join("ggml-vocab-phi-3.gguf");
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no real Phi-3 vocabulary at {}", path.display());
    None
}

#[test]
fn ids_and_texts_and_pieces_name_tokens() {
    let (_dir, model) = written();
    let found = json(vocab(&model).args(["0", "13", "▁bat", " bat", "<|end|>"]));
    let tokens = found.as_array().unwrap();
    assert_eq!(tokens.len(), 5);
    assert_eq!(tokens[0]["text"], "<unk>");
    assert_eq!(tokens[0]["kind"], "unknown");
    assert_eq!(tokens[1]["text"], "<0x0A>");
    assert_eq!(tokens[1]["piece"], "\n");
    assert_eq!(tokens[1]["bytes"], serde_json::json!([10]));
    assert_eq!(tokens[1]["kind"], "byte");
    assert_eq!(tokens[1]["score"], -13.0);
    assert_eq!(tokens[2]["piece"], " bat");
    assert_eq!(tokens[2], tokens[3]);
    assert_eq!(tokens[4]["kind"], "control");
    let keys: Vec<_> = tokens[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "piece", "text", "bytes", "kind", "score"]);
}

#[test]
fn a_byte_that_is_no_text_is_shown_as_a_byte() {
    let (_dir, model) = written();
    let id = (3 + 0xe2).to_string();
    assert_eq!(
        json(vocab(&model).arg(&id))[0]["piece"],
        serde_json::json!({"bytes": [0xe2]})
    );
    assert!(stdout(vocab(&model).arg(&id)).contains(r#""\xe2""#));
}

#[test]
fn what_does_not_exist_is_an_error_that_helps() {
    let (_dir, model) = written();
    let last = tiny_gguf::vocabulary().0.len() - 1;
    for id in [(last + 1).to_string(), "-1".to_owned(), "9".repeat(30)] {
        let message = stderr(vocab(&model).arg(&id));
        assert!(
            message.contains(&format!("ids are 0 to {last}")),
            "{message}"
        );
    }
    let message = stderr(vocab(&model).arg("<|ennd|>"));
    assert!(message.contains("nearest: <|end|> ("), "{message}");
    assert!(message.contains("--search"), "{message}");
    stderr(vocab(&model).args(["--search", "no such token"]));
    stderr(vocab(&model).args(["--decode", "x"]));
    stderr(&mut vocab(Path::new("no/such.gguf")));
}

#[test]
fn usage_errors_exit_with_2() {
    let (_dir, model) = written();
    for arguments in [
        &["--search", "("][..],
        &["--no-bos"],
        &["1", "--special"],
        &["--encode", "a", "--decode", "1"],
    ] {
        vocab(&model).args(arguments).assert().code(2);
    }
}

#[test]
fn the_overview_counts_kinds_and_lists_special_tokens() {
    let (_dir, model) = written();
    let overview = json(&mut vocab(&model));
    let size = tiny_gguf::vocabulary().0.len();
    assert_eq!(overview["type"], "llama");
    assert_eq!(overview["size"], size);
    assert_eq!(overview["counts"]["byte"], 256);
    assert_eq!(overview["counts"]["control"], 7);
    assert_eq!(overview["bos"], 1);
    assert_eq!(overview["add_bos"], false);
    let special = overview["special"].as_array().unwrap();
    assert_eq!(special.len(), 8, "the unknown token has a role");
    let end = special
        .iter()
        .find(|token| token["text"] == "<|end|>")
        .unwrap();
    assert_eq!(overview["eot"], end["id"]);
    assert_eq!(end["rstrip"], true, "the name says phi3");
    assert_eq!(special[1]["rstrip"], false, "<s> keeps what follows");

    let text = stdout(&mut vocab(&model));
    assert!(text.contains("256 byte"));
    assert!(text.contains("BOS"));
    assert!(text.contains("not put before a text"));
    assert!(text.contains("add_generation_prompt"), "the chat template");
    assert!(!text.contains('\x1b'), "no colour off a terminal");
    assert_eq!(json(vocab(&model).arg("--special")), overview["special"]);
}

#[test]
fn search_finds_by_text_and_by_piece_and_stops_at_the_limit() {
    let (_dir, model) = written();
    let texts = |arguments: &[&str]| -> Vec<String> {
        let found = json(vocab(&model).args(arguments));
        let tokens = found.as_array().unwrap().iter();
        tokens
            .map(|token| token["text"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        texts(&["--search", "^▁ba"]),
        ["▁ba", "▁bal", "▁ball", "▁bat"]
    );
    assert_eq!(
        texts(&["--search", "^ ba"]),
        ["▁ba", "▁bal", "▁ball", "▁bat"]
    );
    assert_eq!(
        texts(&["--search", "^▁ba", "--limit", "2"]),
        ["▁ba", "▁bal"]
    );
    assert_eq!(texts(&["--search", "^7$"]), ["<0x37>", "7"]);
}

#[test]
fn a_text_becomes_tokens_and_tokens_a_text() {
    let (_dir, model) = written();
    let cut = json(vocab(&model).args(["--encode", "the bat<|end|>\n in"]));
    assert_eq!(cut["text"], "the bat<|end|>\n in");
    assert_eq!(
        cut["pieces"],
        serde_json::json!([" the", " bat", "<|end|>", " in"]),
        "white space after <|end|> is dropped"
    );
    let ids: Vec<String> = cut["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Json::to_string)
        .collect();
    let back = stdout(vocab(&model).arg("--decode").args(&ids));
    assert_eq!(back, "the bat<|end|> in\n");

    let plain = json(vocab(&model).args(["--no-special", "--encode", "<|end|>"]));
    assert!(plain["ids"].as_array().unwrap().len() > 1);
    let dashes = json(vocab(&model).args(["--encode", "--x"]));
    assert_eq!(dashes["text"], "--x");
    let empty = json(vocab(&model).args(["--encode", ""]));
    assert_eq!(empty["ids"], serde_json::json!([]));
}

#[test]
fn no_bos_leaves_out_what_the_file_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("bos.gguf");
    let mut parts = Tiny::default().parts();
    parts.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    parts.write(&model);
    let with = json(vocab(&model).args(["--encode", "bat"]));
    let without = json(vocab(&model).args(["--no-bos", "--encode", "bat"]));
    assert_eq!(with["pieces"], serde_json::json!(["<s>", " bat"]));
    assert_eq!(without["pieces"], serde_json::json!([" bat"]));
}

#[test]
fn standard_input_is_taken_byte_for_byte() {
    let (_dir, model) = written();
    // llama.cpp takes the length of a character from its first byte, so a space in the three
    // bytes after 0xff would be swallowed and come back as its mark; there is none here.
    for bytes in [
        &b"the bat\r\n"[..],
        b"\xff\xfe\0..a \xe2\x96",
        "é\u{2028}".as_bytes(),
    ] {
        let cut = json(
            vocab(&model)
                .args(["--no-special", "--encode", "-"])
                .write_stdin(bytes),
        );
        let ids: Vec<String> = cut["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(Json::to_string)
            .collect();
        let back = vocab(&model).arg("--decode").args(&ids).output().unwrap();
        assert_eq!(back.stdout, [bytes, b"\n"].concat());
        let expected = match std::str::from_utf8(bytes) {
            Ok(text) => Json::from(text),
            Err(_) => serde_json::json!({"bytes": bytes}),
        };
        assert_eq!(cut["text"], expected);
    }
}

#[test]
fn nothing_of_a_hostile_vocabulary_reaches_the_terminal_raw() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("hostile.gguf");
    let mut parts = Tiny::default().parts();
    let (mut texts, ..) = tiny_gguf::vocabulary();
    texts[300] = "\x1b]0;owned\x07".to_owned();
    parts.set(
        "tokenizer.ggml.tokens",
        Value::Array(texts.iter().collect()),
    );
    parts.set("tokenizer.ggml.model", Value::String("\x1b[2J".to_owned()));
    parts.set(
        "tokenizer.chat_template",
        Value::String("\x1b[31m".to_owned()),
    );
    parts.write(&model);
    assert!(!stdout(vocab(&model).arg("300")).contains('\x1b'));
    assert!(!stdout(&mut vocab(&model)).contains('\x1b'));
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("broken.gguf");
    for (key, value) in [
        ("tokenizer.ggml.tokens", Value::U32(3)),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(vec![1.0]))),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::String(vec![b"x".to_vec()])),
        ),
    ] {
        let mut parts = Tiny::default().parts();
        parts.set(key, value);
        parts.write(&model);
        let message = stderr(vocab(&model).arg("1"));
        assert!(message.contains(key), "{message}");
    }
    let mut parts = Tiny::default().parts();
    parts.remove("tokenizer.ggml.tokens");
    parts.write(&model);
    assert!(stderr(&mut vocab(&model)).contains("no vocabulary"));
}

#[test]
fn phi3s_tokens_are_those_of_the_article() {
    let Some(model) = phi3() else { return };
    let special = json(vocab(&model).arg("--special"));
    let special = special.as_array().unwrap();
    let ids: Vec<u64> = special
        .iter()
        .map(|token| token["id"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (0..=2).chain(32000..=32010).collect();
    assert_eq!(ids, expected);
    // What Hugging Face's tokenizer_config.json says of each.
    for token in special {
        let text = token["text"].as_str().unwrap();
        let keeps = ["<unk>", "<s>", "<|endoftext|>"].contains(&text);
        assert_eq!(token["rstrip"], !keeps, "{text}");
        assert_eq!(token["special"], text != "</s>", "{text}");
    }
    let tokens = json(vocab(&model).args(["1001", "15987", "32009", "32011"]));
    let texts: Vec<&str> = tokens
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["ER", "effect", "<|placeholder6|>", "[PAD32011]"]);
}

#[test]
fn phi3s_ids_are_those_of_sentencepiece_and_transformers() {
    let Some(model) = phi3() else { return };
    let cases: Vec<Json> = serde_json::from_str(include_str!("../fixtures/phi3-ids.json")).unwrap();
    assert!(cases.len() >= 200);
    let tokenizer = Vocab::load(&model).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<Token> = serde_json::from_value(case["ids"].clone()).unwrap();
        let special = case["by"] == "transformers";
        let reading = match special {
            true => Reading::PromptPart,
            false => Reading::TextPart,
        };
        let ids = tokenizer.tokenize(text, reading).unwrap();
        if ids != expected {
            wrong.push(format!(
                "{text:?}: {ids:?}, not {expected:?} ({})",
                case["by"]
            ));
        }
        // A text that holds the mark for a space cannot come back: it reads as a space.
        if !special && !text.contains('▁') {
            let back = tokenizer.detokenize(&ids, true).unwrap();
            assert_eq!(back, text.as_bytes(), "{text:?} comes back");
        }
    }
    // After a special token transformers drops white space of every kind, llama.cpp what C's
    // isspace takes for it: ASCII.
    let known = ["<|end|>\u{a0}a", "<|end|>\u{3000}a"].map(|text| format!("{text:?}: "));
    wrong.retain(|line| !known.iter().any(|known| line.starts_with(known)));
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
