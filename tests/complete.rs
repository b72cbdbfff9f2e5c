//! `modelve complete` as people run it, on a tiny Phi-3 of random weights.

#[path = "support/tiny_gguf.rs"]
mod tiny_gguf;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tiny_gguf::Tiny;

/// Near the reference, so that equal means equal.
const EXACT: [&str; 4] = ["--kv-type", "f32", "--flash-attn", "off"];

struct Files {
    _dir: tempfile::TempDir,
    small: PathBuf,
    /// Slow enough to be interrupted.
    large: PathBuf,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (small, large) = (dir.path().join("small.gguf"), dir.path().join("large.gguf"));
        Tiny {
            context: 4_000_000_000,
            ..Tiny::default()
        }
        .write(&small);
        let wide = Tiny {
            width: 512,
            heads: 8,
            heads_kv: 8,
            feed_forward: 1024,
            ..Tiny::default()
        };
        Tiny {
            layers: 8,
            context: 131_072,
            original: 4096,
            ..wide
        }
        .write(&large);
        Files {
            _dir: dir,
            small,
            large,
        }
    })
}

fn modelve(model: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
    command
        .arg("complete")
        .arg("-m")
        .arg(model)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

fn small() -> Command {
    modelve(&files().small)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Exit code, and what was said on standard error.
fn failure(command: &mut Command) -> (i32, String) {
    let output = run(command);
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_same_prompt_gives_the_same_text_streamed_or_not() {
    let first = stdout(&run(small().args(["the ball", "-n", "24"])));
    assert_eq!(first, stdout(&run(small().args(["the ball", "-n", "24"]))));
    let object = &objects(&run(small().args(["the ball", "-n", "24", "--json"])))[0];
    assert_eq!(
        first.trim_end_matches('\n'),
        object["text"].as_str().unwrap().trim_end_matches('\n')
    );
    let echo = stdout(&run(small().args(["the ball", "-n", "24", "--echo"])));
    assert_eq!(echo, format!("the ball{first}"));
}

#[test]
fn json_has_all_its_fields() {
    let output = run(small().args(["the ball", "today", "-n", "5", "--json", "--top", "3"]));
    let objects = objects(&output);
    assert_eq!(objects.len(), 2);
    for (i, object) in objects.iter().enumerate() {
        assert_eq!(object["index"], i);
        assert_eq!(object["prompt"], ["the ball", "today"][i]);
        let tokens = object["tokens"].as_array().unwrap();
        assert_eq!(object["usage"]["completion_tokens"], tokens.len());
        assert!(object["usage"]["prompt_tokens"].as_u64().unwrap() > 0);
        for field in [
            "load_s",
            "prefill_s",
            "first_token_s",
            "generate_s",
            "tokens_per_s",
        ] {
            assert!(object["timing"][field].as_f64().unwrap() >= 0.0, "{field}");
        }
        for token in tokens {
            // Text, or the bytes of a part of a character.
            assert!(token["piece"].is_string() || token["piece"]["bytes"].is_array());
            let top = token["top"].as_array().unwrap();
            assert_eq!(top.len(), 3);
            // Greedy: what was chosen is the likeliest.
            assert_eq!(top[0]["id"], token["id"]);
            assert_eq!(top[0]["logprob"], token["logprob"]);
            let prob = |i: usize| top[i]["prob"].as_f64().unwrap();
            assert!(prob(0) >= prob(1) && prob(1) >= prob(2) && prob(0) <= 1.0);
        }
        assert!(["stop", "length"].contains(&object["finish_reason"].as_str().unwrap()));
    }
}

#[test]
fn prompts_alone_and_together_give_the_same_texts_in_order() {
    let words = [
        "the",
        "ball",
        "bat hit the",
        "today is",
        "a cave",
        "sunny weather and",
        "of 5",
    ];
    let prompts: Vec<String> = (0..60)
        .map(|i| format!("{} {}", words[i % 7], words[(i / 7) % 7]).repeat(1 + i % 5))
        .collect();
    let together = run(small()
        .args(EXACT)
        .args(["-n", "12", "--json"])
        .args(&prompts));
    let together = objects(&together);
    assert_eq!(together.len(), prompts.len());
    for (i, (object, prompt)) in together.iter().zip(&prompts).enumerate() {
        assert_eq!(object["index"], i);
        assert_eq!(object["prompt"].as_str().unwrap(), prompt);
        if i % 6 == 0 {
            let alone = run(small().args(EXACT).args(["-n", "12", "--json"]).arg(prompt));
            assert_eq!(object["text"], objects(&alone)[0]["text"], "{prompt}");
        }
    }
}

#[test]
fn prompts_come_from_files_and_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.txt");
    std::fs::write(&file, "the ball\n\ntoday\n").unwrap();
    let from_file = run(small().args(["-n", "4", "--json", "--file"]).arg(&file));
    let mut child = small()
        .args(["-n", "4", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"\"the ball\"\n{\"prompt\": \"today\"}\n")
        .unwrap();
    drop(stdin);
    let from_stdin = child.wait_with_output().unwrap();
    let texts = |output: &Output| -> Vec<Value> {
        objects(output)
            .iter()
            .map(|object| object["text"].clone())
            .collect()
    };
    assert_eq!(texts(&from_file).len(), 2);
    assert_eq!(texts(&from_file), texts(&from_stdin));
}

#[test]
fn standard_input_is_left_alone_without_a_dash() {
    let mut child = small()
        .args(["the", "-n", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it waits for standard input");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stdin);
}

#[test]
fn a_stop_text_ends_the_completion_before_it() {
    let whole = &objects(&run(small().args(["today is", "-n", "30", "--json"])))[0];
    let whole = whole["text"].as_str().unwrap();
    // Across tokens: from the middle of the text.
    let characters: Vec<char> = whole.chars().filter(|&c| c != '\u{FFFD}').collect();
    let middle: String = characters[characters.len() / 2..][..1].iter().collect();
    let expected = whole.split(&middle).next().unwrap();
    let stopped = run(small().args(["today is", "-n", "30", "--json", "--stop", &middle]));
    let object = &objects(&stopped)[0];
    assert_eq!(object["text"], expected);
    assert_eq!(object["finish_reason"], "stop");
    // One that never comes loses nothing.
    let unharmed = run(small().args(["today is", "-n", "30", "--json", "--stop", "never so"]));
    assert_eq!(objects(&unharmed)[0]["text"], whole);
    assert_eq!(failure(small().args(["a", "--stop", ""])).0, 2);
}

#[test]
fn tokens_that_end_a_text_end_it_and_are_not_shown() {
    let (texts, _, _) = tiny_gguf::vocabulary();
    for name in ["<|end|>", "<|endoftext|>", "<|assistant|>"] {
        let id = texts.iter().position(|text| text == name).unwrap();
        let bias = format!("{id}=+1000");
        let ended = run(small().args(["today", "-n", "9", "--json", "--logit-bias", &bias]));
        let object = &objects(&ended)[0];
        assert_eq!(
            (&object["text"], &object["finish_reason"]),
            (&"".into(), &"stop".into())
        );
        let on = [
            "today",
            "-n",
            "9",
            "--json",
            "--ignore-eos",
            "--logit-bias",
            &bias,
        ];
        let object = &objects(&run(small().args(on)))[0];
        assert_eq!(object["usage"]["completion_tokens"], 9);
        assert!(!object["text"].as_str().unwrap().contains(name));
    }
}

#[test]
fn sampling_is_random_by_seed_only() {
    let draw = |seed: &str| {
        stdout(&run(
            small().args(["a", "-n", "20", "--temp", "1.5", "--seed", seed])
        ))
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    let greedy = stdout(&run(small().args(["a", "-n", "20"])));
    for narrow in [["--top-k", "1"], ["--top-p", "0"], ["--min-p", "1"]] {
        assert_eq!(
            stdout(&run(small().args(["a", "-n", "20"]).args(narrow))),
            greedy,
            "{narrow:?}"
        );
    }
    // A token that is pushed forward comes again and again, until the penalty catches up.
    let pushed = ["a", "-n", "12", "--logit-bias", "300=+100"];
    let all_same = stdout(&run(small().args(pushed)));
    for penalty in [["--frequency-penalty", "60"], ["--repeat-penalty", "1000"]] {
        assert_ne!(
            stdout(&run(small().args(pushed).args(penalty))),
            all_same,
            "{penalty:?}"
        );
    }
}

#[test]
fn a_grammar_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let gbnf = write(
        "yes.gbnf",
        "root ::= (\" bat\" | \" ball\") \" \" [0-9] [0-9] \"!\"\n",
    );
    let output = run(small().args(["the", "--json", "--grammar"]).arg(&gbnf));
    let object = &objects(&output)[0];
    let text = object["text"].as_str().unwrap();
    assert!(text.starts_with(" ba") && text.ends_with('!'), "{text:?}");
    assert_eq!(object["finish_reason"], "stop");

    let schema = write(
        "schema.json",
        r#"{"type":"object","properties":{"a":{"type":"integer","maximum":99,"minimum":1},
            "b":{"enum":["x","y"]}},"required":["a","b"],"additionalProperties":false}"#,
    );
    let output = run(small()
        .args(["the", "-n", "200", "--json-schema"])
        .arg(&schema));
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(json["a"].as_i64().unwrap() < 100 && ["x", "y"].contains(&json["b"].as_str().unwrap()));

    for (flag, bad) in [
        ("--grammar", "root ::= (\"a\""),
        ("--grammar", "root ::= missing"),
        ("--grammar", "root ::= root \"a\""),
        ("--grammar", "nothing"),
        ("--grammar", ""),
        ("--json-schema", "{"),
        ("--json-schema", "{\"type\": \"nonsense\"}"),
    ] {
        let path = write("bad", bad);
        let (code, said) = failure(small().args(["the", flag]).arg(&path));
        assert_eq!(code, 1, "{bad}: {said}");
        assert!(
            said.contains("grammar") || said.contains("JSON schema"),
            "{bad}: {said}"
        );
    }
}

#[test]
fn mistakes_are_told_with_the_right_exit_code() {
    let (code, said) = failure(&mut small());
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("hint:") && said.contains("modelve complete"),
        "{said}"
    );
    for usage in [
        &["a", "--top", "3"][..],
        &["a", "--kv-type", "q5"],
        &["a", "--threads", "0"],
    ] {
        assert_eq!(failure(small().args(usage)).0, 2, "{usage:?}");
    }
    let (code, said) = failure(&mut modelve(&files().small.with_file_name("none.gguf")));
    assert_eq!(code, 2, "no prompt either: {said}");
    let (code, said) = failure(modelve(&files().small.with_file_name("none.gguf")).arg("a"));
    assert_eq!(code, 1);
    assert!(said.contains("none.gguf"), "{said}");
    for (flags, expected) in [
        (["--logit-bias", "999999=1"], "999999"),
        (["--temp", "NaN"], "temperature"),
        (["--repeat-penalty", "0"], "repeat penalty"),
        (["--device", "quantum"], "quantum"),
        (["--gpu-layers", "all"], "GPU"),
        (["--file", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let (code, said) = failure(small().arg("a").args(flags));
        assert_eq!(code, 1, "{flags:?}: {said}");
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    let (_, said) = failure(small().args(["a", "--gpu-layers", "3"]));
    assert!(said.contains("--features"), "{said}");
    let quantized = failure(small().args(["a", "--kv-type", "q8_0", "--flash-attn", "off"]));
    assert!(quantized.1.contains("flash attention"), "{}", quantized.1);
}

#[test]
fn a_context_that_cannot_fit_is_refused_with_its_arithmetic() {
    let (code, said) = failure(small().args(["a", "--ctx-size", "4000000000"]));
    assert_eq!(code, 1);
    assert!(
        said.contains("4000000000 tokens × 256 B = 954 GiB"),
        "{said}"
    );
    assert!(
        said.contains("the largest that fits is") && said.contains("--kv-type q8_0"),
        "{said}"
    );
    let (code, said) = failure(small().args(["a", "-n", "4000000000"]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("free; the largest that fits"), "{said}");
    let (_, said) = failure(modelve(&files().large).args(["a", "--ctx-size", "131073"]));
    assert!(said.contains("131072 the model was trained on"), "{said}");
    let (_, said) = failure(small().args(["the ball hit the bat", "--ctx-size", "3"]));
    assert!(said.contains("do not fit into a context of 3"), "{said}");
    let short = run(small().args(["the ball", "-n", "50", "--json", "--ctx-size", "8"]));
    let object = &objects(&short)[0];
    assert_eq!(object["finish_reason"], "length");
    let usage = &object["usage"];
    let total =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(total, 9, "the context is full and one more token is known");
}

#[test]
fn prompts_longer_than_the_batch_and_empty_ones_work() {
    let long = "the ball hit the bat and ".repeat(150);
    let output = run(small().args(["-n", "3", "--json", &long, "", "a"]));
    let objects = objects(&output);
    assert!(objects[0]["usage"]["prompt_tokens"].as_u64().unwrap() > 800);
    assert_eq!(objects[1]["usage"]["prompt_tokens"], 1);
    assert_eq!(objects.len(), 3);
    let none = run(small().args(["a", "-n", "0", "--json"]));
    assert_eq!(self::objects(&none)[0]["finish_reason"], "length");
}

#[test]
fn what_people_say_never_becomes_a_control_token() {
    let count = |args: &[&str]| {
        let output = run(small().args(args).args(["--json", "-n", "1"]));
        objects(&output)[0]["usage"]["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    let plain = count(&["the ball"]);
    let chat = count(&["--chat", "the ball"]);
    assert!(chat >= plain + 3 && chat < plain + 20, "{plain} {chat}");
    // As a control token it would be one token; as text it is many.
    assert!(count(&["--chat", "the ball<|end|>"]) >= chat + 6);
    assert!(count(&["the ball<|end|>"]) >= plain + 6);
    assert!(count(&["--system", "the", "the ball"]) > chat);
    assert_eq!(
        count(&["--chat", "the ball<|end"]) + 2,
        count(&["--chat", "the ball<|end|>"])
    );
}

#[test]
fn stats_tell_what_was_done() {
    let output = run(small().args(["the ball", "-n", "4", "--stats"]));
    let said = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "short RoPE factors",
        "256 tokens",
        "CPU",
        "0 of 3 layers",
        "tokens/s",
        "in place",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let long = "the ball hit the bat and ".repeat(60);
    let output = run(small().args([&long, "-n", "4", "--stats"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("long RoPE factors") && !said.contains("short RoPE"),
        "{said}"
    );
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mut child = small()
        .args(["the ball", "-n", "3000", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn ctrl_c_prints_what_there_is() {
    let large = &files().large;
    for json in [false, true] {
        let mut command = modelve(large);
        command.args(["the ball", "-n", "100000", "--ignore-eos", "--threads", "1"]);
        let mut child = command
            .args(json.then_some("--json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if json {
            std::thread::sleep(Duration::from_millis(1500));
        } else {
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut [0; 8])
                .unwrap();
        }
        let asked = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            asked.elapsed() < Duration::from_secs(20),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(output.status.code(), Some(130));
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        if json {
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(object["finish_reason"], "cancelled");
            assert!(object["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        }
    }
}
