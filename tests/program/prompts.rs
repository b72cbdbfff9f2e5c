//! Texts on the command line: one rule for where they come from and which tokens they become.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

use crate::support::tiny_gguf::{self, Tiny};

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

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("MODELVE_MODEL", &self.model);
        command
    }

    fn objects(&self, arguments: &[&str], stdin: impl AsRef<[u8]>) -> Vec<Value> {
        let mut command = self.command(arguments);
        let out = command
            .arg("--json")
            .write_stdin(stdin.as_ref())
            .assert()
            .success();
        let text = String::from_utf8(out.get_output().stdout.clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The ids of the one text.
    fn ids(&self, arguments: &[&str], stdin: impl AsRef<[u8]>) -> Vec<i64> {
        let object = self.objects(arguments, stdin).remove(0);
        let ids = match &object["ids"] {
            Value::Array(ids) => ids.iter().map(Value::as_i64).collect(),
            _ => {
                let tokens = object["tokens"].as_array().unwrap().iter();
                tokens.map(|token| token["id"].as_i64()).collect()
            }
        };
        let ids: Option<Vec<i64>> = ids;
        ids.unwrap()
    }

    /// What `complete` takes for its prompts.
    fn prompts(&self, arguments: &[&str], stdin: impl AsRef<[u8]>) -> Vec<String> {
        let complete = [&["complete", "-n", "0"], arguments].concat();
        let objects = self.objects(&complete, stdin);
        let prompt = |object: &Value| object["prompt"].as_str().unwrap().to_owned();
        objects.iter().map(prompt).collect()
    }

    /// What is said on standard error, with the exit code.
    fn refusal(&self, arguments: &[&str], stdin: &str) -> (String, i32) {
        let mut command = self.command(arguments);
        let out = command.write_stdin(stdin).assert().failure();
        let out = out.get_output();
        assert!(out.stdout.is_empty());
        let said = String::from_utf8(out.stderr.clone()).unwrap();
        (said, out.status.code().unwrap())
    }
}

fn token(text: &str) -> i64 {
    let (texts, ..) = tiny_gguf::vocabulary();
    texts.iter().position(|other| other == text).unwrap() as i64
}

#[test]
fn standard_input_is_one_prompt() {
    let bench = Bench::new();
    for stdin in [
        "Today is",
        "Today is\n",
        "Today is\r\n",
        "\u{feff}Today is\r\n",
    ] {
        assert_eq!(bench.prompts(&[], stdin), ["Today is"], "{stdin:?}");
        assert_eq!(bench.prompts(&["-"], stdin), ["Today is"], "{stdin:?}");
    }
    assert_eq!(
        bench.prompts(&[], "the ball\n\nthe bat\n\n"),
        ["the ball\n\nthe bat\n"]
    );
    assert_eq!(bench.prompts(&["a", "-", "b"], "c\n"), ["a", "c", "b"]);
    // What is not an object of one line is a text.
    for text in ["\"Today\" is", "{\n  \"a\": 1\n}", "{% if a %}", "[1]"] {
        assert_eq!(bench.prompts(&["-"], text), [text]);
    }
    // UTF-16, as some shells write it.
    assert_eq!(bench.prompts(&[], b"\xff\xfea\0 \0b\0\r\0\n\0"), ["a b"]);
}

#[test]
fn lines_and_json_lines_are_several_prompts() {
    let bench = Bench::new();
    let plain = bench.file("list.txt", "the ball\r\n\n  the bat\n");
    let expected = ["the ball", "  the bat"];
    assert_eq!(bench.prompts(&["--lines", "--file", &plain], ""), expected);
    assert_eq!(
        bench.prompts(&["--lines", "-"], "the ball\n\n  the bat"),
        expected
    );
    let json = "\u{feff}{\"prompt\": \"the ball\"}\n\n\"  the bat\"\r\n";
    assert_eq!(bench.prompts(&[], json), expected);
    let file = bench.file("list", json);
    assert_eq!(bench.prompts(&["-f", &file], ""), expected);
    assert_eq!(
        bench.prompts(&["a", "-f", &file, "-f", &plain], "").len(),
        4
    );
    let by_name = bench.file("strings.jsonl", "\"the ball\"\n\"  the bat\"\n");
    assert_eq!(bench.prompts(&["-f", &by_name], ""), expected);
    // Each line as it is, even if it looks like JSON.
    let line = "{\"a\": 1}";
    assert_eq!(bench.prompts(&["--lines"], line), [line]);
    let (said, code) = bench.refusal(&["complete"], "{\"promt\": \"x\"}\n");
    assert!(
        said.contains("line 1 of standard input is not a JSON prompt"),
        "{said}"
    );
    assert!(said.contains("modelve complete --lines"), "{said}");
    assert_eq!(code, 1);
    // In every command that takes several.
    for command in ["next", "score"] {
        let found = bench.objects(&[command, "--lines", "-f", &plain], "");
        assert_eq!(found.len(), 2, "{command}");
    }
}

#[test]
fn a_prompt_is_the_same_tokens_in_every_command() {
    let bench = Bench::new();
    let prompt = "<|user|>\nthe ball<|end|>";
    let encode = |more: &[&str]| {
        let vocab = [&["vocab", "--encode", prompt], more, &["--json"]].concat();
        let out = bench.command(&vocab).assert().success();
        let object: Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
        let ids = object["ids"].as_array().unwrap().iter();
        ids.map(|id| id.as_i64().unwrap()).collect::<Vec<i64>>()
    };
    let (special, plain) = (encode(&[]), encode(&["--no-special"]));
    assert_eq!(
        special.iter().filter(|&&id| id == token("<|end|>")).count(),
        1
    );
    assert!(plain.len() > special.len() + 10);
    let n = |more: &[&str]| {
        let complete = [&["complete", prompt, "-n", "1"], more].concat();
        let usage = bench.objects(&complete, "").remove(0);
        usage["usage"]["prompt_tokens"].as_u64().unwrap() as usize
    };
    assert_eq!((n(&[]), n(&["--no-special"])), (special.len(), plain.len()));
    assert_eq!(
        n(&["--no-special", "--special"]),
        special.len(),
        "the last one counts"
    );
    for command in ["next", "lens", "attention"] {
        assert_eq!(bench.ids(&[command, prompt], ""), special, "{command}");
        let ids = bench.ids(&[command, prompt, "--no-special"], "");
        assert_eq!(ids, plain, "{command}");
        // By a file and by standard input just as well.
        let file = bench.file("prompt", format!("\u{feff}{prompt}\n"));
        assert_eq!(bench.ids(&[command, "--file", &file], ""), special);
        assert_eq!(bench.ids(&[command], prompt), special, "{command}");
    }
    // A text that is judged is a text.
    assert_eq!(bench.ids(&["score", prompt], ""), plain);
    assert_eq!(bench.ids(&["score", prompt, "--special"], ""), special);
}

#[test]
fn a_conversation_is_the_same_tokens_in_every_command() {
    let bench = Bench::new();
    let asked = ["the ball<|end|>", "--system", "the cave"];
    let complete = [&["complete", "-n", "1"], &asked[..]].concat();
    let object = bench.objects(&complete, "").remove(0);
    assert_eq!(object["prompt"], "the ball<|end|>");
    let n = object["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    for command in ["next", "lens", "attention"] {
        let arguments = [&[command], &asked[..]].concat();
        let found = bench.objects(&arguments, "").remove(0);
        let ids = found["ids"].as_array().unwrap();
        assert_eq!(ids.len(), n, "{command}");
        // The template's own is a token, what was said is not.
        let ends = ids.iter().filter(|id| **id == token("<|end|>"));
        assert_eq!(ends.count(), 2, "{command}");
        let shown = found["prompt"].as_str().unwrap();
        assert!(
            shown.contains("<|system|>") && shown.contains("<|assistant|>"),
            "{shown}"
        );
    }
    // A line may bring its own system message.
    let line = "{\"prompt\": \"the ball<|end|>\", \"system\": \"the cave\"}";
    assert_eq!(
        bench.objects(&["next"], line)[0]["ids"]
            .as_array()
            .unwrap()
            .len(),
        n
    );
}

#[test]
fn an_argument_that_is_no_text_is_understood() {
    let bench = Bench::new();
    let model = bench.model.file_name().unwrap().to_str().unwrap();
    bench.file("book.txt", "the ball");
    bench.file("notes", "the ball");
    for command in ["complete", "next", "score", "lens", "attention"] {
        let (said, code) = bench.refusal(&[command, model, "Today is"], "");
        assert_eq!(code, 2, "{said}");
        let better = format!("modelve {command} -m {model} 'Today is'");
        assert!(
            said.contains("is a model") && said.contains(&better),
            "{said}"
        );
        let (said, code) = bench.refusal(&[command, "nosuch.txt"], "");
        assert!(said.contains("no such file: nosuch.txt"), "{said}");
        assert_eq!(code, 2);
        let (said, _) = bench.refusal(&[command, "book.txt"], "");
        let better = format!("modelve {command} --file book.txt");
        assert!(said.contains(&better), "{said}");
        let (said, _) = bench.refusal(&[command, "./notes"], "");
        assert!(said.contains("--file ./notes"), "{said}");
    }
    let (said, _) = bench.refusal(&["complete", "tiny", "Today is"], "");
    assert!(
        said.contains("modelve complete -m tiny 'Today is'"),
        "{said}"
    );
    // These are texts.
    for text in ["notes", "tiny", "Today is in book.txt", "3.5", "a/b"] {
        assert_eq!(bench.prompts(&[text], ""), [text]);
    }
    assert_eq!(
        bench.prompts(&["-m", model, "tiny", "large"], ""),
        ["tiny", "large"]
    );
}

#[test]
fn what_is_missing_or_too_much_is_said() {
    let bench = Bench::new();
    for command in ["complete", "next", "score", "lens", "attention"] {
        let (said, code) = bench.refusal(&[command], "");
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains(&format!("modelve {command} 'Today is'")),
            "{said}"
        );
    }
    let (said, code) = bench.refusal(&["lens", "The", "ball", "hit"], "");
    assert_eq!(code, 2);
    assert!(said.contains("modelve lens 'The ball hit'"), "{said}");
    let (said, _) = bench.refusal(&["next", "-", "--file", "-"], "a");
    assert!(said.contains("only once"), "{said}");
    let latin = bench.file("latin", b"caf\xe9");
    let (said, _) = bench.refusal(&["complete", "--file", &latin], "");
    assert!(
        said.contains("byte 3") && said.contains("iconv -f latin1"),
        "{said}"
    );
    if Path::new("/dev/zero").exists() {
        let (said, code) = bench.refusal(&["score", "--file", "/dev/zero"], "");
        assert_eq!(code, 1);
        assert!(said.contains("256 MiB"), "{said}");
    }
}

#[test]
fn grammars_may_begin_with_a_byte_order_mark() {
    let bench = Bench::new();
    let grammar = bench.file("g.gbnf", "\u{feff}root ::= \"the ball\"\n");
    let found = bench.objects(&["complete", "x", "--grammar", &grammar], "");
    assert_eq!(found[0]["text"], "the ball");
}

#[test]
fn files_are_named_and_not_shown_and_texts_are_ranked_by_byte() {
    let bench = Bench::new();
    let file = bench.file("book", "the ball hit the cave in the weather");
    let out = bench
        .command(&["score", "--file", &file])
        .assert()
        .success();
    let shown = String::from_utf8(out.get_output().stdout.clone()).unwrap();
    assert!(
        shown.starts_with(&file) && !shown.contains("weather"),
        "{shown}"
    );
    // The longer text has the lower probability, and may still be the likelier per byte.
    let texts = ["qx", "the ball hit the bat and the ball hit the cave"];
    let scores = bench.objects(&[&["score"], &texts[..]].concat(), "");
    let of = |i: usize, key: &str| scores[i][key].as_f64().unwrap();
    assert!(of(0, "total_logprob") > of(1, "total_logprob"));
    assert!(of(0, "bits_per_byte") > of(1, "bits_per_byte"));
    let out = bench
        .command(&[&["score"], &texts[..]].concat())
        .assert()
        .success();
    let shown = String::from_utf8(out.get_output().stdout.clone()).unwrap();
    let ranking = shown.split("likeliest first").nth(1).unwrap();
    let at = |text: &str| ranking.find(text).unwrap();
    assert!(at("the cave") < at("qx"), "{ranking}");
}
